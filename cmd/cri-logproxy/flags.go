package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/cri-logproxy/cri-logproxy/converter"
	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

// locationEnv is where Virtlet takes the location of the consoles from.
const locationEnv = "VIRTLET_VM_LOG_LOCATION"

// Flags of more than one command.
const (
	defaultStateDir    = "/var/lib/cri-logproxy"
	libvirtSocketUsage = "unix socket of libvirtd or virtqemud, as `unix:///path` or /path; default: libvirt's own"
)

// options are the checked command line of serve.
type options struct {
	listen    string // path of a socket
	proxy     proxy.Config
	stateDir  string
	libvirt   string // path of a socket
	format    converter.Format
	rawRetain int64
	logDir    string // of our own log; "" for stderr
}

const helpHead = `Usage: cri-logproxy [serve] [flags]
       cri-logproxy console [flags] CONTAINER    (console --help has more)
       cri-logproxy version

cri-logproxy stands between kubelet and a CRI runtime of virtual machines
(Virtlet). It forwards every call, and turns each VM's raw console log into the
container log that kubectl logs reads.

Point kubelet at it and it at the runtime:

  cri-logproxy --runtime-endpoint=unix:///run/virtlet.sock --vm-log-location=/var/log/vms
  kubelet --container-runtime-endpoint=unix:///run/cri-logproxy/cri-logproxy.sock …

Flags:
`

const helpTail = `
Exit codes: 0 stopped by SIGTERM or SIGINT, 1 failure, 2 wrong command line.
`

// glogFlags are the flags of glog that are of use here.
var glogFlags = []struct{ name, usage string }{
	{"v", "`level` of detail in our own log: 1 lifecycle, 2 rotation"},
	{"vmodule", "-v for single source files: `pattern=level`,…"},
}

// parseFlags reads the command line of serve. It returns flag.ErrHelp when help
// was asked for, and written to out.
func parseFlags(args []string, out io.Writer) (*options, error) {
	fs := flag.NewFlagSet("serve", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {}
	listen := fs.String("listen", "unix:///run/cri-logproxy/cri-logproxy.sock", "unix socket that kubelet calls, as `unix:///path` or /path")
	runtimeEndpoint := fs.String("runtime-endpoint", "unix:///run/virtlet.sock", "unix socket of the runtime, as `unix:///path` or /path")
	location := fs.String("vm-log-location", os.Getenv(locationEnv), "where the runtime puts VM consoles, as Virtlet reads it: a `directory` as the runtime sees it,\nor \"pty\" or \"\" if consoles are ptys; default: $"+locationEnv)
	logMode := fs.String("log-mode", "", "where VM consoles go, a `mode`: file (kubectl logs), pty (virsh console) or both;\nthe annotation "+proxy.LogModeAnnotation+" on a pod overrides it;\ndefault: as --vm-log-location says, file or pty")
	intercept := fs.String("intercept", "all", "which `pods` are VMs: all, or annotation: those with the annotation\n"+proxy.TargetRuntimeAnnotation+"=virtlet.cloud or virtlet; all others pass untouched;\nat containerd and cri-o, which have no such VMs, all means annotation")
	libvirtSocket := fs.String("libvirt-socket", "", libvirtSocketUsage)
	personalityChoice := fs.String("personality", "auto", "whose answers are repaired where kubelet would misunderstand them: auto, virtlet, or none\n(but log-path), and which `repairs` not: auto,-stats,-attempts; there are\n"+personality.Set(personality.All).String())
	vmLogDir := fs.String("vm-log-dir", "", "the `directory` of --vm-log-location as this host sees it; default: the same path")
	podLogsDir := fs.String("pod-logs-dir", "/var/log/pods", "kubelet's podLogsDir; no log outside this `directory` is written")
	stateDir := fs.String("state-dir", defaultStateDir, "`directory` for what must survive a restart: which raw log feeds which container log")
	format := fs.String("log-format", "cri", "`format` of new container logs: cri (every byte as it was) or json (Docker's)")
	rawRetain := size(converter.DefaultRawRetain)
	fs.Var(&rawRetain, "raw-retain", "how much converted output stays in a raw log; older is given back to the disk:\na `size` in KiB, MiB or GiB, or off to keep all")
	for _, g := range glogFlags {
		fs.Var(flag.Lookup(g.name).Value, g.name, g.usage)
	}
	toStderr := fs.Bool("logtostderr", true, "log to standard error; false: to "+ownLogFile+" in --log_dir")
	logDir := fs.String("log_dir", "", "`directory` for our own log, with --logtostderr=false")
	// glog's own default is a file in /tmp. See openLog.
	if err := flag.Set("logtostderr", "true"); err != nil {
		return nil, err
	}

	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(out, helpHead)
			fs.SetOutput(out)
			fs.PrintDefaults()
			fmt.Fprint(out, helpTail)
			return nil, err
		}
		return nil, usageError{err}
	}
	if fs.NArg() > 0 {
		return nil, usageError{fmt.Errorf("unexpected argument %q", fs.Arg(0))}
	}
	var o options
	var err error
	if o.listen, err = proxy.ParseEndpoint(*listen); err != nil {
		return nil, usageError{fmt.Errorf("--listen: %w", err)}
	}
	if o.proxy.RuntimeSocket, err = proxy.ParseEndpoint(*runtimeEndpoint); err != nil {
		return nil, usageError{fmt.Errorf("--runtime-endpoint: %w", err)}
	}
	if sameSocket(o.listen, o.proxy.RuntimeSocket) {
		return nil, usageError{fmt.Errorf("--listen and --runtime-endpoint are the same socket %s: it would call itself", o.listen)}
	}
	if *location != "pty" {
		o.proxy.VMLogLocation = *location
	}
	o.proxy.VMLogDir = *vmLogDir
	if o.proxy.VMLogDir == "" {
		o.proxy.VMLogDir = o.proxy.VMLogLocation
	} else if o.proxy.VMLogLocation == "" {
		return nil, usageError{fmt.Errorf("--vm-log-dir is given but consoles are ptys: set --vm-log-location to the directory as the runtime sees it, or leave --vm-log-dir out")}
	}
	o.proxy.PodLogsDir, o.stateDir = *podLogsDir, *stateDir
	for _, dir := range []struct {
		flag string
		path *string
		opt  bool
	}{
		{"vm-log-location", &o.proxy.VMLogLocation, true},
		{"vm-log-dir", &o.proxy.VMLogDir, true},
		{"pod-logs-dir", &o.proxy.PodLogsDir, false},
		{"state-dir", &o.stateDir, false},
	} {
		if *dir.path == "" && dir.opt {
			continue
		}
		if !filepath.IsAbs(*dir.path) {
			return nil, usageError{fmt.Errorf("--%s=%q: want an absolute path", dir.flag, *dir.path)}
		}
		*dir.path = filepath.Clean(*dir.path)
	}
	if rel, err := filepath.Rel(o.proxy.PodLogsDir, o.proxy.VMLogDir); o.proxy.VMLogDir != "" && err == nil && filepath.IsLocal(rel) {
		return nil, usageError{fmt.Errorf("the raw logs in %s would be in --pod-logs-dir %s, where kubelet deletes what it does not know: give them a directory of their own", o.proxy.VMLogDir, o.proxy.PodLogsDir)}
	}
	if o.proxy.LogMode, err = parseLogMode(*logMode, o.proxy.VMLogLocation); err != nil {
		return nil, usageError{fmt.Errorf("--log-mode: %w", err)}
	}
	if o.proxy.Intercept, err = proxy.ParseIntercept(*intercept); err != nil {
		return nil, usageError{fmt.Errorf("--intercept: %w", err)}
	}
	if o.proxy.Personality, err = personality.ParseChoice(*personalityChoice); err != nil {
		return nil, usageError{fmt.Errorf("--personality: %w", err)}
	}
	if o.libvirt, err = parseLibvirtSocket(*libvirtSocket); err != nil {
		return nil, usageError{fmt.Errorf("--libvirt-socket: %w", err)}
	}
	o.rawRetain = int64(rawRetain)
	if o.format, err = converter.ParseFormat(*format); err != nil {
		return nil, usageError{fmt.Errorf("--log-format: %w", err)}
	}
	if !*toStderr {
		if fi, err := os.Stat(*logDir); err != nil || !fi.IsDir() {
			return nil, usageError{fmt.Errorf("--logtostderr=false: want --log_dir with a directory that exists, have %q", *logDir)}
		}
		o.logDir = *logDir
	}
	// What glog checks before it lets a log line through without a complaint.
	return &o, flag.CommandLine.Parse(nil)
}

// parseLogMode reads --log-mode. location is where raw logs are, "" for nowhere.
func parseLogMode(mode, location string) (logmap.Mode, error) {
	switch {
	case mode == "" && location == "":
		return logmap.ModePTY, nil
	case mode == "":
		return logmap.ModeFile, nil
	}
	m, err := proxy.ParseMode(mode)
	if err == nil && m != logmap.ModePTY && location == "" {
		err = fmt.Errorf("%s needs --vm-log-location: a directory for raw logs, as libvirtd sees it", m)
	}
	return m, err
}

// parseLibvirtSocket reads --libvirt-socket; "" is for the usual places.
func parseLibvirtSocket(endpoint string) (string, error) {
	if endpoint == "" {
		return "", nil
	}
	return proxy.ParseEndpoint(endpoint)
}

// sameSocket says that two paths name one socket, also where it does not exist
// yet and a directory is a symlink, as /var/run is.
func sameSocket(a, b string) bool {
	resolve := func(path string) string {
		if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
			return filepath.Join(dir, filepath.Base(path))
		}
		return path
	}
	return resolve(a) == resolve(b)
}
