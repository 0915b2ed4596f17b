// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/mmap"
)

// pieceBytes is how many bytes of the iterator a piece is: it emits one for each
// 64 entries.
const pieceBytes = bpf.LBLimitsSWEEP_PIECE / 64

// Sweep lets the programs walk the flow table once, in pieces of about a
// millisecond of the kernel's time, and returns how many entries were met. piece
// is called after each; its error ends the walk and is returned. One walk at a
// time.
func Sweep(o *bpf.LBObjects, piece func() error) (entries uint32, err error) {
	var before, after uint32
	if err := o.SweepWalked.Get(&before); err != nil {
		return 0, fmt.Errorf("read how many entries were walked: %w", err)
	}
	if o.Sweep.Type() == ebpf.Tracing {
		err = iterate(o, piece)
	} else {
		err = lay(o, piece)
	}
	if err != nil {
		return 0, err
	}
	if err := o.SweepWalked.Get(&after); err != nil {
		return 0, fmt.Errorf("read how many entries were walked: %w", err)
	}
	return after - before, nil
}

// iterate reads the iterator to its end: each read resumes where the last one
// stopped.
func iterate(o *bpf.LBObjects, piece func() error) (err error) {
	it, err := link.AttachIter(link.IterOptions{Program: o.Sweep, Map: o.Flows})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	r, err := it.Open()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	buf := make([]byte, pieceBytes)
	for {
		switch _, err := r.Read(buf); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := piece(); err != nil {
			return err
		}
	}
}

// lay reads the table into the memory of the maps from which the program takes
// a piece.
func lay(o *bpf.LBObjects, piece func() error) (err error) {
	keys, err := mmap.Open(o.PieceKeys)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, keys.Close()) }()
	values, err := mmap.Open(o.PieceFlows)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, values.Close()) }()
	var cursor ebpf.MapBatchCursor
	for {
		n, err := o.Flows.BatchLookup(&cursor, mmap.Slice[bpf.LBFlowKey](keys), mmap.Slice[bpf.LBFlow](values), nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return err
		}
		if err := o.PieceEntries.Set(uint32(n)); err != nil {
			return err
		}
		if _, err := o.SweepPiece.Run(&ebpf.RunOptions{}); err != nil {
			return err
		}
		if end {
			return nil
		}
		if err := piece(); err != nil {
			return err
		}
	}
}
