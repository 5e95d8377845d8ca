package personality

import runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

// Stats is for every Virtlet.
var Stats = &Repair{
	Name: "stats",
	Reason: "one VM that is off makes the statistics of all fail (up to 1.3 they always do), and with them kubelet's " +
		"eviction; those there are name no container",
	needed: isVirtlet,
}

// NameStats says which container statistics are of: kubelet finds it by name
// and labels. c is as ListContainers has it.
func NameStats(stats *runtimeapi.ContainerStats, c *runtimeapi.Container) {
	stats.Attributes = &runtimeapi.ContainerAttributes{
		Id: c.GetId(), Metadata: c.GetMetadata(), Labels: c.GetLabels(), Annotations: c.GetAnnotations(),
	}
}
