// SPDX-License-Identifier: Apache-2.0

package sockets

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"testing/iotest"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

func TestRecordsAreAsProgramsWriteThem(t *testing.T) {
	if size := unsafe.Sizeof(bpf.LBWalkedSocket{}); uintptr(recordSize) != size {
		t.Errorf("a record is taken for %d bytes, it has %d", recordSize, size)
	}
}

// records are a walk in the pieces that reads of an iterator return.
func records(t *testing.T, list ...bpf.LBWalkedSocket) func() (io.ReadCloser, error) {
	t.Helper()
	var b bytes.Buffer
	for _, w := range list {
		if err := binary.Write(&b, binary.NativeEndian, w); err != nil {
			t.Fatal(err)
		}
	}
	return func() (io.ReadCloser, error) {
		return io.NopCloser(&hesitant{r: iotest.OneByteReader(&b)}), nil
	}
}

// hesitant fails every other time with EAGAIN.
type hesitant struct {
	r     io.Reader
	tired bool
}

func (h *hesitant) Read(b []byte) (int, error) {
	if h.tired = !h.tired; h.tired {
		return 0, unix.EAGAIN
	}
	return h.r.Read(b)
}

func TestASocketIsMetOnce(t *testing.T) {
	const connected, counted = uint8(bpf.LBSocketFlagsSOCKET_CONNECTED), uint8(bpf.LBSocketFlagsSOCKET_COUNTED)
	open := records(t,
		bpf.LBWalkedSocket{Cookie: 7, Netns: 1, Socket: bpf.LBSocket{Backend: 3, Flags: connected | counted}},
		bpf.LBWalkedSocket{Cookie: 8, Netns: 2, Socket: bpf.LBSocket{Backend: 4, Flags: counted}},
		bpf.LBWalkedSocket{Cookie: 7, Netns: 1, Socket: bpf.LBSocket{Backend: 3, Flags: connected | counted}},
	)
	var got []uint64
	err := Each(open, func(w *bpf.LBWalkedSocket) error {
		got = append(got, w.Cookie)
		if !Active(w) || !Counts(w) || Connected(w) != (w.Cookie == 7) || w.Socket.Backend != uint32(w.Cookie)-4 {
			t.Errorf("%+v", w)
		}
		return nil
	})
	if err != nil || len(got) != 2 || got[0] != 7 || got[1] != 8 {
		t.Errorf("met %v, %v", got, err)
	}
}

func TestDatagramsAreInactive(t *testing.T) {
	for proto, want := range map[uint8]bool{unix.IPPROTO_TCP: true, unix.IPPROTO_UDP: false} {
		if got := Active(&bpf.LBWalkedSocket{Socket: bpf.LBSocket{Proto: proto}}); got != want {
			t.Errorf("protocol %d is active: %v", proto, got)
		}
	}
}

func TestAWalkThatIsCutOffIsAnError(t *testing.T) {
	whole := records(t, bpf.LBWalkedSocket{Cookie: 7})
	cut := func() (io.ReadCloser, error) {
		r, err := whole()
		return io.NopCloser(io.LimitReader(r, int64(recordSize)-1)), err
	}
	if err := Each(cut, func(*bpf.LBWalkedSocket) error { return nil }); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error %v", err)
	}
	if err := Each(nil, func(*bpf.LBWalkedSocket) error { return errors.New("met one") }); err != nil {
		t.Error(err)
	}
}
