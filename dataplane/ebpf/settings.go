// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/maps/services"
)

// option is a bit of a service's settings and where the model has it.
type option struct {
	bit services.Options
	is  func(*lb.Service) bool
	set func(*lb.Service)
}

var serviceOptions = [...]option{
	{bpf.LBServiceOptionsSERVICE_ONE_PACKET, func(s *lb.Service) bool { return s.OnePacket }, func(s *lb.Service) { s.OnePacket = true }},
	{bpf.LBServiceOptionsSERVICE_KEEP_QUIESCED, func(s *lb.Service) bool { return s.Affinity.Quiesced }, func(s *lb.Service) { s.Affinity.Quiesced = true }},
	{bpf.LBServiceOptionsSERVICE_LAPSES, func(s *lb.Service) bool { return s.Affinity.Lapses }, func(s *lb.Service) { s.Affinity.Lapses = true }},
	{bpf.LBServiceOptionsSERVICE_LOST_RESET, func(s *lb.Service) bool { return s.Lost == lb.LostReset }, func(s *lb.Service) { s.Lost = lb.LostReset }},
	{bpf.LBServiceOptionsSERVICE_LOST_DROP, func(s *lb.Service) bool { return s.Lost == lb.LostDrop }, func(s *lb.Service) { s.Lost = lb.LostDrop }},
	{bpf.LBServiceOptionsSERVICE_REUSE_FINISHED, func(s *lb.Service) bool { return s.Reuse == lb.ReuseFinished }, func(s *lb.Service) { s.Reuse = lb.ReuseFinished }},
	{bpf.LBServiceOptionsSERVICE_SOCKETS_OF_HOST, func(s *lb.Service) bool { return s.HostSockets }, func(s *lb.Service) { s.HostSockets = true }},
	{bpf.LBServiceOptionsSERVICE_REUSE_NEVER, func(s *lb.Service) bool { return s.Reuse == lb.ReuseNever }, func(s *lb.Service) { s.Reuse = lb.ReuseNever }},
}

// mappedBits are those that an IPv4 address in the maps has before its own.
func mappedBits(f lb.Family) uint8 { return uint8(128 - f.Bits()) }

// settingsOf is how the map services has what svc says.
func settingsOf(svc *lb.Service) services.Settings {
	out := services.Settings{
		Affinity: uint32(svc.Affinity.Timeout / time.Second),
		Prefix:   svc.Affinity.Prefix + mappedBits(svc.ID.Family),
	}
	for _, o := range serviceOptions {
		if o.is(svc) {
			out.Options |= o.bit
		}
	}
	return out
}

// applySettings is the inverse, for a service with its id.
func applySettings(s services.Settings, svc *lb.Service) {
	svc.Affinity.Timeout = time.Duration(s.Affinity) * time.Second
	svc.Affinity.Prefix = s.Prefix - mappedBits(svc.ID.Family)
	for _, o := range serviceOptions {
		if s.Options&o.bit != 0 {
			o.set(svc)
		}
	}
}
