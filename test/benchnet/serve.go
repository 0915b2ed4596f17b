// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// What the server says. It closes first when it was asked to, as HTTP servers do: the
// connection rests at its side, and the client's port is free at once.
var (
	kept    = []byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	closing = []byte("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok")
	asked   = []byte("Connection: close\r\n")
	end     = []byte("\r\n\r\n")
)

// serverWait is how long, in ms, the server may not see that it is to end.
const serverWait = 500

// web is a server of HTTP that does as little as one can, so that what is between it
// and the client is most of what is measured: one thread, epoll, a read and a write for
// each request.
type web struct {
	listener net.Listener // owns the listening socket's namespace and address
	fd, poll int
	clock    int32 // of its thread's CPU time
	stopped  atomic.Bool
	done     chan struct{}
	err      error // read after done
}

// serveWeb listens at the port on all addresses of a namespace.
func serveWeb(n *netlab.Namespace, port uint16) (*web, error) {
	l, err := n.Listen(context.Background(), "tcp4", netip.AddrPortFrom(netip.IPv4Unspecified(), port).String())
	if err != nil {
		return nil, err
	}
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		l.Close()
		return nil, err
	}
	defer f.Close()
	w := &web{listener: l, fd: -1, poll: -1, done: make(chan struct{})}
	if w.fd, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0); err == nil {
		err = unix.SetNonblock(w.fd, true)
	}
	if err == nil {
		w.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	}
	if err == nil {
		err = w.watch(w.fd)
	}
	if err != nil {
		w.release()
		return nil, fmt.Errorf("serve at port %d: %w", port, err)
	}
	ready := make(chan struct{})
	go w.run(ready)
	<-ready
	return w, nil
}

// release closes what it has. Connections that are open end with the process.
func (w *web) release() {
	w.listener.Close()
	for _, fd := range []int{w.fd, w.poll} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// close ends the server and returns what it failed with, if it did.
func (w *web) close() error {
	w.stopped.Store(true)
	<-w.done
	return w.err
}

func (w *web) watch(fd int) error {
	return unix.EpollCtl(w.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (w *web) run(ready chan<- struct{}) {
	runtime.LockOSThread() // so that there is a clock for all that it does
	w.clock = threadClock(unix.Gettid())
	close(ready)
	defer close(w.done)
	defer w.release()
	events := make([]unix.EpollEvent, 256)
	buf := make([]byte, 16<<10)
	for !w.stopped.Load() {
		n, err := unix.EpollWait(w.poll, events, serverWait)
		if err != nil && !errors.Is(err, unix.EINTR) {
			w.err = fmt.Errorf("web server: wait: %w", err)
			return
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) != w.fd {
				answer(int(e.Fd), buf)
			} else if w.err = w.accept(); w.err != nil {
				return
			}
		}
	}
}

func (w *web) accept() error {
	for {
		fd, _, err := unix.Accept4(w.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil:
			return fmt.Errorf("web server: accept: %w", err)
		}
		if err := w.watch(fd); err != nil {
			unix.Close(fd)
			return fmt.Errorf("web server: watch a connection: %w", err)
		}
	}
}

// answer reads requests, which each come in one segment, and answers them. Whatever is
// wrong with a connection ends it, which the client counts.
func answer(fd int, buf []byte) {
	n, err := unix.Read(fd, buf)
	if errors.Is(err, unix.EAGAIN) {
		return
	}
	if n <= 0 {
		unix.Close(fd)
		return
	}
	last := bytes.Contains(buf[:n], asked)
	for range bytes.Count(buf[:n], end) {
		what := kept
		if last {
			what = closing
		}
		if _, err := unix.Write(fd, what); err != nil {
			last = true
			break
		}
	}
	if last {
		unix.Close(fd)
	}
}
