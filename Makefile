# Every target runs from a fresh clone, as root, on Debian 12 with Go.

GO      ?= go
BIN     := $(CURDIR)/bin
MODULES := . deploy e2e e2e/bench
PACKAGES := gcc libc6-dev libvirt-daemon libvirt-clients qemu-system-x86 busybox-static

.PHONY: demo test unit e2e cluster programs bench fuzz crash load build deb lint deps clean
.NOTPARALLEL: # the tests have a machine to themselves

MODE ?= file
demo: deps build ## boot a real VM behind the proxy and read its log as kubelet does; MODE=both: its console next to it
	cd e2e && $(GO) build -o $(BIN)/demo ./cmd/demo
	$(BIN)/demo --proxy=$(BIN)/cri-logproxy --mode=$(MODE)

test: deps lint unit e2e ## everything, with the race detector

unit: ## the product's own tests, and the package's
	$(GO) test -race -count=1 ./...
	cd deploy && $(GO) test -count=1 ./...

# Tells of each test as it ends, and at the end all that the failed ones have said.
GOTESTSUM := $(GO) tool gotestsum --format=testname --

test e2e cluster programs: PACKAGES := $(PACKAGES) etcd-server iproute2 containerd runc containernetworking-plugins

e2e: programs ## real libvirtd, real VMs, kubelet, kubectl, containerd
	cd e2e && $(GOTESTSUM) -race -count=1 -timeout 20m ./...

cluster: programs ## of these, kubelet and what belongs to it alone
	cd e2e && $(GOTESTSUM) -race -count=1 -timeout 20m ./cluster/...

programs: deps ## kubelet, kube-apiserver, kubectl, containerd: built once per machine, in 7 minutes of two idle cores
	cd e2e && $(GO) run ./cluster/cmd/binaries

bench: deps ## one figure a line: name value unit; FIGURES="latency/ …" for some
	cd e2e/bench && $(GO) build -o $(BIN)/bench .
	$(BIN)/bench $(FIGURES)

TIME ?= 30s
fuzz: ## every fuzz target, for TIME each
	@grep -rE '^func Fuzz' --include='*_test.go' --exclude-dir=e2e . | sed -E 's/(.*)\/[^/]*:func (Fuzz[A-Za-z]+).*/\1 \2/' | while read dir target; do \
		$(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(TIME) -fuzzminimizetime 20x $$dir || exit 1; done

ROUNDS ?= 2000
crash: ## kill the real binary ROUNDS times while a VM writes and kubelet rotates
	CRASH_ROUNDS=$(ROUNDS) $(GO) test -race -run TestCrash -v -timeout 0 ./cmd/cri-logproxy

CALLS ?= 100000
load: ## 64 clients make CALLS calls while the runtime is restarted each second
	LOAD_CALLS=$(CALLS) $(GO) test -count=1 -run 'TestLoad$$' -v -timeout 0 ./proxy

build: ## the proxy, in bin/
	$(GO) build -o $(BIN)/cri-logproxy ./cmd/cri-logproxy

deb: ## a Debian package, in dist/
	rm -f dist/*.deb
	GO=$(GO) deploy/deb/build.sh dist

lint: ## gofmt, go vet, staticcheck
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	for m in $(MODULES); do (cd $$m && $(GO) vet ./...) || exit 1; done
	$(GO) build -o $(BIN)/staticcheck honnef.co/go/tools/cmd/staticcheck
	for m in $(MODULES); do (cd $$m && $(BIN)/staticcheck ./...) || exit 1; done

deps: ## install what the demo and the tests need, if it is not there
	@dpkg-query -W -f '$${Status}\n' $(PACKAGES) 2>/dev/null | grep -c '^install ok installed' | grep -qx $(words $(PACKAGES)) || \
		(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(PACKAGES))

clean:
	rm -rf $(BIN) dist
