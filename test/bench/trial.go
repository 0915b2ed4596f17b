// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/packet"
)

// What programs return: of tc, TCX_NEXT, TC_ACT_SHOT and TC_ACT_REDIRECT; of XDP.
const (
	next     = 0xffffffff
	drop     = 2
	redirect = 7

	xdpPass     = 2
	xdpTX       = 3
	xdpRedirect = 4
)

// hook is a place for a program to be measured: inside a wrapper, which a floor
// takes the measure of.
type hook struct {
	wrapper, floor *ebpf.Program
	target         *ebpf.Map // the wrapper's tail call
	rest           uint32    // the floor's verdict
	context        any
}

func (b *bench) ingress() hook {
	return hook{b.wrap.WrapIngress, b.wrap.FloorIngress, b.wrap.Ingress, next, nil}
}

func (b *bench) egress() hook {
	return hook{b.wrap.WrapEgress, b.wrap.FloorEgress, b.wrap.Egress, next, nil}
}

// scene points the wrappers at one flow set.
type scene struct {
	f      family
	other  netip.Addr // the other end of all packets,
	spread uint32     // and these bits of the flow's number added
	port   uint32
	flows  int
	flags  packet.Flag
	first  int  // of them
	random bool // in an order that caches cannot guess
	mac    [6]byte
	length int // of frames that are answered
	room   int // that an answer takes in front of what it quotes
}

func (b *bench) scene(s scene) error {
	v := &b.wrap.wrapVariables
	factor := uint32(1)
	if s.random {
		factor = 2654435761
	}
	var mac uint64
	for i, x := range s.mac {
		mac |= uint64(x) << (8 * i)
	}
	for _, set := range []struct {
		v     *ebpf.Variable
		value any
	}{
		{v.FlowsMask, uint32(s.flows - 1)}, {v.Factor, factor}, {v.ServiceAddr, low(s.other)}, {v.Spread, s.spread}, {v.ServicePort, s.port},
		{v.ClientBase, low(s.f.client)}, {v.TcpFlags, uint8(s.flags)}, {v.Counter, uint32(s.first)}, {v.FrameTo, mac}, {v.FullLen, uint32(s.length)},
		{v.AddedRoom, uint32(s.room)},
	} {
		if err := set.v.Set(set.value); err != nil {
			return err
		}
	}
	return nil
}

// trial is a row in the making.
type trial struct {
	name  string
	hook  hook
	prog  *ebpf.Program
	frame []byte
	want  uint32 // the verdict
	scene scene
	// packets of a run; 0: as many as the options say, or as there are flows.
	packets int
	// before is called before each run, outside the clock.
	before func() error
	// counted says how many packets the programs counted; nil: they count none.
	counted func() (uint64, error)
	// again makes ready for another run, after one in which too few counted.
	again func() error
	fill  int // flows of which the table has both entries
}

// attempts are how often a run is made again that did not measure what it should.
const attempts = 5

// try measures a program and, in its place, a floor, in turns.
func (b *bench) try(t trial) (row, error) {
	if t.packets == 0 {
		t.packets = max(b.packets, t.scene.flows)
	}
	var floors, times []float64
	for i := range 2*b.runs + b.runs%2 { // half of the floor's runs before, half after
		if first := (b.runs + 1) / 2; i < first || i >= first+b.runs {
			ns, err := b.time(t.hook, t.hook.floor, t.frame, t.hook.rest, t.packets, t.scene)
			if err != nil {
				return row{}, fmt.Errorf("%s: the floor: %w", t.name, err)
			}
			floors = append(floors, ns)
			continue
		}
		ns, err := b.once(t)
		if err != nil {
			return row{}, fmt.Errorf("%s: %w", t.name, err)
		}
		times = append(times, ns)
	}
	slices.Sort(floors)
	slices.Sort(times)
	r := summary(t.name, t.scene.flows, times, floors[len(floors)/2])
	r.Fill = int(200 * uint64(t.fill) / uint64(b.size.flows))
	return r, nil
}

// once is one run. The last packet's verdict is looked at, and as many packets as
// were sent must have been counted: all but those of 65,536 whose checksum looks
// unfinished to XDP, and more if a signal had the kernel begin the run again.
func (b *bench) once(t trial) (float64, error) {
	for range attempts {
		if t.before != nil {
			if err := t.before(); err != nil {
				return 0, err
			}
		}
		var before, after uint64
		var err error
		if t.counted != nil {
			if before, err = t.counted(); err != nil {
				return 0, err
			}
		}
		ns, err := b.time(t.hook, t.prog, t.frame, t.want, t.packets, t.scene)
		if err != nil && t.again == nil || t.counted == nil {
			return ns, err
		}
		if after, err = t.counted(); err != nil {
			return 0, err
		}
		n, want := after-before, uint64(t.packets)
		if n >= want-want/1000 && n <= want+want/100 {
			return ns, nil
		}
		if t.again == nil {
			return 0, fmt.Errorf("%d packets counted, want %d: not measuring what it should", n, want)
		}
		if err := t.again(); err != nil {
			return 0, err
		}
	}
	return 0, fmt.Errorf("%d runs counted too few packets: not measuring what it should", attempts)
}

// time runs a program in a hook's wrapper and returns ns a packet.
func (b *bench) time(h hook, prog *ebpf.Program, frame []byte, want uint32, packets int, s scene) (float64, error) {
	if err := errors.Join(b.install(h, prog), b.scene(s)); err != nil {
		return 0, err
	}
	return measure(h.wrapper, frame, want, packets, h.context)
}

// install puts a program behind a hook's wrapper. The kernel takes its time for that.
func (b *bench) install(h hook, prog *ebpf.Program) error {
	if b.installed[h.target] == prog {
		return nil
	}
	b.installed[h.target] = prog
	return h.target.Put(uint32(0), prog)
}

// send sends packets, and asks for no verdict.
func (b *bench) send(h hook, prog *ebpf.Program, frame []byte, s scene, packets int) error {
	if err := errors.Join(b.install(h, prog), b.scene(s)); err != nil {
		return err
	}
	_, err := h.wrapper.Run(&ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Repeat: uint32(packets), Context: h.context})
	return err
}

func summary(name string, flows int, t []float64, floor float64) row {
	median := t[len(t)/2]
	r := row{Name: name, Flows: flows, Min: t[0], Median: median, Spread: 100 * (t[len(t)-1] - t[0]) / t[0]}
	if floor > 0 {
		r.Net = median - floor
	}
	return r
}

// measure runs a program the given number of times and returns ns a packet.
func measure(prog *ebpf.Program, frame []byte, want uint32, packets int, context any) (float64, error) {
	opts := ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Repeat: uint32(packets), Context: context}
	start := cpuTime()
	ret, err := prog.Run(&opts)
	spent := cpuTime() - start
	if err != nil {
		return 0, fmt.Errorf("run %v: %w", prog, err)
	}
	if ret != want {
		return 0, fmt.Errorf("run %v: verdict %d, want %d: not measuring what it should", prog, int32(ret), int32(want))
	}
	return float64(spent) / float64(packets), nil
}

// cpuTime is this thread's CPU time in ns: wall time on a shared machine would
// count the neighbours.
func cpuTime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0
	}
	return ts.Nano()
}
