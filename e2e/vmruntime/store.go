package vmruntime

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/internal/fsutil"
)

// sandbox is what the runtime remembers of a pod. A record in the store is
// never changed, only replaced.
type sandbox struct {
	ID        string
	Config    stored[*cri.PodSandboxConfig]
	Ready     bool
	CreatedAt int64
	Container *container `json:",omitempty"`
}

// container is what the runtime remembers of a pod's only container.
type container struct {
	ID        string // the domain's UUID
	Domain    string // the domain's name
	Config    stored[*cri.ContainerConfig]
	LogDir    string // log_directory of the request
	CreatedAt int64
	StartedAt int64 // 0 before the first start
}

// stored is a protobuf message that is JSON on disk.
type stored[M proto.Message] struct{ M M }

func (s stored[M]) MarshalJSON() ([]byte, error) { return protojson.Marshal(s.M) }

func (s *stored[M]) UnmarshalJSON(b []byte) error {
	s.M = s.M.ProtoReflect().New().Interface().(M)
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(b, s.M)
}

// store keeps the sandboxes, one file each, and the names of the images.
type store struct {
	dir string

	mu        sync.Mutex
	sandboxes map[string]sandbox
	images    map[string]bool
	busy      map[string]chan struct{} // one token a sandbox: see lock
}

const imagesFile = "images.json"

func openStore(dir string) (*store, error) {
	s := &store{
		dir:       dir,
		sandboxes: map[string]sandbox{},
		images:    map[string]bool{},
		busy:      map[string]chan struct{}{},
	}
	files, err := filepath.Glob(filepath.Join(dir, "sandbox-*.json"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		var sb sandbox
		if err := readJSON(file, &sb); err != nil {
			return nil, err
		}
		s.sandboxes[sb.ID] = sb
	}
	err = readJSON(filepath.Join(dir, imagesFile), &s.images)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	return s, nil
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return fsutil.WriteFile(path, b, 0o600)
}

func (s *store) sandboxFile(id string) string {
	return filepath.Join(s.dir, "sandbox-"+id+".json")
}

// lock makes the caller the only one who changes sandbox id, or the container
// of that sandbox, until unlock. Readers do not wait.
func (s *store) lock(ctx context.Context, id string) (unlock func(), err error) {
	s.mu.Lock()
	token, ok := s.busy[id]
	if !ok {
		token = make(chan struct{}, 1)
		s.busy[id] = token
	}
	s.mu.Unlock()
	select {
	case token <- struct{}{}:
		return func() { <-token }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// sandbox returns the sandbox with an ID.
func (s *store) sandbox(id string) (sandbox, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb, ok := s.sandboxes[id]
	return sb, ok
}

// byContainer returns the sandbox whose container has an ID.
func (s *store) byContainer(id string) (sandbox, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sb := range s.sandboxes {
		if sb.Container != nil && sb.Container.ID == id {
			return sb, true
		}
	}
	return sandbox{}, false
}

// all returns the sandboxes, oldest first.
func (s *store) all() []sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]sandbox, 0, len(s.sandboxes))
	for _, sb := range s.sandboxes {
		all = append(all, sb)
	}
	slices.SortFunc(all, func(a, b sandbox) int {
		return cmp.Or(cmp.Compare(a.CreatedAt, b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return all
}

func (s *store) put(sb sandbox) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := writeJSON(s.sandboxFile(sb.ID), sb); err != nil {
		return err
	}
	s.sandboxes[sb.ID] = sb
	return nil
}

func (s *store) remove(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := os.Remove(s.sandboxFile(id)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	delete(s.sandboxes, id)
	return nil
}

// imageNames returns the images in order.
func (s *store) imageNames() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.images))
	for name := range s.images {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// setImage adds or removes an image.
func (s *store) setImage(name string, present bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if present {
		s.images[name] = true
	} else {
		delete(s.images, name)
	}
	return writeJSON(filepath.Join(s.dir, imagesFile), s.images)
}
