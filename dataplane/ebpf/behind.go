// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"errors"
	"fmt"
	"slices"

	cilium "github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/maps/bits"
)

// SetBehind says what is behind the programs, from before the first Apply or at
// any time; any goroutine may call it. What it says of ports and pairs keeps new
// flows from what these connections hold.
func (d *Dataplane) SetBehind(b dataplane.Behind) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.behind = b
	if d.gen == nil {
		return nil // build says it
	}
	return d.sayBehind(&d.gen.LBObjects, d.tables)
}

// sayBehind tells the programs of a generation who is behind them.
func (d *Dataplane) sayBehind(m *bpf.LBObjects, t *tables) error {
	word := uint32(0)
	if d.behind.Translates || d.loader.HasFormer() {
		word = 1
	}
	if err := m.TakingOver.Set(word); err != nil {
		return fmt.Errorf("tell the programs who is behind them: %w", err)
	}
	free := portsBeside(d.ports, d.behind.Ports)
	if len(free) < len(d.ports) && len(free) < fewestPorts {
		d.log.Warn("masquerading has few ports until connections end that somebody else masquerades", "ports", len(free))
	}
	t.masqPorts.Write(free)
	return rememberPairs(m, d.behind.Pairs)
}

// portsBeside returns the ports of a list that are not taken. One of them has to
// be left: with all taken, all may be tried.
func portsBeside(ports, taken []uint16) []uint16 {
	var bits [1 << 16 / 64]uint64
	for _, p := range taken {
		bits[p/64] |= 1 << (p % 64)
	}
	free := slices.DeleteFunc(slices.Clone(ports), func(p uint16) bool { return bits[p/64]>>(p%64)&1 == 1 })
	if len(free) == 0 {
		return ports
	}
	return free
}

// rememberPairs enters connections as direct ones, which they are for a backend:
// a flow of the same client port to the same backend gets another one there.
func rememberPairs(m *bpf.LBObjects, pairs []dataplane.Pair) error {
	if len(pairs) == 0 {
		return nil
	}
	marks, err := bits.Open(m.DirectBits)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		k := bpf.LBFlowKey{
			Saddr: p.Backend.Addr().As16(), Sport: p.Backend.Port(), Daddr: p.Client.Addr().As16(), Dport: p.Client.Port(),
			Proto: uint8(p.Protocol), Position: uint8(bpf.LBPositionPOSITION_E4),
		}
		if err := m.Direct.Update(k, uint32(0), cilium.UpdateNoExist); err != nil && !errors.Is(err, cilium.ErrKeyExist) {
			return errors.Join(fmt.Errorf("remember a connection of before, %s to %s: %w", p.Client, p.Backend, err), marks.Close())
		}
		marks.Add(bits.Backend(p.Backend, p.Protocol))
	}
	return marks.Close()
}
