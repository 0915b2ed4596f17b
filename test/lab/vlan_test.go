// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"encoding/binary"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// vlans is for kernels that have 8021q: the guests of test/vm.
var vlans = flag.Bool("vlans", false, "test VLAN devices too; the kernel needs 8021q")

// tagged puts a VLAN tag into a frame.
func tagged(frame []byte, id uint16) []byte {
	tag := binary.BigEndian.AppendUint16([]byte{0x81, 0x00}, id)
	return slices.Concat(frame[:12], tag, frame[12:])
}

// A frame that is tagged for a VLAN is for the VLAN's device, or nobody's. VLAN
// 0 is none: such a tag holds a priority (IEEE 802.1Q).
func TestVLANs(t *testing.T) {
	t.Run("of nobody", ofNobody)
	if *vlans {
		t.Run("of a device", ofADevice)
	}
}

func ofNobody(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 1})
	client, server := s.Clients()[0], s.Servers()[0]
	s.write(serverIs(server).Replace(both("never")))
	s.start()
	raw, err := client.Raw("eth0")
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	from, err := client.MAC("eth0")
	if err != nil {
		t.Fatal(err)
	}
	to, err := s.Director.MAC(client.Device)
	if err != nil {
		t.Fatal(err)
	}
	for _, offload := range []bool{true, false} {
		if err := s.Director.SetVLANOffload(client.Device, offload); err != nil {
			t.Fatal(err)
		}
		for _, vip := range vips {
			v6 := vip.Addr().Is6()
			at := open(t, server.Namespace, unix.SOCK_DGRAM, v6)
			at.bind(netip.AddrPortFrom(server.Addr(v6), 8080))
			send := func(port uint16, payload string, id int) {
				t.Helper()
				frame, err := packet.Packet{Src: netip.AddrPortFrom(client.Addr(v6), 5000), Dst: netip.AddrPortFrom(vip.Addr(), port),
					Protocol: lb.UDP, Payload: []byte(payload), SrcMAC: [6]byte(from), DstMAC: [6]byte(to)}.Bytes()
				if err != nil {
					t.Fatal(err)
				}
				if id >= 0 {
					frame = tagged(frame, uint16(id))
				}
				if err := raw.Send(frame); err != nil {
					t.Fatal(err)
				}
			}
			send(vip.Port(), "of VLAN 5", 5)
			send(99, "of VLAN 5, refused if it were ours", 5)
			send(vip.Port(), "with a priority", 3<<13)
			send(vip.Port(), "untagged", -1)
			for _, want := range []string{"with a priority", "untagged"} {
				if b, _, err := at.receive(); err != nil || string(b) != want {
					t.Errorf("%v, offload %v: the server got %q, %v; want %q", vip, offload, b, err, want)
				}
			}
			at.close()
		}
	}
	if drops := s.dropped(); len(drops) != 0 {
		t.Errorf("drops %v", drops)
	}
}

func ofADevice(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 1})
	client, server := s.Clients()[0], s.Servers()[0]
	for _, end := range []struct {
		ns     *netlab.Namespace
		lower  string
		v4, v6 string
	}{{s.Director, client.Device, "198.18.101.1/24", "fd00:c:101::1/64"}, {client.Namespace, "eth0", "198.18.101.2/24", "fd00:c:101::2/64"}} {
		if err := end.ns.AddVLAN(end.lower, "vlan10", 10); err != nil {
			t.Fatal(err)
		}
		for _, a := range []string{end.v4, end.v6} {
			if err := end.ns.AddAddr("vlan10", netip.MustParsePrefix(a)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, gateway := range []string{"198.18.101.1", "fd00:c:101::1"} {
		a := vips[i].Addr()
		if err := client.AddRoute(netip.PrefixFrom(a, a.BitLen()), netip.MustParseAddr(gateway)); err != nil {
			t.Fatal(err)
		}
	}
	s.serve(server, "s", 8080)
	s.write(serverIs(server).Replace(both("never")))
	s.start()
	for _, offload := range []bool{true, false} {
		for ns, lower := range map[*netlab.Namespace]string{s.Director: client.Device, client.Namespace: "eth0"} {
			if err := ns.SetVLANOffload(lower, offload); err != nil {
				t.Fatal(err)
			}
		}
		for _, vip := range vips {
			t.Run(fmt.Sprintf("offload=%v/%v", offload, vip), func(t *testing.T) {
				c, _, err := connect(client, vip)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				if err := echo(c, random(1<<20)); err != nil {
					t.Error(err)
				}
				if _, err := ask(client, vip); err != nil {
					t.Error(err)
				}
				rx, tx := carried(t, s.Director, "vlan10")
				if rx < 20 || tx < 20 {
					t.Errorf("the VLAN carried %d packets in and %d out", rx, tx)
				}
			})
		}
	}
	if drops := s.dropped(); len(drops) != 0 {
		t.Errorf("drops %v", drops)
	}
}
