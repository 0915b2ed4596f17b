// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package loader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// tc calls f with the filters of the calling thread's network namespace.
func tc(f func(*nlx.TC) error) error {
	ns, err := nlx.Namespace()
	if err != nil {
		return err
	}
	t, err := nlx.OpenTC(ns)
	if err != nil {
		return err
	}
	defer t.Close()
	return f(t)
}

func filters(index int, egress bool) (list []nlx.Filter, err error) {
	err = tc(func(t *nlx.TC) error {
		list, err = t.Filters(index, egress)
		return err
	})
	return list, err
}

// addForeign adds a filter as others do, and the qdisc if there is none.
func addForeign(index int, p *ebpf.Program) error {
	return tc(func(t *nlx.TC) error {
		if err := t.AddClsact(index); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		return t.Replace(nlx.Filter{Index: index, Priority: 9, Handle: 1, Name: "foreign"}, p.FD())
	})
}

// clsactPlace is a place where programs are attached by filters, with the
// index of its only device.
func clsactPlace(t *testing.T) (p *place, index int) {
	t.Helper()
	p = newPlace(t)
	p.method = Clsact
	index, err := p.lab.Director.Ifindex(p.lab.Clients()[0].Device)
	p.do(err)
	return p, index
}

func (p *place) hasQdisc(index int) (has bool) {
	p.t.Helper()
	p.do(p.lab.Director.Do(func() error {
		return tc(func(t *nlx.TC) (err error) {
			has, err = t.HasClsact(index)
			return err
		})
	}))
	return has
}

// counting makes a program that counts IPv4 packets and passes all on.
func counting(t *testing.T, counter *ebpf.Map) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "Dual BSD/GPL", Instructions: asm.Instructions{
		asm.LoadMem(asm.R2, asm.R1, 16, asm.Word), // __sk_buff.protocol
		asm.Mov.Imm(asm.R0, -1),
		asm.JNE.Imm(asm.R2, 0x0008, "out"),
		asm.LoadMapValue(asm.R1, counter.FD(), 0),
		asm.Mov.Imm(asm.R2, 1),
		asm.StoreXAdd(asm.R1, asm.R2, asm.DWord),
		asm.Return().WithSymbol("out"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestTheKernelDecidesTheMethod(t *testing.T) {
	var major, minor int
	if _, err := fmt.Sscanf(kernelRelease(), "%d.%d", &major, &minor); err != nil {
		t.Fatal(err)
	}
	want := Clsact
	if major > 6 || major == 6 && minor >= 6 {
		want = TCX
	}
	p := newPlace(t)
	l := p.open()
	defer l.Close()
	if got, why := l.Method(); got != want || !strings.Contains(why, kernelRelease()) {
		t.Errorf("Linux %s: %s as %q, want %s and the release", kernelRelease(), got, why, want)
	}
	p.publish(l)
	p.devices(l)
	device := p.lab.Clients()[0].Device
	if n := len(p.attached(device)); n != 1 {
		t.Errorf("%d programs on %s", n, device)
	}
	index, err := p.lab.Director.Ifindex(device)
	p.do(err)
	if has := p.hasQdisc(index); has != (want == Clsact) {
		t.Errorf("Linux %s: a clsact qdisc: %v", kernelRelease(), has)
	}
	if _, err := Open(Options{PinPath: p.pins + "x", Log: slog.New(slog.DiscardHandler), Attach: "magic"}); err == nil {
		t.Error("an unknown method is taken")
	}
	if _, err := Cleanup(p.pins + "x"); err != nil {
		t.Error(err)
	}
}

// A packet meets the old program or the new one, and never neither.
func TestNoPacketIsMissedWhileProgramsAreSwapped(t *testing.T) {
	eachMethod(t, func(t *testing.T, p *place) {
		const packets, batch = 2000, 50
		l := p.open()
		defer l.Close()
		counter, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
		p.do(err)
		defer counter.Close()
		var gens [2]*Generation
		for i := range gens {
			gens[i] = &Generation{}
			prog := counting(t, counter)
			gens[i].TcIngress, gens[i].TcEgress, gens[i].TcIngressL3, gens[i].TcEgressL3 = prog, prog, prog, prog
		}
		l.current = gens[0]
		defer func() { l.current = nil }()
		p.devices(l)
		client := p.lab.Clients()[0]
		in, err := p.lab.Director.ListenPacket(t.Context(), "udp4", netip.AddrPortFrom(client.Gateway4, 9).String())
		p.do(err)
		defer in.Close()
		out, err := client.Dial(t.Context(), "udp4", in.LocalAddr().String())
		p.do(err)
		defer out.Close()
		received, so := receive(in, packets)
		var before uint64
		p.do(counter.Lookup(uint32(0), &before))
		ctx, stop := context.WithCancel(t.Context())
		swaps := make(chan int, 1)
		go func() {
			n := 0
			for ; ctx.Err() == nil; n++ {
				if l.hooks.swap(gens[n%2]); len(l.hooks.stale) > 0 {
					t.Error("a hook cannot be updated")
					break
				}
			}
			swaps <- n
		}()
		for i := range packets {
			if _, err := out.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			// the socket's buffer is small; what is lost is told by the total
			for late := time.Now().Add(time.Second); i%batch == 0 && so.Load() <= int64(i) && time.Now().Before(late); {
				time.Sleep(time.Millisecond)
			}
		}
		got := <-received
		stop()
		n := <-swaps
		if n < 10 {
			t.Errorf("only %d swaps", n)
		}
		var after uint64
		p.do(counter.Lookup(uint32(0), &after))
		if got != packets || after-before < packets {
			t.Errorf("%d packets arrived, the programs saw %d, want %d (%d swaps)", got, after-before, packets, n)
		}
	})
}

// receive counts packets until there are n or none comes any more; so far is
// the count while it goes on.
func receive(c net.PacketConn, n int) (total <-chan int, soFar *atomic.Int64) {
	result := make(chan int, 1)
	soFar = new(atomic.Int64)
	go func() {
		buf, got := make([]byte, 16), 0
		for ; got < n; got++ {
			if c.SetReadDeadline(time.Now().Add(20*time.Second)) != nil {
				break
			}
			if _, _, err := c.ReadFrom(buf); err != nil {
				break
			}
			soFar.Add(1)
		}
		result <- got
	}()
	return result, soFar
}

func TestOurQdiscGoesWithOurFiltersUnlessOthersUseIt(t *testing.T) {
	for _, others := range []string{"none", "filter", "qdisc"} {
		t.Run(others, func(t *testing.T) {
			p, index := clsactPlace(t)
			if others == "qdisc" { // it was there before us, empty
				p.do(p.lab.Director.Do(func() error { return tc(func(t *nlx.TC) error { return t.AddClsact(index) }) }))
			}
			l := p.open()
			p.publish(l)
			p.devices(l)
			for _, egress := range []bool{false, true} {
				p.do(p.lab.Director.Do(func() error {
					list, err := filters(index, egress)
					if err == nil && (len(list) != 1 || !strings.HasPrefix(list[0].Name, "waggle:")) {
						err = fmt.Errorf("filters %+v, want one named waggle:…", list)
					}
					return err
				}))
			}
			if others == "filter" {
				p.do(p.lab.Director.Do(func() error { return addForeign(index, l.current.TcIngress) }))
			}
			p.do(l.Close())
			// from another network namespace: it is found
			removed, err := Cleanup(p.pins)
			p.do(err)
			for _, hook := range []string{"-ingress", "-egress"} {
				if path := filepath.Join(p.pins, linksDir, strconv.Itoa(index)+hook); !slices.Contains(removed, path) {
					t.Errorf("removed %v, want %s among them", removed, path)
				}
			}
			if has := p.hasQdisc(index); has != (others != "none") {
				t.Errorf("others: %s; the qdisc is there: %v", others, has)
			}
			want := 0
			if others == "filter" {
				want = 1
			}
			if got := p.attached(p.lab.Clients()[0].Device); len(got) != want {
				t.Errorf("programs %v after cleanup, want %d", got, want)
			}
		})
	}
}

func TestTwoWagglesShareADevice(t *testing.T) {
	eachMethod(t, func(t *testing.T, p *place) {
		a := p.open()
		defer a.Close()
		first := p.publish(a)
		p.devices(a)
		other := *p
		other.pins += "-2"
		b := other.open()
		second := other.publish(b)
		other.devices(b)
		device := p.lab.Clients()[0].Device
		got := p.attached(device)
		slices.Sort(got)
		if want := []ebpf.ProgramID{id(t, first.TcIngress), id(t, second.TcIngress)}; !slices.Equal(got, want) {
			t.Errorf("programs %v, want %v", got, want)
		}
		p.do(b.Close())
		_, err := Cleanup(other.pins)
		p.do(err)
		p.awaitAttached(device, id(t, first.TcIngress))
	})
}

func TestAnIngressQdiscIsRefusedByName(t *testing.T) {
	p, _ := clsactPlace(t)
	device := p.lab.Clients()[0].Device
	p.do(p.lab.Director.Run(exec.Command("tc", "qdisc", "add", "dev", device, "ingress")))
	l := p.open()
	defer l.Close()
	p.publish(l)
	err := p.lab.Director.Do(func() error {
		s, err := nlx.Read()
		if err == nil {
			_, err = l.SetDevices(s.Links)
		}
		return err
	})
	for _, word := range []string{device, kernelRelease(), "ingress qdisc"} {
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("got %v, want %q in it", err, word)
		}
	}
}
