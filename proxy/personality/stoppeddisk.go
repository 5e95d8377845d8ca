package personality

// StoppedDisk is for Virtlet 1.1 and later.
var StoppedDisk = &Repair{
	Name: "stopped-disk",
	Reason: "StopContainer deletes the root disk, and the next StartContainer fails for ever, unless the container is " +
		"removed in between",
	needed: isNewVirtlet,
}
