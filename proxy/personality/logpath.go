package personality

// LogPath is for every runtime.
var LogPath = &Repair{
	Name: "log-path",
	Reason: "a log_path that is empty (Virtlet up to 1.0.2) or relative (to 1.1) has kubelet delete files in its own " +
		"working directory when it removes the container",
	needed: func(Runtime) bool { return true },
}
