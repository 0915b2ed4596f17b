// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package differential_test

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"

	moby "github.com/moby/ipvs"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// kernel is a machine that IPVS serves, as its administrator has it do: ipvsadm
// restores the rules, and changes are what ipvsadm sends for -a, -e and -d.
type kernel struct {
	*machine
	ipvs *moby.Handle
}

func newKernel(vips []netip.Addr) (*kernel, error) {
	m, err := newMachine("diffkernel", vips)
	if err != nil {
		return nil, err
	}
	k := &kernel{machine: m}
	return k, m.Do(func() (err error) {
		k.ipvs, err = moby.New("")
		return err
	})
}

func (k *kernel) Close() error {
	if k.ipvs != nil {
		k.ipvs.Close()
	}
	return k.machine.Close()
}

// restore makes the rules those of a text. Connections of those before go on.
func (k *kernel) restore(text string) error {
	if err := k.ipvs.Flush(); err != nil {
		return err
	}
	cmd := exec.Command("ipvsadm", "-R")
	cmd.Stdin = strings.NewReader(text)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := k.Run(cmd); err != nil || out.Len() > 0 {
		return fmt.Errorf("ipvsadm -R: %w: %s", err, out.String())
	}
	return nil
}

// setMode sets the sysctls.
func (k *kernel) setMode(m mode) error {
	for name, on := range map[string]bool{"conn_reuse_mode": m.reuse, "expire_nodest_conn": m.expire, "expire_quiescent_template": m.quiescent} {
		value := "0"
		if on {
			value = "1"
		}
		if err := k.SetSysctl("net/ipv4/vs/"+name, value); err != nil {
			return err
		}
	}
	return nil
}

// bind gives a service another scheduler.
func (k *kernel) bind(f lb.Frontend, scheduler string) error {
	s := virtual(f)
	s.SchedName = scheduler
	return k.ipvs.UpdateService(s)
}

func virtual(f lb.Frontend) *moby.Service {
	s := &moby.Service{
		Address: net.IP(f.Addr.Addr().AsSlice()), Protocol: uint16(f.Protocol), Port: f.Addr.Port(), AddressFamily: unix.AF_INET,
		Netmask: binary.NativeEndian.Uint32([]byte{255, 255, 255, 255}),
	}
	if f.Addr.Addr().Is6() {
		s.AddressFamily, s.Netmask = unix.AF_INET6, 128
	}
	return s
}

func server(b lb.Backend) *moby.Destination {
	return &moby.Destination{
		Address: net.IP(b.Addr.Addr().AsSlice()), Port: b.Addr.Port(), Weight: int(b.Weight), ConnectionFlags: moby.ConnFwdMasq,
		UpperThreshold: b.Upper, LowerThreshold: b.Lower,
	}
}

func (k *kernel) add(f lb.Frontend, b lb.Backend) error {
	return k.ipvs.NewDestination(virtual(f), server(b))
}

func (k *kernel) edit(f lb.Frontend, b lb.Backend) error {
	return k.ipvs.UpdateDestination(virtual(f), server(b))
}

func (k *kernel) remove(f lb.Frontend, b lb.Backend) error {
	return k.ipvs.DelDestination(virtual(f), server(b))
}

// counts is a server and what it counts.
type counts struct {
	lb.Backend
	dataplane.BackendCounters
}

// counts lists the servers of a virtual service in the order of its list. Traffic
// is of up to two seconds ago.
func (k *kernel) counts(f lb.Frontend) ([]counts, error) {
	list, err := k.ipvs.GetDestinations(virtual(f))
	if err != nil {
		return nil, err
	}
	out := make([]counts, 0, len(list))
	for _, d := range list {
		a, _ := netip.AddrFromSlice(d.Address)
		c := counts{Backend: lb.Backend{Addr: netip.AddrPortFrom(a, d.Port), Weight: uint16(d.Weight), Upper: d.UpperThreshold, Lower: d.LowerThreshold}}
		c.Active, c.Inactive, c.Connections = uint64(d.ActiveConnections), uint64(d.InactiveConnections), uint64(d.Stats.Connections)
		c.InPackets, c.OutPackets, c.InBytes, c.OutBytes = uint64(d.Stats.PacketsIn), uint64(d.Stats.PacketsOut), d.Stats.BytesIn, d.Stats.BytesOut
		out = append(out, c)
	}
	return out, nil
}

// entries lists the connections to the frontends that has is true of.
func (k *kernel) entries(has func(vip netip.AddrPort) bool) (map[string]string, error) {
	var table []byte
	err := k.Do(func() (err error) {
		table, err = os.ReadFile("/proc/thread-self/net/ip_vs_conn")
		return err
	})
	out := make(map[string]string)
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 8 || f[0] == "Pro" {
			continue
		}
		var at [3]netip.AddrPort
		for i := range at {
			if at[i], err = listed(f[1+2*i], f[2+2*i]); err != nil {
				return nil, fmt.Errorf("%s: %w", line, err)
			}
		}
		if has(at[1]) && at[0].Port() != 0 { // port 0: persistence
			out[entry(f[0], at[0], at[1])] = fmt.Sprintf("%s %s", at[2], f[7])
		}
	}
	return out, err
}

// listed reads an address as the kernel's list has it: C6130001 1F90.
func listed(addr, port string) (netip.AddrPort, error) {
	p, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if a, err := netip.ParseAddr(strings.Trim(addr, "[]")); err == nil {
		return netip.AddrPortFrom(a, uint16(p)), nil
	}
	b, err := hex.DecodeString(addr)
	if err != nil || len(b) != 4 {
		return netip.AddrPort{}, fmt.Errorf("address %q", addr)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b)), uint16(p)), nil
}
