module github.com/cri-logproxy/cri-logproxy/e2e/bench

go 1.26.0

replace github.com/cri-logproxy/cri-logproxy => ../../

require github.com/cri-logproxy/cri-logproxy v0.0.0-00010101000000-000000000000

require (
	github.com/golang/glog v1.2.5 // indirect
	golang.org/x/sys v0.49.0 // indirect
)
