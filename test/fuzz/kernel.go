// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// checksumComplete is BPF_F_TEST_SKB_CHECKSUM_COMPLETE (Linux 6.17): the packet
// comes as from a device that has summed it, and the run fails with EBADMSG if
// the sum does not follow what the program changed.
const checksumComplete = 1 << 2

const (
	maxFrame = 3000
	// shortLen is a frame with nothing behind its Ethernet header, which a
	// test run refuses.
	shortLen = ethLen
)

// kernel is the loaded programs, and the thread's network namespace.
type kernel struct {
	bpf.LBObjects
	w        *world
	capacity int
	start    uint32 // what stands for bpf_get_prandom_u32
	devices  []*device
	progs    [4]*ebpf.Program
	tap      int
	complete bool // the kernel knows checksumComplete

	hz      uint64 // of the kernel
	epoch   time.Time
	jiffies uint64 // at epoch
	clock   uint64 // what the programs are to see
	shift   uint64 // what is added for that
	out     []byte
	in      []byte
	ctx     [192]byte
}

// loadOptions say how the programs are loaded.
type loadOptions struct {
	capacity int
	start    uint32
	helper   bool // checksums as kernels before 6.2
}

// small are the maps that a run makes smaller than they ship, to be read and
// emptied soon, or larger, so that nothing is evicted without being asked.
var small = map[string]uint32{"backends": 4096, "backend_ids": 4096, "load": 4096, "services": 64, "slots": lastWord,
	"vips": 128, "fragments": 1 << 15, "held": 1 << 13, "affinity": 1 << 13, "half_open": ringPlaces}

// load loads the programs. The kernel's random numbers become a constant, so
// that a run can be repeated.
func load(o loadOptions, devices []*device, tap int) (*kernel, error) {
	if err := rlimit.RemoveMemlock(); err != nil {
		return nil, err
	}
	spec, err := bpf.LoadLB()
	if err != nil {
		return nil, err
	}
	for name, n := range small {
		spec.Maps[name].MaxEntries = n
	}
	if err := bpf.Size(spec); err != nil {
		return nil, err
	}
	spec.Maps["flows"].MaxEntries = uint32(o.capacity)
	spec.Maps["flows"].Flags |= unix.BPF_F_ZERO_SEED // walks go the same way every time
	for name, v := range map[string]any{"clock_moves": true, "checksum_by_helper": o.helper, "half_open_places": uint32(ringPlaces)} {
		if err := spec.Variables[name].Set(v); err != nil {
			return nil, err
		}
	}
	for _, p := range spec.Programs {
		for i, ins := range p.Instructions {
			if ins.IsBuiltinCall() && ins.Constant == int64(asm.FnGetPrandomU32) {
				p.Instructions[i] = asm.Mov.Imm32(asm.R0, int32(o.start)).WithMetadata(ins.Metadata)
			}
		}
	}
	if err := bpf.Choose(spec); err != nil {
		return nil, err
	}
	k := &kernel{capacity: o.capacity, start: o.start, devices: devices, tap: tap, out: make([]byte, maxFrame+512), in: make([]byte, maxFrame+512)}
	if err := spec.LoadAndAssign(&k.LBObjects, nil); err != nil {
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			return nil, fmt.Errorf("load the programs: %+v", ve) //nolint:errorlint // its whole log is wanted
		}
		return nil, fmt.Errorf("load the programs: %w", err)
	}
	k.progs = [4]*ebpf.Program{k.TcIngress, k.TcEgress, k.TcIngressL3, k.TcEgressL3}
	if err := k.readClock(); err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, k.probe()
}

// Close unloads the programs.
func (k *kernel) Close() error {
	return k.LBObjects.Close()
}

// readClock learns what a jiffy is and where they stand.
func (k *kernel) readClock() error {
	var res unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &res); err != nil {
		return err
	}
	k.hz = uint64(time.Second / time.Duration(res.Nano()))
	k.epoch = time.Now()
	if _, err := k.Clock.Run(&ebpf.RunOptions{}); err != nil {
		return err
	}
	k.clock = 1 << 33
	return k.ClockJiffies.Get(&k.jiffies)
}

// probe finds out whether the kernel plays a device that sums packets.
func (k *kernel) probe() error {
	frame := make([]byte, 60)
	_, _, err := k.run(0, frame, k.devices[0], checksumComplete)
	k.complete = err == nil
	if errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// drift is how far the programs' clock may run ahead of the model's before it
// is put back, in jiffies.
const drift = hz / 10

// setClock makes the programs see the clock that the model has, whatever the
// time, give or take drift. Where that puts it back, which no clock of the
// kernel's does, the allowance of answers is told.
func (k *kernel) setClock(m *model) error {
	now := k.jiffies + uint64(time.Since(k.epoch))*k.hz/uint64(time.Second)
	if ahead := now + k.shift - k.clock; ahead <= drift {
		return nil
	}
	k.shift = k.clock - now
	if err := k.ClockOffset.Set(k.shift); err != nil {
		return err
	}
	b := bpf.LBBucket{Tokens: uint64(m.tokens)}
	if m.refilled != 0 && m.now-m.refilled < hz {
		b.Refilled = k.clock - 1 // the time that was measured may be a jiffy late
	}
	return k.Buckets.Put(uint32(0), slices.Repeat([]bpf.LBBucket{b}, ebpf.MustPossibleCPU()))
}

// testRun is the attribute of BPF_PROG_TEST_RUN (union bpf_attr).
type testRun struct {
	prog, ret, inLen, outLen         uint32
	in, out                          uint64
	repeat, duration                 uint32
	ctxInLen, ctxOutLen              uint32
	ctxIn, ctxOut                    uint64
	flags, cpu, batchSize, alignment uint32
}

// ctxIfindex is where ifindex stands in struct __sk_buff.
const ctxIfindex = 40

// run sends a frame through a program. The result is good until the next run.
// It calls the kernel itself, as the library allocates for each packet.
func (k *kernel) run(hook int, frame []byte, dev *device, flags uint32) (uint32, []byte, error) {
	n := copy(k.in, frame)
	a := testRun{prog: uint32(k.progs[hook].FD()), inLen: uint32(n), outLen: uint32(len(k.out)), repeat: 1, flags: flags}
	a.in, a.out = uint64(uintptr(unsafe.Pointer(&k.in[0]))), uint64(uintptr(unsafe.Pointer(&k.out[0])))
	if dev.index != 1 {
		*(*uint32)(unsafe.Pointer(&k.ctx[ctxIfindex])) = dev.index
		a.ctxInLen, a.ctxIn = uint32(len(k.ctx)), uint64(uintptr(unsafe.Pointer(&k.ctx[0])))
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a))
		runtime.KeepAlive(k)
		if errno == unix.EINTR {
			continue
		}
		if errno != 0 {
			return a.ret, nil, os.NewSyscallError("BPF_PROG_TEST_RUN", errno)
		}
		return a.ret, k.out[:a.outLen], nil
	}
}
