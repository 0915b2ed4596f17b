// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/lb"
)

// flowTimeout bounds one flow of the counted ones. A flow takes microseconds,
// but a busy machine may let nobody run for seconds.
const flowTimeout = 10 * time.Second

// maxFailures is after how many failures a client gives a service up: what it
// did not try counts as failed.
const maxFailures = 3

// udpTries is how often a datagram is sent before its flow counts as failed.
// All tries are one flow: they share the source port.
const udpTries = 3

// errForeignAnswer says that an answer was to another question: bytes were
// changed or mixed up on the way.
var errForeignAnswer = errors.New("the answer does not hold the nonce that was sent")

// visit makes one flow from the namespace of the calling thread and returns
// the name of the server that answered. The zero local lets the kernel choose
// the source port.
func visit(ctx context.Context, p lb.Protocol, local, remote netip.AddrPort, nonce uint64, timeout time.Duration) (string, error) {
	d := net.Dialer{Timeout: timeout}
	network := "tcp"
	if p == lb.UDP {
		network = "udp"
	}
	if local.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(local)
		if p == lb.UDP {
			d.LocalAddr = net.UDPAddrFromAddrPort(local)
		}
	}
	conn, err := d.DialContext(ctx, network, remote.String())
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if p == lb.UDP {
		return askUDP(conn, nonce, timeout)
	}
	return askTCP(conn, nonce, timeout)
}

func question(nonce uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{opWho}, nonce)
}

// answer returns the server's name out of an answer.
func answer(b []byte, nonce uint64) (string, error) {
	if len(b) <= nonceSize || binary.BigEndian.Uint64(b) != nonce {
		return "", fmt.Errorf("%w: got %d bytes %q", errForeignAnswer, len(b), b)
	}
	return string(b[nonceSize:]), nil
}

func askTCP(conn net.Conn, nonce uint64, timeout time.Duration) (string, error) {
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if _, err := conn.Write(question(nonce)); err != nil {
		return "", err
	}
	b, err := io.ReadAll(io.LimitReader(conn, 256))
	if err != nil {
		return "", err
	}
	return answer(b, nonce)
}

func askUDP(conn net.Conn, nonce uint64, timeout time.Duration) (string, error) {
	var buf [256]byte
	var err error
	for range udpTries {
		if err := conn.SetDeadline(time.Now().Add(timeout / udpTries)); err != nil {
			return "", err
		}
		if _, err := conn.Write(question(nonce)); err != nil {
			return "", err
		}
		var n int
		if n, err = conn.Read(buf[:]); err == nil {
			return answer(buf[:n], nonce)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return "", err
		}
	}
	return "", err
}

// tally is what came out of some flows.
type tally struct {
	got    map[string]int // answers by server
	failed int
	first  error // of the first that failed
}

func (t *tally) add(name string, err error) {
	if err == nil {
		t.got[name]++
		return
	}
	t.failed++
	if t.first == nil {
		t.first = err
	}
}

func (t *tally) merge(u tally) {
	for name, n := range u.got {
		t.got[name] += n
	}
	t.failed += u.failed
	if t.first == nil {
		t.first = u.first
	}
}

// source is a client with the local port that its next flow uses.
type source struct {
	*netlab.Node
	next *uint16
}

// spread makes the flows, each from a source port of its own, divided among
// the clients, which run at the same time.
func spread(ctx context.Context, sources []source, p lb.Protocol, remote netip.AddrPort, flows int) tally {
	total := tally{got: map[string]int{}}
	parts := make([]tally, len(sources))
	var wg sync.WaitGroup
	for i, src := range sources {
		n := flows / len(sources)
		if i < flows%len(sources) {
			n++
		}
		wg.Go(func() { parts[i] = src.flows(ctx, p, remote, n) })
	}
	wg.Wait()
	for _, part := range parts {
		total.merge(part)
	}
	return total
}

// flows makes n flows, one after the other.
func (s source) flows(ctx context.Context, p lb.Protocol, remote netip.AddrPort, n int) tally {
	t := tally{got: map[string]int{}}
	err := s.Do(func() error {
		for i := range n {
			if err := ctx.Err(); err != nil {
				return err
			}
			if t.failed == maxFailures {
				t.failed += n - i
				return nil
			}
			local := netip.AddrPortFrom(s.Addr(remote.Addr().Is6()), *s.next)
			*s.next++
			t.add(visit(ctx, p, local, remote, uint64(local.Port()), flowTimeout))
		}
		return nil
	})
	if err != nil {
		t.add("", err)
	}
	return t
}
