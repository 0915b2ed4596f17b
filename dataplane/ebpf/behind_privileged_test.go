// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/lb"
)

// TestNewFlowsLeaveWhatIsBehind: what somebody behind the programs holds, said
// before the first Apply, is left to him, by a larger generation too, until he
// is gone.
func TestNewFlowsLeaveWhatIsBehind(t *testing.T) {
	r := newRig(t, nil)
	held := dataplane.Pair{Client: clientAt(100), Backend: serverAt(1), Protocol: lb.TCP}
	r.do(r.d.SetBehind(dataplane.Behind{Translates: true, Ports: []uint16{r.d.ports[0], 40000}, Pairs: []dataplane.Pair{held}}))
	snap := r.apply(serve("a", []int{1}, 1))
	check := func(when string, behind bool) {
		t.Helper()
		syn := conformance.Packet{From: conformance.Client, Src: r.newClient(), Dst: vipAt(1), Protocol: lb.TCP, Flags: conformance.SYN}
		if out := r.Send(syn); out.Verdict != lb.Forward || out.Src != syn.Src {
			t.Errorf("%s: a client of no connection: %+v, want its own port", when, out)
		}
		ports := r.d.ports
		if behind {
			ports = ports[1:]
		}
		if got := r.d.tables.masqPorts.Read(); !slices.Equal(got, ports) {
			t.Errorf("%s: masquerading has %d ports, want %d", when, len(got), len(ports))
		}
		want := lb.Refuse
		if behind {
			want = lb.Pass
		}
		data := conformance.Packet{From: conformance.Client, Src: r.newClient(), Dst: vipAt(1), Protocol: lb.TCP, Flags: conformance.ACK}
		if out := r.Send(data); out.Verdict != want {
			t.Errorf("%s: data of no flow: %+v, want %v", when, out, want)
		}
	}
	check("before the first Apply", true)
	syn := conformance.Packet{From: conformance.Client, Src: held.Client, Dst: vipAt(1), Protocol: lb.TCP, Flags: conformance.SYN}
	if out := r.Send(syn); out.Verdict != lb.Forward || out.Src == held.Client || out.Dst != held.Backend {
		t.Errorf("the port of a connection that is behind: %+v, want another one at %v", out, held.Backend)
	}
	_, err := r.d.build(snap, needOf(snap).sizes(r.d.limits))
	r.do(err)
	check("in a new generation", true)
	r.do(r.d.SetBehind(dataplane.Behind{}))
	check("when nobody is", false)
}

// TestAFlowThatIsEndedIsNobodyElses: so its client hears of it, whoever is behind.
func TestAFlowThatIsEndedIsNobodyElses(t *testing.T) {
	r := newRig(t, nil)
	svc := serve("a", []int{1, 2}, 1)
	svc.Lost = lb.LostReset
	r.do(r.d.SetBehind(dataplane.Behind{Translates: true}))
	r.apply(svc)
	client, server := r.connect(1)
	rest := serve("a", []int{3 - server}, 1)
	rest.Lost = lb.LostReset
	r.apply(rest)
	data := conformance.Packet{From: conformance.Client, Src: client, Dst: vipAt(1), Protocol: lb.TCP, Flags: conformance.ACK}
	if out := r.Send(data); out.Verdict != lb.Refuse || out.Answer != conformance.Reset {
		t.Errorf("data of a flow whose backend is lost: %+v, want a reset", out)
	}
}

func TestOnePortIsLeft(t *testing.T) {
	if got := portsBeside([]uint16{1, 2, 3}, []uint16{3, 9, 1}); !slices.Equal(got, []uint16{2}) {
		t.Errorf("got %v", got)
	}
	if got := portsBeside([]uint16{1, 2}, []uint16{2, 1}); !slices.Equal(got, []uint16{1, 2}) {
		t.Errorf("got %v, want all as none is left", got)
	}
}
