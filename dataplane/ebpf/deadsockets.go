// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/nlx"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps/flows"
	"github.com/waggle-lb/waggle/maps/sockets"
)

const (
	// gatherFor is how long the ender waits for more backends to leave: one walk
	// is for all of them.
	gatherFor = 100 * time.Millisecond
	// endAgainAfter is when it looks again, where there were such sockets: who
	// connects is led first and connected then, and a walk amid changes may miss
	// one.
	endAgainAfter = time.Second
	// endTries is how often it looks. It cannot go on until there are none: those
	// that it ended are there until they are closed.
	endTries = 3
)

// socketEnder ends sockets that are connected to backends which no longer serve:
// nothing else tells their processes. Datagrams that are not connected are led
// anew, and TCP goes on unless its service says otherwise.
type socketEnder struct {
	task.Readiness
	d    *Dataplane
	said map[string]bool // what was logged
}

func (*socketEnder) String() string { return "ender of sockets" }

func (t *socketEnder) Run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-t.d.published.Ready():
	}
	t.SetReady() // nobody waits for what happened while no process was there
	t.said = make(map[string]bool)
	var again <-chan time.Time
	for tries, first := endTries, true; ; first = false {
		met, err := t.d.endSockets(ctx, first)
		t.say(err)
		again = nil
		if tries--; met > 0 && tries > 0 {
			again = time.After(endAgainAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-t.d.lost:
			tries = endTries
			if pause(ctx, gatherFor) != nil {
				return nil
			}
		}
	}
}

// say logs what it cannot do, once.
func (t *socketEnder) say(err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	kind, what := err.Error(), "look at the error"
	switch {
	case errors.Is(err, fs.ErrPermission): // EPERM, EACCES
		kind, what = "privilege", "give it CAP_SYS_ADMIN and CAP_SYS_PTRACE (docs/security.md)"
	case errors.Is(err, nlx.ErrNoNamespace):
		kind, what = "namespace", "run it in the machine's own namespace of processes (hostPID)"
	case errors.Is(err, nlx.ErrNoDestroy):
		kind, what = "kernel", "use a kernel that can"
	}
	if !t.said[kind] {
		t.said[kind] = true
		t.d.log.Warn("sockets stay connected to backends that no longer serve: their processes learn nothing of it", "error", err, "do", what)
	}
}

// tellLost wakes the ender if a backend left. The caller has the lock.
func (d *Dataplane) tellLost() {
	if d.state == nil || !d.state.left {
		return
	}
	d.state.left = false
	select {
	case d.lost <- struct{}{}:
	default: // it is awake
	}
}

// endSockets ends the sockets that are connected to backends which no longer
// serve, and returns how many it met that are to be ended, or were. It looks only
// if there may be any, or always.
func (d *Dataplane) endSockets(ctx context.Context, always bool) (met int, err error) {
	// who saw the sets of before has noted where its socket goes
	if err := loader.Synchronize(); err != nil {
		return 0, err
	}
	walk, lost := d.lostHashes()
	if len(lost) == 0 && !always {
		return 0, nil
	}
	var connected []bpf.LBWalkedSocket
	err = sockets.Each(walk.Open, func(w *bpf.LBWalkedSocket) error {
		_, at := lost[w.Socket.BackendHash]
		if sockets.Connected(w) && (at || lb.Protocol(w.Socket.Proto) == lb.UDP) { // whose backend may be gone for good
			connected = append(connected, *w)
		}
		return ctx.Err()
	})
	if err != nil {
		return 0, err
	}
	dead, met := d.deadOf(connected)
	var errs []error
	total := 0
	for namespace, list := range dead {
		n, err := nlx.DestroySockets(namespace, list)
		total += n
		errs = append(errs, err)
	}
	if total > 0 {
		d.log.Info("ended sockets that were connected to backends which no longer serve", "sockets", total, "namespaces", len(dead))
		d.socketsEnded.Add(uint64(total))
	}
	return met, errors.Join(errs...)
}

// lostHashes are those of backends that no longer serve and may have sockets to be
// ended, which the walk finds.
func (d *Dataplane) lostHashes() (loader.SocketWalk, map[uint64]struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	lost := make(map[uint64]struct{})
	for b := range d.state.lostBackends() {
		lost[b.hash] = struct{}{}
	}
	return d.loader.Walk(), lost
}

// deadOf are those of connected sockets that are to be ended, by network namespace,
// and how many there are with those that are not connected yet, or no longer.
func (d *Dataplane) deadOf(connected []bpf.LBWalkedSocket) (out map[uint64][]nlx.Socket, met int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	lost := make(map[uint64]*backend)
	for b := range d.state.lostBackends() {
		lost[b.hash] = b
	}
	out = make(map[uint64][]nlx.Socket)
	for i := range connected {
		w := &connected[i]
		if !d.state.ends(w, lost[w.Socket.BackendHash]) {
			continue
		}
		met++
		if w.Remote == w.Socket.Addr && w.RemotePort == w.Socket.Port {
			out[uint64(w.Netns)] = append(out[uint64(w.Netns)], socketOf(w))
		}
	}
	return out, met
}

func socketOf(w *bpf.LBWalkedSocket) nlx.Socket {
	return nlx.Socket{
		Cookie: w.Cookie, Family: uint8(w.Family), Protocol: w.Socket.Proto, Device: w.Device,
		Local:  netip.AddrPortFrom(netip.AddrFrom16(w.Local), w.LocalPort),
		Remote: netip.AddrPortFrom(netip.AddrFrom16(w.Remote), w.RemotePort),
	}
}

// leaves notes that a backend no longer serves: it left its service, or is
// unhealthy.
func (s *state) leaves(b *backend) {
	if s.losesSockets(b) {
		s.left = true
	}
}

// losesSockets reports whether there may be sockets that are ended with their
// backend.
func (s *state) losesSockets(b *backend) bool {
	return b.bits.has(lb.UDP) || resetsLost(b)
}

func resetsLost(b *backend) bool {
	return b.owner.settings.Options&bpf.LBServiceOptionsSERVICE_LOST_RESET != 0
}

// lostBackends are those that no longer serve and may have such sockets.
func (s *state) lostBackends() iter.Seq[*backend] {
	return func(yield func(*backend) bool) {
		for _, lost := range []map[*backend]struct{}{s.draining, s.unhealthy} {
			for b := range lost {
				if s.losesSockets(b) && !s.t.load.IsZero(b.id) && !yield(b) {
					return
				}
			}
		}
	}
}

// ends reports whether a connected socket is to be ended. b is its backend if that
// is lost. What goes to no service any more runs on, as flows do.
func (s *state) ends(w *bpf.LBWalkedSocket, b *backend) bool {
	switch lb.Protocol(w.Socket.Proto) {
	case lb.TCP:
		return b != nil && resetsLost(b)
	case lb.UDP:
		if b != nil && b.owner.settings.Options&bpf.LBServiceOptionsSERVICE_LOST_DROP != 0 {
			return false // it stays with its backend
		}
		return (b != nil || !s.has(&w.Socket)) && s.serves(&w.Socket)
	default:
		return false
	}
}

// has reports whether a socket's backend has an id.
func (s *state) has(k *bpf.LBSocket) bool {
	if k.Backend < s.t.backends.Len() && s.t.backends.Hash(k.Backend) == k.BackendHash {
		return true
	}
	return s.t.backends.Find(k.BackendHash) != 0
}

// serves reports whether there is a frontend where a socket wanted to go.
func (s *state) serves(k *bpf.LBSocket) bool {
	vip := flows.AddrPort(k.Vip, k.VipPort)
	any := netip.IPv4Unspecified()
	if vip.Addr().Is6() {
		any = netip.IPv6Unspecified()
	}
	for _, at := range []netip.AddrPort{vip, netip.AddrPortFrom(vip.Addr(), 0), netip.AddrPortFrom(any, vip.Port())} {
		if s.owners[lb.Frontend{Addr: at, Protocol: lb.Protocol(k.Proto)}].rec != nil {
			return true
		}
	}
	return false
}
