package vmruntime

import "path/filepath"

// Era is a span of Virtlet's releases that a Runtime imitates, with all that
// troubles a kubelet of today. The zero value is none of them: it serves newer
// versions of CRI and has fewer faults.
type Era string

// The eras of Virtlet.
const (
	Era082 Era = "0.8.2" // to 0.9.4: CRI v1alpha1; the last with raw log files
	Era10  Era = "1.0"   // 1.0.3 to 1.1: the first that name a log path
	Era15  Era = "1.5"   // 1.4 and all later ones
)

// Eras are all eras, the oldest first.
var Eras = []Era{Era082, Era10, Era15}

// behaviour is what differs between eras.
type behaviour struct {
	apis []API // versions of CRI that are served

	// keepDomain: CreateContainer for a sandbox that has a container returns that
	// one's ID and changes nothing, so attempt, annotations, raw log, arguments
	// and time of creation stay those of the first call. Else it removes the
	// domain and defines a new one with the same ID.
	keepDomain bool
	// disk: there is a root disk, which StopContainer deletes. Until
	// RemoveContainer and CreateContainer are called StartContainer fails, after
	// libvirt has truncated the raw log.
	disk bool
	// logPath is log_path in ContainerStatus, by what the request had.
	logPath func(directory, path string) string
	// echoNamespaces: PodSandboxStatus has the namespaces that were asked for, as
	// v1alpha1's bools. Else it claims that all are the pod's own.
	echoNamespaces bool
	stats          bool // of containers
	imageFsInfo    bool
}

var behaviours = map[Era]behaviour{
	"":     {apis: []API{V1, V1alpha2}, logPath: noLogPath, imageFsInfo: true},
	Era082: {apis: []API{V1alpha1}, disk: true, logPath: noLogPath, echoNamespaces: true},
	Era10:  {apis: []API{V1alpha2}, keepDomain: true, disk: true, logPath: relativeLogPath},
	Era15:  {apis: []API{V1alpha2}, keepDomain: true, disk: true, logPath: absoluteLogPath, stats: true, imageFsInfo: true},
}

func noLogPath(string, string) string { return "" }

func relativeLogPath(_, path string) string { return path }

func absoluteLogPath(directory, path string) string { return filepath.Join(directory, path) }
