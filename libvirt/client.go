package libvirt

import (
	"context"
	"errors"
	"fmt"

	golibvirt "github.com/digitalocean/go-libvirt"
)

// Client asks libvirt about domains and edits them. It may be used by any
// number of goroutines.
//
// Every call ends after 2 s, or when its context does. If libvirt cannot be
// asked the error is an [*UnavailableError], and the next calls try again, at
// first each 100 ms, later each second.
type Client struct {
	connector *connector
}

// New returns a client of the libvirt that listens at a unix socket; "" is for
// the usual places, which are gone through whenever it connects: libvirt may
// come up later, and in another. It connects at the first call; the caller
// closes it.
func New(socket string) *Client {
	return &Client{newConnector(socket, callTimeout)}
}

// Close closes the connection. Calls under way fail. It may be called again.
func (c *Client) Close() error {
	c.connector.close()
	return nil
}

// Serial returns the serial port that is the console of a container's domain:
// of the running VM, or of the next start if it does not run. The error is
// [ErrNoDomain] if there is no such domain.
func (c *Client) Serial(ctx context.Context, containerID string) (Serial, error) {
	uuid, err := domainUUID(containerID)
	if err != nil {
		return Serial{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.connector.timeout)
	defer cancel()
	doc, err := c.read(ctx, uuid, func(golibvirt.Domain) golibvirt.DomainXMLFlags { return 0 })
	if err != nil {
		return Serial{}, wrap("read", uuid, err)
	}
	s, err := parseSerial(doc)
	return s, wrap("read", uuid, err)
}

// SetConsole edits a container's domain, which does not run yet, so that its
// console goes where it should:
//
//   - [Both]: to a pty, which libvirt logs to the file.
//   - [File]: to the file. A port of type file stays as it is, whatever its
//     file. One of another type becomes a file: who is behind it, such as
//     Virtlet's streamer, gets nothing that it could write to the file too.
//   - [PTY]: to a pty. The log of a pty stays, unless it is in file, taken as a
//     directory.
//
// The file is an absolute path as libvirtd sees it, and is appended to; its
// directory must exist when the VM starts. For [PTY] it may be "".
//
// A domain that runs is not changed: that could not act before its next start.
// SetConsole returns the port as it is then, or as it is now if the VM runs. If
// nothing has to change libvirt is not asked to change anything. After an error
// the domain may have been changed.
func (c *Client) SetConsole(ctx context.Context, containerID string, console Console, file string) (Serial, error) {
	uuid, err := domainUUID(containerID)
	if err != nil {
		return Serial{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.connector.timeout)
	defer cancel()
	s, err := c.setConsole(ctx, uuid, console, file)
	return s, wrap("edit", uuid, err)
}

func (c *Client) setConsole(ctx context.Context, uuid golibvirt.UUID, console Console, file string) (Serial, error) {
	former, err := c.read(ctx, uuid, whole)
	if err != nil {
		return Serial{}, err
	}
	s, err := parseSerial(former)
	if err != nil || s.Active {
		return s, err
	}
	wanted, err := edit(former, console, file)
	if err != nil || wanted == former {
		return s, err
	}
	now, err := c.define(ctx, uuid, wanted)
	if err != nil {
		return Serial{}, err
	}
	if s, err = parseSerial(now); err == nil && !s.is(console, file) {
		err = fmt.Errorf("libvirt has not taken the change to console %q (it knows no <log> before its version 1.3.3)", console)
	}
	return s, err
}

// whole asks for all that there is to define a domain again, passwords too;
// for what a VM runs with, if it does.
func whole(domain golibvirt.Domain) golibvirt.DomainXMLFlags {
	const inactive = -1
	if domain.ID != inactive {
		return 0
	}
	return golibvirt.DomainXMLInactive | golibvirt.DomainXMLSecure
}

// read returns a domain's XML.
func (c *Client) read(ctx context.Context, uuid golibvirt.UUID, flags func(golibvirt.Domain) golibvirt.DomainXMLFlags) (string, error) {
	return call(ctx, c.connector, func(l *golibvirt.Libvirt) (string, error) {
		domain, err := l.DomainLookupByUUID(uuid)
		if err != nil {
			return "", err
		}
		return l.DomainGetXMLDesc(domain, flags(domain))
	})
}

// define changes a domain and returns what libvirt then has. A domain that is
// gone it does not make anew.
func (c *Client) define(ctx context.Context, uuid golibvirt.UUID, doc string) (string, error) {
	return call(ctx, c.connector, func(l *golibvirt.Libvirt) (string, error) {
		domain, err := l.DomainLookupByUUID(uuid)
		if err != nil {
			return "", err
		}
		if _, err := l.DomainDefineXML(doc); err != nil {
			return "", err
		}
		return l.DomainGetXMLDesc(domain, golibvirt.DomainXMLInactive)
	})
}

// wrap says what failed.
func wrap(operation string, uuid golibvirt.UUID, err error) error {
	switch {
	case err == nil:
		return nil
	case golibvirt.IsNotFound(err):
		err = ErrNoDomain
	}
	if _, ok := errors.AsType[*UnavailableError](err); ok {
		return err // it says whom it asked
	}
	return fmt.Errorf("libvirt: %s domain %s: %w", operation, formatUUID(uuid), err)
}
