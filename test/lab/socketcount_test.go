// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane/ebpf"
	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/maps/sockets"
)

// deaf is a frontend of the scene whose backend does not listen.
var deaf = netip.AddrPortFrom(netlab.VIP4, 81)

// counts is what `waggle stats` says of counts.
type counts struct{ Backends, Skipped, Difference int }

// counts recounts, under words before the command line.
func (s *scene) counts(under ...string) counts {
	s.t.Helper()
	line := append(slices.Clone(under), waggle, "stats", "-o", "json", "--pin-path", s.pins)
	out, err := exec.Command(line[0], line[1:]...).Output()
	if err != nil {
		s.t.Fatalf("%v: %v", line, err)
	}
	var stats struct{ Counts counts }
	if err := json.Unmarshal(out, &stats); err != nil {
		s.t.Fatal(err)
	}
	return stats.Counts
}

// wantLoad waits until all backends have so many connections, active or not, and
// wants that to be what a recount finds.
func (s *scene) wantLoad(when string, want int) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s: %d connections", when, want), func() error {
		got := 0.0
		for _, b := range s.items("backends") {
			got += b["active"].(float64) + b["inactive"].(float64)
		}
		if int(got) != want {
			return fmt.Errorf("there are %v", got)
		}
		return nil
	})
	if got := s.counts(); got.Backends == 0 || got.Skipped != 0 || got.Difference != 0 {
		s.t.Errorf("%s: the recount says %+v", when, got)
	}
}

// holder is a process that has a socket, and waits.
type holder struct {
	*netlab.Process
	input io.WriteCloser // it ends what it does next with each line
}

// hold starts a shell in a namespace that runs a script. It returns once the script
// has said a line.
func hold(t *testing.T, n *netlab.Namespace, script string) *holder {
	t.Helper()
	cmd := exec.Command("bash", "-c", script)
	in, input, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	output, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, out, os.Stderr
	p, err := n.Start(cmd)
	in.Close()
	out.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { input.Close(); output.Close() })
	if _, err := bufio.NewReader(output).ReadString('\n'); err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	return &holder{p, input}
}

func (h *holder) kill(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(h.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-h.Done()
}

// reconnect connects a socket of UDP to another place.
func reconnect(t *testing.T, c net.Conn, to netip.AddrPort) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = syscall.Connect(int(fd), &syscall.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	})
	if err != nil || failed != nil {
		t.Fatalf("connect again: %v, %v", err, failed)
	}
}

// TestSocketsCountAsTheWalkFindsThem: whatever becomes of sockets, each of them is
// one active connection of its last backend.
func TestSocketsCountAsTheWalkFindsThem(t *testing.T) {
	s := ledScene(t, "all")
	s.edit(s.text(s.Servers()...) + fmt.Sprintf("-A -t %[1]s -s rr\n-a -t %[1]s -r %[2]s:8081 -m -w 1\n", deaf, s.Servers()[0].Addr(false)))
	s.wantLoad("before there are sockets", 0)
	places := []struct {
		from    *netlab.Namespace
		network string
	}{{s.Director, "tcp"}, {s.Director, "udp"}, {s.Clients()[0].Namespace, "tcp"}}
	var open []net.Conn
	for _, p := range places {
		for _, vip := range vips {
			for range 3 { // one backend has more
				open = append(open, s.dialed(p.from, p.network, vip))
			}
		}
	}
	n := len(open)
	s.wantLoad("sockets of both namespaces", n)
	for _, c := range open[:2] {
		c.Close()
	}
	n -= 2
	s.wantLoad("closed ones", n)

	s.reconnects(n)
	s.refuses(n)
	s.inherits(n)

	s.kill()
	s.wantLoad("with the daemon dead", n)
	if got := s.counts(bounded(0)...); got.Skipped != 0 || got.Difference != 0 {
		t.Errorf("without capabilities the recount says %+v", got)
	}
	if got := s.counts("unshare", "--pid", "--fork", "--mount-proc"); got.Difference != 0 {
		t.Errorf("where the processes are not seen the recount says %+v", got)
	}
	open[2].Close()
	n--
	s.wantLoad("closed with the daemon dead", n)
	s.miscounts()
	s.start()
	s.wantLoad("with another daemon", n)
	for _, c := range open[3:] {
		c.Close()
	}
	s.wantLoad("all closed", 0)
}

func (s *scene) dialed(from *netlab.Namespace, network string, to netip.AddrPort) net.Conn {
	s.t.Helper()
	c, err := from.Dial(context.Background(), network, to.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// reconnects has a socket of UDP go to other backends, and to where no VIP is.
func (s *scene) reconnects(n int) {
	s.t.Helper()
	c := s.dialed(s.Director, "udp", vip4)
	for range 3 {
		reconnect(s.t, c, vip4)
	}
	s.wantLoad("a socket that connected four times", n+1)
	reconnect(s.t, c, netip.AddrPortFrom(s.Servers()[0].Addr(false), 8080))
	s.wantLoad("a socket that left for no VIP", n)
	reconnect(s.t, c, vip4)
	s.wantLoad("a socket that came back", n+1)
	c.Close()
}

// refuses has a process keep a socket whose backend refused it.
func (s *scene) refuses(n int) {
	s.t.Helper()
	fd := -1
	err := s.Director.Do(func() (err error) {
		if fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return syscall.Connect(fd, &syscall.SockaddrInet4{Addr: deaf.Addr().As4(), Port: int(deaf.Port())})
	})
	if err == nil || fd < 0 {
		s.t.Fatalf("connect to a backend that does not listen: %v", err)
	}
	s.wantLoad("a refused socket that is open", n+1)
	if err := syscall.Close(fd); err != nil {
		s.t.Fatal(err)
	}
	s.wantLoad("a refused socket that was closed", n)
}

// inherits has sockets be held by several descriptors and processes.
func (s *scene) inherits(n int) {
	s.t.Helper()
	for i, from := range []*netlab.Namespace{s.Director, s.Clients()[0].Namespace} {
		network := []string{"udp", "tcp"}[i]
		one := hold(s.t, from, fmt.Sprintf("exec 3<>/dev/%s/%s/%d 4<&3 5<&3; echo; read", network, vip4.Addr(), vip4.Port()))
		s.wantLoad("a socket with three descriptors", n+1)
		one.kill(s.t)
		s.wantLoad("its process killed", n)
		two := hold(s.t, from, fmt.Sprintf("exec 3<>/dev/%s/%s/%d 6<&0; (read <&6) & echo; exec 3>&-; wait", network, vip4.Addr(), vip4.Port()))
		s.wantLoad("a socket that only a child has", n+1)
		if _, err := two.input.Write([]byte("\n")); err != nil {
			s.t.Fatal(err)
		}
		<-two.Done()
		s.wantLoad("the child ended", n)
	}
}

// miscounts wants a count that is one too high to be found, and mends it.
func (s *scene) miscounts() {
	s.t.Helper()
	m := s.pin("load")
	defer m.Close()
	const id = 1
	var l bpf.LBBackendLoad
	for i, add := range []uint32{1, ^uint32(0)} {
		if err := m.Lookup(uint32(id), &l); err != nil {
			s.t.Fatal(err)
		}
		l.Active += add
		if err := m.Put(uint32(id), l); err != nil {
			s.t.Fatal(err)
		}
		if got := s.counts(); got.Difference != 1-i {
			s.t.Errorf("with load %+v the recount says %+v, want a difference of %d", l, got, 1-i)
		}
	}
}

// walked are the sockets that the walk beside the pins meets.
func (s *scene) walked() (out []bpf.LBWalkedSocket) {
	s.t.Helper()
	pins, err := filepath.Glob(filepath.Join(s.pins, "walk_*"))
	if err != nil || len(pins) != 1 {
		s.t.Fatalf("%v, %v, want one walk", pins, err)
	}
	open := func() (io.ReadCloser, error) { return os.Open(pins[0]) }
	err = sockets.Each(open, func(w *bpf.LBWalkedSocket) error {
		out = append(out, *w)
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// TestASocketThatGoesBackAndForthIsNoDifference: it is at two backends in turn, without
// a new connection.
func TestASocketThatGoesBackAndForthIsNoDifference(t *testing.T) {
	s := ledScene(t, "all")
	both := []netip.AddrPort{vip4, deaf}
	s.edit(textAt(both, "rr", s.Servers()[0]))
	pc, err := s.Director.ListenPacket(context.Background(), "udp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	send := func() error {
		for _, to := range both {
			if _, err := pc.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(to)); err != nil {
				return err
			}
		}
		return nil
	}
	for range 3 {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	met := s.walked()
	if len(met) != 1 || met[0].Socket.Moves != 4 || !sockets.Counts(&met[0]) || sockets.Connected(&met[0]) {
		t.Errorf("the walk meets %+v, want one socket that went back four times", met)
	}
	s.wantLoad("where it is now", 1)
	stop, sent := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				sent <- nil
				return
			default:
			}
			if err := send(); err != nil {
				sent <- err
				return
			}
		}
	}()
	pins, err := ebpf.OpenPins(s.pins)
	if err != nil {
		t.Fatal(err)
	}
	defer pins.Close()
	for range 100 {
		if got, err := pins.Recount(t.Context()); err != nil || got.Difference != 0 {
			t.Errorf("the recount says %+v, %v", got, err)
		}
	}
	close(stop)
	if err := <-sent; err != nil {
		t.Error(err)
	}
	s.wantLoad("at rest", 1)
}
