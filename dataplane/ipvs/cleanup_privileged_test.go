// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package ipvs

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/lb"
)

// open makes a dataplane in the calling thread's namespace.
func open(t *testing.T) *Dataplane {
	t.Helper()
	d, err := New(Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func serve(t *testing.T, d *Dataplane, services ...*lb.Service) {
	t.Helper()
	snap, err := lb.NewSnapshot(services...)
	if err != nil {
		t.Error(err)
		return
	}
	if rep := d.Apply(snap); rep.Err != nil || len(rep.Failed) > 0 {
		t.Errorf("apply: %v, failed %v", rep.Err, rep.Failed)
	}
}

// TestCleanupLeavesWhatIsOthers has a virtual service, a table and a device of
// another beside ours.
func TestCleanupLeavesWhatIsOthers(t *testing.T) {
	inNamespace(t, func(ns *netlab.Namespace) error {
		handle, err := openIPVS()
		if err != nil {
			return err
		}
		defer handle.Close()
		foreign := key{netip.MustParseAddrPort("198.51.100.1:80"), lb.TCP}
		if err := handle.NewService(settings{scheduler: "rr", prefix: 32}.service(foreign)); err != nil {
			return err
		}
		if err := ns.Netlink().LinkAdd(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "other0"}}); err != nil {
			return err
		}
		before, err := readSysctls()
		if err != nil {
			return err
		}
		serve(t, open(t), web("2 1"), service("all", "203.0.113.9:0", "3", func(s *lb.Service) {
			s.Affinity = lb.Affinity{Timeout: time.Minute, Prefix: 32}
			s.Backends[0].Addr = netip.AddrPortFrom(s.Backends[0].Addr.Addr(), 0)
		}))
		during, err := readSysctls()
		if err != nil {
			return err
		}
		if d := cmp.Diff(ours, during); d != "" {
			t.Errorf("sysctls (-want +got):\n%s", d)
		}
		for i, want := range [][]string{{"2 virtual services of ipv4", "table waggle of ipv4", "table waggle of ipv6", "device waggle0"}, nil} {
			removed, err := Cleanup(Place{})
			if err != nil {
				return err
			}
			if d := cmp.Diff(want, removed); d != "" {
				t.Errorf("cleanup %d (-want +got):\n%s", i, d)
			}
		}
		after, err := readSysctls()
		if err != nil {
			return err
		}
		if d := cmp.Diff(before, after); d != "" {
			t.Errorf("sysctls after (-want +got):\n%s", d)
		}
		list, err := handle.GetServices()
		if err != nil {
			return err
		}
		for _, s := range list {
			if k, _ := keyFrom(s); k != foreign {
				t.Errorf("virtual service %s is left", k)
			}
		}
		if len(list) != 1 {
			t.Errorf("%d virtual services are there, want the foreign one", len(list))
		}
		_, err = ns.Ifindex("other0")
		return err
	})
}

// TestManyServices are applied at once, one of them changes, and the next
// process finds them.
func TestManyServices(t *testing.T) {
	var all []*lb.Service
	for i := range 1000 {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
		all = append(all, service(fmt.Sprintf("default/service-%d:http", i), netip.AddrPortFrom(a, 80).String(), "1 2"))
	}
	inNamespace(t, func(*netlab.Namespace) error {
		d := open(t)
		took := func(what string, services ...*lb.Service) {
			begun := time.Now()
			serve(t, d, services...)
			t.Logf("%s: %v", what, time.Since(begun))
		}
		took("all", all...)
		changed := append([]*lb.Service(nil), all...)
		changed[500] = service(all[500].ID.Name, all[500].Frontends[0].Addr.String(), "1 2 3")
		took("one", changed...)
		begun := time.Now()
		d = open(t)
		t.Logf("the next process: %v", time.Since(begun))
		if n := len(d.state.held); n != 1000 {
			t.Errorf("the next process finds %d, want 1000", n)
		}
		took("again", changed...)
		took("none")
		if n := len(d.state.held); n != 0 {
			t.Errorf("%d are left", n)
		}
		return nil
	})
}

// TestMain says where the tests can run.
func TestMain(m *testing.M) {
	if _, err := os.Stat("/proc/sys/net/ipv4/vs"); err != nil && os.Getenv(theirs) == "" {
		fmt.Println("the tests need IPVS: make test-vm PKG=./dataplane/ipvs:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
