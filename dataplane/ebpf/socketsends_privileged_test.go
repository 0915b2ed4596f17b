// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/lb"
)

// sender is a socket of UDP that is not connected.
func (r *socketRig) sender(src netip.AddrPort) int {
	r.t.Helper()
	var fd int
	r.do(r.does(func() (err error) {
		fd, err = boundSocket(src, lb.UDP)
		return err
	}))
	r.t.Cleanup(func() { r.do(unix.Close(fd)) })
	return fd
}

// sendsTo sends a datagram and returns where the socket was led last.
func (r *socketRig) sendsTo(fd int, to netip.AddrPort) netip.AddrPort {
	r.t.Helper()
	r.follow()
	r.attach()
	r.do(r.does(func() error {
		err := unix.Sendto(fd, []byte("?"), 0, sockaddr(to))
		if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EINVAL) {
			return nil // the kernel has no way to it
		}
		return err
	}))
	e := r.element(fd)
	return netip.AddrPortFrom(netip.AddrFrom16(e.Addr).Unmap(), e.Port)
}

// datagrams is a service of UDP.
func datagrams(f lb.Frontend, lost lb.Lost, servers ...int) *lb.Service {
	svc := serve("dns", servers)
	f.Protocol = lb.UDP
	svc.Frontends, svc.Lost = []lb.Frontend{f}, lost
	return svc
}

func (r *socketRig) wantAt(got netip.AddrPort, server int) {
	r.t.Helper()
	if want := serverAt(server); got != want {
		r.t.Errorf("the socket was led to %s, want %s", got, want)
	}
}

// A socket that asked a node port by an address of the loopback network is led anew
// when its backend is gone.
func TestNodePortsOfTheLoopbackNetworkAreLedAnew(t *testing.T) {
	r := newSocketRig(t, false)
	first := netip.MustParseAddr("127.0.0.1")
	r.AssignLocal(first, true)
	port := lb.Frontend{Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), 30053)}
	apply := func(servers ...int) {
		snap := r.snapshot(datagrams(port, lb.LostKeep, servers...)).WithNode(lb.Node{NodePorts: []netip.Prefix{netip.PrefixFrom(first, 32)}})
		if rep := r.d.Apply(snap); rep.Err != nil || len(rep.Failed) > 0 {
			t.Fatalf("apply: %v, %v", rep.Err, rep.Failed)
		}
	}
	for _, host := range []string{"127.0.0.1", "127.0.0.2"} {
		apply(1, 2)
		fd := r.sender(clientAt(1))
		to := netip.AddrPortFrom(netip.MustParseAddr(host), 30053)
		at := r.sendsTo(fd, to)
		gone := numberOf(at)
		if gone == 0 {
			t.Fatalf("%s: the socket was led to %s, want a server", to, at)
		}
		apply(3 - gone)
		r.wantAt(r.sendsTo(fd, to), 3-gone)
	}
}

// Where flows of a backend that is gone are to be dropped, a socket's datagrams are
// led nowhere, until it was silent for as long as a flow lives.
func TestDroppedDatagramsAreNotLedElsewhere(t *testing.T) {
	r := newSocketRig(t, false)
	r.apply(datagrams(frontendAt(1), lb.LostDrop, 1))
	fd := r.sender(clientAt(1))
	r.wantAt(r.sendsTo(fd, vipAt(1)), 1)
	r.apply(datagrams(frontendAt(1), lb.LostDrop, 2))
	for range 2 {
		r.wantAt(r.sendsTo(fd, vipAt(1)), 1)
	}
	r.apply(datagrams(frontendAt(1), lb.LostDrop, 2, 1))
	r.wantAt(r.sendsTo(fd, vipAt(1)), 1)
	r.apply(datagrams(frontendAt(1), lb.LostDrop, 2))
	r.rig.Advance(301e9)
	r.wantAt(r.sendsTo(fd, vipAt(1)), 2)
}

// An address whose last half is zero is one: the pick goes by it.
func TestASourceThatEndsInZeroesIsASource(t *testing.T) {
	r := newSocketRig(t, false)
	svc := &lb.Service{ID: lb.ServiceID{Name: "dns", Family: lb.IPv6}, Scheduler: "sh"}
	at := func(net, host byte, port uint16) netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte{0: 0x20, 1: 1, 2: 0xd, 3: 0xb8, 4: net, 7: host}), port)
	}
	for n := range byte(4) {
		svc.Backends = append(svc.Backends, lb.Backend{Addr: at(19, 1+n, 53), Weight: 1})
	}
	vip := at(18, 1, 53)
	svc.Frontends = []lb.Frontend{{Addr: vip, Protocol: lb.UDP}}
	r.apply(svc)
	seen := map[netip.AddrPort]bool{}
	for n := range byte(32) {
		seen[r.sendsTo(r.sender(at(51, n, 5353)), vip)] = true
	}
	if len(seen) != 4 {
		t.Errorf("32 clients were led to %d servers, want 4", len(seen))
	}
}
