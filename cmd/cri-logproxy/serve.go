package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/golang/glog"

	"github.com/cri-logproxy/cri-logproxy/converter"
	"github.com/cri-logproxy/cri-logproxy/libvirt"
	"github.com/cri-logproxy/cri-logproxy/proxy"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

// drainTimeout bounds how long the converters may take to finish at the end. With
// 4 s for calls before it and 2 s for the state behind it, SIGTERM takes less than
// 10 s.
const drainTimeout = 3 * time.Second

// serve is the daemon. It ends with the first SIGTERM or SIGINT, gracefully; a
// second one kills it.
func serve(args []string, out io.Writer) error {
	o, err := parseFlags(args, out)
	if err != nil {
		return err
	}
	finishLog, err := openLog(o.logDir)
	if err != nil {
		return err
	}
	defer finishLog()
	ctx, restoreSignals := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer restoreSignals()
	told := make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() {
		defer close(told)
		restoreSignals()
		notifyStopping("stopping: finishing calls and logs")
	})
	err = runProxy(ctx, o)
	if !unwatch() {
		<-told
	}
	if err != nil {
		notifyStopping(err.Error())
	}
	return err
}

// runProxy is the daemon, from its start to its end.
func runProxy(ctx context.Context, o *options) error {
	logs, damaged, err := logmap.Open(o.stateDir)
	if err != nil {
		return err
	}
	for _, err := range damaged {
		glog.Error(err)
	}
	converters, err := converter.NewManager(converter.Config{
		RawRoot: o.proxy.VMLogDir, LogRoot: o.proxy.PodLogsDir, StateDir: o.stateDir, Format: o.format, RawRetain: o.rawRetain,
	})
	if err != nil {
		return errors.Join(err, logs.Close())
	}
	err = listenAndServe(ctx, o, logs, converters)
	drained, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if closeErr := converters.Close(drained); closeErr != nil {
		// The next process finds its place without.
		glog.Errorf("not all that the VMs wrote is in their logs yet: %v", closeErr)
	}
	return errors.Join(err, logs.Close())
}

// wantDir complains of a directory that is not there. It may come later, so the
// proxy serves all the same.
func wantDir(path, remedy string) {
	fi, err := os.Stat(path)
	if err == nil && !fi.IsDir() {
		err = fmt.Errorf("%s is not a directory", path)
	}
	if err != nil {
		glog.Errorf("%v: no VM gets a log until it is there; %s", err, remedy)
	}
}

func listenAndServe(ctx context.Context, o *options, logs *logmap.Map, converters *converter.Manager) error {
	consoles := libvirt.New(o.libvirt)
	defer consoles.Close()
	server, err := proxy.New(o.proxy, logs, converters, consoles)
	if err != nil {
		return err
	}
	l, path, err := listen(o)
	if err != nil {
		return err
	}
	if o.proxy.VMLogLocation == "" {
		glog.Infof("consoles are ptys (--vm-log-location and $%s are empty or \"pty\"): virsh console works, kubectl logs says so", locationEnv)
	} else {
		glog.Infof("log mode %s, unless a pod says otherwise: converting the consoles in %s (%s to the runtime) to %s", o.proxy.LogMode, o.proxy.VMLogDir, o.proxy.VMLogLocation, o.proxy.PodLogsDir)
		wantDir(o.proxy.VMLogDir, "set --vm-log-dir to where this host sees the runtime's "+o.proxy.VMLogLocation)
	}
	wantDir(o.proxy.PodLogsDir, "kubelet makes it when it starts; if it has another podLogsDir, set --pod-logs-dir to that")
	serving := fmt.Sprintf("serving at %s for the runtime at %s", path, o.proxy.RuntimeSocket)
	glog.Info(serving)
	l = whenReady(l, func() { notifyReady(serving) })
	if err := server.Run(ctx, l); err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	glog.Info("stopped")
	return nil
}
