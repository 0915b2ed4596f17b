// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bpf_test

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/backends"
	"github.com/waggle-lb/waggle/maps/bits"
	"github.com/waggle-lb/waggle/maps/flows"
)

// What the programs return (enum tcx_action_base of the kernel).
const (
	next     = 0xffffffff
	drop     = 2
	redirect = 7
)

// programs is a loaded object whose maps a test fills by hand.
type programs struct {
	bpf.LBObjects
	t     *testing.T
	slots uint32 // next free word
	flags uint32 // of every test run
	// at is where frames come in, nil: at lo.
	at *place
}

// ringPlaces is how many half-open flows the ring knows.
const ringPlaces = 512

func load(t *testing.T) *programs { return loadWith(t, nil) }

// noPacket are the programs for devices without an Ethernet header, and for sockets: no
// packet gets there, and the verifier needs long.
var noPacket = []string{
	"tc_ingress_l3", "tc_egress_l3", "sock_connect4", "sock_connect6", "sock_sendmsg4", "sock_sendmsg6", "sock_recvmsg4", "sock_recvmsg6",
	"sock_getpeername4", "sock_getpeername6", "sock_bind4", "sock_bind6", "sock_release",
}

// loadWith sets variables before loading, and leaves noPacket out.
func loadWith(t *testing.T, vars map[string]any) *programs {
	t.Helper()
	return loadSpec(t, vars, noPacket...)
}

// loadSpec makes the programs named by without pass everything.
func loadSpec(t *testing.T, vars map[string]any, without ...string) *programs {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := bpf.LoadLB()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"flows", "flows_next", "direct", "backends", "backend_ids", "load", "services", "slots", "vips", "fragments"} {
		spec.Maps[name].MaxEntries = 4096 // less to make, read and free
	}
	if err := bpf.Size(spec); err != nil {
		t.Fatal(err)
	}
	spec.Maps["half_open"].MaxEntries = ringPlaces
	if err := spec.Variables["half_open_places"].Set(uint32(ringPlaces)); err != nil {
		t.Fatal(err)
	}
	if err := spec.Variables["clock_moves"].Set(true); err != nil {
		t.Fatal(err)
	}
	for name, v := range vars {
		if err := spec.Variables[name].Set(v); err != nil {
			t.Fatal(err)
		}
	}
	others := map[string]*ebpf.ProgramSpec{"sweep": spec.Programs["sweep_piece"], "walk_sockets": spec.Programs["walk_files"]}
	if err := bpf.Choose(spec); err != nil {
		t.Fatal(err)
	}
	for _, name := range without {
		if other := others[name]; other != nil {
			bpf.WithoutProgram(spec, name)
			spec.Programs[other.Name] = other
			continue
		}
		passes := int32(-1)
		switch spec.Programs[name].Type {
		case ebpf.SchedCLS:
		case ebpf.XDP:
			passes = 2
		default:
			passes = 1
		}
		spec.Programs[name].Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, passes), asm.Return()}
	}
	p := &programs{t: t, slots: 1}
	if err := spec.LoadAndAssign(&p.LBObjects, nil); err != nil {
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			t.Fatalf("%+v", ve)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { p.LBObjects.Close() })
	p.do(p.run(p.Clock))
	p.do(p.Meta.Put(uint32(0), bpf.LBClocks{Timeouts: defaults}))
	return p
}

func (p *programs) do(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *programs) run(prog *ebpf.Program) error {
	_, err := prog.Run(&ebpf.RunOptions{})
	return err
}

// sleep moves the clock.
func (p *programs) sleep(seconds uint64) {
	p.t.Helper()
	var off uint64
	var hz uint32
	p.do(p.ClockOffset.Get(&off))
	p.do(p.Hz.Get(&hz))
	p.do(p.ClockOffset.Set(off + seconds*uint64(hz)))
}

// tick moves the clock by a jiffy.
func (p *programs) tick() {
	p.t.Helper()
	var off uint64
	p.do(p.ClockOffset.Get(&off))
	p.do(p.ClockOffset.Set(off + 1))
}

// sweep walks the flows as often as it takes to be through with what is due.
func (p *programs) sweep() {
	p.t.Helper()
	_, err := flows.Sweep(&p.LBObjects, func() error { return nil })
	p.do(err)
}

func (p *programs) backend(id uint32, addr netip.AddrPort, weight uint16) {
	p.t.Helper()
	b := bpf.LBBackend{Hash: 0xb000 + uint64(id), Addr: addr.Addr().As16(), Port: addr.Port(), Weight: weight, Service: 1,
		State: uint8(bpf.LBBackendStateBACKEND_ACTIVE)}
	p.put(id, b)
	p.do(bits.Put(p.BackendBits, bits.Backend(addr, lb.TCP)))
	p.do(bits.Put(p.BackendBits, bits.Backend(addr, lb.UDP)))
	p.do(bits.Put(p.BackendBits, bits.Backend(addr, lb.SCTP)))
	p.do(bits.Put(p.PeerBits, bits.Addr(addr.Addr())))
}

func (p *programs) put(id uint32, b bpf.LBBackend) {
	p.t.Helper()
	p.do(backends.Put(p.Backends, p.BackendIds, p.IdsFactor, id, b))
}

// pool publishes a run of backend ids for service id.
func (p *programs) pool(id uint32, rule bpf.LBRule, flags uint64, ids ...uint32) {
	p.t.Helper()
	base, count := p.slots, len(ids)
	words := []uint64{0, 0}
	if rule == bpf.LBRuleRULE_LEAST {
		for _, id := range ids {
			var b bpf.LBBackend
			p.do(p.Backends.Lookup(id, &b))
			if b.Weight > 0 {
				words = append(words, uint64(id)|uint64(b.Weight)<<32)
			}
		}
		count = len(words) - 2
	} else {
		for i, id := range ids {
			var b bpf.LBBackend
			p.do(p.Backends.Lookup(id, &b))
			if b.Weight == 0 {
				id |= uint32(bpf.LBLimitsSLOT_CLOSED)
			}
			if i%2 == 0 {
				words = append(words, uint64(id))
			} else {
				words[len(words)-1] |= uint64(id) << 32
			}
		}
	}
	for i, w := range words {
		p.do(p.Slots.Put(base+uint32(i), w))
	}
	p.slots += uint32(len(words))
	word := uint64(base) | uint64(count)<<32 | uint64(rule)<<56 | flags<<60
	p.do(p.Services.Put(id, bpf.LBService{Hash: 0x5000 + uint64(id), Pool: word}))
}

// defaults are how long flows live, in seconds, by state: IPVS's.
var defaults = [16]uint32{2, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120, 300}

func (p *programs) vip(vip netip.AddrPort, proto lb.Protocol, service uint32) {
	p.t.Helper()
	p.do(bits.Put(p.VipBits, bits.Addr(vip.Addr())))
	p.do(p.Vips.Put(bpf.LBVipKey{Addr: vip.Addr().As16(), Port: vip.Port(), Proto: uint8(proto)}, bpf.LBVip{Service: service}))
	p.do(p.Vips.Put(bpf.LBVipKey{Addr: vip.Addr().As16()}, bpf.LBVip{}))
}

// ports says which ports masquerading may use.
func (p *programs) ports(list ...uint16) {
	p.t.Helper()
	p.do(p.MasqPorts.Put(uint32(0), uint64(len(list))))
	for i := 0; i < len(list); i += 4 {
		var word uint64
		for j, port := range list[i:min(i+4, len(list))] {
			word |= uint64(port) << (16 * j)
		}
		p.do(p.MasqPorts.Put(uint32(1+i/4), word))
	}
	for _, port := range list {
		at := uint32(bpf.LBLimitsMASQ_BITS) + uint32(port>>6)
		var word uint64
		p.do(p.MasqPorts.Lookup(at, &word))
		p.do(p.MasqPorts.Put(at, word|1<<(port&63)))
	}
}

// masquerade says which address device 1, on which test runs are, masquerades
// with, and that the service's backends are masqueraded to.
func (p *programs) masquerade(f family, node netip.Addr, proto lb.Protocol) {
	p.t.Helper()
	d := bpf.LBDevice{Addr4: node.As16()}
	if node.Is6() {
		d = bpf.LBDevice{Addr6: node.As16()}
	}
	p.do(p.Devices.Put(uint32(1), d))
	p.do(bits.Put(p.PeerBits, bits.Addr(node)))
	for _, s := range f.servers {
		p.do(bits.Put(p.MasqBits, bits.Backend(s, proto)))
	}
	var v bpf.LBVip
	k := bpf.LBVipKey{Addr: f.vip.Addr().As16(), Port: f.vip.Port(), Proto: uint8(proto)}
	p.do(p.Vips.Lookup(k, &v))
	v.Flags = uint32(bpf.LBVipFlagsVIP_MASQUERADE)
	p.do(p.Vips.Put(k, v))
}

func (p *programs) drops() map[bpf.LBDropReason]uint64 {
	out := map[bpf.LBDropReason]uint64{}
	for r := bpf.LBDropReason(1); r < bpf.LBDropReasonDROP_MAX; r++ {
		var n []uint64
		p.do(p.Drops.Lookup(uint32(r), &n))
		for _, c := range n {
			if c > 0 {
				out[r] += c
			}
		}
	}
	return out
}

func (p *programs) load(id uint32) (l bpf.LBBackendLoad) {
	p.t.Helper()
	p.do(p.Load.Lookup(id, &l))
	return l
}

// send runs a program over a frame and returns its verdict and the frame.
func (p *programs) send(prog *ebpf.Program, in packet.Packet) (uint32, []byte) {
	p.t.Helper()
	b, err := in.Bytes()
	p.do(err)
	return p.sendFrame(prog, b)
}

func (p *programs) sendFrame(prog *ebpf.Program, frame []byte) (ret uint32, out []byte) {
	p.t.Helper()
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Flags: p.flags}
	run := func() (err error) {
		ret, err = prog.Run(&opts)
		return err
	}
	if p.at != nil {
		opts.Context, run = p.at.context(prog, len(frame)), p.at.inside(run)
	}
	p.do(run())
	return ret, opts.DataOut
}

// want checks that a frame comes out as the given packet with right checksums.
func (p *programs) want(prog *ebpf.Program, in packet.Packet, verdict uint32, out packet.Packet) {
	p.t.Helper()
	ret, got := p.send(prog, in)
	exp, err := out.Bytes()
	p.do(err)
	if ret != verdict || string(got) != string(exp) {
		g, err := packet.Parse(got)
		p.t.Errorf("sent %v -> %v\n got verdict %d %v -> %v flags %v err %v\nwant verdict %d %v -> %v flags %v\n got % x\nwant % x", in.Src, in.Dst,
			int32(ret), g.Src, g.Dst, g.Flags, err, int32(verdict), out.Src, out.Dst, out.Flags, got, exp)
	}
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

// family is one address family's set of addresses.
type family struct {
	name              string
	client, vip, vip2 netip.AddrPort
	servers           []netip.AddrPort
}

func families() []family {
	f4 := family{"ipv4", ap("198.18.0.1:10001"), ap("198.18.255.10:80"), ap("198.18.255.11:80"), nil}
	f6 := family{"ipv6", ap("[fd00:c::1]:10001"), ap("[fd00:f::10]:80"), ap("[fd00:f::11]:80"), nil}
	for i := 1; i <= 4; i++ {
		f4.servers = append(f4.servers, ap(fmt.Sprintf("198.19.0.%d:8080", i)))
		f6.servers = append(f6.servers, ap(fmt.Sprintf("[fd00:e::%d]:8080", i)))
	}
	return []family{f4, f6}
}

// each runs a test over both families and both protocols, with one service of
// three backends 1, 2, 3 under rule CURSOR.
func each(t *testing.T, test func(t *testing.T, p *programs, f family, proto lb.Protocol)) {
	eachWith(t, nil, test)
}

func eachWith(t *testing.T, vars map[string]any, test func(t *testing.T, p *programs, f family, proto lb.Protocol)) {
	for _, f := range families() {
		for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
			t.Run(f.name+"/"+proto.String(), func(t *testing.T) {
				p := loadWith(t, vars)
				for i := range uint32(3) {
					p.backend(i+1, f.servers[i], 1)
				}
				p.pool(1, bpf.LBRuleRULE_CURSOR, 0, 1, 2, 3)
				p.vip(f.vip, proto, 1)
				test(t, p, f, proto)
			})
		}
	}
}

func port(a netip.AddrPort, p uint16) netip.AddrPort { return netip.AddrPortFrom(a.Addr(), p) }
