// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// foreign is somebody else's tcx program: it counts packets and passes them on.
type foreign struct {
	id    ebpf.ProgramID
	count *ebpf.Map
}

// tcxNext is TCX_NEXT of linux/bpf.h.
const tcxNext = -1

func newForeign(t *testing.T, ns *netlab.Namespace, device string, at ebpf.AttachType) *foreign {
	t.Helper()
	count, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { count.Close() })
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "foreign", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R2, 0),
		asm.StoreMem(asm.RFP, -4, asm.R2, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, count.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "next"),
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
		asm.Mov.Imm(asm.R0, tcxNext).WithSymbol("next"),
		asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	index, err := ns.Ifindex(device)
	if err != nil {
		t.Fatal(err)
	}
	var l link.Link
	err = ns.Do(func() error {
		l, err = link.AttachTCX(link.TCXOptions{Interface: index, Program: prog, Attach: at})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	info, err := prog.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return &foreign{id, count}
}

func (f *foreign) packets(t *testing.T) (n uint64) {
	t.Helper()
	if err := f.count.Lookup(uint32(0), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// carried returns how many packets a device has received and sent.
func carried(t *testing.T, ns *netlab.Namespace, device string) (rx, tx uint64) {
	t.Helper()
	l, err := ns.Netlink().LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().Statistics.RxPackets, l.Attrs().Statistics.TxPackets
}

func TestOthersProgramsSeeEveryPacket(t *testing.T) {
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 1, Servers: 2, AssignVIPs: false})
	for i, srv := range s.Servers() {
		s.serve(srv, fmt.Sprintf("s%d", i+1), 8080)
	}
	client := s.Clients()[0]
	in := newForeign(t, s.Director, client.Device, ebpf.AttachTCXIngress)
	out := newForeign(t, s.Director, client.Device, ebpf.AttachTCXEgress)
	rx, tx := carried(t, s.Director, client.Device)
	in0, out0 := in.packets(t), out.packets(t)

	s.write(s.text(s.Servers()...))
	s.start()
	if got := programs(t, s.Director, client.Device, ebpf.AttachTCXIngress); len(got) != 2 || got[1] != in.id {
		t.Errorf("ingress has %v, want waggle's before %d", got, in.id)
	}
	if got := programs(t, s.Director, client.Device, ebpf.AttachTCXEgress); len(got) != 2 || got[0] != out.id {
		t.Errorf("egress has %v, want waggle's after %d", got, out.id)
	}
	for i := range 20 {
		if _, err := ask(client, vips[i%2]); err != nil {
			t.Fatal(err)
		}
	}
	s.eventually("both programs saw what the device carried", func() error {
		rxNow, txNow := carried(t, s.Director, client.Device)
		if got, want := in.packets(t)-in0, rxNow-rx; got != want || want < 20 {
			return fmt.Errorf("ingress: %d of %d packets", got, want)
		}
		if got, want := out.packets(t)-out0, txNow-tx; got != want || want < 20 {
			return fmt.Errorf("egress: %d of %d packets", got, want)
		}
		return nil
	})

	s.kill()
	s.must("cleanup")
	for at, f := range map[ebpf.AttachType]*foreign{ebpf.AttachTCXIngress: in, ebpf.AttachTCXEgress: out} {
		s.eventually("the cleanup leaves the others' programs alone", func() error {
			if got := programs(t, s.Director, client.Device, at); !slices.Equal(got, []ebpf.ProgramID{f.id}) {
				return fmt.Errorf("%v has %v, want only %d", at, got, f.id)
			}
			return nil
		})
	}
}
