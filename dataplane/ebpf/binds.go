// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/lb"
)

const (
	// bindQuiet is how long nothing more is said of a program that binds the same
	// port over and over.
	bindQuiet = time.Hour
	// bindsKnown is how many of those are known apart.
	bindsKnown = 1024
)

// bindKey is what a process is recognised by that tries again.
type bindKey struct {
	addr    netip.AddrPort
	proto   lb.Protocol
	comm    string
	refused bool
}

// bindWatcher tells of processes that bind node ports.
type bindWatcher struct {
	task.Readiness
	d    *Dataplane
	told map[bindKey]time.Time
}

func (*bindWatcher) String() string { return "binds of node ports" }

func (t *bindWatcher) Run(ctx context.Context) error {
	r, err := ringbuf.NewReader(t.d.loader.Map("binds_seen"))
	if err != nil {
		return fmt.Errorf("read map binds_seen: %w", err)
	}
	stop := context.AfterFunc(ctx, func() {
		if err := r.Close(); err != nil {
			t.d.log.Warn("close map binds_seen", "error", err)
		}
	})
	defer stop()
	t.SetReady()
	for {
		record, err := r.Read()
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read map binds_seen: %w", err)
		}
		var e bpf.LBBindEvent
		if err := binary.Read(bytes.NewReader(record.RawSample), binary.NativeEndian, &e); err != nil {
			return fmt.Errorf("read map binds_seen: %w", err)
		}
		t.tell(&e, time.Now())
	}
}

func (t *bindWatcher) tell(e *bpf.LBBindEvent, now time.Time) {
	comm, _, _ := bytes.Cut(e.Comm[:], []byte{0})
	k := bindKey{netip.AddrPortFrom(netip.AddrFrom16(e.Addr).Unmap(), e.Port), lb.Protocol(e.Proto), string(comm), e.Refused != 0}
	if last, ok := t.told[k]; ok && now.Sub(last) < bindQuiet {
		return
	}
	if len(t.told) >= bindsKnown {
		clear(t.told)
	}
	t.told[k] = now
	log := t.d.log.With("process", k.comm, "pid", e.Pid, "address", k.addr.String(), "protocol", k.proto.String(), "service", t.d.nodePortOf(k.addr, k.proto))
	if k.refused {
		log.Warn("a process was refused a node port (EADDRINUSE): let it use another port, or the Service another node port")
	} else {
		log.Warn("a process bound a node port: what comes there is the Service's, and the process gets nothing; let it use another port")
	}
}

// nodePortOf names the service of a node port, "" if it has none by now.
func (d *Dataplane) nodePortOf(bound netip.AddrPort, protocol lb.Protocol) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state == nil {
		return ""
	}
	for _, any := range []netip.Addr{netip.IPv6Unspecified(), netip.IPv4Unspecified()} {
		f := lb.Frontend{Addr: netip.AddrPortFrom(any, bound.Port()), Protocol: protocol}
		own := any.Is4() == bound.Addr().Is4() || bound.Addr() == netip.IPv6Unspecified()
		if rec := d.state.owners[f.Key()].rec; rec != nil && own {
			return rec.id.String()
		}
	}
	return ""
}
