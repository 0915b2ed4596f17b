// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// What a client says first. A request is opWho and a nonce, and the answer is
// the nonce and the server's name; opEcho is followed by a stream that comes
// back. An HTTP GET is answered too, for people who explore with curl.
const (
	opWho     = 'w'
	opEcho    = 'e'
	opHTTP    = 'G'
	nonceSize = 8
)

// serverTimeout ends connections whose client went away.
const serverTimeout = time.Minute

// closers closes several things.
type closers []io.Closer

func (c closers) Close() error {
	var errs []error
	for _, x := range c {
		errs = append(errs, x.Close())
	}
	return errors.Join(errs...)
}

// serve starts a real server on TCP and UDP, both families, and returns what
// stops it.
func serve(ctx context.Context, ns *netlab.Namespace, b backend) (io.Closer, error) {
	var all closers
	for _, addr := range []netip.AddrPort{b.v4, b.v6} {
		l, err := ns.Listen(ctx, "tcp", addr.String())
		if err != nil {
			return nil, errors.Join(err, all.Close())
		}
		all = append(all, l)
		conn, err := ns.ListenPacket(ctx, "udp", addr.String())
		if err != nil {
			return nil, errors.Join(err, all.Close())
		}
		all = append(all, conn)
		go acceptTCP(l, b.name)
		go answerUDP(conn, b.name)
	}
	return all, nil
}

func acceptTCP(l net.Listener, name string) {
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			go answerTCP(conn, name)
		}
	}
}

// answerTCP serves one connection. Errors need no report: the client sees them.
func answerTCP(conn net.Conn, name string) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(serverTimeout))
	var op [1]byte
	if _, err := io.ReadFull(conn, op[:]); err != nil {
		return
	}
	switch op[0] {
	case opWho:
		var nonce [nonceSize]byte
		if _, err := io.ReadFull(conn, nonce[:]); err == nil {
			_, _ = conn.Write(append(nonce[:], name...))
		}
	case opEcho:
		_, _ = io.Copy(conn, conn)
	case opHTTP:
		var rest [4096]byte
		_, _ = conn.Read(rest[:])
		fmt.Fprintf(conn, "HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s\n", len(name)+1, name)
	}
}

func answerUDP(conn net.PacketConn, name string) {
	var buf [1500]byte
	for {
		n, from, err := conn.ReadFrom(buf[:])
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n != 1+nonceSize || buf[0] != opWho {
			continue
		}
		_, _ = conn.WriteTo(append(buf[1:n:n], name...), from)
	}
}
