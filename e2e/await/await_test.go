package await

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestConditionEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	looks, cause := 0, errors.New("enough")
	err := Condition(ctx, "the impossible", func() (bool, error) {
		if looks++; looks == 2 {
			cancel(cause)
		}
		return false, nil
	})
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "the impossible") {
		t.Fatalf("got %v", err)
	}
}

func TestConditionStopsAtAnError(t *testing.T) {
	broken := errors.New("broken")
	if err := Condition(t.Context(), "it", func() (bool, error) { return true, broken }); !errors.Is(err, broken) {
		t.Fatalf("got %v", err)
	}
}

func TestFileContainsWaitsForTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	go func() {
		_ = os.WriteFile(path, []byte("one\n"), 0o644)
		_ = os.WriteFile(path, []byte("one\ntwo\n"), 0o644)
	}()
	got, err := FileContains(t.Context(), path, []byte("two\n"))
	if err != nil || string(got) != "one\ntwo\n" {
		t.Fatalf("got %q, %v", got, err)
	}
}
