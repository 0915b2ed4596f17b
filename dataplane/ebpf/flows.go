// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/flows"
	"github.com/waggle-lb/waggle/maps/info"
)

// Flows calls yield for every live flow, in no order, until yield returns an
// error, which Flows returns. Flows that begin or end meanwhile may be missing.
func (r *reader) Flows(yield func(dataplane.Flow) error) error {
	clocks, err := info.ReadClocks(r.meta)
	if err != nil {
		return err
	}
	services := make(map[uint64]lb.ServiceID)
	err = info.Services{Map: r.serviceInfo}.Each(func(hash uint64, s info.Service) { services[hash] = s.ID })
	if err != nil {
		return err
	}
	now, err := clocks.Now()
	if err != nil {
		return err
	}
	return r.flows.EachForward(func(k *bpf.LBFlowKey, f *bpf.LBFlow) error {
		state := bpf.LBFlowState(f.State)
		if state >= bpf.LBFlowStateSTATE_REPLY {
			return nil // dead, or being deleted
		}
		reply, ok, err := r.flows.Reply(k, f)
		if err != nil {
			return err
		}
		idle := clocks.Since(now, f.Seen)
		out := dataplane.Flow{
			Protocol:  lb.Protocol(k.Proto),
			Client:    flows.AddrPort(k.Saddr, k.Sport),
			VIP:       flows.AddrPort(k.Daddr, k.Dport),
			Backend:   flows.AddrPort(f.Addr, f.Port),
			Service:   services[f.ServiceHash],
			State:     r.names.state(f.State),
			InPackets: uint64(f.Packets),
			InBytes:   f.Bytes,
		}
		if ok {
			idle = min(idle, clocks.Since(now, reply.Seen))
			out.OutPackets, out.OutBytes = uint64(reply.Packets), reply.Bytes
			if out.Source, err = r.flows.Source(k, f, &reply); err != nil {
				return err
			}
			if out.Source == out.Client {
				out.Source = netip.AddrPort{}
			}
		}
		out.Idle = idle
		out.Expires = max(0, time.Duration(clocks.Timeouts[state])*time.Second-idle)
		return yield(out)
	})
}
