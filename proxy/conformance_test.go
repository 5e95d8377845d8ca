package proxy_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// TestConformance makes every call of the suite with and without the proxy.
func TestConformance(t *testing.T) {
	proxytest.Run(t, throughRig, proxytest.Options{Expect: logPaths})
}

// TestBridge has a client of each version of CRI talk to a runtime of each.
func TestBridge(t *testing.T) {
	versions := []string{proxytest.V1, proxytest.V1alpha2, proxytest.V1alpha1}
	for _, client := range versions {
		for _, runtime := range versions {
			t.Run(client+" to "+runtime, func(t *testing.T) {
				proxytest.RunBridge(t, throughRig, client, runtime, proxytest.Options{Expect: logPaths})
			})
		}
	}
}

func throughRig(t *testing.T, backend *proxytest.Backend) string {
	return newRig(t, backend, nil).socket()
}

// logPaths is what the proxy changes. The fake runtime's log paths are nonsense,
// and its containers are nobody's: what the proxy makes of real ones is the
// matter of other tests.
var logPaths = map[string]proxytest.Rewrite{
	"CreateContainer": func(_ proxytest.Direction, msg proto.Message) {
		if req, ok := msg.(*runtimeapi.CreateContainerRequest); ok && req.Config != nil {
			req.SandboxConfig.LogDirectory = filepath.Join("/var/log/vms", req.PodSandboxId)
			req.Config.LogPath = "_" + itoa(req.Config.Metadata.GetAttempt()) + ".log"
		}
	},
	"ContainerStatus": func(_ proxytest.Direction, msg proto.Message) {
		if resp, ok := msg.(*runtimeapi.ContainerStatusResponse); ok && resp.Status != nil {
			resp.Status.LogPath = noLog(resp.Status.Id)
		}
	},
	"PodSandboxStatus": func(_ proxytest.Direction, msg proto.Message) {
		if resp, ok := msg.(*runtimeapi.PodSandboxStatusResponse); ok {
			for _, st := range resp.ContainersStatuses {
				st.LogPath = noLog(st.Id)
			}
		}
	},
	"GetContainerEvents": func(_ proxytest.Direction, msg proto.Message) {
		if resp, ok := msg.(*runtimeapi.ContainerEventResponse); ok {
			for _, st := range resp.ContainersStatuses {
				st.LogPath = noLog(st.Id)
			}
		}
	},
}

func noLog(id string) string {
	return "/proc/cri-logproxy-has-no-log-of/" + strings.ReplaceAll(id, "/", "_") + ".log"
}

// TestEveryLogPathIsAccountedFor fails when cri-api has a new field that names
// a log, or such a field in another RPC: somebody must then decide what the
// proxy does with it.
func TestEveryLogPathIsAccountedFor(t *testing.T) {
	accounted := []string{
		"RuntimeService/RunPodSandbox request config.log_directory",             // recorded
		"RuntimeService/CreateContainer request config.log_path",                // the raw log in its place
		"RuntimeService/CreateContainer request sandbox_config.log_directory",   // the raw log's directory in its place
		"RuntimeService/ContainerStatus answer status.log_path",                 // kubelet's own path
		"RuntimeService/PodSandboxStatus answer containers_statuses.log_path",   // kubelet's own path
		"RuntimeService/GetContainerEvents answer containers_statuses.log_path", // kubelet's own path
		"RuntimeService/RestorePod request config.log_directory",                // raw: no VM runtime restores pods
		"RuntimeService/RestorePod request container_configs.log_path",          // raw: no VM runtime restores pods
		"ImageService/PullImage request sandbox_config.log_directory",           // raw: a pull writes no log
	}
	uses := proxytest.LogPathUses()
	for _, use := range uses {
		if !slices.Contains(accounted, use) {
			t.Errorf("%s: nobody has decided what the proxy does with it", use)
		}
	}
	for _, use := range accounted {
		if !slices.Contains(uses, use) {
			t.Errorf("%s: cri-api has no such field any more", use)
		}
	}
}
