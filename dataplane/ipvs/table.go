// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/lb"
)

// tableName is the name of our tables, one of family ip and one of ip6: in inet,
// what connection tracking has as a packet's address has no size that nft knows.
const tableName = "waggle"

// The sets that the machine's surroundings are in, beside those of services.
const (
	setPods   setName = "pods"
	setRanges setName = "ranges" // of VIPs
)

// The named counters, called as the reasons of bpf/drop.h.
var counterNames = []string{"unknown_port", "source_range", "no_local", "unallocated"}

// both are the families, in the order in which they are written.
var both = []lb.Family{lb.IPv4, lb.IPv6}

// family is the table for IPv4 or IPv6.
type family struct {
	lb.Family
	table *nftables.Table
	sets  map[setName]*nftables.Set
}

// table is our nftables tables, by netlink. Not safe for concurrent use.
type table struct {
	conn     *nftables.Conn
	families map[lb.Family]*family
	// devices are those by which pods send: patterns.
	devices []string
}

func openTable() (*table, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("open nftables' netlink: %w", tableError(err))
	}
	t := &table{conn: conn, families: make(map[lb.Family]*family)}
	for _, f := range both {
		t.families[f] = newFamily(f)
	}
	return t, nil
}

func (t *table) Close() error { return t.conn.CloseLasting() }

func newFamily(f lb.Family) *family {
	addr, kind := nftables.TypeIPAddr, nftables.TableFamilyIPv4
	if f == lb.IPv6 {
		addr, kind = nftables.TypeIP6Addr, nftables.TableFamilyIPv6
	}
	out := &family{f, &nftables.Table{Family: kind, Name: tableName}, make(map[setName]*nftables.Set)}
	frontend := nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService)
	for _, s := range []nftables.Set{
		{Name: string(setFrontends), KeyType: frontend, Concatenation: true, IsMap: true, DataType: nftables.TypeMark},
		{Name: string(setAnyPorts), KeyType: nftables.MustConcatSetType(addr, nftables.TypeInetProto), Concatenation: true, IsMap: true, DataType: nftables.TypeMark},
		{Name: string(setSources), KeyType: nftables.MustConcatSetType(addr, nftables.TypeInetProto, nftables.TypeInetService, addr), Concatenation: true, Interval: true},
		{Name: string(setVIPs), KeyType: addr},
		{Name: string(setServers), KeyType: nftables.MustConcatSetType(addr, addr), Concatenation: true},
		{Name: string(setPods), KeyType: addr, Interval: true},
		{Name: string(setRanges), KeyType: addr, Interval: true},
	} {
		s.Table = out.table
		out.sets[setName(s.Name)] = &s
	}
	return out
}

// ensure makes the tables, if they are not there. Rules that are there stay until the
// first Apply, which says by which devices pods send.
func (t *table) ensure() error {
	there, err := t.existing()
	if err != nil || len(there) == len(both) {
		return err
	}
	return t.create()
}

// create makes the table and what it must have; elements that are there stay. The
// rules change in one step from those of another version to ours.
func (t *table) create() error {
	for _, f := range both {
		if err := t.describe(t.families[f]); err != nil {
			return err
		}
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("make table %s: %w", tableName, tableError(err))
	}
	return nil
}

func (t *table) describe(f *family) error {
	t.conn.AddTable(f.table)
	for _, name := range counterNames {
		t.conn.AddObj(&nftables.NamedObj{Table: f.table, Name: name, Type: nftables.ObjTypeCounter, Obj: &expr.Counter{}})
	}
	for _, name := range []setName{setFrontends, setAnyPorts, setSources, setVIPs, setServers, setPods, setRanges} {
		if err := t.conn.AddSet(f.sets[name], nil); err != nil {
			return fmt.Errorf("describe set %s of table %s: %w", name, tableName, err)
		}
	}
	t.addRules(f)
	return nil
}

// tellPods writes the rules anew, in one step.
func (t *table) tellPods(devices []string) error {
	for _, d := range devices {
		if name, _ := strings.CutSuffix(d, "*"); name == "" || len(name) >= unix.IFNAMSIZ || strings.ContainsAny(name, `*?[\`) {
			return fmt.Errorf("pods' device %q: nftables takes a name, or the beginning of names and *", d)
		}
	}
	t.devices = devices
	return t.create()
}

// tableError adds what to do.
func tableError(err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: it needs CAP_NET_ADMIN", err)
	case errors.Is(err, unix.EPROTONOSUPPORT), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%w: the kernel has no nftables: modprobe nf_tables, or use a kernel with CONFIG_NF_TABLES", err)
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("%w: the kernel lacks a part of nftables: modprobe nft_ct nft_fib_ipv4 nft_fib_ipv6 nft_reject_ipv4 nft_reject_ipv6 nft_masq nft_chain_nat nft_objref", err)
	case errors.Is(err, unix.EEXIST):
		return fmt.Errorf("%w: a table of another layout is there: nft delete table ip %s; nft delete table ip6 %s", err, tableName, tableName)
	}
	return err
}

// existing returns the families whose table is there.
func (t *table) existing() (out []*family, err error) {
	got, err := t.conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nftables' tables: %w", tableError(err))
	}
	for _, f := range both {
		is := func(g *nftables.Table) bool { return g.Name == tableName && g.Family == t.families[f].table.Family }
		if slices.ContainsFunc(got, is) {
			out = append(out, t.families[f])
		}
	}
	return out, nil
}

func (t *table) remove(f *family) error {
	t.conn.DelTable(f.table)
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("delete table %s of %s: %w", tableName, f, err)
	}
	return nil
}

// atOnce is how many elements a message has: its length is 16 bits wide.
const atOnce = 100

// transactionMax is how many elements change in one step. A socket's buffer does
// not hold more; only the first Apply has as many, and what it adds does not matter
// before the virtual services are there.
const transactionMax = 400

func (t *table) change(del, add []element) error {
	del, add = t.sorted(del), t.sorted(add)
	for n := 0; len(del)+len(add) > 0; n = 0 {
		var err error
		if del, err = t.send(del, &n, t.conn.SetDeleteElements, true); err != nil {
			return err
		}
		if add, err = t.send(add, &n, t.conn.SetAddElements, false); err != nil {
			return err
		}
		if err := t.conn.Flush(); err != nil {
			return tableError(err)
		}
	}
	return nil
}

// sorted has the elements of each set together: a message has those of one.
func (t *table) sorted(list []element) []element {
	place := func(e element) string { return fmt.Sprint(t.setOf(e).Table.Family, e.set) }
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(a, b element) int { return strings.Compare(place(a), place(b)) })
	return list
}

// send queues elements, as many as there is room for, and returns the others.
func (t *table) send(list []element, n *int, send func(*nftables.Set, []nftables.SetElement) error, bare bool) ([]element, error) {
	for len(list) > 0 && *n < transactionMax {
		set, count := t.setOf(list[0]), 0
		var elements []nftables.SetElement
		for count < len(list) && count < atOnce && t.setOf(list[count]) == set {
			e := marshal(list[count])
			if bare {
				e.Val, e.Comment = nil, ""
			}
			elements = append(elements, e)
			count++
		}
		if err := send(set, elements); err != nil {
			return list, fmt.Errorf("describe elements of set %s: %w", set.Name, err)
		}
		list = list[count:]
		*n += count
	}
	return list, nil
}

func (t *table) setOf(e element) *nftables.Set {
	a := e.addr
	if e.key != (key{}) {
		a = e.key.addr.Addr()
	}
	return t.families[lb.FamilyOf(a)].sets[e.set]
}

// fields makes the bytes of a concatenation: each field in words of 4 bytes.
func fields(list ...[]byte) (out []byte) {
	for _, f := range list {
		out = append(out, f...)
		for len(out)%4 != 0 {
			out = append(out, 0)
		}
	}
	return out
}

func (k key) fields(more ...[]byte) []byte {
	port := binaryutil.BigEndian.PutUint16(k.addr.Port())
	return fields(append([][]byte{k.addr.Addr().AsSlice(), {byte(k.proto)}, port}, more...)...)
}

func marshal(e element) nftables.SetElement {
	switch e.set {
	case setFrontends:
		return nftables.SetElement{Key: e.key.fields(), Val: binaryutil.BigEndian.PutUint32(uint32(e.terms)), Comment: e.note}
	case setAnyPorts:
		return nftables.SetElement{Key: fields(e.key.addr.Addr().AsSlice(), []byte{byte(e.key.proto)}), Val: binaryutil.BigEndian.PutUint32(uint32(e.terms)), Comment: e.note}
	case setSources:
		return nftables.SetElement{Key: e.key.fields(e.source.Addr().AsSlice()), KeyEnd: e.key.fields(lastOf(e.source).AsSlice())}
	case setServers:
		return nftables.SetElement{Key: fields(e.addr.AsSlice(), e.addr.AsSlice())}
	}
	return nftables.SetElement{Key: e.addr.AsSlice()}
}

// lastOf is the last address of a network.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// replace makes networks the elements of a set, in one step.
func (t *table) replace(name setName, networks []netip.Prefix) error {
	for _, f := range t.families {
		set := f.sets[name]
		t.conn.FlushSet(set)
		var list []nftables.SetElement
		for _, r := range spans(networks, f.Family) {
			list = append(list, nftables.SetElement{Key: r.first.AsSlice()})
			if r.next.IsValid() {
				list = append(list, nftables.SetElement{Key: r.next.AsSlice(), IntervalEnd: true})
			}
		}
		if len(list) > 0 {
			if err := t.conn.SetAddElements(set, list); err != nil {
				return fmt.Errorf("describe elements of set %s: %w", set.Name, err)
			}
		}
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("change set %s of table %s: %w", name, tableName, tableError(err))
	}
	return nil
}

// read lists the elements of sets of both families.
func (t *table) read(names ...setName) (out []element, err error) {
	for _, f := range both {
		list, err := t.readFamily(t.families[f], names...)
		if err != nil {
			return nil, err
		}
		out = append(out, list...)
	}
	return out, nil
}

func (t *table) readFamily(f *family, names ...setName) (out []element, err error) {
	for _, name := range names {
		list, err := t.conn.GetSetElements(f.sets[name])
		if err != nil {
			return nil, fmt.Errorf("list set %s of table %s: %w", name, tableName, tableError(err))
		}
		for _, e := range list {
			out = append(out, unmarshal(name, f.Family, e))
		}
	}
	return out, nil
}

// unmarshal is marshal's inverse.
func unmarshal(name setName, f lb.Family, e nftables.SetElement) element {
	n := f.Bits() / 8
	a, _ := netip.AddrFromSlice(e.Key[:n])
	out := element{set: name}
	switch name {
	case setVIPs, setServers:
		out.addr = a
		return out
	}
	port := uint16(0)
	if name != setAnyPorts {
		port = binaryutil.BigEndian.Uint16(e.Key[n+4:])
	}
	out.key = key{netip.AddrPortFrom(a, port), lb.Protocol(e.Key[n])}
	if name == setSources {
		first, _ := netip.AddrFromSlice(e.Key[n+8:])
		last, _ := netip.AddrFromSlice(e.KeyEnd[n+8:])
		out.source = between(first, last)
		return out
	}
	out.terms, out.note = terms(binaryutil.BigEndian.Uint32(e.Val)), e.Comment
	return out
}

// between is the network from first to last.
func between(first, last netip.Addr) netip.Prefix {
	for bits := range first.BitLen() {
		if p := netip.PrefixFrom(first, bits); lastOf(p) == last && p.Masked() == p {
			return p
		}
	}
	return netip.PrefixFrom(first, first.BitLen())
}

// counters returns how many packets the rules kept out, by reason.
func (t *table) counters() (map[string]uint64, error) {
	out := make(map[string]uint64)
	for _, f := range both {
		list, err := t.conn.GetNamedObjects(t.families[f].table)
		if err != nil {
			return nil, fmt.Errorf("list the counters of table %s: %w", tableName, tableError(err))
		}
		for _, o := range list {
			if n, ok := o.(*nftables.NamedObj); ok {
				if c, ok := n.Obj.(*expr.Counter); ok {
					out[n.Name] += c.Packets
				}
			}
		}
	}
	return out, nil
}
