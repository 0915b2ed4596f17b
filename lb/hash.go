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
func BackendHash(service uint64, addr netip.AddrPort) uint64 { return HashesOf(service).Backend(addr) }

// Hashes makes those of a service's backends.
type Hashes struct {
	all  uint64 // of the service's
	four uint64 // and of the part that all IPv4 addresses share
}

// HashesOf begins the hashes of a service's backends, by its own.
func HashesOf(service uint64) Hashes {
	var s [8]byte
	for i := range s {
		s[i] = byte(service >> (8 * i))
	}
	all, mapped := fnv(fnvOffset, s[:]), netip.IPv4Unspecified().As16()
	return Hashes{all, fnv(all, mapped[:12])}
}

// Backend is BackendID.Hash.
func (h Hashes) Backend(addr netip.AddrPort) uint64 {
	a, port := addr.Addr().As16(), []byte{byte(addr.Port() >> 8), byte(addr.Port())}
	if addr.Addr().Is4() {
		return mix(fnv(fnv(h.four, a[12:]), port))
	}
	return mix(fnv(fnv(h.all, a[:]), port))
}
