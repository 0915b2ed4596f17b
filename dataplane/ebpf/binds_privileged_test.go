// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/lb"
)

// written keeps what is written.
type written struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

// bindLab is a network namespace with a node port for TCP of both families, 30080,
// and one for UDP of IPv4, 30053; 30099 has none.
type bindLab struct {
	*netlab.Lab
	t   *testing.T
	log written
}

func newBindLab(t *testing.T, refuse bool) *bindLab {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "binds", Clients: 1})
	if err != nil {
		t.Fatal(err)
	}
	l := &bindLab{Lab: lab, t: t}
	t.Cleanup(func() { l.do(lab.Close()) })
	group, err := lab.AddCgroup()
	l.do(err)
	for _, n := range []*netlab.Namespace{lab.Director, lab.Clients()[0].Namespace} {
		n.SetCgroup(group)
	}
	pins := fmt.Sprintf("/sys/fs/bpf/waggle-test-%d-binds-%v", os.Getpid(), refuse)
	t.Cleanup(func() {
		_, err := Cleanup(pins)
		l.do(err)
	})
	var d *Dataplane
	l.do(lab.Director.Do(func() (err error) {
		d, err = New(Options{PinPath: pins, Log: slog.New(slog.NewTextHandler(&l.log, nil)), Cgroup: group.Path, RefuseBinds: refuse, Sizes: Sizes{Flows: 1 << 12, FlowsMax: 1 << 12}})
		return err
	}))
	t.Cleanup(func() { l.do(d.Close()) })
	l.apply(d)
	l.watch(d)
	return l
}

func (l *bindLab) do(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Error(err)
	}
}

func (l *bindLab) apply(d *Dataplane) {
	l.t.Helper()
	port := func(name string, family lb.Family, addr string, p lb.Protocol) *lb.Service {
		return &lb.Service{
			ID: lb.ServiceID{Name: name, Family: family}, Scheduler: "rr",
			Frontends: []lb.Frontend{{Addr: netip.MustParseAddrPort(addr), Protocol: p}},
		}
	}
	snap, err := lb.NewSnapshot(port("web", lb.IPv4, "0.0.0.0:30080", lb.TCP), port("web", lb.IPv6, "[::]:30080", lb.TCP), port("dns", lb.IPv4, "0.0.0.0:30053", lb.UDP))
	l.do(err)
	rep := d.Apply(snap.WithNode(lb.Node{NodePorts: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}))
	if rep.Err != nil || len(rep.Failed) > 0 {
		l.t.Fatalf("apply: %v, %v", rep.Err, rep.Failed)
	}
	_, err = d.loader.SetSockets()
	l.do(err)
}

func (l *bindLab) watch(d *Dataplane) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, task := range d.Tasks() {
		if w, ok := task.(*bindWatcher); ok {
			running.Go(func() { l.do(w.Run(ctx)) })
		}
	}
	l.t.Cleanup(func() { cancel(); running.Wait() })
}

// bind binds a socket, and reports whether the address was refused as one in use.
func (l *bindLab) bind(n *netlab.Namespace, network, addr string) (refused bool) {
	l.t.Helper()
	var c io.Closer
	var err error
	if strings.HasPrefix(network, "tcp") {
		c, err = n.Listen(l.t.Context(), network, addr)
	} else {
		c, err = n.ListenPacket(l.t.Context(), network, addr)
	}
	if err == nil {
		l.do(c.Close())
		return false
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		l.t.Errorf("bind %s %s: %v", network, addr, err)
	}
	return true
}

// says waits for the log to have a line with all of these.
func (l *bindLab) says(words ...string) {
	l.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		for line := range strings.Lines(l.log.String()) {
			has := 0
			for _, w := range words {
				if strings.Contains(line, w) {
					has++
				}
			}
			if has == len(words) {
				return
			}
		}
		if time.Now().After(deadline) {
			l.t.Fatalf("the log does not say %q:\n%s", words, l.log.String())
		}
		time.Sleep(time.Millisecond)
	}
}

func TestNodePortsThatProcessesBind(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		t.Run(fmt.Sprintf("refuse=%v", refuse), func(t *testing.T) {
			l := newBindLab(t, refuse)
			own := l.Clients()[0].Gateway4.String()
			for _, tc := range []struct {
				network, addr string
				taken         bool
			}{
				{"tcp4", "0.0.0.0:30080", true},
				{"tcp4", own + ":30080", true},
				{"tcp4", "127.0.0.1:30080", true},
				{"tcp4", "127.0.0.9:30080", true},
				{"tcp6", "[::]:30080", true},
				{"tcp6", "[::1]:30080", true},
				{"tcp", ":30080", true},
				{"udp4", "0.0.0.0:30053", true},
				{"udp", ":30053", true}, // of both families
				{"udp6", "[::]:30053", false},
				{"udp4", "0.0.0.0:30080", false},
				{"tcp4", "0.0.0.0:30053", false},
				{"tcp", ":30099", false},
				{"tcp", ":0", false},
			} {
				if got := l.bind(l.Director, tc.network, tc.addr); got != (tc.taken && refuse) {
					t.Errorf("%s %s refused: %v", tc.network, tc.addr, got)
				}
			}
			if l.bind(l.Clients()[0].Namespace, "tcp", ":30080") {
				t.Error("a port of another namespace is refused")
			}
			for _, words := range [][]string{
				{"address=0.0.0.0:30080", "protocol=TCP", "service=web"}, {"address=[::1]:30080", "service=web"}, {"address=[::]:30053", "protocol=UDP", "service=dns"},
			} {
				l.says(append(words, fmt.Sprintf("pid=%d", os.Getpid()), map[bool]string{false: "bound a node port", true: "EADDRINUSE"}[refuse])...)
			}
			if strings.Contains(l.log.String(), "30099") {
				t.Errorf("it speaks of a port that is nobody's:\n%s", l.log.String())
			}
		})
	}
}
