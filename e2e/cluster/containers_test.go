package cluster

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/containers"
	"github.com/cri-logproxy/cri-logproxy/e2e/internal/printed"
	"github.com/cri-logproxy/cri-logproxy/e2e/node"
	"github.com/cri-logproxy/cri-logproxy/e2e/pod"
)

// TestContainerd uses containers, and starts the proxy and containerd again under
// them.
func TestContainerd(t *testing.T) {
	r := startContainers(t, Containerd)
	r.use()
	r.restartProxy()
	r.must(r.Containerd.StopDaemon())
	r.must(r.Containerd.Restart(r.ctx))
	r.works()
	r.end()
}

// TestDebianContainerd does the same, but for containerd's restart: this one
// answers before it is ready, with an error that ends `kubectl logs -f`.
func TestDebianContainerd(t *testing.T) {
	r := startContainers(t, DebianContainerd)
	r.use()
	r.restartProxy()
	r.end()
}

// streamGates have kubelet call what answers with streams.
var streamGates = []string{"CRIListStreaming", "EventedPLEG", "PodAndContainerStatsFromCRI"}

// TestContainerdStreams uses containers with kubelet's gates for streams on, and
// counts at containerd whether it was streams that came.
func TestContainerdStreams(t *testing.T) {
	r := startContainers(t, Containerd, streamGates...)
	r.use()
	r.end()
	metrics, err := r.Containerd.Metrics(r.ctx)
	r.must(err)
	for _, method := range []string{
		"StreamPodSandboxes", "StreamContainers", "StreamImages", "StreamPodSandboxStats", "GetContainerEvents",
	} {
		if n := sum(metrics, `grpc_server_started_total{grpc_method="`+method+`"`); n == 0 {
			t.Errorf("containerd was not asked for %s", method)
		} else {
			t.Logf("%s: %v", method, n)
		}
	}
	for _, code := range []string{"Unimplemented", "Internal"} {
		if n := sum(metrics, `grpc_server_handled_total{grpc_code="`+code+`"`); n > 0 {
			t.Errorf("containerd answered %v times %s", n, code)
		}
	}
	if metrics, err = r.Kubelet.Metrics(r.ctx); err != nil {
		t.Fatal(err)
	}
	if n := sum(metrics, "kubelet_evented_pleg_connection_success_count"); n != 1 {
		t.Errorf("kubelet has connected %v times for events, want once", n)
	}
}

// ticking prints numbered lines, the first with 40,000 characters more.
const ticking = `i=0; printf 'tick 0 '; head -c 40000 /dev/zero | tr '\0' x; echo
while i=$((i+1)); do echo "tick $i and some more, for kubelet shall have something to rotate"; sleep 0.02; done`

// tick is what ticking prints.
func tick(i int) string {
	if i == 0 {
		return "tick 0 " + strings.Repeat("x", 40000) + "\n"
	}
	return fmt.Sprintf("tick %d and some more, for kubelet shall have something to rotate\n", i)
}

// echoing answers what it reads.
const echoing = `echo ready; while read -r line; do echo "read $line"; done`

// probed fails every probe in its first run, and none in its second.
const probed = `n=$(cat /state/$0 2>/dev/null || echo 0); echo "run $n"; echo $((n+1)) >/state/$0
[ $n = 0 ] && exec sleep infinity
echo "hello from $0" >/tmp/index.html; exec httpd -f -p $1 -h /tmp`

// containersRig is a node of containers, and somebody who follows what one of
// them says.
type containersRig struct {
	*rig
	follower *follower
}

// startContainers has kubelet run containers behind the proxy.
func startContainers(t *testing.T, runtime Runtime, gates ...string) *containersRig {
	t.Helper()
	o := smallLogs
	o.LogMaxSize, o.FeatureGates = "16Ki", gates
	r := newRig(t, Options{API: true, Runtime: runtime, Kubelet: o, Node: node.Options{ProxyActivated: true}})

	type object = map[string]any
	probe := func(name, port string, action object) object {
		action["periodSeconds"], action["failureThreshold"] = 1, 2
		return object{
			"name": name, "command": []string{"sh", "-c", probed, name, port},
			"livenessProbe": action, "readinessProbe": action,
			"volumeMounts": []object{{"name": "state", "mountPath": "/state"}},
		}
	}
	for _, manifest := range [][]byte{
		containerPod("ticking", object{"name": pod.ContainerName, "command": []string{"sh", "-c", ticking}}),
		containerPod("echoing", object{"name": "c", "command": []string{"sh", "-c", echoing}, "stdin": true}),
		containerPod("probed",
			probe("exec", "8081", object{"exec": object{"command": []string{"test", "-e", "/tmp/index.html"}}}),
			probe("http", "8082", object{"httpGet": object{"port": 8082, "path": "/"}}),
			probe("tcp", "8083", object{"tcpSocket": object{"port": 8083}})),
		containerPod("short", object{"name": "c", "command": []string{"echo", "all that it says"}}),
		containerPod("missing", object{"name": "c", "image": containers.MissingImage}),
	} {
		_, err := r.Control.KubectlInput(r.ctx, manifest, "apply", "-f", "-")
		r.must(err)
	}
	r.phase("ticking", "Running")
	return &containersRig{rig: r, follower: r.follow("ticking")}
}

// use is a person who uses containers in every way that kubectl knows.
func (r *containersRig) use() {
	r.phase("echoing", "Running")
	for _, step := range []struct {
		name string
		do   func(*rig)
	}{
		{"exec", (*rig).exec},
		{"exec-terminal", (*rig).execTerminal},
		{"attach", (*rig).attach},
		{"probes", (*rig).probes},
		{"port-forward", (*rig).portForward},
		{"stats", func(r *rig) { r.stats("ticking") }},
		{"missing-image", (*rig).missingImage},
		{"same-answers", (*rig).sameAnswers},
	} {
		r.t.Run(step.name, func(t *testing.T) { step.do(r.on(t)) })
	}
	r.phase("short", "Succeeded")
	if got := r.kubectl("logs", "short"); got != "all that it says\n" {
		r.t.Errorf("logs of a container that has ended: %q", got)
	}
}

// restartProxy starts the proxy again, after an upgrade and after a crash.
func (r *containersRig) restartProxy() {
	r.upgrade(r.works)
	r.Proxy.Kill()
	r.await("kubelet calls while there is no proxy", r.Proxy.Awaited)
	r.must(r.Proxy.Start(r.ctx))
	r.works()
}

// works waits until who follows is shown more, and commands can be run.
func (r *containersRig) works() {
	r.wait(r.follower, r.ticked(50))
	r.await("exec works", func() (bool, error) {
		out, err := r.Control.Kubectl(r.ctx, "exec", "echoing", "--", "echo", "works")
		return err == nil && out == "works\n", nil
	})
}

// ticked is what will have been shown when the container has ticked n times
// more.
func (r *containersRig) ticked(n int) string {
	var last int
	shown := r.follower.String()
	if _, err := fmt.Sscanf(shown[strings.LastIndex(shown, "tick "):], "tick %d", &last); err != nil {
		r.t.Fatalf("%v: …%q", err, shown[max(0, len(shown)-100):])
	}
	return tick(last + n)
}

// end waits for some rotations of what ticks, and checks that who follows has
// missed nothing, that the files hold all, and that nothing is left of pods that
// are deleted.
func (r *containersRig) end() {
	r.t.Helper()
	dir := r.logDir("ticking", r.kubectl("get", "pod", "ticking", "-o=jsonpath={.metadata.uid}"))
	var text string
	var files []string
	r.await("the log has five files", func() (bool, error) {
		text, files = r.log(dir)
		return len(files) >= 5, nil
	})
	if !strings.HasSuffix(files[0], ".gz") {
		r.t.Errorf("the first of the files %v is not zipped", files)
	}
	r.wait(r.follower, text[strings.LastIndex(strings.TrimSuffix(text, "\n"), "\n")+1:])
	followed := r.follower.String()
	var all strings.Builder
	for i := 0; all.Len() < len(text)+len(followed); i++ {
		all.WriteString(tick(i))
	}
	if d := printed.Diff(text, all.String()[:len(text)]); d != "" {
		r.t.Errorf("all files together: %s", d)
	}
	// kubelet may have rotated the log before it was followed.
	first, _, _ := strings.Cut(followed, "\n")
	_, want, _ := strings.Cut("\n"+all.String(), "\n"+first+"\n")
	want = (first + "\n" + want)[:len(followed)]
	if d := printed.Diff(followed, want); d != "" {
		r.t.Errorf("followed: %s", d)
	}
	restarts := "-o=jsonpath={.items[*].status.containerStatuses[*].restartCount}"
	if out := r.kubectl("get", "pod", "ticking", "echoing", restarts); out != "0 0" {
		r.t.Errorf("the containers' restarts: %s, want none", out)
	}
	r.t.Logf("%d lines in %d files, %d lines followed", strings.Count(text, "\n"), len(files), strings.Count(followed, "\n"))
	r.kubectl("delete", "pod", "--all")
	r.nothingLeft()
}

// containerPod is the manifest of a pod of containers.
func containerPod(name string, its ...map[string]any) []byte {
	for _, c := range its {
		if c["image"] == nil {
			c["image"] = containers.Image
		}
		c["imagePullPolicy"] = "Always"
	}
	restart := "Always"
	if name == "short" {
		restart = "Never"
	}
	return manifest(name, nil, map[string]any{
		"restartPolicy": restart, "containers": its,
		"volumes": []map[string]any{{"name": "state", "emptyDir": map[string]any{}}},
	})
}

// phase waits until a pod is in a phase.
func (r *rig) phase(podName, want string) {
	r.t.Helper()
	r.await(podName+" is "+want, func() (bool, error) {
		out, err := r.Control.Kubectl(r.ctx, "get", "pod", podName, "-o=jsonpath={.status.phase}")
		return out == want, err
	})
}

// exec checks the three streams and the exit code of commands in a container.
func (r *rig) exec() {
	got, err := r.Control.KubectlInput(r.ctx, []byte("in"), "exec", "-i", "echoing", "--", "sh", "-c", "cat; echo err >&2; exit 3")
	if err == nil || got != "in" || !strings.Contains(err.Error(), "err\ncommand terminated with exit code 3") {
		r.t.Errorf("stdout %q, %v", got, err)
	}
	big := strings.Repeat("0123456789abcdef", 1<<16)
	if got, err = r.Control.KubectlInput(r.ctx, []byte(big), "exec", "-i", "echoing", "--", "cat"); got != big {
		r.t.Errorf("1 MiB through cat: %d bytes, %v", len(got), err)
	}
}

// execTerminal types into a shell in a container.
func (r *rig) execTerminal() {
	term, err := r.Control.KubectlTerminal(r.ctx, "exec", "-it", "echoing", "--", "sh")
	r.must(err)
	defer term.Close("exit\r")
	for _, dialogue := range []struct{ expect, send string }{
		{"/ # ", "tty; stty size\r"},
		{"/dev/pts/", ""},
		{"24 80", ""},
		{"/ # ", "echo $((6*7)); cat\r"},
		{"42\r\n", "typed\r"},
		{"typed\r\ntyped\r\n", "\x03"}, // the terminal has echoed it, and cat
		{"^C", ""},
		{"/ # ", "exit 5\r"},
		{"exit code 5", ""},
	} {
		r.must(term.Expect(r.ctx, dialogue.expect))
		r.must(term.Send(dialogue.send))
	}
}

// attach talks to a container's own process.
func (r *rig) attach() {
	term, err := r.Control.KubectlTerminal(r.ctx, "attach", "-i", "echoing")
	r.must(err)
	defer term.Close("\x03")
	r.must(term.Expect(r.ctx, "try pressing enter"))
	r.must(term.Send("typed\r"))
	r.must(term.Expect(r.ctx, "read typed\r\n"))
	r.await("the log has it too", func() (bool, error) {
		return r.kubectl("logs", "echoing") == "ready\nread typed\n", nil
	})
}

// probes waits until probes have failed, and containers were started again, and
// probes have succeeded.
func (r *rig) probes() {
	r.await("all are ready after a restart", func() (bool, error) {
		out, err := r.Control.Kubectl(r.ctx, "get", "pod", "probed",
			"-o=jsonpath={range .status.containerStatuses[*]}{.ready}{.restartCount} {end}")
		return out == "true1 true1 true1 ", err
	})
	for _, c := range []string{"exec", "http", "tcp"} {
		if got := r.kubectl("logs", "probed", "-c", c, "--previous"); got != "run 0\n" {
			r.t.Errorf("%s: the log of its first run is %q", c, got)
		}
		if got := r.kubectl("logs", "probed", "-c", c); got != "run 1\n" {
			r.t.Errorf("%s: the log of its second run is %q", c, got)
		}
	}
}

func (r *rig) portForward() {
	f := r.start(nil, "port-forward", "probed", "18082:8082")
	r.wait(f, "Forwarding from 127.0.0.1:18082")
	client := &http.Client{Transport: &http.Transport{DialContext: r.Box.Dial, DisableKeepAlives: true}}
	for range 3 {
		resp, err := client.Get("http://127.0.0.1:18082/")
		r.must(err)
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != "hello from http\n" {
			r.t.Errorf("through the forwarded port: %q, %v", body, err)
		}
	}
}

// missingImage waits until kubelet tells of the image that it cannot have; the
// error's text comes from the runtime.
func (r *rig) missingImage() {
	r.await("the image is missing", func() (bool, error) {
		out, err := r.Control.Kubectl(r.ctx, "get", "events", "-o=jsonpath={.items[*].message}")
		return strings.Contains(out, `Failed to pull image "`+containers.MissingImage+`"`) && strings.Contains(out, "not found"), err
	})
}

// sameAnswers asks containerd directly and through the proxy.
func (r *rig) sameAnswers() {
	var conns [2]*grpc.ClientConn
	for i, socket := range []string{r.Containerd.Socket, r.Proxy.Socket} {
		conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		r.must(err)
		defer conn.Close()
		conns[i] = conn
	}
	same(r, conns, cri.RuntimeServiceClient.Version, &cri.VersionRequest{})
	all, err := cri.NewRuntimeServiceClient(conns[1]).ListContainers(r.ctx, &cri.ListContainersRequest{})
	r.must(err)
	if len(all.Containers) < 6 {
		r.t.Errorf("only %d containers", len(all.Containers))
	}
	for _, c := range all.Containers { // one by one, for the order of a list changes
		same(r, conns, cri.RuntimeServiceClient.ListContainers, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{Id: c.Id}})
		same(r, conns, cri.RuntimeServiceClient.ListPodSandbox, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{Id: c.PodSandboxId}})
		same(r, conns, cri.RuntimeServiceClient.ContainerStatus, &cri.ContainerStatusRequest{ContainerId: c.Id, Verbose: true})
		same(r, conns, cri.RuntimeServiceClient.PodSandboxStatus, &cri.PodSandboxStatusRequest{PodSandboxId: c.PodSandboxId})
	}
}

// same calls both sides until their answers are the same, in case something
// changes in between.
func same[Q, A proto.Message](
	r *rig, conns [2]*grpc.ClientConn,
	call func(cri.RuntimeServiceClient, context.Context, Q, ...grpc.CallOption) (A, error), request Q,
) {
	r.t.Helper()
	var answers [2]A
	for range 5 {
		for i, conn := range conns {
			var err error
			answers[i], err = call(cri.NewRuntimeServiceClient(conn), r.ctx, request)
			r.must(err)
		}
		if proto.Equal(answers[0], answers[1]) {
			return
		}
	}
	r.t.Errorf("%T: without the proxy %v\nand through it %v", request, answers[0], answers[1])
}
