// Command binaries builds the programs that the tests' clusters are made of, if
// they are not in the user's cache yet.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/cri-logproxy/cri-logproxy/e2e/cluster/binaries"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	for _, set := range []binaries.Set{binaries.Kubernetes, binaries.Containerd} {
		if _, err := set.Build(ctx, os.Stderr); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
