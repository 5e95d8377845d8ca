package converter

import (
	"path/filepath"
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
	var all chain
	add := func(name string) bool {
		id, err := rawID(filepath.Join(root, name))
		if err == nil {
			all = append(chain{{name, id}}, all...)
		}
		return err == nil
	}
	add(name)
	for i := 0; i < maxGenerations && add(name+"."+strconv.Itoa(i)); i++ {
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
