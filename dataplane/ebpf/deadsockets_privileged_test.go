// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
)

// ofDatagrams is a service of UDP, at the first VIP.
func ofDatagrams(lost lb.Lost, servers ...int) *lb.Service {
	svc := serve("dns", servers, 1)
	svc.Frontends[0].Protocol, svc.Lost = lb.UDP, lost
	return svc
}

func streams(lost lb.Lost, servers ...int) *lb.Service {
	svc := serve("web", servers, 2)
	svc.Lost = lost
	return svc
}

func unhealthy(svc *lb.Service) *lb.Service {
	svc.Backends[0].Unhealthy = true
	return svc
}

// TestTheEnderIsWokenIfABackendLeft: each state is applied after the one above it.
func TestTheEnderIsWokenIfABackendLeft(t *testing.T) {
	r := newRig(t, nil)
	for _, c := range []struct {
		what  string
		state []*lb.Service
		woken bool
	}{
		{"the first", []*lb.Service{streams(lb.LostKeep, 1, 2)}, false},
		{"a service is new", []*lb.Service{streams(lb.LostKeep, 1, 2), ofDatagrams(lb.LostKeep, 1, 2)}, false},
		{"a backend is new", []*lb.Service{streams(lb.LostKeep, 1, 2, 3), ofDatagrams(lb.LostKeep, 1, 2, 3)}, false},
		{"one of TCP left", []*lb.Service{streams(lb.LostKeep, 1, 2), ofDatagrams(lb.LostKeep, 1, 2, 3)}, false},
		{"one of UDP left", []*lb.Service{streams(lb.LostKeep, 1, 2), ofDatagrams(lb.LostKeep, 1, 2)}, true},
		{"one of UDP is unhealthy", []*lb.Service{streams(lb.LostKeep, 1, 2), unhealthy(ofDatagrams(lb.LostKeep, 1, 2))}, true},
		{"it stays so", []*lb.Service{streams(lb.LostKeep, 1, 2), unhealthy(ofDatagrams(lb.LostKeep, 1, 2, 4))}, false},
		{"TCP is to be reset", []*lb.Service{streams(lb.LostReset, 1, 2), unhealthy(ofDatagrams(lb.LostKeep, 1, 2, 4))}, true},
		{"one that is reset left", []*lb.Service{streams(lb.LostReset, 1), unhealthy(ofDatagrams(lb.LostKeep, 1, 2, 4))}, true},
		{"a service is gone", []*lb.Service{streams(lb.LostReset, 1)}, true},
		{"it came again, without one", []*lb.Service{streams(lb.LostReset, 1), ofDatagrams(lb.LostKeep, 2)}, true},
		{"all are as they were", []*lb.Service{streams(lb.LostReset, 1), ofDatagrams(lb.LostKeep, 2)}, false},
	} {
		r.apply(c.state...)
		woken := false
		select {
		case <-r.d.lost:
			woken = true
		default:
		}
		if woken != c.woken {
			t.Errorf("%s: woken %v, want %v", c.what, woken, c.woken)
		}
	}
}

func TestWhichSocketsEnd(t *testing.T) {
	r := newRig(t, nil)
	for _, c := range []struct {
		what string
		svc  *lb.Service
		vip  int
		ends bool
	}{
		{"datagrams", ofDatagrams(lb.LostKeep, 1), 1, true},
		{"datagrams where all is reset", ofDatagrams(lb.LostReset, 1), 1, true},
		{"datagrams that are to be dropped", ofDatagrams(lb.LostDrop, 1), 1, false},
		{"datagrams to what is no VIP any more", ofDatagrams(lb.LostKeep, 1), 9, false},
		{"streams", streams(lb.LostKeep, 1), 2, false},
		{"streams that are to be reset", streams(lb.LostReset, 1), 2, true},
		{"streams that are to be dropped", streams(lb.LostDrop, 1), 2, false},
	} {
		c.svc.Backends[0].Unhealthy = true
		r.apply(c.svc)
		b := r.d.state.withHash(lb.BackendID{Service: c.svc.ID, Addr: serverAt(1)}.Hash())
		w := bpf.LBWalkedSocket{Socket: bpf.LBSocket{
			Proto: uint8(c.svc.Frontends[0].Protocol), Vip: vipAt(c.vip).Addr().As16(), VipPort: 80, Backend: b.id, BackendHash: b.hash,
		}}
		if got := r.d.state.ends(&w, b); got != c.ends {
			t.Errorf("%s: it ends %v, want %v", c.what, got, c.ends)
		}
		if r.d.state.ends(&w, nil) {
			t.Errorf("%s: it ends though its backend serves", c.what)
		}
	}
}
