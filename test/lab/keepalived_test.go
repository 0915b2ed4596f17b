// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// The two segments of the pair: clients before, servers behind.
const (
	front = "front"
	back  = "back"
)

// hostIn is host h of a segment.
func hostIn(segment string, h byte, v6 bool) netip.Addr {
	third := byte(200)
	if segment == back {
		third = 201
	}
	if v6 {
		return netip.AddrFrom16([16]byte{0: 0xfd, 3: third, 15: h})
	}
	return netip.AddrFrom4([4]byte{198, 18, third, h})
}

// What moves between the directors: the VIPs, and the gateways of the servers,
// whose answers must pass who has the flows.
const (
	hostVIP     = 100
	hostGateway = 254
)

// pair is two directors side by side, each with a waggle and a keepalived of its
// own. The client reaches nothing but its segment.
type pair struct {
	t         *testing.T
	directors [2]*scene
	sw        *netlab.Namespace
	client    *netlab.Node
	servers   []*netlab.Node
}

func newPair(t *testing.T) *pair {
	t.Helper()
	p := &pair{t: t}
	for i := range p.directors {
		p.directors[i] = newScene(t, netlab.Options{Prefix: fmt.Sprintf("ha%d", i)})
	}
	var err error
	if p.sw, err = p.directors[0].AddNamespace("switch"); err != nil {
		t.Fatal(err)
	}
	for _, segment := range []string{front, back} {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.Flags = segment, net.FlagUp
		if err := p.sw.Netlink().LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
			t.Fatal(err)
		}
		for i, d := range p.directors {
			p.plug(segment, d.Director, segment, byte(i+1))
		}
	}
	p.client = p.node("client", front, 50)
	for i := range byte(3) {
		s := p.node(fmt.Sprintf("server%d", i+1), back, 11+i)
		for _, v6 := range []bool{false, true} {
			gateway := hostIn(back, hostGateway, v6)
			if err := s.AddRoute(netip.PrefixFrom(either(v6, netip.IPv4Unspecified(), netip.IPv6Unspecified()), 0), gateway); err != nil {
				t.Fatal(err)
			}
		}
		p.directors[0].serve(s, s.Device, 8080)
		p.servers = append(p.servers, s)
	}
	return p
}

// node makes a namespace that is a host of a segment.
func (p *pair) node(name, segment string, h byte) *netlab.Node {
	p.t.Helper()
	ns, err := p.directors[0].AddNamespace(name)
	if err != nil {
		p.t.Fatal(err)
	}
	p.plug(segment, ns, "eth0", h)
	return &netlab.Node{Namespace: ns, Device: name, V4: hostIn(segment, h, false), V6: hostIn(segment, h, true)}
}

// port is the switch's end of host h's cable.
func port(segment string, h byte) string { return fmt.Sprintf("%s%d", segment, h) }

// plug connects a device to the switch, as host h of a segment.
func (p *pair) plug(segment string, ns *netlab.Namespace, device string, h byte) {
	p.t.Helper()
	if err := netlab.AddDevice(p.sw, port(segment, h), ns, device); err != nil {
		p.t.Fatal(err)
	}
	link, err := p.sw.Netlink().LinkByName(port(segment, h))
	if err != nil {
		p.t.Fatal(err)
	}
	bridge, err := p.sw.Netlink().LinkByName(segment)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := p.sw.Netlink().LinkSetMaster(link, bridge); err != nil {
		p.t.Fatal(err)
	}
	for _, prefix := range []netip.Prefix{netip.PrefixFrom(hostIn(segment, h, false), 24), netip.PrefixFrom(hostIn(segment, h, true), 64)} {
		if err := ns.AddAddr(device, prefix); err != nil {
			p.t.Fatal(err)
		}
	}
}

// cable connects both of a director's cables, or pulls them.
func (p *pair) cable(director int, in bool) {
	p.t.Helper()
	for _, segment := range []string{front, back} {
		link, err := p.sw.Netlink().LinkByName(port(segment, byte(director+1)))
		if err != nil {
			p.t.Fatal(err)
		}
		set := p.sw.Netlink().LinkSetDown
		if in {
			set = p.sw.Netlink().LinkSetUp
		}
		if err := set(link); err != nil {
			p.t.Fatal(err)
		}
	}
}

// config is a director's keepalived.conf: docs/edge.md has one for people.
func config(priority int) string {
	vip := func(v6 bool) string {
		return fmt.Sprintf("%s dev %s\n    %s dev %s", host(hostIn(front, hostVIP, v6)), front, host(hostIn(back, hostGateway, v6)), back)
	}
	return fmt.Sprintf(`global_defs {
  vrrp_version 3
}
vrrp_instance vips {
  state BACKUP
  interface %s
  virtual_router_id 51
  priority %d
  advert_int 0.1
  track_interface {
    %s
  }
  virtual_ipaddress {
    %s
  }
  virtual_ipaddress_excluded {
    %s
  }
}
`, front, priority, back, vip(false), vip(true))
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// keepalive starts a director's keepalived, which ends with the test, or before.
func (p *pair) keepalive(director int) *netlab.Process {
	p.t.Helper()
	dir, d := p.t.TempDir(), p.directors[director]
	file := filepath.Join(dir, "keepalived.conf")
	if err := os.WriteFile(file, []byte(config(150-50*director)), 0o600); err != nil {
		p.t.Fatal(err)
	}
	cmd := command("keepalived", "--dont-fork", "--log-console", "--log-detail", "--no-syslog", "--vrrp", "--use-file", file,
		"--pid", filepath.Join(dir, "pid"), "--vrrp_pid", filepath.Join(dir, "vrrp-pid"))
	cmd.Stdout, cmd.Stderr = d, d
	process, err := d.Director.Start(cmd)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := process.Stop(patience); err != nil {
			p.t.Errorf("keepalived: %v", err)
		}
	})
	return process
}

// hasVIPs waits until a director has all that moves.
func (p *pair) hasVIPs(director int) {
	p.t.Helper()
	d := p.directors[director]
	d.eventually(fmt.Sprintf("director %d has the VIPs", director), func() error {
		list, err := d.Director.Netlink().AddrList(nil, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		has := make(map[netip.Addr]bool)
		for _, a := range list {
			if ip, ok := netip.AddrFromSlice(a.IP); ok {
				has[ip.Unmap()] = true
			}
		}
		for _, v6 := range []bool{false, true} {
			if !has[hostIn(front, hostVIP, v6)] || !has[hostIn(back, hostGateway, v6)] {
				return errors.New("it has not")
			}
		}
		return nil
	})
}

// The services, by port of the VIP.
var schedulers = map[uint16]string{80: "sh", 81: "mh", 82: "rr"}

// TestAVIPMovesBetweenDirectors: what hashes goes on at the other director with
// the same servers, and back again, and away by its keepalived's end; what does
// not is reset by it.
func TestAVIPMovesBetweenDirectors(t *testing.T) {
	p := newPair(t)
	rules := ""
	for port, name := range schedulers {
		var vips []netip.AddrPort
		for _, v6 := range []bool{false, true} {
			vips = append(vips, netip.AddrPortFrom(hostIn(front, hostVIP, v6), port))
		}
		rules += textAt(vips, name, p.servers...)
	}
	var keepers []*netlab.Process
	for i, d := range p.directors {
		d.write(rules)
		d.start()
		keepers = append(keepers, p.keepalive(i))
	}
	p.hasVIPs(0)
	kept, lost := p.chatter(80, 81), p.chatter(82)
	silence(kept) // that of the beginning

	p.cable(0, false)
	p.goOn(1, "cables pulled", kept)
	for _, c := range lost {
		if err := c.wait(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a connection without a hash: %v, want a reset", err)
		}
	}
	p.cable(0, true)
	p.goOn(0, "cables plugged in", kept)
	if err := keepers[0].Stop(patience); err != nil {
		t.Error(err)
	}
	p.goOn(1, "keepalived stopped", kept)
	for _, c := range kept {
		close(c.stop)
		if err := c.wait(); err != nil {
			t.Errorf("a connection with a hash: %v", err)
		}
	}
}

// goOn waits until a director has the VIPs and the streams go on there, and new
// ones begin.
func (p *pair) goOn(director int, since string, all []*chat) {
	p.t.Helper()
	p.hasVIPs(director)
	goOn(p.t, all)
	p.t.Logf("%s: the longest silence of %d streams is %v", since, len(all), silence(all))
	p.wantNew()
}

// chatter opens four streams to each of the ports, of either family.
func (p *pair) chatter(ports ...uint16) (all []*chat) {
	p.t.Helper()
	for _, port := range ports {
		for i := range 4 {
			all = append(all, newChat(p.t, p.client, netip.AddrPortFrom(hostIn(front, hostVIP, i%2 == 1), port)))
		}
	}
	goOn(p.t, all)
	return all
}

// wantNew wants new connections to every service.
func (p *pair) wantNew() {
	p.t.Helper()
	for port := range schedulers {
		for _, v6 := range []bool{false, true} {
			vip := netip.AddrPortFrom(hostIn(front, hostVIP, v6), port)
			c, _, err := connect(p.client, vip)
			if err != nil {
				p.t.Errorf("a new connection to %v: %v", vip, err)
				continue
			}
			if err := echo(c, random(1<<16)); err != nil {
				p.t.Errorf("a new connection to %v: %v", vip, err)
			}
			c.Close()
		}
	}
}
