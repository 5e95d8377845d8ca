package converter

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cri-logproxy/cri-logproxy/converter/statefile"
)

// RawPosition is a place in a raw log: everything before it is converted.
type RawPosition struct {
	// Name is the file's path below the raw-log root.
	Name string `json:"name"`
	ID   fileID `json:"id"`
	// Offset is in bytes from the start of the file.
	Offset int64 `json:"offset"`
	// Tail holds the last bytes before Offset. A file that was truncated and
	// has grown past Offset again does not have them there.
	Tail []byte `json:"tail,omitempty"`
	// Stale, if not 0, says that the file's content is of the Run before and
	// has not changed since this modification time, in ns.
	Stale int64 `json:"stale,omitempty"`
}

// LogPosition is a place in a container log: everything before it is accounted
// for by the RawPosition of the same Checkpoint.
type LogPosition struct {
	Path   string `json:"path"`
	ID     fileID `json:"id"`
	Offset int64  `json:"offset"`
}

// Checkpoint says where a converter stands. One that is older than the log it
// describes is good all the same: replay finds the rest of the way.
type Checkpoint struct {
	Raw   RawPosition `json:"raw"`
	Log   LogPosition `json:"log"`
	Split SplitState  `json:"split"`
	Time  time.Time   `json:"time"` // of the last record
	// Before is where the log that was left at the last ReopenContainerLog
	// ended, for as long as kubelet may put it back.
	Before *Checkpoint `json:"before,omitempty"`
}

const checkpointVersion = 1

// checkpoints is the directory that holds one file a container.
type checkpoints struct{ dir string }

func (c checkpoints) path(id string) string {
	return filepath.Join(c.dir, statefile.Name(id))
}

// load returns nil where there is none. A damaged one is set aside and
// returned as an error.
func (c checkpoints) load(id string) (*Checkpoint, error) {
	var cp Checkpoint
	err := statefile.Read(c.path(id), checkpointVersion, &cp)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &cp, nil
}

// save writes cp. Only a durable one survives a power cut; any survives a crash
// of the process.
func (c checkpoints) save(id string, cp *Checkpoint, durable bool) error {
	return statefile.Write(c.path(id), checkpointVersion, cp, durable)
}

func (c checkpoints) remove(id string) error {
	err := os.Remove(c.path(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
