// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	cilium "github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps/devices"
)

// rig runs packets through the loaded programs by BPF_PROG_TEST_RUN.
type rig struct {
	t        testing.TB
	pins     string
	entries  map[string]uint32 // room in maps
	timeouts Timeouts          // of the next open
	clients  int               // that were there already
	limits   Limits            // of the next open; not zero: configuration maps grow
	d        *Dataplane
	ingress  *cilium.Program // of the generation that packets see
	egress   *cilium.Program
	crossing *crossing       // nil: packets come and go by lo, without XDP
	first    *cilium.Program // XDP's
	drops    *cilium.Map
	offset   time.Duration
	assigned map[netip.Addr]bool
	masq     devices.Device
	followed *cilium.Program // of the generation that has the offset and what is assigned
	node     lb.Node         // what the snapshot said then: a change looks at the real devices

	// cgroup is the control group whose sockets are led, if any are; in is where the
	// dataplane is opened, nil: here.
	cgroup string
	in     func(func() error) error

	// stop is the step at which every growth of the flow table ends. If grows,
	// one begins with the first configuration; if moves, all flows are moved
	// after each packet.
	stop         loader.GrowthStep
	grows, moves bool
	mover        *mover                        // of this process, once something was moved
	onStep       func(loader.GrowthStep) error // nil: interrupt
	flowsMax     uint32                        // of the next open
}

var rigs atomic.Int64 // numbers pin paths

// room is what the suite needs: less to make, to read and to free.
var room = map[string]uint32{
	"flows": 1 << 14, "direct": 1 << 10, "half_open": 1 << 10, "affinity": 1 << 10, "fragments": 1 << 8, "held": 1 << 4, "backends": 1 << 10, "load": 1 << 10, "backend_ids": 1 << 10,
	"services": 1 << 11, "service_info": 1 << 11, "vips": 1 << 12, "slots": 1 << 17,
}

// newRig makes a rig. entries is the room in maps that are to have another than
// the suite needs.
func newRig(t testing.TB, entries map[string]uint32) *rig {
	t.Helper()
	r := closedRig(t, entries)
	r.open()
	return r
}

// closedRig is one that has no dataplane yet.
func closedRig(t testing.TB, entries map[string]uint32) *rig {
	t.Helper()
	r := &rig{
		t: t, pins: fmt.Sprintf("/sys/fs/bpf/waggle-test-%d-rig%d", os.Getpid(), rigs.Add(1)), entries: maps.Clone(room),
		assigned: map[netip.Addr]bool{},
	}
	maps.Copy(r.entries, entries)
	t.Cleanup(func() {
		if r.d != nil {
			r.release()
		}
		if _, err := Cleanup(r.pins); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) open() {
	r.t.Helper()
	spec, err := bpf.LoadLB()
	r.do(err)
	fixed := make(map[string]uint32)
	for name, entries := range r.entries {
		spec.Maps[name].MaxEntries = entries
		for _, maps := range together {
			if slices.Contains(maps, name) {
				fixed[name] = entries
			}
		}
	}
	for name, p := range spec.Programs { // what nobody calls, as the verifier needs long
		switch {
		case strings.HasSuffix(name, "_l3"):
			p.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}
		case r.cgroup == "" && (p.Type == cilium.CGroupSockAddr || p.Type == cilium.CGroupSock):
			p.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}
		}
	}
	r.do(spec.Variables["clock_moves"].Set(true))
	if r.limits != (Limits{}) {
		fixed = nil
	}
	open := func() (err error) {
		r.d, err = New(Options{PinPath: r.pins, Cgroup: r.cgroup, XDP: r.crossing.mode(), Log: slog.New(slog.DiscardHandler), Timeouts: r.timeouts, Limits: r.limits, Sizes: loader.Sizes{FlowsMax: r.flowsMax}, spec: spec, fixed: fixed, interrupt: func(s loader.GrowthStep) error {
			if r.onStep != nil {
				return r.onStep(s)
			}
			return r.interrupt(s)
		}})
		return err
	}
	if r.in == nil {
		r.do(open())
		return
	}
	r.do(r.in(open))
}

func (r *rig) do(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) release() {
	r.forget()
	r.do(r.d.Close())
}

func (r *rig) forget() {
	if r.mover != nil {
		r.do(r.mover.Close())
		r.mover = nil
	}
	if r.ingress != nil {
		r.do(errors.Join(r.ingress.Close(), r.egress.Close(), r.first.Close(), r.drops.Close()))
	}
	r.ingress, r.egress, r.first, r.drops, r.followed = nil, nil, nil, nil, nil
}

// follow takes the programs of the published generation, its clock and its
// addresses.
func (r *rig) follow() {
	r.t.Helper()
	g := r.d.gen
	if g == nil {
		return
	}
	r.keepGrowing()
	if g.TcIngress == r.followed && r.node.Equal(&r.d.state.node) {
		return
	}
	r.forget()
	var err error
	r.ingress, err = g.TcIngress.Clone()
	r.do(err)
	r.egress, err = g.TcEgress.Clone()
	r.do(err)
	r.first, err = g.XdpIngress.Clone()
	r.do(err)
	r.drops, err = g.Drops.Clone()
	r.do(err)
	var hz uint32
	r.do(g.Hz.Get(&hz))
	r.do(g.ClockOffset.Set(uint64(r.offset.Seconds() * float64(hz))))
	var addrs []netip.Addr
	for a := range r.assigned {
		addrs = append(addrs, a)
	}
	_, _, err = followAddrs(r.d.state, addrs)
	r.do(err)
	r.do(devices.Table{Map: g.Devices}.Sync(r.crossing.devices(r.masq)))
	r.d.state.usePeer(r.masq.Addr4)
	r.d.state.usePeer(r.masq.Addr6)
	r.followed, r.node = g.TcIngress, r.d.state.node
}

func (r *rig) Dataplane() dataplane.Dataplane { return r.d }

func (r *rig) AssignLocal(addr netip.Addr, assigned bool) {
	if assigned {
		r.assigned[addr] = true
	} else {
		delete(r.assigned, addr)
	}
	r.followed = nil
}

func (r *rig) MasqueradeWith(family lb.Family, addr netip.Addr) {
	if family == lb.IPv4 {
		r.masq.Addr4 = addr
	} else {
		r.masq.Addr6 = addr
	}
	r.followed = nil
}

func (r *rig) Advance(by time.Duration) {
	r.t.Helper()
	r.offset += by
	r.followed = nil
	r.follow()
	if r.d.gen != nil {
		r.do(r.d.sweep(context.Background(), nil))
	}
}

// Restart closes the handles, which is all that the end of a process does; the
// clones stand for the links of devices, which hold the programs.
func (r *rig) Restart() error {
	r.follow()
	if err := r.d.Close(); err != nil {
		return err
	}
	r.open()
	return nil
}

func (r *rig) reasons() (out []uint64) {
	r.t.Helper()
	for i := range uint32(bpf.LBDropReasonDROP_MAX) {
		var n []uint64
		r.do(r.drops.Lookup(i, &n))
		var sum uint64
		for _, c := range n {
			sum += c
		}
		out = append(out, sum)
	}
	return out
}

func (r *rig) Send(p conformance.Packet) conformance.Outcome {
	r.t.Helper()
	r.follow()
	if r.ingress == nil {
		return conformance.Outcome{Verdict: lb.Pass, Src: p.Src, Dst: p.Dst} // no program, no change
	}
	if r.moves {
		defer r.move()
	}
	frame, err := packet.Packet{Src: p.Src, Dst: p.Dst, Protocol: p.Protocol, Flags: packet.Flag(p.Flags), Payload: p.Payload}.Bytes()
	r.do(err)
	prog := r.ingress
	if p.From == conformance.Backend {
		prog = r.egress
	}
	before := r.reasons()
	ret, got := int32(0), []byte(nil)
	if r.crossing != nil {
		ret, got = r.cross(p, frame)
	} else {
		ret, got, err = runAt(prog, frame, nil)
		r.do(err)
	}
	out := r.outcome(ret, p, got)
	for i, n := range r.reasons() {
		if n != before[i] {
			out.Reason += r.d.names.drop(uint32(i))
		}
	}
	return out
}

// runAt runs a program over a frame, which comes in as the context says.
func runAt(prog *cilium.Program, frame []byte, context any) (ret int32, out []byte, err error) {
	opts := cilium.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Context: context}
	code, err := prog.Run(&opts)
	return int32(code), opts.DataOut, err
}

// outcome reads what a program returned (enum tcx_action_base) and made.
func (r *rig) outcome(ret int32, p conformance.Packet, frame []byte) conformance.Outcome {
	r.t.Helper()
	if ret == 2 {
		return conformance.Outcome{Verdict: lb.Drop}
	}
	got, err := packet.Parse(frame)
	r.do(err)
	switch ret {
	case -1:
		out := conformance.Outcome{Verdict: lb.Pass, Src: got.Src, Dst: got.Dst}
		if got.Src != p.Src || got.Dst != p.Dst {
			out.Verdict = lb.Forward
		}
		return out
	case 7:
		if got.Src.Addr() != p.Dst.Addr() || got.Dst.Addr() != p.Src.Addr() {
			r.t.Errorf("the answer goes from %v to %v", got.Src, got.Dst)
		}
		return conformance.Outcome{Verdict: lb.Refuse, Answer: answer(frame)}
	}
	r.t.Fatalf("verdict %d", ret)
	return conformance.Outcome{}
}

func answer(frame []byte) string {
	d := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	if t, ok := d.TransportLayer().(*layers.TCP); ok && t.RST {
		return conformance.Reset
	}
	if i, ok := d.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4); ok && i.TypeCode.Type() == layers.ICMPv4TypeDestinationUnreachable && i.TypeCode.Code() == layers.ICMPv4CodePort {
		return conformance.Unreachable
	}
	if i, ok := d.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6); ok && i.TypeCode.Type() == layers.ICMPv6TypeDestinationUnreachable && i.TypeCode.Code() == layers.ICMPv6CodePortUnreachable {
		return conformance.Unreachable
	}
	return ""
}

func TestConformance(t *testing.T) {
	conformance.Run(t, func(t *testing.T) conformance.Rig { return newRig(t, nil) })
}
