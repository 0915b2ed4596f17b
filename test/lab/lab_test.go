// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

var (
	vip4 = netip.AddrPortFrom(netlab.VIP4, 80)
	vip6 = netip.AddrPortFrom(netlab.VIP6, 80)
	vips = []netip.AddrPort{vip4, vip6}
)

// text is ipvsadm's own: TCP and UDP, both families, the servers given.
func (s *scene) text(servers ...*netlab.Node) string { return textAt(vips, "rr", servers...) }

// textAt is text with VIPs and a scheduler of the caller's choice.
func textAt(vips []netip.AddrPort, scheduler string, servers ...*netlab.Node) string {
	var b strings.Builder
	for _, vip := range vips {
		for _, proto := range []string{"-t", "-u"} {
			fmt.Fprintf(&b, "-A %s %s -s %s\n", proto, vip, scheduler)
			for _, n := range servers {
				fmt.Fprintf(&b, "-a %s %s -r %s -m -w 1\n", proto, vip, netip.AddrPortFrom(n.Addr(vip.Addr().Is6()), 8080))
			}
		}
	}
	return b.String()
}

// started is a lab with one client, n servers and a daemon that serves them.
func started(t *testing.T, n int, assign bool) *scene {
	t.Helper()
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: n, VIPs: []netip.Addr{netlab.VIP4, netlab.VIP6}, AssignVIPs: assign})
	for i, srv := range s.Servers() {
		s.serve(srv, fmt.Sprintf("s%d", i+1), 8080)
	}
	s.write(s.text(s.Servers()...))
	s.start()
	return s
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}

func TestTCPThroughTheVIPIsByteExact(t *testing.T) {
	for _, assign := range []bool{true, false} {
		t.Run(fmt.Sprintf("assigned=%v", assign), func(t *testing.T) {
			s := started(t, 3, assign)
			for _, vip := range vips {
				seen := map[string]int{}
				for range 6 {
					c, name, err := connect(s.Clients()[0], vip)
					if err != nil {
						t.Fatalf("%v: %v", vip, err)
					}
					seen[name]++
					if err := echo(c, random(1<<20)); err != nil {
						t.Errorf("%v: %v", vip, err)
					}
					c.Close()
				}
				if len(seen) != 3 || seen["s1"] != 2 || seen["s2"] != 2 {
					t.Errorf("%v: %v, want two each", vip, seen)
				}
			}
		})
	}
}

func TestUDPThroughTheVIP(t *testing.T) {
	s := started(t, 3, true)
	for _, vip := range vips {
		seen := map[string]int{}
		for range 9 {
			name, err := ask(s.Clients()[0], vip)
			if err != nil {
				t.Fatalf("%v: %v", vip, err)
			}
			seen[name]++
		}
		if len(seen) != 3 || seen["s1"] != 3 || seen["s2"] != 3 {
			t.Errorf("%v: %v, want three each", vip, seen)
		}
	}
}

func TestTwoHundredClientsAtOnce(t *testing.T) {
	s := started(t, 3, false)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			c, _, err := connect(s.Clients()[0], vips[i%2])
			if err != nil {
				t.Errorf("client %d: %v", i, err)
				return
			}
			defer c.Close()
			if err := echo(c, random(64<<10)); err != nil {
				t.Errorf("client %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// stream keeps a connection busy until it is stopped.
type stream struct {
	c      net.Conn
	stop   chan struct{}
	result chan error
	rounds atomic.Int64
}

func (s *scene) stream(vip netip.AddrPort) *stream {
	s.t.Helper()
	c, _, err := connect(s.Clients()[0], vip)
	if err != nil {
		s.t.Fatal(err)
	}
	st := &stream{c: c, stop: make(chan struct{}), result: make(chan error, 1)}
	b := random(4096)
	go func() {
		defer c.Close()
		for {
			select {
			case <-st.stop:
				st.result <- nil
				return
			default:
			}
			err := c.SetDeadline(time.Now().Add(patience))
			if err == nil {
				err = echo(c, b)
			}
			if err != nil {
				st.result <- err
				return
			}
			st.rounds.Add(1)
		}
	}()
	s.t.Cleanup(func() { c.Close() })
	return st
}

// goesOn waits for ten more rounds of every stream.
func (s *scene) goesOn(streams []*stream) {
	s.t.Helper()
	for i, st := range streams {
		from := st.rounds.Load()
		s.eventually(fmt.Sprintf("stream %d goes on", i), func() error {
			select {
			case err := <-st.result:
				s.t.Fatalf("stream %d broke: %v", i, err)
			default:
			}
			if st.rounds.Load() < from+10 {
				return errors.New("it stands")
			}
			return nil
		})
	}
}

func (s *scene) finish(streams []*stream) {
	s.t.Helper()
	for i, st := range streams {
		close(st.stop)
		if err := <-st.result; err != nil {
			s.t.Errorf("stream %d: %v", i, err)
		}
	}
}

func TestBackendsComeAndGoUnderTraffic(t *testing.T) {
	s := started(t, 3, true)
	var streams []*stream
	for i := range 12 {
		streams = append(streams, s.stream(vips[i%2]))
	}
	all := s.Servers()
	for range 3 {
		s.write(s.text(all[0], all[1])) // s3 goes, its connections stay
		s.eventually("s3 gets nothing new", func() error { return s.never("s3") })
		s.goesOn(streams)
		s.write(s.text(all...))
		s.eventually("s3 serves again", func() error {
			if s.never("s3") == nil {
				return errors.New("it does not")
			}
			return nil
		})
		s.goesOn(streams)
	}
	s.finish(streams)
}

// never returns an error if one of six new connections goes to the server.
func (s *scene) never(name string) error {
	for i := range 6 {
		c, who, err := connect(s.Clients()[0], vips[i%2])
		if err != nil {
			s.t.Fatalf("new connection: %v", err)
		}
		c.Close()
		if who == name {
			return fmt.Errorf("%s answered", who)
		}
	}
	return nil
}

func TestKillAndStartAgainUnderTraffic(t *testing.T) {
	s := started(t, 3, true)
	var streams []*stream
	for i := range 6 {
		streams = append(streams, s.stream(vips[i%2]))
	}
	for range 2 {
		s.kill()
		s.goesOn(streams)
		if err := s.never("nobody"); err != nil { // new connections are served with the daemon dead
			t.Error(err)
		}
		s.start()
		s.goesOn(streams)
	}
	s.write(s.text(s.Servers()[0]))
	s.eventually("the new daemon applies changes", func() error { return errors.Join(s.never("s2"), s.never("s3")) })
	s.goesOn(streams)
	s.finish(streams)
}

func TestTwoInstancesOnOneKernel(t *testing.T) {
	a, b := started(t, 2, true), started(t, 2, false)
	if a.pins == b.pins {
		t.Fatal("one pin path for both")
	}
	a.write(a.text(a.Servers()[0]))
	a.eventually("the first follows its rules", func() error { return a.never("s2") })
	if b.never("s2") == nil {
		t.Error("the second followed the first's rules")
	}
	a.kill()
	if err := b.never("nobody"); err != nil {
		t.Error(err)
	}
}

func TestTheMachinesOwnServicesKeepAnswering(t *testing.T) {
	s := started(t, 1, true)
	for _, vip := range vips {
		own := netip.AddrPortFrom(vip.Addr(), 22)
		serveAt(t, s.Director, own, named("sshd"))
		c, who, err := connect(s.Clients()[0], own)
		if err != nil || who != "sshd" {
			t.Fatalf("%v: %q, %v", own, who, err)
		}
		c.Close()
	}
}

func TestRefusals(t *testing.T) {
	s := started(t, 1, false)
	client := s.Clients()[0]
	for _, vip := range vips {
		other := netip.AddrPortFrom(vip.Addr(), 81)
		if _, _, err := connect(client, other); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("TCP to %v: %v, want connection refused", other, err)
		}
		if _, err := ask(client, other); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("UDP to %v: %v, want connection refused", other, err)
		}
	}
	s.write(s.text()) // services without a backend
	for _, vip := range vips {
		s.eventually("the empty pool refuses", func() error {
			if _, err := ask(client, vip); !errors.Is(err, syscall.ECONNREFUSED) {
				return fmt.Errorf("UDP to %v: %w", vip, err)
			}
			if _, _, err := connect(client, vip); !errors.Is(err, syscall.ECONNREFUSED) {
				return fmt.Errorf("TCP to %v: %w", vip, err)
			}
			return nil
		})
	}
}

func TestADeviceThatAppearsIsServed(t *testing.T) {
	s := started(t, 1, true)
	client, err := s.AddClient()
	if err != nil {
		t.Fatal(err)
	}
	for _, vip := range vips {
		s.eventually("the new client is served", func() error {
			_, err := ask(client, vip)
			return err
		})
	}
	server, err := s.AddServer()
	if err != nil {
		t.Fatal(err)
	}
	s.serve(server, "new", 8080)
	s.write(s.text(server))
	s.eventually("the new server answers", func() error {
		who, err := ask(client, vip4)
		if err == nil && who != "new" {
			err = fmt.Errorf("%s answered", who)
		}
		return err
	})
}
