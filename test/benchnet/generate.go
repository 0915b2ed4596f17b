// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// liveFrames makes a test run of an XDP program send what it redirects
// (BPF_F_TEST_XDP_LIVE_FRAMES of linux/bpf.h, Linux 5.18).
const liveFrames = 1 << 1

// burst is how many packets a test run sends: it cannot be interrupted.
const burst = 1 << 15

// nodeDevice is a node's only device (package netlab).
const nodeDevice = "eth0"

// packets sends datagrams of 64 bytes of one flow from the client's device as fast as
// one CPU can, which does all the work up to the server's socket, and counts those that
// come to the server's device. It does what xdp-trafficgen does, whose version in Debian 12
// does not load on Linux 6.18: a tracepoint that it wants is gone.
func packets(ctx context.Context, r row, seconds int) (map[string]float64, error) {
	// Only a device that has NAPI takes frames that are redirected to its peer: with GRO
	// it has. The other measurements are made without, as it is by default.
	if err := r.Director.SetOffload(r.client.Device, netlab.GRO, true); err != nil {
		return nil, err
	}
	rate, cpu, err := r.flood(ctx, time.Duration(seconds)*time.Second)
	return map[string]float64{"packets": rate, "CPU a packet": cpu}, errors.Join(err, r.Director.SetOffload(r.client.Device, netlab.GRO, false))
}

// flood returns packets a second, and µs of CPU time for each.
func (r row) flood(ctx context.Context, d time.Duration) (rate, cpu float64, err error) {
	frame, err := r.datagram()
	if err != nil {
		return 0, 0, err
	}
	ifindex, err := r.client.Ifindex(nodeDevice)
	if err != nil {
		return 0, 0, err
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "send", Type: ebpf.XDP, License: "Apache-2.0", Instructions: sender(frame, ifindex)})
	if err != nil {
		return 0, 0, fmt.Errorf("load the generator: %w", err)
	}
	defer prog.Close()
	before, err := received(r.server)
	if err != nil {
		return 0, 0, err
	}
	m, err := r.startMeter()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	var spent time.Duration
	err = r.client.Do(func() error { // it sends by a device of the thread's namespace
		for time.Since(began) < d && ctx.Err() == nil {
			if _, err := prog.Run(&ebpf.RunOptions{Data: frame, Repeat: burst, Flags: liveFrames}); err != nil {
				return fmt.Errorf("send packets: %w", err)
			}
		}
		spent, err = cpuTime(unix.CLOCK_THREAD_CPUTIME_ID)
		return errors.Join(err, ctx.Err())
	})
	took := time.Since(began)
	after, counted := received(r.server)
	others, metered := m.spent()
	if err = errors.Join(err, counted, metered); err != nil {
		return 0, 0, err
	}
	if after-before < burst/2 {
		return 0, 0, fmt.Errorf("only %d packets came", after-before)
	}
	n := float64(after - before)
	return n / took.Seconds(), float64((spent + others).Microseconds()) / n, nil
}

// sender is a program that sends a frame by a device. It writes the headers anew, as the
// kernel uses a page again as it comes back from the server, with another address and
// another TTL.
func sender(frame []byte, ifindex int) asm.Instructions {
	const headers = 44 // in words: Ethernet, IPv4 and UDP are 42 bytes
	program := asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 0, asm.Word), // xdp_md's data and data_end
		asm.LoadMem(asm.R3, asm.R1, 4, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, headers),
		asm.JGT.Reg(asm.R4, asm.R3, "end"),
	}
	for i := 0; i < headers; i += 4 {
		word := int32(binary.NativeEndian.Uint32(frame[i:]))
		program = append(program, asm.StoreImm(asm.R2, int16(i), int64(word), asm.Word))
	}
	return append(program,
		asm.Mov.Imm(asm.R1, int32(ifindex)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("end"), // XDP_ABORTED
		asm.Return(),
	)
}

// datagram is a frame from the client to the service.
func (r row) datagram() ([]byte, error) {
	p := packet.Packet{
		Src: netip.AddrPortFrom(r.client.V4, 40000), Dst: r.target("udp", sinkPort),
		Protocol: lb.UDP, Payload: make([]byte, 64),
	}
	for _, end := range []struct {
		n      *netlab.Namespace
		device string
		mac    *[6]byte
	}{{r.client.Namespace, nodeDevice, &p.SrcMAC}, {r.Director, r.client.Device, &p.DstMAC}} {
		link, err := end.n.Netlink().LinkByName(end.device)
		if err != nil {
			return nil, fmt.Errorf("find device %s: %w", end.device, err)
		}
		copy(end.mac[:], link.Attrs().HardwareAddr)
	}
	return p.Bytes()
}

// received is how many packets a node's device has had.
func received(n *netlab.Node) (uint64, error) {
	link, err := n.Netlink().LinkByName(nodeDevice)
	if err != nil {
		return 0, fmt.Errorf("find device %s of the server: %w", nodeDevice, err)
	}
	return link.Attrs().Statistics.RxPackets, nil
}
