// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// Serve answers at an address, by TCP and by UDP, until stop is called. A
// connection gets the greeting and then an echo of what comes; a datagram gets
// the greeting with the echo behind it. greeting is called with the peer's
// address, from many goroutines.
func (n *Namespace) Serve(addr netip.AddrPort, greeting func(peer net.Addr) string) (stop func(), err error) {
	ctx := context.Background()
	l, err := n.Listen(ctx, "tcp", addr.String())
	if err != nil {
		return nil, err
	}
	pc, err := n.ListenPacket(ctx, "udp", addr.String())
	if err != nil {
		l.Close()
		return nil, err
	}
	go accept(l, greeting)
	go answer(pc, greeting)
	return func() {
		l.Close()
		pc.Close()
	}, nil
}

func accept(l net.Listener, greeting func(net.Addr) string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			if _, err := io.WriteString(c, greeting(c.RemoteAddr())); err != nil {
				return
			}
			// an echo that fails shows at the client
			_, _ = io.Copy(c, c)
		}()
	}
}

func answer(pc net.PacketConn, greeting func(net.Addr) string) {
	buf := make([]byte, 1<<16)
	for {
		k, from, err := pc.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an ICMP error about an earlier answer
		}
		// a server without a route back cannot answer
		_, _ = pc.WriteTo(append([]byte(greeting(from)), buf[:k]...), from)
	}
}

// Echo sends b and reads it back: from r, which reads what comes on the
// connection.
func Echo(c io.Writer, r io.Reader, b []byte) error {
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(b)
		sent <- err
	}()
	got := make([]byte, len(b))
	if _, err := io.ReadFull(r, got); err != nil {
		return fmt.Errorf("read the echo: %w", err)
	}
	if err := <-sent; err != nil {
		return err
	}
	if !bytes.Equal(got, b) {
		return errors.New("the echo differs")
	}
	return nil
}
