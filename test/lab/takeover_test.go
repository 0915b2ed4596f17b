// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// proxyShape is a way in which kube-proxy writes its rules, and others theirs beside it:
// command lines, with a file of testdata/kubeproxy as the last word.
type proxyShape struct {
	others, rules [][]string
	// state prints everything, so that what is equal was not touched.
	state [][]string
}

var nftState = [][]string{{"nft", "-s", "-a", "list", "ruleset"}}

var proxyShapes = map[string]proxyShape{
	"nftables": {othersBy("nft"), [][]string{{"nft", "-f", "nftables.nft"}}, nftState},
	"iptables": {othersBy("nft"), rulesBy("nft"), nftState},
	"legacy":   {othersBy("legacy"), rulesBy("legacy"), [][]string{{"iptables-legacy-save"}, {"ip6tables-legacy-save"}, {"nft", "-s", "-a", "list", "ruleset"}}},
}

func othersBy(backend string) [][]string {
	return [][]string{
		{"iptables-" + backend + "-restore", "--noflush", "others.rules"}, {"ip6tables-" + backend + "-restore", "--noflush", "others6.rules"},
		{"nft", "-f", "others.nft"},
	}
}

func rulesBy(backend string) [][]string {
	return [][]string{{"iptables-" + backend + "-restore", "--noflush", "iptables.rules"}, {"ip6tables-" + backend + "-restore", "--noflush", "ip6tables.rules"}}
}

// install runs command lines on the director.
func (s *scene) install(lines [][]string) {
	s.t.Helper()
	for _, l := range lines {
		last := len(l) - 1
		s.director(append(l[:last:last], filepath.Join("testdata", "kubeproxy", l[last]))...)
	}
}

// director runs a command there and returns what it prints.
func (s *scene) director(line ...string) string {
	s.t.Helper()
	cmd := exec.Command(line[0], line[1:]...)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	if err := s.Director.Run(cmd); err != nil {
		s.t.Fatalf("%v: %v\n%s%s", line, err, &out, &stderr)
	}
	return out.String()
}

// counters and times are no rules.
var counters = regexp.MustCompile(`(?m)\[\d+:\d+\]|^#.*`)

func (s *scene) state(of proxyShape) string {
	s.t.Helper()
	var all strings.Builder
	for _, l := range of.state {
		all.WriteString(s.director(l...))
	}
	return counters.ReplaceAllString(all.String(), "")
}

// paced says a mebibyte a second on a connection, and is to get it back.
type paced struct {
	what      string
	c         net.Conn
	stop      chan struct{}
	result    chan error
	sent, got hash.Hash
	echoed    atomic.Int64
}

// through opens one that a server of this name is to answer.
func (s *scene) through(from *netlab.Namespace, to netip.AddrPort, server string) *paced {
	s.t.Helper()
	c, who, err := connect(&netlab.Node{Namespace: from}, to)
	if err != nil || who != server {
		s.t.Fatalf("from %s to %s: %q, %v, want %s", from.Name, to, who, err, server)
	}
	p := &paced{what: from.Name + " to " + to.String(), c: c, stop: make(chan struct{}), result: make(chan error, 2), sent: sha256.New(), got: sha256.New()}
	s.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * patience)); err != nil {
		s.t.Fatal(err)
	}
	go func() { p.result <- p.say() }()
	go func() { p.result <- p.hear() }()
	return p
}

func (p *paced) say() error {
	const perSecond = 16
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	for {
		select {
		case <-p.stop:
			return p.c.(*net.TCPConn).CloseWrite()
		case <-tick.C:
		}
		b := random(1 << 20 / perSecond)
		p.sent.Write(b)
		if _, err := p.c.Write(b); err != nil {
			return err
		}
	}
}

func (p *paced) hear() error {
	b := make([]byte, 1<<16)
	for {
		n, err := p.c.Read(b)
		p.got.Write(b[:n])
		p.echoed.Add(int64(n))
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// flow waits until every stream has got another half a mebibyte.
func (s *scene) flow(streams []*paced) {
	s.t.Helper()
	for _, p := range streams {
		from := p.echoed.Load()
		s.eventually(p.what+" goes on", func() error {
			select {
			case err := <-p.result:
				s.t.Fatalf("%s broke: %v", p.what, err)
			default:
			}
			if p.echoed.Load() < from+1<<19 {
				return errors.New("it stands")
			}
			return nil
		})
	}
}

// exact ends the streams, and wants them back as they were said.
func (s *scene) exact(streams []*paced) {
	s.t.Helper()
	for _, p := range streams {
		close(p.stop)
		if err := errors.Join(<-p.result, <-p.result); err != nil {
			s.t.Errorf("%s: %v", p.what, err)
		}
		p.c.Close()
		if !bytes.Equal(p.sent.Sum(nil), p.got.Sum(nil)) {
			s.t.Errorf("%s: the echo differs", p.what)
		}
	}
}

// node has a director with rules of others and of kube-proxy's, which lead to s1; s2
// is for waggle.
func node(t *testing.T, sh proxyShape) (s *scene, before string) {
	t.Helper()
	s = newScene(t, netlab.Options{Prefix: "kp", Clients: 1, Servers: 2})
	for i, srv := range s.Servers() {
		s.serve(srv, fmt.Sprintf("s%d", i+1), 8080)
	}
	client := s.Clients()[0]
	// to VIPs, where routing comes before rules
	s.director("ip", "route", "add", "default", "via", client.V4.String())
	s.director("ip", "-6", "route", "add", "default", "via", client.V6.String())
	s.install(sh.others)
	before = s.state(sh)
	s.install(sh.rules)
	s.write(textAt(append(nodePorts(s), vips...), "rr", s.Servers()[1]))
	return s, before
}

func nodePorts(s *scene) []netip.AddrPort {
	c := s.Clients()[0]
	return []netip.AddrPort{netip.AddrPortFrom(c.Gateway4, 30080), netip.AddrPortFrom(c.Gateway6, 30080)}
}

// answers wants a new connection to everything to be this server's.
func (s *scene) answers(server string) {
	s.t.Helper()
	for _, to := range append(nodePorts(s), vips...) {
		c, who, err := connect(s.Clients()[0], to)
		if err != nil || who != server {
			s.t.Fatalf("%s: %q, %v, want %s", to, who, err, server)
		}
		c.Close()
	}
}

// everyWay opens streams of a client to VIPs and node ports, and of the machine
// itself to VIPs.
func (s *scene) everyWay(server string) (streams []*paced) {
	s.t.Helper()
	for _, to := range append(nodePorts(s), vips...) {
		streams = append(streams, s.through(s.Clients()[0].Namespace, to, server))
	}
	for _, to := range vips {
		streams = append(streams, s.through(s.Director, to, server))
	}
	return streams
}

// waggleHere runs the binary on the director; refused is what it says if it fails.
func (s *scene) waggleHere(args ...string) (out, refused string) {
	s.t.Helper()
	cmd := exec.Command(waggle, append(args, "--pin-path", s.pins)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := s.Director.Run(cmd)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	if err != nil {
		refused = stderr.String()
	}
	return stdout.String(), refused
}

// leftOver is what the daemon says of kube-proxy.
func (s *scene) leftOver() (v struct {
	Items       []string
	Connections int
	Removed     bool
}) {
	s.t.Helper()
	out, refused := s.waggleHere("status", "-o", "json")
	var doc struct {
		Daemon struct{ KubeProxy *json.RawMessage }
	}
	if err := json.Unmarshal([]byte(out), &doc); err != nil || doc.Daemon.KubeProxy == nil {
		s.t.Fatalf("status: %v\n%s%s", err, out, refused)
	}
	if err := json.Unmarshal(*doc.Daemon.KubeProxy, &v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

// TestTakeover: streams that kube-proxy's rules lead go on, byte for byte, when
// waggle takes over; what is new is waggle's; the rules are not removed before the
// last stream has ended; then all of them are, and nothing else; and after waggle
// they may come back.
func TestTakeover(t *testing.T) {
	for name, sh := range proxyShapes {
		t.Run(name, func(t *testing.T) {
			s, before := node(t, sh)
			s.answers("s1")
			streams := s.everyWay("s1")
			s.flow(streams)
			s.start()
			s.answers("s2")
			s.refusesToRemove(len(streams))
			s.flow(streams)
			if name == "nftables" {
				s.daemonRemoves(streams)
			} else {
				s.exact(streams)
				if out, refused := s.waggleHere("cleanup", "--kube-proxy"); refused != "" || !strings.Contains(out, "removed ") {
					t.Fatalf("cleanup --kube-proxy: %s%s", out, refused)
				}
			}
			if d := cmp.Diff(before, s.state(sh)); d != "" {
				t.Errorf("what others have (-before +after):\n%s", d)
			}
			s.answers("s2")
			s.comesBack(sh)
		})
	}
}

// daemonRemoves: a daemon that is killed takes nothing with it; the next one waits
// until the streams end, and removes the rules then.
func (s *scene) daemonRemoves(streams []*paced) {
	s.t.Helper()
	s.kill()
	s.args = []string{"--kube-proxy-leftovers", "remove"}
	s.start()
	s.eventually("the daemon waits with removing", func() error {
		if !strings.Contains(s.logged(), "are removed when their last connection ends") {
			return errors.New("it does not say so")
		}
		return nil
	})
	s.flow(streams)
	s.exact(streams)
	s.eventually("the rules are removed", func() error {
		if v := s.leftOver(); !v.Removed || v.Connections > 0 || len(v.Items) > 0 {
			return fmt.Errorf("%+v", v)
		}
		return nil
	})
}

func (s *scene) refusesToRemove(streams int) {
	s.t.Helper()
	count := fmt.Sprintf("%d connections", streams)
	if out, refused := s.waggleHere("cleanup", "--kube-proxy"); out != "" || !strings.Contains(refused, count) {
		s.t.Errorf("cleanup --kube-proxy: %s%s, want it refused, for %s", out, refused, count)
	}
	if out, refused := s.waggleHere("cleanup", "--kube-proxy", "--dry-run"); refused != "" || !strings.Contains(out, count) || !strings.Contains(out, "found ") {
		s.t.Errorf("cleanup --kube-proxy --dry-run: %s%s, want what there is, and %s", out, refused, count)
	}
	if v := s.leftOver(); v.Connections != streams || len(v.Items) == 0 {
		s.t.Errorf("status: %+v, want %s", v, count)
	}
}

// comesBack: after waggle's cleanup kube-proxy's rules serve as they did before.
func (s *scene) comesBack(sh proxyShape) {
	s.t.Helper()
	if err := s.run.Stop(patience); err != nil {
		s.t.Fatal(err)
	}
	s.run = nil
	if out, refused := s.waggleHere("cleanup"); refused != "" || out == "" {
		s.t.Fatalf("cleanup: %s%s", out, refused)
	}
	s.install(sh.rules)
	s.answers("s1")
	s.exact(s.everyWay("s1"))
}

func (s *scene) logged() string {
	s.logMu.Lock()
	defer s.logMu.Unlock()
	return s.log.String()
}

// TestForcedRemoval: with the last rules of nftables that translate, the kernel
// ends what they led; the clients hear of it, and may come again by the same port.
// Where others' rules are left, connections go on.
func TestForcedRemoval(t *testing.T) {
	for name, sh := range map[string]proxyShape{
		"the last rules":  {rules: proxyShapes["nftables"].rules, state: nftState},
		"others are left": proxyShapes["nftables"],
	} {
		t.Run(name, func(t *testing.T) {
			s, before := node(t, sh)
			client := s.Clients()[0]
			idle, _, err := connect(client, vip4)
			if err != nil {
				t.Fatal(err)
			}
			defer idle.Close()
			streams := []*paced{s.through(client.Namespace, vip6, "s1"), s.through(client.Namespace, nodePorts(s)[0], "s1")}
			if _, refused := s.waggleHere("cleanup", "--kube-proxy"); !strings.Contains(refused, "waggle serves nothing") {
				t.Errorf("without a waggle: %q, want it refused", refused)
			}
			s.args = []string{"--kube-proxy-leftovers", "force"}
			s.start()
			s.eventually("the rules are removed", func() error {
				if v := s.leftOver(); !v.Removed || len(v.Items) > 0 {
					return fmt.Errorf("%+v", v)
				}
				return nil
			})
			if d := cmp.Diff(before, s.state(sh)); d != "" {
				t.Errorf("what others have (-before +after):\n%s", d)
			}
			if sh.others != nil {
				s.flow(streams)
				s.exact(streams)
				if err := echo(idle, random(1000)); err != nil {
					t.Errorf("an idle connection: %v", err)
				}
				return
			}
			for _, p := range streams {
				if err := <-p.result; err == nil {
					t.Errorf("%s: no error", p.what)
				}
			}
			if err := echo(idle, random(1000)); err == nil {
				t.Error("an idle connection goes on, and nothing translates it")
			}
			local := idle.LocalAddr().(*net.TCPAddr)
			idle.Close()
			again, err := client.DialWith(t.Context(), &net.Dialer{LocalAddr: local}, "tcp", vip4.String())
			if err != nil {
				t.Fatalf("by the same port: %v", err)
			}
			again.Close()
		})
	}
}

// TestWhatOthersUseStays: portmap may be told to mark packets by kube-proxy's chain.
func TestWhatOthersUseStays(t *testing.T) {
	s, _ := node(t, proxyShapes["iptables"])
	s.director("iptables-nft", "-t", "nat", "-A", "CNI-DN-0123456789", "-j", "KUBE-MARK-MASQ")
	s.start()
	out, refused := s.waggleHere("cleanup", "--kube-proxy")
	if refused != "" {
		t.Fatal(refused)
	}
	for _, want := range []string{
		"removed 8 chains in table ip nat (iptables, nftables backend), and 2 rules that lead there\n",
		"removed 10 chains in table ip6 nat (iptables, nftables backend), and 3 rules that lead there\n",
		"kept chain KUBE-MARK-MASQ of table ip nat, which CNI-DN-0123456789 uses\n",
		"kept chain KUBE-POSTROUTING of table ip nat, which does what KUBE-MARK-MASQ asks for\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%s\nwant: %s", out, want)
		}
	}
	saved := s.director("iptables-nft-save", "-t", "nat")
	for _, want := range []string{"-A CNI-DN-0123456789 -j KUBE-MARK-MASQ", "-j KUBE-POSTROUTING", "-A KUBE-POSTROUTING -m comment", "-A KUBE-MARK-MASQ -j MARK"} {
		if !strings.Contains(saved, want) {
			t.Errorf("gone: %s\n%s", want, saved)
		}
	}
	if out, refused := s.waggleHere("cleanup", "--kube-proxy"); refused != "" || !strings.Contains(out, "nothing of kube-proxy's to remove") {
		t.Errorf("once more: %s%s", out, refused)
	}
	if _, err := os.Stat(s.pins); err != nil {
		t.Errorf("waggle's own pins: %v", err)
	}
}

// TestConnectionsOfBothLookAlike: to the backend, and to what rewrites its answers, a
// connection that kube-proxy's rules lead looks like a new one of the same client
// port, and one that they masquerade like a new one that waggle would masquerade by
// the same port. Who comes second gets another port.
func TestConnectionsOfBothLookAlike(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "kp", Clients: 1, Servers: 1})
	client, server := s.Clients()[0], s.Servers()[0]
	s.reveal(server, 8080)
	s.install(proxyShapes["nftables"].rules)
	type alike struct {
		port uint16
		old  *talk
		to   netip.AddrPort
	}
	var all []alike
	other := []netip.AddrPort{netip.AddrPortFrom(netlab.VIP4, 81), netip.AddrPortFrom(netlab.VIP6, 81)}
	for i, vip := range vips {
		port := uint16(20001)
		all = append(all, alike{port, s.callAgain(client, "tcp", port, vip), other[i]})
		if got := all[len(all)-1].old.seen.Port(); got != port {
			t.Fatalf("kube-proxy's rules made port %d of %d", got, port)
		}
		// one whose masqueraded port waggle would take, too, for a client that has it
		for from := uint16(21000); ; from++ {
			old := s.callAgain(client, "tcp", from, nodePorts(s)[i])
			if p := old.seen.Port(); p > 1024 && p < 20000 {
				all = append(all, alike{p, old, other[i]})
				break
			}
		}
	}
	s.write(masquerading("always", other, server))
	s.start()
	for _, a := range all {
		again := s.callAgain(client, "tcp", a.port, a.to)
		if again.seen.Addr() == client.Addr(a.to.Addr().Is6()) {
			t.Errorf("%s is seen as %s: waggle does not masquerade it", a.to, again.seen)
		}
		for _, tk := range []*talk{a.old, again, a.old} {
			if err := tk.exchange(64 << 10); err != nil {
				t.Fatalf("%s -> %s, seen as %s: %v", tk.LocalAddr(), tk.RemoteAddr(), tk.seen, err)
			}
		}
	}
}
