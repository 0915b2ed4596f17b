// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"encoding/binary"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Raw sends and receives whole Ethernet frames of one device. It also sees
// what the stack sends and receives there.
type Raw struct{ fd int }

// Raw opens a packet socket on a device (packet(7)). The caller closes it.
func (n *Namespace) Raw(device string) (*Raw, error) {
	index, err := n.Ifindex(device)
	if err != nil {
		return nil, err
	}
	all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
	r := &Raw{}
	err = n.Do(func() error {
		if r.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		return unix.Bind(r.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
	})
	if err != nil {
		return nil, fmt.Errorf("open packet socket on %s in namespace %s: %w", device, n.Name, err)
	}
	return r, nil
}

// Send sends a frame, whose Ethernet addresses are the caller's.
func (r *Raw) Send(frame []byte) error {
	for {
		_, err := unix.Write(r.fd, frame)
		if err != unix.EINTR {
			return err
		}
	}
}

// Receive returns the next frame, sent or received; nil if none comes before
// the deadline.
func (r *Raw) Receive(deadline time.Time) ([]byte, error) {
	buf := make([]byte, 1<<16)
	for {
		wait := time.Until(deadline)
		if wait < 0 {
			return nil, nil
		}
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(r.fd), Events: unix.POLLIN}}, int(wait/time.Millisecond)+1)
		if err != nil && err != unix.EINTR {
			return nil, err
		}
		if ready <= 0 {
			continue
		}
		n, err := unix.Read(r.fd, buf)
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

// Close ends the socket.
func (r *Raw) Close() error { return unix.Close(r.fd) }

// MAC returns the Ethernet address of a device.
func (n *Namespace) MAC(device string) (net.HardwareAddr, error) {
	link, err := n.handle.LinkByName(device)
	if err != nil {
		return nil, fmt.Errorf("find device %s in namespace %s: %w", device, n.Name, err)
	}
	return link.Attrs().HardwareAddr, nil
}
