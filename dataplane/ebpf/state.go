// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"log/slog"
	"math"
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/backends"
	"github.com/waggle-lb/waggle/maps/bits"
	"github.com/waggle-lb/waggle/maps/services"
)

// record is what is known of one service that has an index.
type record struct {
	id    lb.ServiceID
	hash  uint64
	index uint32
	// svc is what the maps say; nil if the service is gone, and the record
	// only stays for its draining backends.
	svc *lb.Service
	// pools are what packets pick from, in the order of bothPools.
	pools [len(bothPools)]pool
	// settings are what packets find; they stay when the service is gone.
	settings services.Settings
	// list are the records of svc's backends, in their order.
	list []*backend
	// held is how many backends have an id, the draining ones included.
	held int
	// addrs are the VIP bits that the record holds: those of frontends that
	// it once had too, as their flows may still live.
	addrs set[netip.Addr]
	// ports are the same of node ports.
	ports set[uint16]
	// sources are the networks in source_ranges.
	sources []netip.Prefix
	// since is when svc became nil.
	since time.Time
}

// owned is a frontend in the map, and whose it is; zero: it is not there.
type owned struct {
	rec *record
	as  lb.Frontend
}

var bothPools = [...]lb.Pools{lb.Cluster, lb.Local}

// pool is one of a service's two.
type pool struct {
	// run is what packets pick from, at its place; nil: it is not used.
	run *sched.Run
	at  place
	// stood is where run stood in a former generation, until it has a place.
	stood sched.Position
}

// backend is one backend id in use. There may be millions.
type backend struct {
	hash  uint64
	owner *record
	// in is what the service says, lastWeight the last weight that was not 0,
	// order the place in its list.
	in         *lb.Backend
	since      time.Duration // from when on draining, by state.clock
	id         uint32
	order      uint32
	turn       uint32 // the last write of its service that it was part of
	lastWeight uint16
	// draining says that it left its service.
	draining bool
	// bits are the protocols for which it holds a bit, masqueraded those for
	// which it holds one of masqBits. Flows that need them may outlive the
	// service's word, so they stay as long as the id.
	bits, masqueraded protocolSet
}

// state mirrors the maps of one generation. All writes go through it. Not safe
// for concurrent use.
type state struct {
	t   *tables
	log *slog.Logger
	now func() time.Time
	// began is when the state was made.
	began time.Time
	// published says that packets see this generation. Before that runs need
	// no rest.
	published bool

	// applied is what the maps say, with the pointers of records' svc; node what
	// they say of this machine.
	applied  *lb.Snapshot
	node     lb.Node
	records  map[uint64]*record    // by service hash
	owners   map[lb.Frontend]owned // by their keys
	marks    map[netip.Addr]int    // frontends of each marked address
	byID     []*backend            // nil: nobody's, or not written yet
	turn     uint32                // counts writes of services
	ids      []uint32              // of the run that is being written
	draining map[*backend]struct{}
	// unhealthy are those of services that have not left them.
	unhealthy map[*backend]struct{}
	gone      map[*record]struct{}

	// counted is where the ids end whose counters may be other than zero.
	counted uint32

	serviceIDs *idSpace
	backendIDs *idSpace
	space      *space
	mhTables   map[*uint16]*table // by their first index
	// stuck are ids that no backend has, but whose load is not zero: nobody
	// can take over such a count.
	stuck []uint32
	// left says that a backend ceased to serve since the ender of sockets was told.
	left bool
	// anyPort says that a backend with port 0 is or was there.
	anyPort bool

	vipBits, backendBits, peerBits, masqBits, portBits bitRefs
	// peers are the addresses of this machine that masquerading or node ports used:
	// they hold a peer bit.
	peers map[netip.Addr]bool
}

func newState(t *tables, log *slog.Logger, now func() time.Time) *state {
	return &state{
		t:           t,
		log:         log,
		now:         now,
		began:       now(),
		counted:     math.MaxUint32,
		records:     make(map[uint64]*record),
		owners:      make(map[lb.Frontend]owned),
		marks:       make(map[netip.Addr]int),
		draining:    make(map[*backend]struct{}),
		unhealthy:   make(map[*backend]struct{}),
		gone:        make(map[*record]struct{}),
		serviceIDs:  newIDSpace(t.services.Len()),
		backendIDs:  newIDSpace(t.backends.Len()),
		byID:        make([]*backend, t.backends.Len()),
		space:       newSpace(1, t.slots.Len()),
		mhTables:    make(map[*uint16]*table),
		vipBits:     newBitRefs(t.vipBits),
		backendBits: newBitRefs(t.backendBits),
		peerBits:    newBitRefs(t.peerBits),
		masqBits:    newBitRefs(t.masqBits),
		portBits:    newBitRefs(t.portBits),
		peers:       make(map[netip.Addr]bool),
	}
}

// expect makes room for a snapshot, in a state that is empty.
func (s *state) expect(snap *lb.Snapshot) {
	n := needOf(snap)
	s.records = make(map[uint64]*record, n.services)
	s.owners = make(map[lb.Frontend]owned, n.vips/2)
	s.marks = make(map[netip.Addr]int, n.services)
}

// clock is the time since the state was made.
func (s *state) clock() time.Duration { return s.now().Sub(s.began) }

// newRecord makes the record of a service at an index that was taken for it.
// Nothing leads to it yet.
func (s *state) newRecord(id lb.ServiceID, index uint32) *record {
	return &record{id: id, hash: id.Hash(), index: index, since: s.now()}
}

// enter gives a new record its place in the maps, as a service that is gone.
func (s *state) enter(rec *record) {
	s.records[rec.hash] = rec
	s.gone[rec] = struct{}{}
	for _, which := range bothPools {
		s.t.services.Publish(rec.index, which, services.Pool{})
	}
	s.t.services.Set(rec.index, rec.settings) // not those of who had the index before
	s.t.services.SetHash(rec.index, rec.hash)
}

// takeBackendID returns an id whose load is zero.
func (s *state) takeBackendID() (uint32, bool) {
	for {
		id, ok := s.backendIDs.take()
		if !ok || s.t.load.IsZero(id) {
			return id, ok
		}
		s.stuck = append(s.stuck, id)
	}
}

// adopt gives a backend to its service's record.
func (s *state) adopt(b *backend) {
	b.owner.held++
	s.byID[b.id] = b
	s.peerBits.hold(bits.Addr(b.in.Addr.Addr()))
}

// withHash returns the backend that was written with a hash, nil if there is none.
func (s *state) withHash(hash uint64) *backend { return s.byID[s.t.backends.Find(hash)] }

// store writes the backend's element.
func (s *state) store(b *backend) {
	r := backends.Record{
		Hash: b.hash, Addr: b.in.Addr, Weight: b.in.Weight, LastWeight: b.lastWeight, Service: b.owner.index, Order: b.order,
		State: backends.Active, Outside: b.in.Outside, Upper: b.in.Upper, Lower: b.in.Lower,
	}
	_, was := s.unhealthy[b]
	delete(s.unhealthy, b)
	switch {
	case b.draining:
		r.State = backends.Draining
		s.leaves(b)
	case b.in.Unhealthy:
		r.State = backends.Unhealthy
		s.unhealthy[b] = struct{}{}
		if !was {
			s.leaves(b)
		}
	}
	s.t.backends.Write(b.id, r)
	s.t.load.Judge(b.id, b.in.Upper, b.in.Lower)
}

// drain says that no new flow may go to the backend, and begins its rest.
func (s *state) drain(b *backend) {
	in := *b.in
	b.in = &in // the list that it was in may be large, and is no longer needed
	b.draining, b.since = true, s.clock()
	s.draining[b] = struct{}{}
	s.store(b)
}

// revive is the inverse of drain.
func (s *state) revive(b *backend) {
	if b.draining {
		b.draining = false
		delete(s.draining, b)
	}
}

// needPort tells the programs if a backend may answer from any port.
func (s *state) needPort(port uint16) error {
	if port != 0 || s.anyPort {
		return nil
	}
	if err := s.t.anyPort.Set(uint32(1)); err != nil {
		return fmt.Errorf("tell the programs of a backend with any port: %w", err)
	}
	s.anyPort = true
	return nil
}

// needBits sets the bits that packets from and to the backend need.
func (s *state) needBits(b *backend, protocols protocolSet, m lb.Masquerade) {
	for p := range protocols.all() {
		s.needBit(b, p)
		if m != lb.MasqueradeNever {
			s.needMasqBit(b, p)
		}
	}
}

func (s *state) needBit(b *backend, p lb.Protocol) {
	if b.bits.add(p) {
		s.backendBits.hold(bits.Backend(b.in.Addr, p))
	}
}

func (s *state) needMasqBit(b *backend, p lb.Protocol) {
	if b.masqueraded.add(p) {
		s.masqBits.hold(bits.Backend(b.in.Addr, p))
	}
}

// usePeer sets the bit of an address of this machine that masquerading or node
// ports use. It stays: flows go on with an address that new ones no longer get.
func (s *state) usePeer(a netip.Addr) {
	if a.IsValid() && !s.peers[a] {
		s.peers[a] = true
		s.peerBits.hold(bits.Addr(a))
	}
}

// publish is called when packets begin to see this generation. What was
// removed while it was filled rests from now on.
func (s *state) publish() {
	s.published = true
	now, clock := s.now(), s.clock()
	for b := range s.draining {
		b.since = clock
	}
	for rec := range s.gone {
		rec.since = now
	}
}

// judge says of all backends whether they are overloaded.
func (s *state) judge() {
	for _, b := range s.byID {
		if b != nil {
			s.t.load.Judge(b.id, b.in.Upper, b.in.Lower)
		}
	}
}
