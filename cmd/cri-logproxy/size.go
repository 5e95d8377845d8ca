package main

import (
	"fmt"
	"strconv"
	"strings"
)

// size is a flag for a number of bytes: 4096, 64KiB, 1MiB, 1GiB, or "off", which
// is -1.
type size int64

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}}

func (s *size) String() string {
	if *s < 0 {
		return "off"
	}
	for _, u := range sizeUnits {
		if n := int64(*s); n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return "0"
}

func (s *size) Set(text string) error {
	if text == "off" {
		*s = -1
		return nil
	}
	for _, u := range sizeUnits {
		number, ok := strings.CutSuffix(text, u.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 1 || n > (1<<62)/u.bytes {
			break
		}
		*s = size(n * u.bytes)
		return nil
	}
	return fmt.Errorf("want a size such as 64KiB or 1MiB, or off")
}
