package converter

import (
	"path/filepath"
	"slices"
	"strconv"
)

// maxGenerations bounds the search for rotated raw logs. virtlogd keeps 3.
const maxGenerations = 100

// generation is one file of a raw log that is rotated.
type generation struct {
	name string
	id   fileID
}

// chain is a raw log with the files that rotation has made of it, oldest first.
type chain []generation

// generations returns the files of the raw log name below root as virtlogd
// rotates it: name.0 is the newest of the old ones, name.1 the one before
// (src/util/virrotatingfile.c). It ends with name itself, if that exists.
func generations(root, name string) chain {
	// In the midst of a rotation the names are one step apart.
	all := lookAtGenerations(root, name)
	for range maxGenerations {
		again := lookAtGenerations(root, name)
		if slices.Equal(all, again) {
			break
		}
		all = again
	}
	return all
}

func lookAtGenerations(root, name string) chain {
	var all chain
	path := filepath.Join(root, name)
	add := func(suffix string) bool {
		id, err := rawID(path + suffix)
		if err == nil {
			all = append(chain{{name + suffix, id}}, all...)
		}
		return err == nil
	}
	add("")
	for i, hole := 0, false; i < maxGenerations; i++ {
		if found := add("." + strconv.Itoa(i)); !found && hole {
			break
		} else {
			hole = !found // one name is free while the files move up
		}
	}
	return all
}

// find returns the index of the file with an identity, -1 if there is none.
func (c chain) find(id fileID) int {
	for i := range c {
		if c[i].id == id {
			return i
		}
	}
	return -1
}

// after returns the index of the oldest file that was not there before the one
// with an identity, which the chain does not have. Where a file system knows no
// time of birth that is the oldest file.
func (c chain) after(id fileID) int {
	for i := range c {
		// Files of one clock tick: better twice than not at all.
		if id.Born == 0 || c[i].id.Born >= id.Born {
			return i
		}
	}
	return len(c) - 1
}
