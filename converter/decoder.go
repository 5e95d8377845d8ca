package converter

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"time"
)

// record is one line of a container log, read back.
type record struct {
	time    time.Time
	notice  bool // written in our own name: stream stderr
	partial bool
	content []byte
}

var errNotARecord = errors.New("not a log record")

// decodeRecord parses one line of a container log, without its `\n`.
func (f Format) decodeRecord(line []byte) (record, error) {
	if f == DockerJSON {
		var j struct {
			Log    string    `json:"log"`
			Stream string    `json:"stream"`
			Time   time.Time `json:"time"`
		}
		if err := json.Unmarshal(line, &j); err != nil || j.Stream == "" {
			return record{}, errNotARecord
		}
		content, full := strings.CutSuffix(j.Log, "\n")
		return record{time: j.Time, notice: j.Stream == "stderr", partial: !full, content: []byte(content)}, nil
	}
	stamp, rest, ok1 := bytes.Cut(line, []byte{' '})
	stream, rest, ok2 := bytes.Cut(rest, []byte{' '})
	tag, content, ok3 := bytes.Cut(rest, []byte{' '})
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if !ok1 || !ok2 || !ok3 || err != nil {
		return record{}, errNotARecord
	}
	return record{time: t, notice: string(stream) == "stderr", partial: string(tag) == "P", content: content}, nil
}
