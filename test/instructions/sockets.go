// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// ends are the sockets of a way. One thread has both ends: where it reads, what it
// waits for has arrived most often, and no switch of threads is counted. It calls the
// kernel without telling Go's scheduler.
type ends struct {
	datagrams int // the server's socket for UDP
	listener  int
	port      uint16 // of the next flow; no two flows of a way have one
}

// payload is what goes there and back, and where it is received; peer is who sent it.
// The kernel writes to them: they must not move.
var (
	payload  [64]byte
	peer     [unix.SizeofSockaddrInet6]byte
	peerSize uint32
)

// patience is how long an answer may take, in seconds of the guest.
const patience = 10

func raw(a netip.AddrPort) []byte {
	if a.Addr().Is6() {
		b := make([]byte, unix.SizeofSockaddrInet6)
		binary.NativeEndian.PutUint16(b, unix.AF_INET6)
		binary.BigEndian.PutUint16(b[2:], a.Port())
		copy(b[8:], a.Addr().AsSlice())
		return b
	}
	b := make([]byte, unix.SizeofSockaddrInet4)
	binary.NativeEndian.PutUint16(b, unix.AF_INET)
	binary.BigEndian.PutUint16(b[2:], a.Port())
	copy(b[4:], a.Addr().AsSlice())
	return b
}

// call is a system call on a socket, with memory and its length.
func call(number uintptr, fd int, b []byte, more ...uintptr) (int, error) {
	var rest [3]uintptr
	copy(rest[:], more)
	n, _, errno := unix.RawSyscall6(number, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), rest[0], rest[1], rest[2])
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// whole is a call that moves the whole payload.
func whole(number uintptr, fd int) error {
	n, err := call(number, fd, payload[:])
	if err == nil && n != len(payload) {
		err = fmt.Errorf("%d bytes of %d", n, len(payload))
	}
	return err
}

// socket makes one in a namespace, bound to an address.
func socket(ns *netlab.Namespace, kind int, at netip.AddrPort) (fd int, err error) {
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	if err := ns.Do(func() (err error) {
		fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0)
		return err
	}); err != nil {
		return -1, err
	}
	return fd, setUp(fd, kind, at)
}

func setUp(fd, kind int, at netip.AddrPort) error {
	errs := []error{unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: patience})}
	if kind == unix.SOCK_STREAM {
		// ended by a reset: no port has to wait
		errs = append(errs, unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
			unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}))
	}
	_, err := call(unix.SYS_BIND, fd, raw(at))
	return errors.Join(append(errs, err)...)
}

// open makes the server's sockets.
func (e *ends) open(server *netlab.Namespace, at netip.AddrPort) (err error) {
	e.port = 10000
	if e.datagrams, err = socket(server, unix.SOCK_DGRAM, at); err != nil {
		return fmt.Errorf("the server's socket of UDP: %w", err)
	}
	if e.listener, err = socket(server, unix.SOCK_STREAM, at); err != nil {
		return fmt.Errorf("the server's socket of TCP: %w", err)
	}
	return unix.Listen(e.listener, 4096)
}

// clients makes sockets of the client, n at once, which is quicker than one by one.
func (w *way) clients(kind, n int, ipv6 bool) ([]int, error) {
	client := w.Clients()[0]
	fds := make([]int, n)
	err := client.Do(func() error {
		for i := range fds {
			family := unix.AF_INET
			if ipv6 {
				family = unix.AF_INET6
			}
			var err error
			if fds[i], err = unix.Socket(family, kind|unix.SOCK_CLOEXEC, 0); err != nil {
				return err
			}
			w.port++
			if err := setUp(fds[i], kind, netip.AddrPortFrom(client.Addr(ipv6), w.port)); err != nil {
				return fmt.Errorf("port %d: %w", w.port, err)
			}
		}
		return nil
	})
	return fds, err
}

// datagram sends one there and back by a connected socket.
func (e *ends) datagram(fd int) error {
	if err := whole(unix.SYS_WRITE, fd); err != nil {
		return fmt.Errorf("send a datagram: %w", err)
	}
	peerSize = uint32(len(peer))
	n, err := call(unix.SYS_RECVFROM, e.datagrams, payload[:], 0, uintptr(unsafe.Pointer(&peer)), uintptr(unsafe.Pointer(&peerSize)))
	if err != nil || n != len(payload) {
		return fmt.Errorf("the server receives %d bytes: %w", n, err)
	}
	if _, err := call(unix.SYS_SENDTO, e.datagrams, payload[:], 0, uintptr(unsafe.Pointer(&peer)), uintptr(peerSize)); err != nil {
		return fmt.Errorf("the server answers: %w", err)
	}
	if err := whole(unix.SYS_READ, fd); err != nil {
		return fmt.Errorf("receive an answer: %w", err)
	}
	return nil
}

// connect connects a socket of TCP and accepts it.
func (e *ends) connect(fd int, to []byte) (accepted int, err error) {
	if _, err := call(unix.SYS_CONNECT, fd, to); err != nil {
		return -1, fmt.Errorf("connect: %w", err)
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(e.listener), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, fmt.Errorf("accept: %w", errno)
	}
	return int(n), nil
}

// segment sends one there and back on a connection; each carries the other's
// acknowledgement.
func segment(client, server int) error {
	for _, step := range []struct {
		what   string
		number uintptr
		fd     int
	}{
		{"send", unix.SYS_WRITE, client}, {"the server receives", unix.SYS_READ, server},
		{"the server answers", unix.SYS_WRITE, server}, {"receive", unix.SYS_READ, client},
	} {
		if err := whole(step.number, step.fd); err != nil {
			return fmt.Errorf("%s: %w", step.what, err)
		}
	}
	return nil
}
