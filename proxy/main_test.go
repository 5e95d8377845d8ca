package proxy_test

import (
	"flag"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	// Or glog leaves files in the directory for temporary ones.
	if err := flag.Set("logtostderr", "true"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
