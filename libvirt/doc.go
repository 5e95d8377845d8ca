// Package libvirt sees to it that a VM's console is where the operator wants
// it: in a file, on a pty, or on a pty that libvirt logs to a file.
//
// The runtime defines a domain when kubelet creates a container and starts it
// when kubelet starts the container. In between [Client.SetConsole] edits the
// domain's serial port, as text: all else in the XML stays as it is, also what
// this package has never heard of.
//
//	serial.go   what a serial port is and where its output goes
//	edit.go     what must change in the XML; draft.go, tree.go: how
//	client.go   the calls
//	call.go     their bound in time
//	connect.go  one connection for all of them, made when it is needed
//	conn.go     that connection
//	socket.go   where libvirt listens
//	domain.go   the domain of a container
//	errors.go   what can be wrong with libvirt, and what to do
//
// go-libvirt speaks the protocol but knows neither time limits nor when to
// connect again; both are here.
package libvirt
