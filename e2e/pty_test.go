package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/guest"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
	"github.com/cri-logproxy/cri-logproxy/e2e/vmruntime"
	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
)

// TestPTY types into the console of a VM through virsh, and checks that the
// proxy has kept out of it.
func TestPTY(t *testing.T) {
	r := newRig(t, node.Options{PTY: true})
	// A request with a field that is not CRI's, made by hand to know its bytes.
	client, err := vmruntime.Dial(r.Socket, vmruntime.V1)
	r.must(err)
	defer client.Close()
	req := &cri.CreateContainerRequest{
		PodSandboxId: r.Sandbox,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: pod.ContainerName}, Image: &cri.ImageSpec{Image: "guest"}, LogPath: "vm/0.log", Args: guest.Boot{Marker: "pty"}.Args(),
		},
		SandboxConfig: &cri.PodSandboxConfig{Metadata: r.Config.Metadata, LogDirectory: r.Config.LogDirectory},
	}
	req.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 4711, protowire.VarintType), 42))
	sent, err := proto.Marshal(req)
	r.must(err)
	created, err := client.CreateContainer(r.ctx, req)
	r.must(err)
	if got := r.Runtime.LastCreateRequest(); !bytes.Equal(got, sent) {
		t.Errorf("the runtime got %x, kubelet sent %x", got, sent)
	}
	r.ID = created.ContainerId
	r.must(os.MkdirAll(filepath.Join(r.Config.LogDirectory, "vm"), 0o755))
	r.must(r.Pod.Start(r.ctx))

	record, err := r.Mapping(r.ID)
	r.must(err)
	if record.Mode != logmap.ModePTY || len(record.RawLogs) > 0 {
		t.Errorf("on record: %+v", record)
	}

	console, err := r.Libvirt.OpenConsole(r.ctx, vmruntime.DomainName(r.ID, pod.ContainerName))
	r.must(err)
	r.prompt(console.Terminal)
	r.must(console.Send("echo typed-$((40+2))\r"))
	r.must(console.Expect(r.ctx, "echo typed-$((40+2))")) // the echo
	r.must(console.Expect(r.ctx, "typed-42"))             // the answer
	r.must(console.Close())

	log, err := os.ReadFile(record.ContainerLog)
	r.must(err)
	if !strings.Contains(string(log), "virsh console") || bytes.Count(log, []byte("\n")) != 1 {
		t.Errorf("the log of a pty console: %s", log)
	}
	r.must(r.Pod.Stop(r.ctx, 0))
	r.must(r.Pod.Remove(r.ctx))
}
