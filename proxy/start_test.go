package proxy_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-logproxy/cri-logproxy/proxy/logmap"
	"github.com/cri-logproxy/cri-logproxy/proxy/proxytest"
)

// TestStartUnknown checks what a container is whose StartContainer nobody has
// heard the end of: CREATED, which kubelet starts anew whatever the restartPolicy,
// until the runtime has it running.
func TestStartUnknown(t *testing.T) {
	starts := map[string]func(*rig, *fakeVirtlet, string) error{
		"the runtime says Unavailable": func(r *rig, v *fakeVirtlet, id string) error {
			v.start = status.Error(codes.Unavailable, "not yet")
			defer func() { v.start = nil }()
			_, err := r.client.StartContainer(r.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id})
			return err
		},
		"kubelet has given up": func(r *rig, v *fakeVirtlet, id string) error {
			ctx, cancel := context.WithCancel(r.t.Context())
			defer cancel()
			answer := make(chan struct{})
			v.starting = func() { cancel(); <-answer }
			v.start = status.Error(codes.Canceled, "canceled")
			_, err := r.client.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: id})
			close(answer)
			return err
		},
	}
	for name, start := range starts {
		t.Run(name, func(t *testing.T) {
			r, v := newVirtletRig(t, "auto")
			if err := start(r, v, r.create("pod", 0, nil)); err == nil {
				t.Fatal("it has started")
			}
			r.wantListed(" 0 CREATED")
			v.start, v.starting = nil, nil
			r.attempt(1)
			v.powerOff()
			id := r.create("pod", 2, nil)
			if err := start(r, v, id); err == nil {
				t.Fatal("it has started")
			}
			for range 2 { // the runtime says EXITED, of attempt 1
				if st := r.status(id); st.State != runtimeapi.ContainerState_CONTAINER_CREATED || st.Reason != "" {
					t.Errorf("attempt 2 is %v %s %q", st.State, st.Reason, st.Message)
				}
				r.restart()
			}
			v.set(runtimeapi.ContainerState_CONTAINER_RUNNING) // it has started after all
			if st := r.status(id); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
				t.Errorf("attempt 2 is %v", st.State)
			}
			v.powerOff()
			if st := r.status(id); st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.Reason != "Completed" {
				t.Errorf("attempt 2 is %v %s", st.State, st.Reason)
			}
		})
	}
}

// TestListIsOneList checks that the runtime makes one list for one list of
// kubelet's, and, if attempts begin all the time, not many.
func TestListIsOneList(t *testing.T) {
	r, _ := newVirtletRig(t, "auto")
	r.attempt(0)
	var lists atomic.Int32
	var during atomic.Pointer[func()]
	r.backend.Handle("ListContainers", proxytest.Typed(func(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
		lists.Add(1)
		if f := during.Load(); f != nil {
			(*f)()
		}
		return &runtimeapi.ListContainersResponse{}, nil
	}))
	r.listed(nil)
	if n := lists.Load(); n != 1 {
		t.Errorf("the runtime made %d lists", n)
	}
	steps := func() {
		if err := r.logs.ChangeContainer(virtletID, func(c *logmap.Container) { c.Starting = !c.Starting }); err != nil {
			t.Error(err)
		}
		time.Sleep(100 * time.Millisecond) // it is a slow runtime
	}
	during.Store(&steps)
	begun := time.Now()
	r.listed(nil)
	if took := time.Since(begun); took > 5*time.Second {
		t.Errorf("a list took %v, and %d of the runtime's", took, lists.Load())
	}
}

// TestStatsOfEnded checks that an attempt that is over has no statistics: not the
// next one's, nor those of all.
func TestStatsOfEnded(t *testing.T) {
	r, v := newVirtletRig(t, "auto")
	first := r.attempt(0)
	v.powerOff()
	r.attempt(1)
	r.backend.Handle("ListContainerStats", proxytest.Typed(func(context.Context, *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
		return &runtimeapi.ListContainerStatsResponse{Stats: []*runtimeapi.ContainerStats{statsNamed(virtletID, "vm"), statsNamed("another", "vm")}}, nil
	}))
	for range 2 { // and then removed
		resp, err := r.client.ListContainerStats(t.Context(), &runtimeapi.ListContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{Id: first}})
		if err != nil || len(resp.Stats) != 0 {
			t.Errorf("%v, %v", resp, err)
		}
		if err := r.removeContainer(first); err != nil {
			t.Fatal(err)
		}
	}
}
