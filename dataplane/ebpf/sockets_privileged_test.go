// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"errors"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/lb"
)

// socketRig is a rig whose clients are sockets, in a control group and a network
// namespace of their own. What its hooks leave alone goes on as a packet.
type socketRig struct {
	*rig
	pod   bool // the namespace is not that which the dataplane serves
	jobs  chan func()
	conns map[tuple]*client
	// attached is the dataplane that brought its programs to the control group, led
	// counts the sockets that it led.
	attached *Dataplane
	led      int
}

type tuple struct {
	src, dst netip.AddrPort
	proto    lb.Protocol
}

// client is a socket that was led.
type client struct {
	fd          int
	proto       lb.Protocol
	server      netip.AddrPort
	seen        time.Duration // of the rig's clock
	established bool
	finished    bool
}

// newSocketRig makes a rig of the machine's own sockets, or of a pod's.
func newSocketRig(t testing.TB, pod bool) *socketRig {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "hooks", Clients: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	group, err := lab.AddCgroup()
	if err != nil {
		t.Fatal(err)
	}
	r := &socketRig{rig: closedRig(t, nil), pod: pod, jobs: make(chan func()), conns: make(map[tuple]*client)}
	at := lab.Clients()[0].Namespace // whose packets come to an end at the director
	at.SetCgroup(group)
	r.cgroup = group.Path
	if !pod {
		r.in = at.Do
	}
	done := make(chan error, 1)
	go func() {
		done <- at.Do(func() error {
			for job := range r.jobs {
				job()
			}
			return nil
		})
	}()
	t.Cleanup(func() {
		r.closeIf(func(*client) bool { return true })
		close(r.jobs)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.open()
	return r
}

func (r *socketRig) Dataplane() dataplane.Dataplane { return r.d }

func (r *socketRig) closeIf(ends func(*client) bool) {
	for at, c := range r.conns {
		if ends(c) {
			r.do(unix.Close(c.fd))
			delete(r.conns, at)
		}
	}
}

// Advance closes the sockets whose flows would end.
func (r *socketRig) Advance(by time.Duration) {
	r.t.Helper()
	r.rig.Advance(by)
	r.closeIf(func(c *client) bool { return r.offset-c.seen >= r.life(c) })
}

func (r *socketRig) life(c *client) time.Duration {
	state := bpf.LBFlowStateSTATE_UDP
	switch {
	case c.proto == lb.UDP:
	case c.finished:
		state = bpf.LBFlowStateSTATE_TIME_WAIT
	case c.established:
		state = bpf.LBFlowStateSTATE_ESTABLISHED
	default:
		state = bpf.LBFlowStateSTATE_SYN_RECV
	}
	return time.Duration(r.d.idle[state]) * time.Second
}

// attach brings the programs to the control group, once there is something to bring.
func (r *socketRig) attach() {
	r.t.Helper()
	if r.d.gen == nil || r.attached == r.d {
		return
	}
	_, err := r.d.loader.SetSockets()
	r.do(err)
	r.attached = r.d
}

func (r *socketRig) Send(p conformance.Packet) conformance.Outcome {
	r.t.Helper()
	r.follow()
	r.attach()
	if p.From == conformance.Backend {
		return r.answers(p)
	}
	at := tuple{p.Src, p.Dst, p.Protocol}
	c := r.conns[at]
	if c != nil && c.finished && p.Flags&conformance.SYN != 0 {
		r.closeIf(func(other *client) bool { return other == c })
		c = nil
	}
	if c != nil && p.Protocol == lb.TCP {
		c.seen = r.offset
		c.established = c.established || p.Flags == conformance.ACK
		c.finished = c.finished || p.Flags&(conformance.FIN|conformance.RST) != 0
		return conformance.Outcome{Verdict: lb.Forward, Src: p.Src, Dst: c.server}
	}
	if r.attached == nil || p.Protocol == lb.TCP && p.Flags != conformance.SYN || p.Protocol == lb.UDP && r.pod {
		return r.rig.Send(p)
	}
	return r.begins(p, at, c)
}

// answers is a packet of a backend: where it is of a socket that was led, that is told
// the VIP.
func (r *socketRig) answers(p conformance.Packet) conformance.Outcome {
	for at, c := range r.conns {
		if at.src == p.Dst && c.server == p.Src && at.proto == p.Protocol {
			c.seen = r.offset
			e := r.element(c.fd)
			return conformance.Outcome{Verdict: lb.Forward, Src: netip.AddrPortFrom(netip.AddrFrom16(e.Vip).Unmap(), e.VipPort), Dst: p.Dst}
		}
	}
	return r.rig.Send(p)
}

// element is where a socket was led; its hash is 0 if that is nowhere.
func (r *socketRig) element(fd int) (e bpf.LBSocket) {
	r.t.Helper()
	if err := r.d.loader.Map("sockets").Lookup(int32(fd), &e); err != nil && !errors.Is(err, syscall.ENOENT) {
		r.t.Fatal(err)
	}
	return e
}

// begins makes a socket connect, or send its first datagram or another.
func (r *socketRig) begins(p conformance.Packet, at tuple, c *client) conformance.Outcome {
	r.t.Helper()
	before := r.reasons()
	if c == nil {
		c = &client{proto: p.Protocol}
		err := r.does(func() (err error) {
			c.fd, err = boundSocket(p.Src, p.Protocol)
			return err
		})
		r.do(err)
	}
	c.seen = r.offset
	err := r.does(func() error {
		if p.Protocol == lb.TCP {
			return unix.Connect(c.fd, sockaddr(p.Dst))
		}
		return unix.Sendto(c.fd, p.Payload, 0, sockaddr(p.Dst))
	})
	if err == nil || errors.Is(err, unix.EINPROGRESS) {
		e := r.element(c.fd)
		if e.BackendHash != 0 {
			r.led++
			r.conns[at] = c
			c.server = netip.AddrPortFrom(netip.AddrFrom16(e.Addr).Unmap(), e.Port)
			return conformance.Outcome{Verdict: lb.Forward, Src: p.Src, Dst: c.server}
		}
	}
	r.do(unix.Close(c.fd))
	delete(r.conns, at)
	switch {
	case err == nil || errors.Is(err, unix.EINPROGRESS):
		return r.leftAlone(p)
	case errors.Is(err, unix.ECONNREFUSED):
		out := conformance.Outcome{Verdict: lb.Refuse, Answer: conformance.Unreachable}
		for i, n := range r.reasons() {
			if n != before[i] {
				out.Reason += r.d.names.drop(uint32(i))
			}
		}
		return out
	}
	r.t.Fatalf("%s of %s to %s: %v", p.Protocol, p.Src, p.Dst, err)
	return conformance.Outcome{}
}

// leftAlone sends the packet of a socket that no hook led. That is the end of it, or
// the socket should have been led.
func (r *socketRig) leftAlone(p conformance.Packet) conformance.Outcome {
	r.t.Helper()
	out := r.rig.Send(p)
	if out.Verdict == lb.Forward || out.Verdict == lb.Refuse {
		r.t.Errorf("the hooks left %s of %s to %s alone, and as a packet it is %+v", p.Protocol, p.Src, p.Dst, out)
	}
	return out
}

// does runs f where the sockets are.
func (r *socketRig) does(f func() error) (err error) {
	done := make(chan struct{})
	r.jobs <- func() {
		defer close(done)
		err = f()
	}
	<-done
	return err
}

// boundSocket makes one that does not wait, at an address that need not be here.
func boundSocket(src netip.AddrPort, proto lb.Protocol) (int, error) {
	domain, kind := unix.AF_INET, unix.SOCK_STREAM
	level, transparent := unix.SOL_IP, unix.IP_TRANSPARENT
	if src.Addr().Is6() {
		domain, level, transparent = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_TRANSPARENT
	}
	if proto == lb.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	err = errors.Join(unix.SetsockoptInt(fd, level, transparent, 1), unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.Bind(fd, sockaddr(src)))
	if err != nil {
		return 0, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// TestSocketsConform runs the suite with sockets in the place of packets.
func TestSocketsConform(t *testing.T) {
	for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
		for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
			t.Run("host", func(t *testing.T) {
				conformance.RunSockets(t, family, proto, func(t *testing.T) conformance.Rig { return newSocketRig(t, false) })
			})
		}
	}
	t.Run("pod", func(t *testing.T) { // whose datagrams are led on their way
		conformance.RunSockets(t, lb.IPv6, lb.TCP, func(t *testing.T) conformance.Rig { return newSocketRig(t, true) })
	})
}
