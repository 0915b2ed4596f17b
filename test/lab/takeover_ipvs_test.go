// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// withIPVS is for kernels that have ip_vs and dummy: the guests of test/vm.
var withIPVS = flag.Bool("ipvs", false, "test kube-proxy's virtual servers too; the kernel needs ip_vs and dummy")

// TestTakeoverOfIPVSMode: what kube-proxy's IPVS mode leaves is removed, and what is
// another's is not.
func TestTakeoverOfIPVSMode(t *testing.T) {
	s, before := node(t, proxyShapes["iptables"])
	s.do(ipvsSets)
	left := "MINE"
	if *withIPVS {
		s.director("iptables-nft", "-t", "nat", "-F", "KUBE-SERVICES")
		s.director("ip6tables-nft", "-t", "nat", "-F", "KUBE-SERVICES")
		s.do(s.virtualServers)
		left += " virtual server 198.18.1.1:9999"
	}
	s.director("iptables-nft", "-t", "nat", "-I", "KUBE-SERVICES", "-m", "set", "--match-set", "KUBE-CLUSTER-IP", "dst,dst", "-j", "KUBE-MARK-MASQ")
	s.answers("s1")
	streams := []*paced{s.through(s.Clients()[0].Namespace, vip4, "s1"), s.through(s.Clients()[0].Namespace, vip6, "s1")}
	s.start()
	s.answers("s2")
	s.flow(streams)
	s.refusesToRemove(len(streams))
	s.exact(streams)
	s.eventually("nothing keeps it", func() error {
		if out, refused := s.waggleHere("cleanup", "--kube-proxy"); refused != "" || !strings.Contains(out, "3 ipsets") {
			return errors.New(out + refused)
		}
		return nil
	})
	var got string
	s.do(func() (err error) {
		got, err = ipvsLeft()
		return err
	})
	if got != left {
		t.Errorf("left are %s, want %s", got, left)
	}
	if s.state(proxyShapes["iptables"]) != before {
		t.Errorf("what others have was:\n%s\nand is:\n%s", before, s.state(proxyShapes["iptables"]))
	}
	s.answers("s2")
}

// do runs f in the director.
func (s *scene) do(f func() error) {
	s.t.Helper()
	if err := s.Director.Do(f); err != nil {
		s.t.Fatal(err)
	}
}

func ipvsSets() error {
	proto := uint8(unix.IPPROTO_TCP)
	vip, vipPort := net.IP(netlab.VIP4.AsSlice()), uint16(80)
	return errors.Join(
		netlink.IpsetCreate("KUBE-CLUSTER-IP", "hash:ip,port", netlink.IpsetCreateOptions{}),
		netlink.IpsetAdd("KUBE-CLUSTER-IP", &netlink.IPSetEntry{IP: vip, Protocol: &proto, Port: &vipPort}),
		netlink.IpsetCreate("KUBE-6-LOAD-BALANCER-SOURCE-CID", "hash:ip,port,net", netlink.IpsetCreateOptions{Family: unix.AF_INET6}),
		netlink.IpsetCreate("KUBE-NODE-PORT-TCP", "bitmap:port", netlink.IpsetCreateOptions{PortFrom: 0, PortTo: 65535}),
		addPort("KUBE-NODE-PORT-TCP", 30080),
		netlink.IpsetCreate("MINE", "hash:ip", netlink.IpsetCreateOptions{}),
	)
}

// addPort adds to a bitmap of ports, to which the library adds a protocol that it
// has not.
func addPort(set string, port uint16) error {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_IPSET<<8|nl.IPSET_CMD_ADD, unix.NLM_F_ACK|unix.NLM_F_EXCL)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_INET})
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_PROTOCOL, nl.Uint8Attr(nl.IPSET_PROTOCOL)))
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_SETNAME, nl.ZeroTerminated(set)))
	data := nl.NewRtAttr(nl.IPSET_ATTR_DATA|unix.NLA_F_NESTED, nil)
	data.AddChild(nl.NewRtAttr(nl.IPSET_ATTR_PORT|unix.NLA_F_NET_BYTEORDER, binary.BigEndian.AppendUint16(nil, port)))
	data.AddChild(&nl.Uint32Attribute{Type: nl.IPSET_ATTR_LINENO | unix.NLA_F_NET_BYTEORDER})
	req.AddData(data)
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}

// virtualServers makes kube-proxy's for the VIPs and node ports, and an
// administrator's own.
func (s *scene) virtualServers() error {
	link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "kube-ipvs0"}}
	err := netlink.LinkAdd(link)
	for _, vip := range []netip.Addr{netlab.VIP4, netlab.VIP6} {
		err = errors.Join(err, netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: vip.AsSlice(), Mask: net.CIDRMask(vip.BitLen(), vip.BitLen())}}))
	}
	h, herr := ipvs.New("")
	if err = errors.Join(err, herr); err != nil {
		return err
	}
	defer h.Close()
	if err := os.WriteFile("/proc/sys/net/ipv4/vs/conntrack", []byte("1"), 0); err != nil { // as kube-proxy does, to masquerade
		return err
	}
	mine := netip.MustParseAddrPort("198.18.1.1:9999")
	for _, at := range slices.Concat(vips, nodePorts(s), []netip.AddrPort{mine}) {
		family, mask := uint16(unix.AF_INET), uint32(0xffffffff)
		if at.Addr().Is6() {
			family, mask = unix.AF_INET6, 128
		}
		v := &ipvs.Service{AddressFamily: family, Protocol: unix.IPPROTO_TCP, Address: at.Addr().AsSlice(), Port: at.Port(), SchedName: "rr", Netmask: mask}
		b := &ipvs.Destination{AddressFamily: family, Address: s.Servers()[0].Addr(at.Addr().Is6()).AsSlice(), Port: 8080, Weight: 1}
		err = errors.Join(err, h.NewService(v), h.NewDestination(v, b))
	}
	return err
}

// ipvsLeft lists sets, virtual servers and kube-proxy's device.
func ipvsLeft() (string, error) {
	var left []string
	sets, err := netlink.IpsetListAll()
	for _, set := range sets {
		left = append(left, set.SetName)
	}
	if !*withIPVS {
		return strings.Join(left, " "), err
	}
	h, herr := ipvs.New("")
	if err = errors.Join(err, herr); err != nil {
		return "", err
	}
	defer h.Close()
	all, err := h.GetServices()
	for _, v := range all {
		left = append(left, fmt.Sprintf("virtual server %s:%d", v.Address, v.Port))
	}
	if _, lerr := netlink.LinkByName("kube-ipvs0"); lerr == nil {
		left = append(left, "kube-ipvs0")
	}
	return strings.Join(left, " "), err
}
