// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// The hooks of a control group that have a program while sockets are led, and those
// that follow sockets which were.
var (
	leading = []ebpf.AttachType{
		ebpf.AttachCGroupInet4Connect, ebpf.AttachCGroupInet6Connect, ebpf.AttachCGroupUDP4Sendmsg, ebpf.AttachCGroupUDP6Sendmsg,
		ebpf.AttachCGroupInet4Bind, ebpf.AttachCGroupInet6Bind,
	}
	following = []ebpf.AttachType{
		ebpf.AttachCGroupUDP4Recvmsg, ebpf.AttachCGroupUDP6Recvmsg, ebpf.AttachCgroupInet4GetPeername, ebpf.AttachCgroupInet6GetPeername,
		ebpf.AttachCgroupInetSockRelease,
	}
)

// hooked is an error unless each of these hooks of a control group has so many
// programs.
func hooked(t *testing.T, c *netlab.Cgroup, hooks []ebpf.AttachType, want int) error {
	t.Helper()
	dir, err := os.Open(c.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	for _, at := range hooks {
		q, err := link.QueryPrograms(link.QueryOptions{Target: int(dir.Fd()), Attach: at})
		if err != nil {
			t.Fatal(err)
		}
		if len(q.Programs) != want {
			return fmt.Errorf("%v of %s has %d programs, want %d", at, c.Path, len(q.Programs), want)
		}
	}
	return nil
}

// isLed reports whether the sockets of a namespace are: to a port that no service has
// they are refused before there is a packet.
func isLed(t *testing.T, n *netlab.Namespace) bool {
	t.Helper()
	c := rawSocketIn(t, n, unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	defer c.close()
	err := c.connect(netip.AddrPortFrom(vip4.Addr(), 81))
	if !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.EINPROGRESS) && !errors.Is(err, unix.ENETUNREACH) {
		t.Errorf("connect: %v", err)
	}
	return errors.Is(err, unix.ECONNREFUSED)
}

// again ends the daemon and starts another with other words.
func (s *scene) again(whose string, group *netlab.Cgroup) {
	s.t.Helper()
	s.stops()
	s.sockets, s.group = whose, group
	s.start()
}

func (s *scene) stops() {
	s.t.Helper()
	if err := s.run.Stop(patience); err != nil {
		s.t.Errorf("stop the daemon: %v", err)
	}
	s.run = nil
}

// Whose sockets are led is as the last daemon was told; of what others were told is
// left what follows sockets to their end.
func TestWhoseSocketsAreLed(t *testing.T) {
	s := ledScene(t, "host")
	first := s.group
	second, err := s.AddCgroup()
	if err != nil {
		t.Fatal(err)
	}
	pod := s.Clients()[0].Namespace
	want := func(host, ofPod bool, leads *netlab.Cgroup, follow ...*netlab.Cgroup) {
		t.Helper()
		for _, c := range []*netlab.Cgroup{first, second} {
			lead, followed := 0, 0
			if c == leads {
				lead = 1
			}
			if c == leads || slices.Contains(follow, c) {
				followed = 1
			}
			// the kernel takes programs off a moment after the last link is gone
			s.eventually("the hooks are as they should be", func() error {
				return errors.Join(hooked(t, c, leading, lead), hooked(t, c, following, followed))
			})
		}
		if got := isLed(t, s.Director); got != host {
			t.Errorf("the machine's own sockets are led: %v, want %v", got, host)
		}
		if got := isLed(t, pod); got != ofPod {
			t.Errorf("a pod's sockets are led: %v, want %v", got, ofPod)
		}
	}
	want(true, false, first)
	before := len(s.items("flows"))
	if name, _, err := askBy(pod, "tcp", vip4); err != nil || len(s.items("flows")) == before {
		t.Errorf("the pod's packets find %q, %v, and make no flow", name, err)
	}
	s.again("all", first)
	want(true, true, first)
	s.again("all", second)
	want(false, false, second, first)
	for _, n := range []*netlab.Namespace{s.Director, pod} {
		n.SetCgroup(second)
	}
	want(true, true, second, first)
	s.again("off", nil)
	want(false, false, nil, first, second)
	s.again("host", second)
	want(true, false, second, first)
	s.stops()
	want(true, false, second, first) // with nobody there
	s.must("cleanup", "--pin-path", s.pins)
	want(false, false, nil)
}

// What was led goes on, and counts until it ends, when nothing more is led.
func TestSocketsThatWereLedAreFollowed(t *testing.T) {
	s := ledScene(t, "all")
	stream := rawSocketIn(t, s.Director, unix.AF_INET, unix.SOCK_STREAM, 0)
	stream.must(vip4)
	datagrams := rawSocketIn(t, s.Director, unix.AF_INET, unix.SOCK_DGRAM, 0)
	datagrams.asks(vip4)
	s.wantLoad("two sockets are led", 2)
	s.again("off", nil)
	stream.wantPeer(vip4)
	s.wantLoad("none are led any more", 2)
	stream.close()
	datagrams.close()
	s.wantLoad("they end", 0)
}

// Where control groups of both versions are mounted, the root of version 2 is found.
func TestTheRootOfControlGroupsIsFound(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "root", Servers: 2})
	for i, n := range s.Servers() {
		s.serve(n, fmt.Sprintf("server%d", i), 8080)
	}
	s.sockets = "host" // the sockets of other labs are left alone
	s.write(s.text(s.Servers()...))
	s.start()
	for _, vip := range vips {
		c := rawSocketIn(t, s.Director, domainOf(vip), unix.SOCK_STREAM, 0)
		c.must(vip)
		c.greeted()
		c.wantPeer(vip)
	}
}
