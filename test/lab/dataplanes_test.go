// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package lab_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// dataplanes is what `waggle status` says of the dataplanes.
type dataplanes struct {
	Dataplane struct{ Name, Why string }
	Daemon    struct {
		Leaving *struct {
			Name        string
			Connections int
			Removed     bool
		}
		Otherwise, Refused []struct{ Service, Error string }
	}
	Services int
}

func (s *scene) dataplanes() (v dataplanes) {
	s.t.Helper()
	out, refused := s.waggleHere("status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		s.t.Fatalf("status: %v\n%s%s", err, out, refused)
	}
	return v
}

// stopDaemon ends the daemon as a service manager does.
func (s *scene) stopDaemon() {
	s.t.Helper()
	if err := s.run.Stop(patience); err != nil {
		s.t.Fatalf("stop the daemon: %v", err)
	}
	s.run = nil
}

// switchTo starts the daemon anew with another dataplane, while streams go on, and
// wants new connections to be served from then on.
func (s *scene) switchTo(dataplane string, streams []*paced) {
	s.t.Helper()
	s.stopDaemon()
	s.dataplane = dataplane
	s.start()
	s.answers("s1")
	if dataplane == "ipvs" { // under eBPF they would be flows, which live longer than this test
		for _, vip := range vips {
			if who, err := ask(s.Clients()[0], vip); err != nil || who != "s1" {
				s.t.Errorf("a datagram to %s: %q, %v", vip, who, err)
			}
		}
	}
	s.flow(streams)
	v := s.dataplanes()
	if v.Dataplane.Name != dataplane || v.Daemon.Leaving == nil || v.Daemon.Leaving.Connections != len(streams) || v.Daemon.Leaving.Removed {
		s.t.Errorf("served by %+v, leaving %+v, want by %s and %d connections", v.Dataplane, v.Daemon.Leaving, dataplane, len(streams))
	}
}

// left waits until the other dataplane is gone.
func (s *scene) left() {
	s.t.Helper()
	s.eventually("the other dataplane is removed", func() error {
		if l := s.dataplanes().Daemon.Leaving; l == nil || !l.Removed {
			return fmt.Errorf("it is %+v", l)
		}
		return nil
	})
}

// hasDevice reports whether the director has the device of VIPs.
func (s *scene) hasDevice() (has bool) {
	s.t.Helper()
	s.do(func() error {
		_, err := netlink.LinkByName("waggle0")
		var none netlink.LinkNotFoundError
		if errors.As(err, &none) {
			return nil
		}
		has = err == nil
		return err
	})
	return has
}

// fromOutside opens streams of a client to VIPs and node ports.
func (s *scene) fromOutside(server string) (streams []*paced) {
	s.t.Helper()
	for _, to := range append(nodePorts(s), vips...) {
		streams = append(streams, s.through(s.Clients()[0].Namespace, to, server))
	}
	return streams
}

// TestDataplanesAreSwitched: connections of one dataplane go on when the daemon is
// started with the other, and what begins is the other's at once.
func TestDataplanesAreSwitched(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "sw", Clients: 1, Servers: 1})
	s.serve(s.Servers()[0], "s1", 8080)
	client := s.Clients()[0]
	s.director("ip", "route", "add", "default", "via", client.V4.String())
	s.director("ip", "-6", "route", "add", "default", "via", client.V6.String())
	s.write(textAt(append(nodePorts(s), vips...), "rr", s.Servers()...))
	s.dataplane = "ipvs"
	s.start()
	s.answers("s1")
	if v := s.dataplanes(); v.Dataplane.Name != "ipvs" || v.Daemon.Leaving != nil || v.Services == 0 {
		t.Errorf("served: %+v, want by ipvs alone", v)
	}
	ofIPVS := s.everyWay("s1")

	s.switchTo("ebpf", ofIPVS)
	if v := s.readBy("flows"); strings.Contains(v, "ESTABLISHED") {
		t.Errorf("eBPF has flows of IPVS:\n%s", v)
	}
	s.exact(ofIPVS)
	s.left()
	if s.hasDevice() {
		t.Error("device waggle0 is left")
	}
	s.answers("s1")

	ofEBPF := s.fromOutside("s1")
	s.switchTo("ipvs", ofEBPF)
	if _, err := os.Stat(s.pins); err != nil {
		t.Errorf("what is pinned is gone with connections: %v", err)
	}
	if v := s.readBy("services"); !strings.Contains(v, vip4.String()) {
		t.Errorf("the services that IPVS has are not shown:\n%s", v)
	}
	s.exact(ofEBPF)
	s.left()
	if _, err := os.Stat(s.pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is pinned is left: %v", err)
	}
	s.answers("s1")
	s.stopDaemon()
	s.answers("s1") // without a daemon, too
	if out, refused := s.waggleHere("cleanup"); refused != "" || !strings.Contains(out, "device waggle0") || s.hasDevice() {
		t.Errorf("cleanup: %s%s", out, refused)
	}
}

// readBy is what a verb prints.
func (s *scene) readBy(verb ...string) string {
	s.t.Helper()
	out, refused := s.waggleHere(verb...)
	if refused != "" {
		s.t.Errorf("%v: %s", verb, refused)
	}
	return out
}

// TestAutoTakesWhatThereIs: without the kernel's BTF auto takes ipvs and says why, and
// the verbs that read show it.
func TestAutoTakesWhatThereIs(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "auto", Clients: 1, Servers: 1})
	s.serve(s.Servers()[0], "s1", 8080)
	s.write(textAt(vips, "rr", s.Servers()...))
	hide(t, "/sys/kernel/btf")
	s.dataplane = "auto"
	s.start()
	c, who, err := connect(s.Clients()[0], vip4)
	if err != nil || who != "s1" {
		t.Fatalf("%q, %v", who, err)
	}
	defer c.Close()
	v := s.dataplanes()
	if v.Dataplane.Name != "ipvs" || !strings.Contains(v.Dataplane.Why, "CONFIG_DEBUG_INFO_BTF") {
		t.Errorf("served by %+v, want ipvs, as there is no BTF", v.Dataplane)
	}
	if out := s.readBy("flows"); !strings.Contains(out, "ESTABLISHED") || !strings.Contains(out, c.LocalAddr().(*net.TCPAddr).String()) {
		t.Errorf("the connection is not listed:\n%s", out)
	}
	if out := s.readBy("flows", "-o", "ipvsadm"); !strings.Contains(out, "ESTABLISHED") {
		t.Errorf("the connection is not listed as ipvsadm does:\n%s", out)
	}
	for _, verb := range []string{"services", "backends", "stats", "status", "clients", "diff", "export --ipvsadm", "services -o ipvsadm --stats"} {
		s.readBy(strings.Fields(verb)...)
	}
	c.Close()
	s.stopDaemon()
	s.readBy("cleanup")

	withoutModules(t, "ip_vs")
	out, refused := s.waggleHere("run", "--services", s.rules)
	for _, want := range []string{"neither dataplane can forward here", "CONFIG_DEBUG_INFO_BTF", "the kernel has no IPVS: modprobe ip_vs"} {
		if !strings.Contains(refused, want) {
			t.Errorf("without IPVS: no %q in\n%s%s", want, out, refused)
		}
	}
}

// withoutModules unloads modules that begin with this word, and has none loaded
// until the test ends.
func withoutModules(t *testing.T, prefix string) {
	t.Helper()
	t.Cleanup(func() { // after they can be found again
		if out, err := exec.Command("modprobe", prefix).CombinedOutput(); err != nil {
			t.Errorf("load %s again: %v\n%s", prefix, err, out)
		}
	})
	hide(t, "/lib/modules")
	// a namespace that is gone has its virtual services for a while yet
	for there, end := true, time.Now().Add(patience); there && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		list, err := os.ReadFile("/proc/modules")
		if err != nil {
			t.Fatal(err)
		}
		there = false
		for line := range strings.Lines(string(list)) {
			if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(name, prefix) {
				there = true
				_ = unix.DeleteModule(name, 0) // it may be in use yet
			}
		}
	}
}

// hide puts an empty directory in the place of one, until the test ends.
func hide(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}
