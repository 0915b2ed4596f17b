// SPDX-License-Identifier: Apache-2.0

// Package dataplane says what a dataplane is: something that is made to match
// a snapshot and forwards accordingly. Implementations are in ebpf and fake;
// conformance holds the flows that every one of them must pass.
package dataplane

import (
	"errors"
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/lb"
)

// ErrNotRunning says that a pin path holds no dataplane: nothing was ever
// started there, or it was cleaned up.
var ErrNotRunning = errors.New("no dataplane found")

// Dataplane forwards what a snapshot says. One goroutine calls Apply; the
// other methods may be called from any goroutine at any time.
type Dataplane interface {
	// Supports returns nil if the service can be expressed as it is, else an
	// error that names the part that cannot and what to write instead.
	Supports(svc *lb.Service) error
	// Apply makes the kernel match the snapshot. A service that fails keeps
	// what it had; the others are applied. Applying the same snapshot again
	// retries what failed and changes nothing else.
	Apply(snap *lb.Snapshot) Report
	// Read returns what the kernel holds, from the kernel alone.
	Read() (*lb.Snapshot, error)
	// Counters returns the counters since the pins were made.
	Counters() (Counters, error)
	// Close releases the process's handles. The kernel goes on forwarding.
	Close() error
}

// Report is the outcome of one Apply.
type Report struct {
	// Added, Changed and Removed count services that were written.
	Added, Changed, Removed int
	// Failed holds what kept a service from being applied.
	Failed map[lb.ServiceID]error
	// Err is set if nothing at all could be applied.
	Err error
}

// Counters is one reading of all counters.
type Counters struct {
	Backends map[lb.BackendID]BackendCounters
	// Drops counts packets by reason: the names of bpf/drop.h, lower case,
	// without prefix ("empty_pool"). Reasons that never occurred may be absent.
	Drops map[string]uint64
}

// BackendCounters are the counters of one backend. Active and Inactive are
// gauges of flow entries as IPVS counts them, and Overloaded says that they
// reached a threshold; the others only grow.
type BackendCounters struct {
	Active, Inactive uint64
	Overloaded       bool
	Connections      uint64 // picks: flows that were given to this backend
	InPackets        uint64 // client to backend
	InBytes          uint64 // of IP packets, header included
	OutPackets       uint64 // backend to client
	OutBytes         uint64
}

// Status is what a dataplane knows of itself. What is not known is zero.
type Status struct {
	// Dataplane is its name: ebpf or ipvs.
	Dataplane string
	// Generation numbers the configurations that were published at a pin path.
	Generation int
	// Entries is how many places of the flow table are taken, by the last walk
	// over it; every flow has two or more. Limit is how many there are, Max
	// how many it may grow to have.
	Entries, Limit, Max uint32
	// HalfOpen is how many flows have not shown that their client is there.
	HalfOpen uint64
	// Audit is the last recount, done at Audited.
	Audit   Recount
	Audited time.Time
	// Method is how programs are attached to devices, and Why the reason.
	Method, Why string
	// Devices are those of the network namespace, by index.
	Devices []Device
	// Cgroup is the control group whose sockets are led, "" if none are; Hooks are
	// those of it that have a program.
	Cgroup string
	Hooks  []string
	// Mended counts what others took away and the process put back: "program",
	// "qdisc", "pin". Followed counts what came and went: "device", "address".
	// Both since the process began.
	Mended, Followed map[string]uint64
	// SocketsEnded is how many were connected to a backend that no longer serves,
	// and ended, since the process began.
	SocketsEnded uint64
	// Broken is what is out of order now and cannot be mended.
	Broken []string
	// Maps are those that can fill up.
	Maps []Fill
	// Grows says to how many elements maps may grow, by name.
	Grows map[string]uint32
}

// Device is a network device and which programs it has.
type Device struct {
	Name            string
	Index           int
	Ingress, Egress bool
	// Why says why one is missing; empty if it has both.
	Why string
	// XDP is how XDP runs there: native, generic or off; XDPWhy is the reason.
	XDP, XDPWhy string
}

// Fill is how full a map is.
type Fill struct {
	Map         string
	Used, Limit uint32
}

// Recount compares the counts of backends, Active and Inactive, with the flows and
// sockets that there are.
type Recount struct {
	// Compared is how many backends were compared. Skipped are those that
	// could not be, as connections came and went meanwhile: of them only a
	// difference greater than all that changed is known for one.
	Compared, Skipped int
	// Difference is the sum of all differences. It must be 0.
	Difference uint64
	// Wrong are the backends whose counts differ, the worst first.
	Wrong []Miscount
	// Flows is how many flows and sockets were counted, Took how long that took.
	Flows uint64
	Took  time.Duration
}

// Miscount is a backend whose counts differ from the flows that there are.
type Miscount struct {
	// Backend is zero if no backend has the id any more.
	Backend lb.BackendID
	ID      uint32
	// Counted is what its counts say, Found how many flows and sockets there are.
	Counted, Found Load
	// Difference is how far they are apart; of a backend that was skipped, at
	// least: its flows changed meanwhile.
	Difference uint64
	AtLeast    bool
}

// Load is how many flows a backend has, as IPVS counts them. A wrong count may be
// below zero.
type Load struct{ Active, Inactive int64 }

// Flow is one translated flow, seen from the client.
type Flow struct {
	Protocol             lb.Protocol
	Client, VIP, Backend netip.AddrPort
	// Source is what the backend sees as the client, if that is not the
	// client itself: another port of it, or an address of this machine.
	Source netip.AddrPort
	// Service is the service's id, zero if the kernel no longer knows its name.
	Service lb.ServiceID
	// State is IPVS's name of the state ("ESTABLISHED", "UDP").
	State string
	// Idle is the time since the last packet in either direction.
	Idle time.Duration
	// Expires is the time until the entry ends if no packet comes.
	Expires              time.Duration
	InPackets, InBytes   uint64
	OutPackets, OutBytes uint64
	// Bare says that the dataplane knows of Idle, packets and bytes nothing.
	Bare bool
}

// IsOver reports whether the flow's connection has ended, though late packets of it
// still find its entry.
func (f *Flow) IsOver() bool { return f.State == "TIME_WAIT" || f.State == "CLOSE" }

// Client is a client, or a network of clients, whose new flows all go to one
// backend, because its service has affinity.
type Client struct {
	Service lb.ServiceID
	// Client has all bits 0 that do not count.
	Client  netip.Addr
	Backend netip.AddrPort
	// Assured says that the backend answered.
	Assured bool
	// Expires is the time until it ends if no new flow comes; it does not
	// before its flows end.
	Expires time.Duration
}
