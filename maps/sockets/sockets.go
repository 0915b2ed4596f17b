// SPDX-License-Identifier: Apache-2.0

// Package sockets reads what a walk over the sockets that were led tells: where
// each was led, and who it is. Nobody else can read the map of that name, whose
// keys are file descriptors of who asks.
package sockets

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// recordSize is that of struct walked_socket.
var recordSize = binary.Size(bpf.LBWalkedSocket{})

// Counts reports whether the socket is one connection of its backend: of the one with
// the id that its element says, whatever its hash.
func Counts(w *bpf.LBWalkedSocket) bool {
	return w.Socket.Flags&uint8(bpf.LBSocketFlagsSOCKET_COUNTED) != 0
}

// Active reports whether what it counts as is an active connection: as flows of UDP,
// those sockets are inactive.
func Active(w *bpf.LBWalkedSocket) bool { return w.Socket.Proto != unix.IPPROTO_UDP }

// Connected reports whether the socket is connected, so that it stays where it was
// led; the others are led anew when they send.
func Connected(w *bpf.LBWalkedSocket) bool {
	return w.Socket.Flags&uint8(bpf.LBSocketFlagsSOCKET_CONNECTED) != 0
}

// Each makes a walk and calls yield once for each socket that it meets, until yield
// returns an error, which Each returns. open begins the walk; nil: there is none,
// and no socket is met. A socket that begins, ends or moves meanwhile may be
// missing, or said to be where it was.
func Each(open func() (io.ReadCloser, error), yield func(*bpf.LBWalkedSocket) error) (err error) {
	if open == nil {
		return nil
	}
	f, err := open()
	if err != nil {
		return fmt.Errorf("walk the sockets: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	r := bufio.NewReaderSize(patient{f}, 1<<16)
	met := make(map[uint64]struct{})
	buf := make([]byte, recordSize)
	for {
		switch _, err := io.ReadFull(r, buf); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("walk the sockets: %w", err)
		}
		var w bpf.LBWalkedSocket
		if _, err := binary.Decode(buf, binary.NativeEndian, &w); err != nil {
			return fmt.Errorf("walk the sockets: %w", err)
		}
		if _, again := met[w.Cookie]; again { // another of its file descriptors
			continue
		}
		met[w.Cookie] = struct{}{}
		if err := yield(&w); err != nil {
			return err
		}
	}
}

// patient goes on where the kernel, after a million objects that tell nothing,
// returns to let others run.
type patient struct{ r io.Reader }

func (p patient) Read(b []byte) (int, error) {
	for {
		n, err := p.r.Read(b)
		if n > 0 || !errors.Is(err, unix.EAGAIN) {
			return n, err
		}
	}
}
