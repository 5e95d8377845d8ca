package proxy

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/golang/glog"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/libvirt"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

// LogModeAnnotation on a pod says where the console of its VM goes: file, pty
// or both.
const LogModeAnnotation = "cri-logproxy/log-mode"

// Consoles is what the proxy asks of libvirt. *libvirt.Client is one.
type Consoles interface {
	// Serial describes the console of a container's domain.
	Serial(ctx context.Context, containerID string) (libvirt.Serial, error)
	// SetConsole makes the console of a domain that is shut off what it should
	// be, and returns what it is.
	SetConsole(ctx context.Context, containerID string, console libvirt.Console, file string) (libvirt.Serial, error)
}

// ParseMode reads a log mode.
func ParseMode(s string) (logmap.Mode, error) {
	switch m := logmap.Mode(s); m {
	case logmap.ModeFile, logmap.ModePTY, logmap.ModeBoth:
		return m, nil
	}
	return "", fmt.Errorf("unknown log mode %q: want file, pty or both", s)
}

// mode is the log mode of a pod with these annotations. problem is for the
// readers of the VM's log: they do not get what was asked for.
func (c *Config) mode(annotations map[string]string) (mode logmap.Mode, problem string) {
	wanted, ok := annotations[LogModeAnnotation]
	if !ok {
		return c.LogMode, ""
	}
	mode, err := ParseMode(wanted)
	switch {
	case err != nil:
		return c.LogMode, fmt.Sprintf("annotation %s: %v; this VM gets the node's default, %s", LogModeAnnotation, err, c.LogMode)
	case mode != logmap.ModePTY && c.VMLogLocation == "":
		return c.LogMode, fmt.Sprintf("annotation %s=%s: this node's cri-logproxy has no --vm-log-location for raw logs; this VM gets the node's default, %s", LogModeAnnotation, mode, c.LogMode)
	}
	return mode, ""
}

// fitConsole makes the console of a VM that is about to start what its mode
// says, and completes the record by what it then is. A VM starts in any case:
// what could not be done is said in record.Notice.
func (s *Server) fitConsole(ctx context.Context, record *logmap.Container) {
	record.Notice = record.ModeProblem
	if s.cfg.VMLogLocation == "" {
		return // every console is a pty, and nobody wants anything else
	}
	file := s.cfg.VMLogLocation
	if record.Mode != logmap.ModePTY {
		if len(record.RawLogs) == 0 {
			return // its Problem was reported
		}
		file = filepath.Join(s.cfg.VMLogLocation, rawLogs(record.SandboxID, record.Name, record.Attempt)[0])
	}
	serial, err := s.setConsole(ctx, record, file)
	switch {
	case err == nil:
		s.observed(record, serial)
	case record.Mode == logmap.ModeFile && !record.ModeAsked:
		// As the runtime sets it up. Its raw log has one of the names on record.
		glog.V(1).Infof("container %s: not asking libvirt where its raw log is: %v", record.ID, err)
	default:
		s.notice(record, fmt.Sprintf("mode %s could not be set up: %v; the console is as the runtime has made it", record.Mode, err))
	}
}

// setConsole asks libvirt. The raw log's directory is made first: without it the
// VM would not start.
func (s *Server) setConsole(ctx context.Context, record *logmap.Container, file string) (libvirt.Serial, error) {
	if s.consoles == nil {
		return libvirt.Serial{}, errors.New("there is no libvirt")
	}
	if deadline, ok := ctx.Deadline(); ok { // crictl waits 2 s: the VM must start, too
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	if record.Mode != logmap.ModePTY {
		if err := s.makeRawDir(ctx, record.SandboxID); err != nil {
			return libvirt.Serial{}, fmt.Errorf("make the raw log's directory: %w; set --vm-log-dir to where this host has what libvirtd sees as %s", err, s.cfg.VMLogLocation)
		}
	}
	return s.consoles.SetConsole(ctx, record.ID, libvirt.Console(record.Mode), file)
}

// observed completes a record by what libvirt says of its domain: the truth
// about the raw log. It reports whether it is one that we can read.
func (s *Server) observed(record *logmap.Container, serial libvirt.Serial) bool {
	file := serial.File()
	if file == "" {
		if record.Mode != logmap.ModePTY {
			s.notice(record, fmt.Sprintf("libvirt does not log this VM's console, a %s, to a file; a pod that is made anew gets mode %s", serial.Type, record.Mode))
		}
		return false
	}
	name, err := filepath.Rel(s.cfg.VMLogLocation, file)
	if err != nil || !filepath.IsLocal(name) {
		s.notice(record, fmt.Sprintf("libvirt writes this VM's console to %s, which is not below --vm-log-location %s", file, s.cfg.VMLogLocation))
		return false
	}
	if record.Mode != logmap.ModePTY {
		record.RawLogs, record.RawAppends = []string{name}, serial.Appends
	}
	return true
}

// observe completes the record of a VM that was started before the proxy came.
func (s *Server) observe(ctx context.Context, record *logmap.Container) {
	if s.consoles == nil || s.cfg.VMLogLocation == "" {
		return
	}
	serial, err := s.consoles.Serial(ctx, record.ID)
	if err != nil {
		glog.V(1).Infof("container %s: not asking libvirt where its raw log is: %v", record.ID, err)
		return
	}
	if serial.File() == "" {
		record.Mode, record.RawLogs = logmap.ModePTY, nil
		return
	}
	wanted := record.Mode
	if record.Mode = logmap.ModeBoth; serial.Type == string(libvirt.File) {
		record.Mode = logmap.ModeFile
	}
	if !s.observed(record, serial) {
		record.Mode = wanted // it goes with the names of the raw log
	}
}

// checkConsole looks at the VM that has just started: one that goes on from a
// saved state has the console of that time.
func (s *Server) checkConsole(ctx context.Context, record logmap.Container) {
	if s.consoles == nil || len(record.RawLogs) != 1 || !record.RawAppends {
		return // nothing has been set up
	}
	serial, err := s.consoles.Serial(ctx, record.ID)
	if err != nil || !serial.Active || serial.File() == filepath.Join(s.cfg.VMLogLocation, record.RawLogs[0]) {
		return
	}
	s.observed(&record, serial)
	s.recordConsole(record)
	s.convert(ctx, record)
}

// recordConsole puts on record what has come out about a console.
func (s *Server) recordConsole(record logmap.Container) {
	s.recorded(s.logs.ChangeContainer(record.ID, func(c *logmap.Container) {
		c.Mode, c.RawLogs, c.RawAppends, c.Notice = record.Mode, record.RawLogs, record.RawAppends, record.Notice
	}))
}

// notice tells the operator, and the readers of the VM's log.
func (s *Server) notice(record *logmap.Container, text string) {
	glog.Errorf("container %s (%s/%s %s): %s", record.ID, record.Namespace, record.Pod, record.Name, text)
	if record.Notice != "" {
		text = record.Notice + "; " + text
	}
	record.Notice = text
}

// blamesLog says that a VM did not start because its log cannot be written.
func blamesLog(record logmap.Container, startErr error) bool {
	return record.RawAppends && len(record.RawLogs) > 0 && strings.Contains(startErr.Error(), record.RawLogs[0])
}

// unlog takes the log of a VM away that does not start with it.
func (s *Server) unlog(ctx context.Context, record logmap.Container, startErr error) bool {
	serial, err := s.consoles.SetConsole(ctx, record.ID, libvirt.PTY, s.cfg.VMLogLocation)
	if err == nil && serial.Active {
		return false // it runs after all
	}
	if err != nil {
		glog.Errorf("container %s: its VM does not start with a log, which cannot be taken away: %v", record.ID, err)
		return false
	}
	s.notice(&record, fmt.Sprintf("this VM did not start with a log of its console, and runs without: %v; --vm-log-location must name a directory as libvirtd sees it, and --vm-log-dir the same one as this host does", startErr))
	record.RawLogs = nil
	s.recordConsole(record)
	s.convert(ctx, record)
	return true
}

// runs says that the VM of a container runs, by what libvirt says.
func (s *Server) runs(ctx context.Context, id string) bool {
	if s.consoles == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, drainTimeout)
	defer cancel()
	serial, err := s.consoles.Serial(ctx, id)
	return err == nil && serial.Active
}

// listSandbox asks the runtime for a pod; nil if it does not list it.
func (s *Server) listSandbox(ctx context.Context, sandboxID string) (*runtimeapi.PodSandbox, error) {
	var resp runtimeapi.ListPodSandboxResponse
	if err := s.ask(ctx, "ListPodSandbox", &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{Id: sandboxID}}, &resp); err != nil {
		return nil, err
	}
	for _, p := range resp.Items {
		if p.Id == sandboxID {
			return p, nil
		}
	}
	return nil, nil
}
