// SPDX-License-Identifier: Apache-2.0

package lb

import "net/netip"

// FNV-1a, 64 bit: the public parameters of the Fowler-Noll-Vo hash.
const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func fnv(h uint64, b []byte) uint64 {
	for _, c := range b {
		h = (h ^ uint64(c)) * fnvPrime
	}
	return h
}

// mix spreads FNV's weak high bits (the finaliser of SplitMix64), and keeps 0
// free: in the maps 0 means "no identity".
func mix(h uint64) uint64 {
	h ^= h >> 30
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 27
	h *= 0x94d049bb133111eb
	h ^= h >> 31
	if h == 0 {
		return 1
	}
	return h
}

// Hash identifies the service in maps that outlive the process. It depends on
// nothing but the id, so every build and every start computes the same. Not 0.
func (id ServiceID) Hash() uint64 {
	return mix(fnv(fnv(fnvOffset, []byte(id.Name)), []byte{0, byte(id.Family)}))
}

// Hash identifies the backend in maps that outlive the process. Not 0.
func (id BackendID) Hash() uint64 { return BackendHash(id.Service.Hash(), id.Addr) }

// BackendHash is BackendID.Hash for a service hash already computed.
func BackendHash(service uint64, addr netip.AddrPort) uint64 {
	a := addr.Addr().As16()
	var s [8]byte
	for i := range s {
		s[i] = byte(service >> (8 * i))
	}
	return mix(fnv(fnv(fnv(fnvOffset, s[:]), a[:]), []byte{byte(addr.Port() >> 8), byte(addr.Port())}))
}
