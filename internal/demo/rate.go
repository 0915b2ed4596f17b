// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/lb"
)

// Workers of a rate: as many per client, each with one flow at a time. A
// worker's connections are bounded so that a client's source ports last.
const (
	workersPerClient = 2
	maxConnections   = 12000
)

// bulkTimeout bounds a bulk transfer.
const bulkTimeout = 20 * time.Second

// measurement is a count and the time that it took.
type measurement struct {
	count   int64
	elapsed time.Duration
	err     error // of the first worker that stopped before its time
}

// rate runs the workers for about as long and adds up what they did. work
// returns how often it did it; it runs on a thread in the client's namespace.
func rate(clients []*netlab.Node, duration time.Duration, work func(deadline time.Time) (int64, error)) measurement {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var m measurement
	start := time.Now()
	for _, c := range clients {
		for range workersPerClient {
			wg.Go(func() {
				var n int64
				err := c.Do(func() error {
					var err error
					n, err = work(start.Add(duration))
					return err
				})
				mu.Lock()
				defer mu.Unlock()
				m.count += n
				if m.err == nil {
					m.err = err
				}
			})
		}
	}
	wg.Wait()
	m.elapsed = time.Since(start)
	return m
}

// connections measures new TCP connections: connect, ask, answer, close.
func connections(ctx context.Context, clients []*netlab.Node, remote netip.AddrPort, duration time.Duration) measurement {
	return rate(clients, duration, func(deadline time.Time) (int64, error) {
		var n int64
		for n < maxConnections && time.Now().Before(deadline) {
			if _, err := visit(ctx, lb.TCP, netip.AddrPort{}, remote, uint64(n), flowTimeout); err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	})
}

// roundTrips measures UDP questions and answers; a worker keeps its flow.
func roundTrips(ctx context.Context, clients []*netlab.Node, remote netip.AddrPort, duration time.Duration) measurement {
	return rate(clients, duration, func(deadline time.Time) (int64, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, "udp", remote.String())
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		var n int64
		for time.Now().Before(deadline) && ctx.Err() == nil {
			if _, err := askUDP(conn, uint64(n), flowTimeout); err != nil {
				return n, err
			}
			n++
		}
		return n, ctx.Err()
	})
}

// bulk sends size bytes that nobody could guess to an echoing server and
// compares what comes back, byte by byte. Both ways are checked: a byte that
// changed on the way there is echoed as it changed.
func bulk(ctx context.Context, client *netlab.Node, remote netip.AddrPort, size int64) measurement {
	ctx, cancel := context.WithTimeout(ctx, bulkTimeout)
	defer cancel()
	conn, err := client.Dial(ctx, "tcp", remote.String())
	if err != nil {
		return measurement{err: err}
	}
	defer conn.Close()
	// Closing the connection is what ends reads and writes early.
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	var seed [32]byte
	for i := range seed {
		seed[i] = byte(rand.Uint32())
	}
	start := time.Now()
	sent := make(chan error, 1)
	go func() { sent <- sendStream(conn.(*net.TCPConn), seed, size) }()
	n, err := checkStream(conn, seed, size)
	if err != nil {
		conn.Close() // so that the sender ends too
	}
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	if ctx.Err() != nil {
		err = errors.Join(ctx.Err(), err)
	}
	return measurement{count: n, elapsed: time.Since(start), err: err}
}

func sendStream(conn *net.TCPConn, seed [32]byte, size int64) error {
	if _, err := conn.Write([]byte{opEcho}); err != nil {
		return err
	}
	// CopyN through a plain writer: the source is no file that could be spliced.
	if _, err := io.CopyN(struct{ io.Writer }{conn}, rand.NewChaCha8(seed), size); err != nil {
		return err
	}
	return conn.CloseWrite()
}

// checkStream reads to the end, compares with the stream of the seed, and
// returns how many bytes were right.
func checkStream(r io.Reader, seed [32]byte, size int64) (int64, error) {
	want := rand.NewChaCha8(seed)
	got, expect := make([]byte, 64<<10), make([]byte, 64<<10)
	var n int64
	for {
		k, err := io.ReadFull(r, got)
		// A ChaCha8 never fails to read, whatever the length.
		_, _ = want.Read(expect[:k])
		if !bytes.Equal(got[:k], expect[:k]) {
			i := firstDifference(got[:k], expect)
			return n + int64(i), fmt.Errorf("byte %d of the stream came back as %#02x, sent was %#02x", n+int64(i), got[i], expect[i])
		}
		n += int64(k)
		switch {
		case n > size:
			return size, fmt.Errorf("more than %d bytes came back", size)
		case err == nil:
		case (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) && n == size:
			return n, nil
		default:
			return n, fmt.Errorf("%d of %d bytes came back: %w", n, size, err)
		}
	}
}

func firstDifference(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}
