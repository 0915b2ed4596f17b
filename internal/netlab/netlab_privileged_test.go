// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package netlab

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// ownerEnv makes the test binary a process that owns a lab and waits to be
// killed; childEnv makes it one that prints the devices of its namespace.
const (
	ownerEnv = "NETLAB_TEST_OWNER"
	childEnv = "NETLAB_TEST_CHILD"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(ownerEnv) != "":
		ownLab()
	case os.Getenv(childEnv) != "":
		printDevices()
	default:
		os.Exit(m.Run())
	}
}

func ownLab() {
	lab, err := New(Options{Prefix: "owner", Clients: 1, Servers: 1})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	sleep, err := lab.Director.Start(exec.Command("sleep", "600"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(lab.Director.Name, sleep.PID)
	select {}
}

func printDevices() {
	devices, err := net.Interfaces()
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for _, d := range devices {
		fmt.Println(d.Name)
	}
}

func newLab(t *testing.T, opts Options) *Lab {
	t.Helper()
	lab, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	return lab
}

// names lists the namespaces whose names start so.
func names(t *testing.T, prefix string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(Dir, prefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range paths {
		paths[i] = filepath.Base(paths[i])
	}
	return paths
}

// serve answers with the text and the peer's address.
func serve(t *testing.T, ns *Namespace, addr netip.AddrPort, text string) {
	t.Helper()
	stop, err := ns.Serve(addr, func(peer net.Addr) string {
		return fmt.Sprintf("%s from %s\n", text, netip.MustParseAddrPort(peer.String()).Addr())
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

// ask sends one datagram or opens one connection and returns the answer.
func ask(ns *Namespace, network string, addr netip.AddrPort) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := ns.Dial(ctx, network, addr.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

func wantAnswer(t *testing.T, ns *Namespace, network string, addr netip.AddrPort, want string) {
	t.Helper()
	got, err := ask(ns, network, addr)
	if err != nil || got != want {
		t.Errorf("%s asks %s %s: answer %q, error %v; want %q", ns.Name, network, addr, got, err, want)
	}
}

func TestEveryClientReachesEveryServer(t *testing.T) {
	lab := newLab(t, Options{Prefix: "route", Clients: 2, Servers: 3})
	for i, server := range lab.Servers() {
		for _, v6 := range []bool{false, true} {
			addr := netip.AddrPortFrom(server.Addr(v6), 7000)
			text := fmt.Sprintf("server%d", i+1)
			serve(t, server.Namespace, addr, text)
			for _, client := range lab.Clients() {
				want := fmt.Sprintf("%s from %s", text, client.Addr(v6))
				wantAnswer(t, client.Namespace, "tcp", addr, want)
				wantAnswer(t, client.Namespace, "udp", addr, want)
			}
		}
	}
}

func TestAddressPlan(t *testing.T) {
	lab := newLab(t, Options{Prefix: "plan", Clients: 1, Servers: 2})
	type plan struct{ Device, V4, V6, Gateway4, Gateway6 string }
	var got []plan
	for _, n := range append(lab.Clients(), lab.Servers()...) {
		got = append(got, plan{n.Device, n.V4.String(), n.V6.String(), n.Gateway4.String(), n.Gateway6.String()})
	}
	want := []plan{
		{"client1", "198.18.1.2", "fd00:c:1::2", "198.18.1.1", "fd00:c:1::1"},
		{"server1", "198.19.1.2", "fd00:e:1::2", "198.19.1.1", "fd00:e:1::1"},
		{"server2", "198.19.2.2", "fd00:e:2::2", "198.19.2.1", "fd00:e:2::1"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	if VIP4.String() != "198.18.255.10" || VIP6.String() != "fd00:f::10" {
		t.Errorf("VIPs are %s and %s, want 198.18.255.10 and fd00:f::10", VIP4, VIP6)
	}
}

func TestVIPsAreAssignedOnlyWhenAsked(t *testing.T) {
	vips := []netip.Addr{VIP4, VIP6}
	assigned := newLab(t, Options{Prefix: "vips", Clients: 1, VIPs: vips, AssignVIPs: true})
	routed := newLab(t, Options{Prefix: "vips", Clients: 1, VIPs: vips})
	for _, vip := range vips {
		addr := netip.AddrPortFrom(vip, 7000)
		serve(t, assigned.Director, addr, "director")
		client := assigned.Clients()[0]
		wantAnswer(t, client.Namespace, "tcp", addr, fmt.Sprintf("director from %s", client.Addr(vip.Is6())))
		// The other director has no route to it and says so.
		_, err := ask(routed.Clients()[0].Namespace, "tcp", addr)
		if !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EHOSTUNREACH) {
			t.Errorf("connect to unassigned VIP %s: error %v, want unreachable", vip, err)
		}
	}
}

func TestTwoLabsDoNotMeet(t *testing.T) {
	a := newLab(t, Options{Prefix: "side", Clients: 1, Servers: 1})
	b := newLab(t, Options{Prefix: "side", Clients: 1, Servers: 1})
	if a.Director.Name == b.Director.Name {
		t.Fatalf("both directors are named %s", a.Director.Name)
	}
	for _, v6 := range []bool{false, true} {
		addr := netip.AddrPortFrom(a.Servers()[0].Addr(v6), 7000)
		serve(t, a.Servers()[0].Namespace, addr, "a")
		serve(t, b.Servers()[0].Namespace, addr, "b")
		wantAnswer(t, a.Clients()[0].Namespace, "tcp", addr, fmt.Sprintf("a from %s", a.Clients()[0].Addr(v6)))
		wantAnswer(t, b.Clients()[0].Namespace, "tcp", addr, fmt.Sprintf("b from %s", b.Clients()[0].Addr(v6)))
	}
}

func TestNodesAndDevicesComeAndGo(t *testing.T) {
	lab := newLab(t, Options{Prefix: "late", Clients: 1})
	client := lab.Clients()[0]
	server, err := lab.AddServer()
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(server.V6, 7000)
	serve(t, server.Namespace, addr, "late")
	wantAnswer(t, client.Namespace, "tcp", addr, "late from fd00:c:1::2")

	extra, err := lab.AddNamespace("extra")
	if err != nil {
		t.Fatal(err)
	}
	if err := AddDevice(lab.Director, "x0", extra, "x1"); err != nil {
		t.Fatal(err)
	}
	for _, end := range []struct {
		ns     *Namespace
		device string
	}{{lab.Director, "x0"}, {extra, "x1"}} {
		if _, err := end.ns.Ifindex(end.device); err != nil {
			t.Error(err)
		}
	}
	if err := lab.Director.DelDevice("x0"); err != nil {
		t.Fatal(err)
	}
	for _, end := range []struct {
		ns     *Namespace
		device string
	}{{lab.Director, "x0"}, {extra, "x1"}} {
		if i, err := end.ns.Ifindex(end.device); err == nil {
			t.Errorf("device %s is still there, index %d", end.device, i)
		}
	}
}

func TestStartRunsInTheNamespace(t *testing.T) {
	lab := newLab(t, Options{Prefix: "proc", Clients: 1, Servers: 1})
	var out strings.Builder
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"=print")
	cmd.Stdout = &out
	if err := lab.Director.Run(cmd); err != nil {
		t.Fatal(err)
	}
	got := strings.Fields(out.String())
	slices.Sort(got)
	if diff := cmp.Diff([]string{"client1", "lo", "server1"}, got); diff != "" {
		t.Errorf("devices that a child of the director sees (-want +got):\n%s", diff)
	}
}

func TestStopEndsTheProcess(t *testing.T) {
	lab := newLab(t, Options{Prefix: "stop"})
	p, err := lab.Director.Start(exec.Command("sleep", "600"))
	if err != nil {
		t.Fatal(err)
	}
	if !Alive(p.PID) {
		t.Fatal("the process is not running")
	}
	var exit *exec.ExitError
	if err := p.Stop(10 * time.Second); !errors.As(err, &exit) {
		t.Errorf("stop: error %v, want an exit error", err)
	}
	if Alive(p.PID) {
		t.Error("the process is still running")
	}
}

func TestCloseLeavesNothing(t *testing.T) {
	before := rootDevices(t)
	lab, err := New(Options{Prefix: "close", Clients: 2, Servers: 2, VIPs: []netip.Addr{VIP4}, AssignVIPs: true})
	if err != nil {
		t.Fatal(err)
	}
	p, err := lab.Servers()[0].Start(exec.Command("sleep", "600"))
	if err != nil {
		t.Fatal(errors.Join(err, lab.Close()))
	}
	prefix := strings.TrimSuffix(lab.Director.Name, "director")
	if got := len(names(t, prefix)); got != 5 {
		t.Errorf("the lab has %d namespaces, want 5", got)
	}
	for range 2 {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	}
	if got := names(t, prefix); len(got) != 0 {
		t.Errorf("left behind: %v", got)
	}
	if Alive(p.PID) {
		t.Errorf("process %d is still running", p.PID)
	}
	if _, err := lab.Director.Start(exec.Command("true")); err == nil {
		t.Error("a process started in a closed lab")
	}
	if diff := cmp.Diff(before, rootDevices(t)); diff != "" {
		t.Errorf("devices of the caller's namespace (-before +after):\n%s", diff)
	}
}

func rootDevices(t *testing.T) []string {
	t.Helper()
	devices, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range devices {
		out = append(out, d.Name)
	}
	return out
}

// A killed owner's processes end by themselves; its namespaces stay until the
// next lab is made, whatever that one's prefix. Those of the living stay.
func TestNewRemovesWhatAKilledOwnerLeft(t *testing.T) {
	living := newLab(t, Options{Prefix: "living"})
	owner := exec.Command(os.Args[0])
	owner.Env = append(os.Environ(), ownerEnv+"=1")
	stdout, err := owner.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	var director string
	var sleep int
	line, err := bufio.NewReader(stdout).ReadString('\n')
	_, scanErr := fmt.Sscan(line, &director, &sleep)
	if err := errors.Join(err, scanErr, owner.Process.Kill()); err != nil {
		t.Fatalf("owner said %q: %v", line, err)
	}
	// Wait reports the kill as an error; that it was reaped is what counts.
	_ = owner.Wait()
	prefix := strings.TrimSuffix(director, "director")
	if got := len(names(t, prefix)); got != 3 {
		t.Fatalf("the killed owner left %d namespaces, want 3", got)
	}
	newLab(t, Options{Prefix: "next"})
	if got := names(t, prefix); len(got) != 0 {
		t.Errorf("still there: %v", got)
	}
	if got := names(t, living.Director.Name); len(got) != 1 {
		t.Error("the namespace of a living owner was removed")
	}
	for deadline := time.Now().Add(10 * time.Second); Alive(sleep); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d outlives its dead owner", sleep)
		}
	}
}

func TestSysctlsArePerNamespace(t *testing.T) {
	lab := newLab(t, Options{Prefix: "sysctl", Clients: 1})
	for ns, want := range map[*Namespace]string{lab.Director: "1", lab.Clients()[0].Namespace: "0"} {
		if err := ns.SetSysctl("net/ipv4/ip_forward", want); err != nil {
			t.Fatal(err)
		}
	}
	for ns, want := range map[*Namespace]string{lab.Director: "1", lab.Clients()[0].Namespace: "0"} {
		if got, err := ns.Sysctl("net/ipv4/ip_forward"); err != nil || got != want {
			t.Errorf("ip_forward in %s is %q, error %v; want %q", ns.Name, got, err, want)
		}
	}
}
