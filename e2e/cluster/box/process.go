package box

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cri-logproxy/cri-logproxy/e2e/await"
)

// tailLines is how much of a process' log an error shows.
const tailLines = 15

// Process is a daemon in a box.
type Process struct {
	Name string
	Log  string // file that has its output

	cmd    *exec.Cmd
	done   chan struct{} // closed when it has ended
	waited error         // how it ended; read after done
}

// Run starts a daemon in a working directory of its own, which is empty: kubelet
// deletes files there if a runtime gives it an empty log path. Its output is
// added to a file in the box's directory.
func (b *Box) Run(program string, args ...string) (*Process, error) {
	p := &Process{Name: filepath.Base(program), done: make(chan struct{})}
	p.Log = filepath.Join(b.Dir, p.Name+".log")
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p.cmd = exec.Command(program, args...)
	p.cmd.Dir = filepath.Join(b.Dir, "cwd-"+p.Name)
	if err := os.MkdirAll(p.cmd.Dir, 0o755); err != nil {
		return nil, err
	}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	if err := b.Start(p.cmd); err != nil {
		return nil, err
	}
	go func() {
		p.waited = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// Await waits until ready says that the process is. It fails when the process
// ends, with the end of its log.
func (p *Process) Await(ctx context.Context, ready func() (bool, error)) error {
	err := await.Condition(ctx, p.Name+" is ready", func() (bool, error) {
		select {
		case <-p.done:
			return false, fmt.Errorf("it has ended: %v", p.waited)
		default:
		}
		return ready()
	})
	if err != nil {
		return fmt.Errorf("%w; its log ends:\n%s", err, p.Tail())
	}
	return nil
}

// Tail returns the end of the process' log.
func (p *Process) Tail() string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// Dir is the process' working directory.
func (p *Process) Dir() string { return p.cmd.Dir }

// Kill ends the process as a crash does.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // what it says is that it is gone by now
	<-p.done
}

// Stop asks the process to end, and kills it if it does not within grace.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return nil // it has ended
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
		p.Kill()
		return fmt.Errorf("%s did not end within %v, killed", p.Name, grace)
	}
}
