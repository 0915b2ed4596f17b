// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// namespace is a network namespace of the calling thread's own: what programs
// send, they send there, and nothing there receives it.
type namespace struct {
	devices []*device
	tap     int // a packet socket that sees everything
	close   []func() error
}

// The MAC addresses of the devices without an Ethernet header: a test run takes
// a frame's first bytes for one, and these are an IPv4 header with one option
// and 64 bytes in all, and an IPv6 header with 60 bytes behind it.
var (
	macL3v4 = [6]byte{0x46, 0, 0, 64, 0, 0}
	macL3v6 = [6]byte{0x60, 0, 0, 0, 0, 60}
)

// enterNamespace moves the calling thread, which must be locked and must not be
// used for anything else afterwards, into a new network namespace.
func enterNamespace() (*namespace, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	for _, f := range []string{"all", "default"} { // it would talk
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+f+"/disable_ipv6", []byte("1"), 0); err != nil {
			return nil, err
		}
	}
	n := &namespace{}
	if err := n.setUp(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *namespace) setUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := setUpDevice(s, "lo", [6]byte{})
	if err != nil {
		return err
	}
	n.devices = []*device{lo}
	for name, mac := range map[string][6]byte{"three4": macL3v4, "three6": macL3v6} {
		if err := n.makeDevice(name); err != nil {
			return err
		}
		d, err := setUpDevice(s, name, mac)
		if err != nil {
			return err
		}
		if mac == macL3v4 {
			n.devices = append([]*device{lo, d}, n.devices[1:]...)
		} else {
			n.devices = append(n.devices, d)
		}
	}
	if err := n.deafen(); err != nil {
		return err
	}
	const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00
	n.tap, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return fmt.Errorf("open a packet socket: %w", err)
	}
	n.close = append(n.close, func() error { return unix.Close(n.tap) })
	return nil
}

// makeDevice makes a device that nobody reads.
func (n *namespace) makeDevice(name string) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	n.close = append(n.close, func() error { return unix.Close(fd) })
	r, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, r); err != nil {
		return fmt.Errorf("make device %s: %w", name, err)
	}
	return nil
}

func setUpDevice(s int, name string, mac [6]byte) (*device, error) {
	if mac != ([6]byte{}) {
		r := struct {
			name   [16]byte
			family uint16
			mac    [6]byte
			pad    [16]byte
		}{family: unix.ARPHRD_ETHER, mac: mac}
		copy(r.name[:], name)
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(s), unix.SIOCSIFHWADDR, uintptr(unsafe.Pointer(&r))); errno != 0 {
			return nil, fmt.Errorf("set MAC address of %s: %w", name, errno)
		}
	}
	r, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFFLAGS, r); err != nil {
		return nil, err
	}
	r.SetUint16(r.Uint16() | unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, r); err != nil {
		return nil, fmt.Errorf("set %s up: %w", name, err)
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFINDEX, r); err != nil {
		return nil, err
	}
	return &device{index: r.Uint32(), mac: mac}, nil
}

// deafen drops what comes in, after the packet socket saw it.
func (n *namespace) deafen() error {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, drop), asm.Return()}})
	if err != nil {
		return err
	}
	n.close = append(n.close, prog.Close)
	for _, d := range n.devices {
		l, err := link.AttachTCX(link.TCXOptions{Interface: int(d.index), Program: prog, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return fmt.Errorf("attach to device %d: %w", d.index, err)
		}
		n.close = append(n.close, l.Close)
	}
	return nil
}

// Close ends what the namespace holds; it goes with its thread.
func (n *namespace) Close() error {
	var err error
	for i := len(n.close) - 1; i >= 0; i-- {
		err = errors.Join(err, n.close[i]())
	}
	return err
}

// sightDeadline bounds the wait for a packet that another thread of the kernel
// delivers.
const sightDeadline = 5 * time.Second

// seen returns what the packet socket saw in one direction since it was last
// asked, and waits for as many frames as are due.
func (k *kernel) seen(ingress bool, due int) ([][]byte, error) {
	var out [][]byte
	for start := time.Now(); ; {
		n, from, err := unix.Recvfrom(k.tap, k.in, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			if len(out) >= due || time.Since(start) > sightDeadline {
				return out, nil
			}
			continue
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("read the packet socket: %w", err)
		}
		ll, ok := from.(*unix.SockaddrLinklayer)
		if ok && (ll.Pkttype == unix.PACKET_OUTGOING) == !ingress {
			out = append(out, append([]byte(nil), k.in[:n]...))
		}
	}
}
