// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package bits_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/bits"
	"github.com/waggle-lb/waggle/maps/maptest"
)

// pass is what a program returns that has nothing to do with a packet
// (TCX_NEXT).
const pass = 0xffffffff

// world is the loaded programs and two bitmaps, in which all bits are set.
type world struct {
	bpf.LBObjects
	t             *testing.T
	vip, backends *bits.Table
}

func load(t *testing.T, words uint32) *world {
	t.Helper()
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := bpf.LoadLB()
	if err != nil {
		t.Fatal(err)
	}
	spec.Maps["flows"].MaxEntries = 1 << 12
	for _, name := range bpf.Bitmaps {
		spec.Maps[name].MaxEntries = words
	}
	w := &world{t: t}
	w.do(errors.Join(bpf.Size(spec), bpf.Choose(spec)))
	w.do(spec.LoadAndAssign(&w.LBObjects, nil))
	w.vip, err = bits.Open(w.VipBits)
	w.do(err)
	w.backends, err = bits.Open(w.BackendBits)
	w.do(err)
	t.Cleanup(func() {
		if err := errors.Join(w.vip.Close(), w.backends.Close(), w.Close()); err != nil {
			t.Error(err)
		}
	})
	for i := range words {
		w.do(w.VipBits.Put(i, ^uint64(0)))
		w.do(w.BackendBits.Put(i, ^uint64(0)))
	}
	return w
}

func (w *world) do(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// serve makes a service of one backend.
func (w *world) serve(vip, backend netip.AddrPort, proto lb.Protocol) {
	w.t.Helper()
	w.do(w.Vips.Put(bpf.LBVipKey{Addr: vip.Addr().As16(), Port: vip.Port(), Proto: uint8(proto)}, bpf.LBVip{Service: 1}))
	w.do(w.Services.Put(uint32(1), bpf.LBService{Hash: 1, Pool: uint64(bpf.LBRuleRULE_CURSOR)<<56 | 1<<32 | 1}))
	w.do(w.Slots.Put(uint32(3), uint64(1)))
	w.do(w.Backends.Put(uint32(1), bpf.LBBackend{
		Hash: 1, Addr: backend.Addr().As16(), Port: backend.Port(), Weight: 1, Service: 1, State: uint8(bpf.LBBackendStateBACKEND_ACTIVE),
	}))
}

// run sends a packet through a program and returns what comes out; false if the
// program let it pass as it was.
func (w *world) run(p *ebpf.Program, src, dst netip.AddrPort, proto lb.Protocol, f packet.Flag) (packet.Packet, bool) {
	w.t.Helper()
	if proto != lb.TCP {
		f = 0
	}
	in, err := packet.Packet{Src: src, Dst: dst, Protocol: proto, Flags: f}.Bytes()
	w.do(err)
	opts := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+256)}
	ret, err := p.Run(&opts)
	w.do(err)
	if ret != pass {
		w.t.Fatalf("%s -> %s: verdict %d", src, dst, int32(ret))
	}
	out, err := packet.Parse(opts.DataOut)
	w.do(err)
	return out, out.Src != src || out.Dst != dst
}

func addrPort(random *rand.Rand, family lb.Family) netip.AddrPort {
	port := uint16(1 + random.IntN(65535))
	var a [16]byte
	for i := range a {
		a[i] = byte(random.Uint32())
	}
	if family == lb.IPv4 {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{198, 18 + a[0]&1, a[1], a[2]}), port)
	}
	a[0], a[1] = 0x20, 0x01
	return netip.AddrPortFrom(netip.AddrFrom16(a), port)
}

// The programs look at two bits of each map; with all others set, one of them alone
// decides. So they are those that Go computes.
func TestBitsAreThoseThatTheProgramsLookAt(t *testing.T) {
	for _, words := range []uint32{uint32(bpf.LBLimitsBITS_WORDS), 1 << 15} {
		t.Run(fmt.Sprint(words, " words"), func(t *testing.T) { lookedAt(load(t, words), rand.New(rand.NewPCG(1, 2))) })
	}
}

func lookedAt(w *world, random *rand.Rand) {
	t := w.t
	for range 100 {
		for _, family := range []lb.Family{lb.IPv4, lb.IPv6} {
			for _, proto := range []lb.Protocol{lb.TCP, lb.UDP} {
				client, vip, backend := addrPort(random, family), addrPort(random, family), addrPort(random, family)
				w.serve(vip, backend, proto)
				for _, bit := range w.vip.Bits(bits.Addr(vip.Addr())) {
					w.vip.Clear(bit)
					if got, changed := w.run(w.TcIngress, client, vip, proto, packet.SYN); changed {
						t.Errorf("%s/%s: without bit %d it went to %s", vip, proto, bit, got.Dst)
					}
					w.vip.Set(bit)
				}
				if got, _ := w.run(w.TcIngress, client, vip, proto, packet.SYN); got.Dst != backend {
					t.Errorf("%s/%s: with all bits set it went to %s, want %s", vip, proto, got.Dst, backend)
				}
				for _, bit := range w.backends.Bits(bits.Backend(backend, proto)) {
					w.backends.Clear(bit)
					if got, changed := w.run(w.TcEgress, backend, client, proto, packet.SYN|packet.ACK); changed {
						t.Errorf("%s/%s: without bit %d it came from %s", backend, proto, bit, got.Src)
					}
					w.backends.Set(bit)
				}
				if got, _ := w.run(w.TcEgress, backend, client, proto, packet.SYN|packet.ACK); got.Src != vip {
					t.Errorf("%s/%s: with all bits set it came from %s, want %s", backend, proto, got.Src, vip)
				}
			}
		}
		if t.Failed() {
			return
		}
	}
}

func TestSetAndClearTouchOneBit(t *testing.T) {
	m := maptest.New(t, "vip_bits", uint32(bpf.LBLimitsBITS_WORDS))
	table, err := bits.Open(m)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	word := func(i uint32) (w uint64) {
		t.Helper()
		if err := m.Lookup(i, &w); err != nil {
			t.Fatal(err)
		}
		return w
	}
	last := uint32(bpf.LBLimitsBITS_WORDS) - 1
	for _, bit := range []uint32{0, 63, 64, last*64 + 63} {
		table.Set(bit)
		table.Set(bit)
	}
	if got := [...]uint64{word(0), word(1), word(2), word(last)}; got != [...]uint64{1 | 1<<63, 1, 0, 1 << 63} {
		t.Errorf("words %#x", got)
	}
	if !table.IsSet(63) || table.IsSet(62) || table.IsSet(65) || !table.IsSet(64) {
		t.Error("other bits are set than were")
	}
	table.Clear(63)
	table.Clear(62)
	if got := [...]uint64{word(0), word(1)}; got != [...]uint64{1, 1} || table.IsSet(63) {
		t.Errorf("words %#x", got)
	}
}

// An address has the mark of its mapped form, and all bits lie in the maps.
func TestMarksOfMappedAddresses(t *testing.T) {
	random, shift := rand.New(rand.NewPCG(3, 4)), bits.Shift(bpf.BitsShift(uint32(bpf.LBLimitsBITS_WORDS)))
	for range 1000 {
		a := addrPort(random, lb.IPv4)
		mapped := netip.AddrPortFrom(netip.AddrFrom16(a.Addr().As16()), a.Port())
		if bits.Addr(a.Addr()) != bits.Addr(mapped.Addr()) || bits.Backend(a, lb.UDP) != bits.Backend(mapped, lb.UDP) {
			t.Fatalf("%s and %s differ", a, mapped)
		}
		for _, m := range []bits.Mark{bits.Addr(a.Addr()), bits.Backend(a, lb.TCP)} {
			if b := shift.Bits(m); max(b[0], b[1]) >= 64*uint32(bpf.LBLimitsBITS_WORDS) || b[0]>>6 != b[1]>>6 {
				t.Fatalf("%s: bits %d are outside of the map, or of two words", a, b)
			}
		}
	}
}

// A port has the bit of its number, in a map of a bit for each.
func TestPortsHaveABitEach(t *testing.T) {
	shift := bits.Shift(bpf.BitsShift(uint32(bpf.LBLimitsPORT_WORDS)))
	for port := range uint32(1 << 16) {
		if b := shift.Bits(bits.Port(uint16(port))); b != [2]uint32{port, port} {
			t.Fatalf("port %d has bits %d", port, b)
		}
	}
}

// A mark says which of its bits were set, and so does one whose two bits are the same;
// both ways to set a mark set the same.
func TestAMarkSaysWhichBitsWereSet(t *testing.T) {
	table, err := bits.Open(maptest.New(t, "vip_bits", 1<<12))
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	const word = 7 << 20
	for _, step := range []struct {
		mark bits.Mark
		want [2]bool
	}{
		{word | 3<<6 | 2, [2]bool{false, false}},
		{word | 3<<6 | 4, [2]bool{false, true}},
		{word | 5<<6 | 2, [2]bool{true, false}},
		{word | 5<<6 | 4, [2]bool{true, true}},
		{word | 9<<6 | 9, [2]bool{false, true}},
		{word | 9<<6 | 9, [2]bool{true, true}},
	} {
		if got := table.Mark(step.mark); got != step.want || !table.Has(step.mark) {
			t.Errorf("mark %#x: were %v, want %v; has it: %v", step.mark, got, step.want, table.Has(step.mark))
		}
	}
	table.Add(word | 11<<6 | 10)
	want := []uint32{7<<6 + 2, 7<<6 + 3, 7<<6 + 4, 7<<6 + 5, 7<<6 + 9, 7<<6 + 10, 7<<6 + 11}
	if got := slices.Collect(table.Each); !slices.Equal(got, want) {
		t.Errorf("bits %v, want %v", got, want)
	}
	if table.Has(word|10<<6|12) || table.Has(word|12<<6|10) || table.Has(word+1<<20|3<<6|2) {
		t.Error("it has marks of which a bit is not set")
	}
}

func TestEachYieldsTheBitsThatAreSet(t *testing.T) {
	table, err := bits.Open(maptest.New(t, "vip_bits", 4))
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	want := []uint32{0, 5, 63, 64, 255}
	for _, bit := range want {
		table.Set(bit)
	}
	if got := slices.Collect(table.Each); !slices.Equal(got, want) {
		t.Errorf("bits %v, want %v", got, want)
	}
}

// In a bitmap of another size an address has, of each of its bits there, one of those.
func TestThoseHaveTheBit(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	var tables []*bits.Table
	for _, words := range []uint32{1 << 12, 1 << 15} {
		table, err := bits.Open(maptest.New(t, "vip_bits", words))
		if err != nil {
			t.Fatal(err)
		}
		defer table.Close()
		tables = append(tables, table)
	}
	for range 1000 {
		m := bits.Addr(addrPort(random, lb.IPv6).Addr())
		for _, from := range tables {
			for _, to := range tables {
				for i, bit := range from.Bits(m) {
					those := slices.Collect(to.Those(bit, from.Shift))
					if want := to.Bits(m)[i]; !slices.Contains(those, want) || len(those) != int(max(1, to.Len()/from.Len())) {
						t.Fatalf("mark %#x: bit %d of %d is %d of %d, not of %d", m, bit, from.Len(), want, to.Len(), those)
					}
				}
			}
		}
	}
}
