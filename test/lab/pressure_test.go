// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/packet"
	"github.com/waggle-lb/waggle/lb"
)

// pressed is a client that sends datagrams in pieces, among so many pieces of
// others that there is no room for all.
type pressed struct {
	*datagrams
	rng    *rand.Rand
	id     uint32            // of the next datagram
	sent   map[uint32][]byte // by the number that a datagram begins with
	others [][]byte          // later fragments whose first never comes
}

const (
	end        = "that was all"
	heldPlaces = 1024 // for fragments that wait
)

// TestMoreDatagramsInPiecesThanThereIsRoomFor: what has to make room is lost as a
// whole and counted. No datagram arrives that was not sent, though UDP has no
// checksum here; those that need not wait, and those that come afterwards, do.
func TestMoreDatagramsInPiecesThanThereIsRoomFor(t *testing.T) {
	r := newRouted(t, plain(80), "--fragments-max", fmt.Sprint(8*heldPlaces), "--held-fragments-max", fmt.Sprint(heldPlaces))
	// the server keeps what never gets complete for a while only
	for name, value := range map[string]string{
		"net/ipv4/ipfrag_time": "10", "net/ipv6/ip6frag_time": "10", "net/ipv4/ipfrag_high_thresh": "67108864", "net/ipv6/ip6frag_high_thresh": "67108864",
	} {
		for _, n := range []*netlab.Namespace{r.server.Namespace, r.serverRouter.Namespace, r.Director, r.clientRouter.Namespace} {
			if err := n.SetSysctl(name, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, vip := range vips {
		p := r.pressed(t, vip)
		firstFirst := func(parts [][]byte) ([][]byte, [][]byte) { return parts[:1], parts[1:] }
		firstLast := func(parts [][]byte) ([][]byte, [][]byte) { return parts[1:], parts[:1] }
		for _, c := range []struct {
			name      string
			order     func([][]byte) (before, after [][]byte)
			others    int // pieces that come between
			want      func(arrived int) bool
			datagrams int
		}{
			{"alone", firstLast, 0, func(n int) bool { return n == 20 }, 20},
			{"among a few", firstLast, 100, func(n int) bool { return n == 20 }, 20},
			{"after the first, many", firstFirst, 4 * heldPlaces, func(n int) bool { return n == 5 }, 5},
			{"among too many", firstLast, 4 * heldPlaces, func(n int) bool { return n == 0 }, 5},
			{"alone again", firstLast, 0, func(n int) bool { return n == 20 }, 20},
		} {
			before := r.dropped()["fragment"]
			for range c.datagrams {
				first, rest := c.order(p.datagram())
				p.send(first)
				p.send(p.others[:c.others])
				p.send(rest)
			}
			if n := p.arrived(); !c.want(n) {
				t.Errorf("%v: %s: %d of %d datagrams arrived", vip, c.name, n, c.datagrams)
			}
			lost := r.dropped()["fragment"] - before
			if counted := lost > 0; counted != (c.name == "among too many") {
				t.Errorf("%v: %s: %d fragments counted as lost", vip, c.name, lost)
			}
		}
		p.together()
	}
}

func (r *routed) pressed(t *testing.T, vip netip.AddrPort) *pressed {
	p := &pressed{datagrams: r.datagrams(t, vip), rng: rand.New(rand.NewPCG(3, 4)), id: 1, sent: make(map[uint32][]byte)}
	for i := range uint32(4 * heldPlaces) {
		parts := p.fragments(p.fromClient, p.client.local(), vip, random(1500), 20_000+i)
		p.others = append(p.others, parts[1])
	}
	return p
}

// datagram cuts the next one; without a checksum, where that may be.
func (p *pressed) datagram() [][]byte {
	p.t.Helper()
	b := random(4000 + p.rng.IntN(8000))
	binary.BigEndian.PutUint32(b, p.id)
	p.sent[p.id] = b
	frame, err := packet.Packet{
		Src: p.client.local(), Dst: p.vip, Protocol: lb.UDP, Payload: b, SrcMAC: p.fromClient.from, DstMAC: p.fromClient.to,
		ZeroChecksum: p.vip.Addr().Is4(),
	}.Bytes()
	if err != nil {
		p.t.Fatal(err)
	}
	parts, err := packet.Fragment(frame, 1432, p.id)
	if err != nil {
		p.t.Fatal(err)
	}
	p.id++
	return parts
}

func (p *pressed) send(frames [][]byte) {
	p.t.Helper()
	for _, f := range frames {
		if err := p.fromClient.Send(f); err != nil {
			p.t.Fatal(err)
		}
	}
}

// arrived counts the datagrams at the server, which all must have been sent, and
// once.
func (p *pressed) arrived() (n int) {
	p.t.Helper()
	// the server's complaints about what never got complete left their marks
	for try := 0; p.client.send([]byte(end)) != nil; try++ {
		if try > 1000 {
			p.t.Fatalf("%v: nothing can be sent any more", p.vip)
		}
	}
	for {
		b, _, err := p.server.receive()
		if err != nil {
			p.t.Fatalf("%v: %v", p.vip, err)
		}
		if string(b) == end {
			return n
		}
		id := uint32(0)
		if len(b) >= 4 {
			id = binary.BigEndian.Uint32(b)
		}
		if !bytes.Equal(p.sent[id], b) {
			p.t.Errorf("%v: %d bytes arrived that nobody sent", p.vip, len(b))
		}
		delete(p.sent, id)
		n++
	}
}

// together sends datagrams in any order while others send pieces, on as many
// CPUs as there are.
func (p *pressed) together() {
	p.t.Helper()
	raw, err := p.r.client.Raw("eth0")
	if err != nil {
		p.t.Fatal(err)
	}
	defer raw.Close()
	stop, flooded := make(chan struct{}), make(chan error)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				flooded <- nil
				return
			default:
			}
			if err := raw.Send(p.others[i%len(p.others)]); err != nil && !errors.Is(err, unix.ENOBUFS) {
				<-stop
				flooded <- err
				return
			}
		}
	}()
	n := 0
	for range 40 {
		for range 10 {
			parts := p.datagram()
			p.rng.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
			p.send(parts)
		}
		n += p.arrived()
	}
	close(stop)
	if err := <-flooded; err != nil {
		p.t.Error(err)
	}
	if n == 0 {
		p.t.Errorf("%v: none of 400 datagrams arrived", p.vip)
	}
}
