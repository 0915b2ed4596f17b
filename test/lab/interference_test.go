// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/internal/netlab"
)

// wantMended waits until the daemon says that it put back so many of each, and
// that nothing is left, in its status and in its metrics.
func (s *scene) wantMended(pins, programs, qdiscs int) {
	s.t.Helper()
	s.eventually("what was taken away is back", func() error {
		d := s.daemonSays()
		want := map[string]uint64{"pin": uint64(pins), "program": uint64(programs), "qdisc": uint64(qdiscs)}
		if diff := cmp.Diff(want, d.Mended); diff != "" || len(d.Broken) > 0 {
			return fmt.Errorf("mended (-want +got):\n%sbroken: %v", diff, d.Broken)
		}
		return nil
	})
	s.wantMetrics(map[string]float64{
		"waggle_mended_total what=pin": float64(pins), "waggle_mended_total what=program": float64(programs), "waggle_mended_total what=qdisc": float64(qdiscs),
		"waggle_broken": 0,
	})
}

// daemonSays is the daemon's part of `waggle status`, which it has also while
// pins are missing.
func (s *scene) daemonSays() *cli.Daemon {
	s.t.Helper()
	out, errs, code := s.verb("status", "-o", "json")
	var doc cli.Status
	if err := json.Unmarshal([]byte(out), &doc); err != nil || doc.Daemon == nil {
		s.t.Fatalf("waggle status: exit %d, %q, %v", code, errs, err)
	}
	return doc.Daemon
}

// connects waits until new connections come through.
func (s *scene) connects(from *netlab.Node) {
	s.t.Helper()
	s.eventually("new connections come through", func() error {
		for _, vip := range vips {
			c, _, err := connect(from, vip)
			if err != nil {
				return err
			}
			if err := errors.Join(echo(c, random(1000)), c.Close()); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *scene) remove(paths ...string) {
	s.t.Helper()
	for _, path := range paths {
		if err := os.RemoveAll(filepath.Join(s.pins, path)); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (s *scene) record(device, hook string) string {
	s.t.Helper()
	index, err := s.Director.Ifindex(device)
	if err != nil {
		s.t.Fatal(err)
	}
	return fmt.Sprintf("links/%d-%s", index, hook)
}

func (s *scene) inDirector(name string, args ...string) {
	s.t.Helper()
	if err := s.Director.Run(exec.Command(name, args...)); err != nil {
		s.t.Fatalf("%s %v: %v", name, args, err)
	}
}

// takeAway detaches the ingress program of a device.
func (s *scene) takeAway(device string) {
	s.t.Helper()
	if s.daemon == byClsact {
		s.inDirector("tc", "filter", "del", "dev", device, "ingress")
		return
	}
	s.inDirector("bpftool", "link", "detach", "pinned", filepath.Join(s.pins, s.record(device, "ingress")))
}

func TestWhatOthersTakeAwayComesBack(t *testing.T) {
	s := newMetricsScene(t)
	client, server := s.Clients()[0], s.Servers()[0]
	streams := []*stream{s.stream(vip4), s.stream(vip6)}
	before := s.pinned()
	s.remove("affinity", "gen-1/vips", "config", s.record(server.Device, "egress"))
	s.wantMended(4, 0, 0)
	s.logs(4, "level=WARN", "somebody removed a pin")
	s.connects(client)
	s.goesOn(streams)
	s.finish(streams) // what follows breaks connections until it is mended
	s.takeAway(client.Device)
	s.wantMended(4, 1, 0)
	s.logs(1, "level=WARN", "gone=program", "device="+client.Device, "hook=ingress")
	s.connects(client)
	flushed, records := 0, 6 // of three devices
	if s.daemon == byClsact {
		s.inDirector("tc", "qdisc", "del", "dev", client.Device, "clsact")
		s.wantMended(4, 1, 1)
		s.logs(1, "level=WARN", "gone=qdisc", "device="+client.Device)
		s.connects(client)
		flushed, records = 1, 9 // and their qdiscs
	}
	streams = []*stream{s.stream(vip4), s.stream(vip6)}
	s.remove("links", "flows")
	s.wantMended(4+records+1, 1, flushed)
	if diff := cmp.Diff(before, s.pinned()); diff != "" {
		t.Errorf("pins (-before +after):\n%s", diff)
	}
	s.goesOn(streams)
	s.finish(streams)

	// and the next daemon finds what it needs
	st := s.stream(vip4)
	s.kill()
	s.start()
	s.wantMended(0, 0, 0)
	s.connects(client)
	s.finish([]*stream{st})
}

func (s *scene) wantFollowed(what string, n uint64) {
	s.t.Helper()
	s.eventually("the daemon follows", func() error {
		if got := s.daemonSays().Followed[what]; got != n {
			return fmt.Errorf("%s: %d, want %d", what, got, n)
		}
		return nil
	})
	s.wantMetrics(map[string]float64{"waggle_followed_total what=" + what: float64(n)})
}

func TestDevicesAndAddressesThatComeAndGoAreFollowed(t *testing.T) {
	s := newMetricsScene(t)
	s.inDirector("ip", "addr", "add", "192.0.2.77/32", "dev", "lo")
	s.wantFollowed("address", 1)
	s.logs(1, "address added", "address=192.0.2.77")
	s.inDirector("ip", "addr", "del", "192.0.2.77/32", "dev", "lo")
	s.wantFollowed("address", 2)
	s.logs(1, "address removed", "address=192.0.2.77")
	for n := range uint64(2) { // it vanishes and comes back
		s.inDirector("ip", "link", "add", "extra", "type", "veth", "peer", "name", "other")
		s.wantFollowed("device", 4*n+2)
		for _, at := range hookTypes {
			if got := programs(t, s.Director, "extra", at); len(got) != 1 {
				t.Errorf("%v of the device: %v, want one program", at, got)
			}
		}
		s.inDirector("ip", "link", "del", "extra")
		s.wantFollowed("device", 4*n+4)
	}
	other, err := s.AddClient()
	if err != nil {
		t.Fatal(err)
	}
	s.connects(other)
	s.wantMended(0, 0, 0)
}

func TestAProgramThatSomebodyReplacedIsReported(t *testing.T) {
	s := newMetricsScene(t)
	client := s.Clients()[0]
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, tcxNext), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	l, err := link.LoadPinnedLink(filepath.Join(s.pins, s.record(client.Device, "ingress")), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Update(prog), l.Close()); err != nil {
		t.Fatal(err)
	}
	s.wantMetrics(map[string]float64{"waggle_broken": 1})
	d := s.daemonSays()
	if len(d.Broken) != 1 || !strings.Contains(d.Broken[0], "in the place of waggle's") || !strings.Contains(d.Broken[0], client.Device) {
		t.Errorf("broken: %q", d.Broken)
	}
	if text := s.must("status"); !strings.Contains(text, "out of order") {
		t.Errorf("no word of it:\n%s", text)
	}
	s.logs(1, "level=ERROR", "cannot mend", client.Device)
	if _, err := ask(client, netip.AddrPortFrom(netlab.VIP4, vip4.Port())); err == nil {
		t.Error("the other's program forwards")
	}
	s.kill()
	s.start() // puts its own there
	s.wantMended(0, 0, 0)
	s.connects(client)
}
