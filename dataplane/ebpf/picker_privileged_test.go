// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"

	cilium "github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// syns sends SYNs of clients that all differ, faster than rig.Send does.
type syns struct {
	family lb.Family
	frame  []byte
	out    []byte
	n      uint32
	port   uint16 // of clients, plus one for every 16 million
}

// newSYNs makes the n-th of those whose clients differ from each other's.
func newSYNs(t *testing.T, f lb.Family, n int) *syns {
	t.Helper()
	frame, err := packet.Packet{Src: ofFamily(f, clientAt(1)), Dst: ofFamily(f, vipAt(1)), Protocol: lb.TCP, Flags: packet.SYN}.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return &syns{family: f, frame: frame, out: make([]byte, 512), port: 1024 * uint16(1+n%60)}
}

// addrs is where the addresses of a frame end, and its ports begin.
func (s *syns) addrs() (src, dst int) {
	if s.family == lb.IPv4 {
		return 14 + 16, 14 + 20
	}
	return 14 + 24, 14 + 40
}

// aim makes a VIP the destination.
func (s *syns) aim(vip netip.Addr) {
	_, end := s.addrs()
	copy(s.frame[end-len(vip.AsSlice()):end], vip.AsSlice())
}

// send returns the server's number; not above 0 if the packet did not go on to
// one.
func (s *syns) send(prog *cilium.Program) (server int, err error) {
	const eachPort = 1 << 24
	src, dst := s.addrs()
	// 10.x.y.z, or of IPv6 one that ends like it; checksums are only updated
	binary.BigEndian.PutUint32(s.frame[src-4:], 10<<24|s.n%eachPort)
	binary.BigEndian.PutUint16(s.frame[dst:], s.port+uint16(s.n/eachPort))
	s.n++
	opts := cilium.RunOptions{Data: s.frame, DataOut: s.out}
	ret, err := prog.Run(&opts)
	if err != nil || int32(ret) != -1 {
		return -1, err
	}
	b := opts.DataOut[dst-4 : dst+4]
	if b[0] != 198 || b[1] != 19 || binary.BigEndian.Uint16(b[6:]) != 8080 {
		return 0, nil
	}
	return int(binary.BigEndian.Uint16(b[2:])), nil
}

// picker opens flows as fast as it can, on one CPU, and judges where they go.
type picker struct {
	syns  *syns
	cpu   int
	picks atomic.Int64
	// wrong went to no server that was in a set meanwhile; of sharp ones there
	// were two such sets at most. first is the first that was wrong.
	wrong, sharp atomic.Int64
	first        atomic.Pointer[string]
}

// newPickers makes one for each CPU.
func newPickers(t *testing.T, f lb.Family) (all []*picker) {
	for cpu := range runtime.NumCPU() {
		all = append(all, &picker{syns: newSYNs(t, f, cpu), cpu: cpu})
	}
	return all
}

// pick opens flows until it is stopped.
func (p *picker) pick(prog *cilium.Program, s *sets, stop *atomic.Bool) error {
	runtime.LockOSThread() // the thread ends with the goroutine
	var cpus unix.CPUSet
	cpus.Set(p.cpu)
	if err := unix.SchedSetaffinity(0, &cpus); err != nil {
		return fmt.Errorf("stay on CPU %d: %w", p.cpu, err)
	}
	p.syns.aim(ofFamily(s.family, vipAt(s.vip)).Addr())
	for !stop.Load() {
		done := s.done.Load()
		server, err := p.syns.send(prog)
		begun := s.begun.Load()
		if err != nil {
			return err
		}
		if begun <= done+1 {
			p.sharp.Add(1)
		}
		if server < 1 || !s.has(int64(server-1), done, begun) {
			p.wrong.Add(1)
			text := fmt.Sprintf("to server %d (-1: refused or dropped, 0: not translated) while sets %d to %d were published", server, done, begun)
			p.first.CompareAndSwap(nil, &text)
		}
		p.picks.Add(1)
	}
	return nil
}

// judged is what pickers found.
type judged struct {
	picks, wrong, sharp int64
	first               string
}

func total(pickers []*picker) (all judged) {
	for _, p := range pickers {
		all.picks += p.picks.Load()
		all.wrong += p.wrong.Load()
		all.sharp += p.sharp.Load()
		if first := p.first.Load(); first != nil && all.first == "" {
			all.first = *first
		}
	}
	return all
}

// less takes away what was found before.
func (j judged) less(before judged) judged {
	j.picks -= before.picks
	j.wrong -= before.wrong
	j.sharp -= before.sharp
	return j
}
