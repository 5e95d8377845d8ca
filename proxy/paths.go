package proxy

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/converter"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/personality"
)

// Labels and annotations that kubelet gives its sandboxes and containers
// (k8s.io/kubelet/pkg/types/labels.go, pkg/kubelet/kuberuntime/labels.go).
const (
	labelPodName         = "io.kubernetes.pod.name"
	labelPodNamespace    = "io.kubernetes.pod.namespace"
	labelPodUID          = "io.kubernetes.pod.uid"
	labelContainerName   = "io.kubernetes.container.name"
	annotationRestartCnt = "io.kubernetes.container.restartCount"
)

// noLogDir is where the log of a container is said to be that has none. Nothing
// can be made there. kubelet must be told some absolute path: it globs what it
// is told and deletes what it finds, relative to its working directory if need
// be (pkg/kubelet/logs/container_log_manager.go, Clean).
const noLogDir = "/proc/cri-logproxy-has-no-log-of"

// noLogPath is the log path of a container without a log.
func noLogPath(containerID string) string {
	return filepath.Join(noLogDir, component(containerID)+".log")
}

// component makes any string one component of a path.
func component(s string) string {
	if s == "" || s == "." || s == ".." {
		return "-"
	}
	return strings.NewReplacer("/", "_", "*", "_", "?", "_", "[", "_", `\`, "_", "\x00", "_").Replace(s)
}

// globs are the characters that kubelet, which removes logs by a pattern, would
// not take for themselves.
const globs = `*?[\`

// isComponent says that s is the name of a file or directory and nothing else.
func isComponent(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00"+globs)
}

// containerLogPath joins the two parts of a log path as kubelet gives them, and
// refuses what does not lie where kubelet's logs lie. "" and no error: kubelet
// wants no log.
func containerLogPath(podLogsDir, logDirectory, logPath string) (string, error) {
	if logDirectory == "" || logPath == "" {
		return "", nil
	}
	refuse := func(rule, remedy string) (string, error) {
		return "", &converter.UnsafePathError{Path: filepath.Join(logDirectory, logPath), Rule: rule, Remedy: remedy}
	}
	if !filepath.IsLocal(logPath) || filepath.Clean(logPath) != logPath {
		return refuse(fmt.Sprintf("log_path %q is not a clean relative path", logPath), "the client that made the container must send one without .. or a leading /")
	}
	if rel, err := filepath.Rel(podLogsDir, logDirectory); err != nil || !filepath.IsAbs(logDirectory) || !filepath.IsLocal(rel) || rel == "." {
		return refuse(fmt.Sprintf("log_directory %q is not below --pod-logs-dir %s", logDirectory, podLogsDir), "set --pod-logs-dir to kubelet's podLogsDir")
	}
	if strings.ContainsAny(logDirectory+logPath, "\x00"+globs) {
		return refuse("it has a NUL or one of "+globs, "the client that made the container must send one without")
	}
	return filepath.Join(logDirectory, logPath), nil
}

// podLogDirectory is the log directory that kubelet gives a pod
// (pkg/kubelet/kuberuntime/helpers.go, BuildPodLogsDirectory). "" if the parts
// cannot be right.
func podLogDirectory(podLogsDir, namespace, name, uid string) string {
	if !isComponent(namespace) || !isComponent(name) || !isComponent(uid) {
		return ""
	}
	return filepath.Join(podLogsDir, namespace+"_"+name+"_"+uid)
}

// rawLogs are the names that Virtlet may give the raw log of an attempt:
// `_<attempt>.log` at first, `<container>_<attempt>.log` in 0.7.0 to 0.8.2. A
// runtime that gives every attempt the same container ID may also go on with
// one of those of the attempts before.
func rawLogs(sandboxID, container string, attempt uint32, before ...string) []string {
	n, dir := strconv.FormatUint(uint64(attempt), 10), bareID(sandboxID)
	names := []string{filepath.Join(dir, "_"+n+".log")}
	if isComponent(container) {
		names = append(names, filepath.Join(dir, container+"_"+n+".log"))
	}
	for _, name := range before {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// labelled is what kubelet's labels say of a container that is not on record.
func labelled(podLogsDir, id, sandboxID string, labels, annotations map[string]string, attempt uint32) logmap.Container {
	c := logmap.Container{
		ID: id, SandboxID: sandboxID, Attempt: attempt,
		Namespace: labels[labelPodNamespace], Pod: labels[labelPodName], Name: labels[labelContainerName],
	}
	if n, err := strconv.ParseUint(annotations[annotationRestartCnt], 10, 32); err == nil {
		c.Attempt = uint32(n)
	}
	dir := podLogDirectory(podLogsDir, c.Namespace, c.Pod, labels[labelPodUID])
	if dir != "" && isComponent(c.Name) {
		// kubelet's BuildContainerLogsDirectory and containerLogFileName.
		c.ContainerLog = filepath.Join(dir, c.Name, strconv.FormatUint(uint64(c.Attempt), 10)+".log")
	} else {
		c.Problem = "its labels do not say which pod it is of"
	}
	return c
}

// labelled is what the labels say, corrected for a runtime whose attempts are
// repaired.
func (s *Server) labelled(ctx context.Context, id, sandboxID string, labels, annotations map[string]string, attempt uint32) logmap.Container {
	c := labelled(s.cfg.PodLogsDir, id, sandboxID, labels, annotations, attempt)
	s.countAttempts(ctx, &c, annotations)
	return c
}

// mapping says on one line which raw log feeds which log.
func mapping(c logmap.Container, rawRoot string) string {
	if c.Mode == logmap.ModePTY {
		return "its console is a pty without a log"
	}
	if c.ContainerLog == "" {
		return "it has no log: " + c.Problem
	}
	if len(c.RawLogs) == 0 {
		return "nothing feeds " + c.ContainerLog
	}
	return filepath.Join(rawRoot, c.RawLogs[0]) + " feeds " + c.ContainerLog
}

// logPathOf is the log path that kubelet is given for a container on record.
func logPathOf(c logmap.Container) string {
	if c.ContainerLog == "" {
		return noLogPath(c.ID)
	}
	return c.ContainerLog
}

// answeredLogPath is the log path that kubelet is given in a status.
func (s *Server) answeredLogPath(ctx context.Context, st *runtimeapi.ContainerStatus) string {
	if !s.has(personality.LogPath) && !filepath.IsAbs(st.GetLogPath()) {
		return st.GetLogPath()
	}
	if c, ok := s.logs.Container(st.GetId()); ok {
		return logPathOf(c)
	}
	p := st.GetLogPath()
	if s.others.has(st.GetId()) {
		return p
	}
	// Not made through this proxy, or just being made.
	if filepath.IsAbs(p) && filepath.Clean(p) == p && !strings.ContainsAny(p, globs) && !s.isRaw(p) {
		return p
	}
	return logPathOf(s.labelled(ctx, st.GetId(), "", st.GetLabels(), st.GetAnnotations(), st.GetMetadata().GetAttempt()))
}

// isRaw says that a path is in the raw-log directory, as the runtime or this
// host sees it.
func (s *Server) isRaw(path string) bool {
	for _, dir := range []string{s.cfg.VMLogLocation, s.cfg.VMLogDir} {
		if rel, err := filepath.Rel(dir, path); dir != "" && err == nil && filepath.IsLocal(rel) {
			return true
		}
	}
	return false
}
