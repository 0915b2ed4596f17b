// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/lb"
)

// IPVS takes packets at the end of input and, from the machine itself, at the
// beginning of output. Its chains come before both: after connection tracking and
// destination NAT, before anybody's filter could have let something out.
const (
	inputPriority  = -20
	outputPriority = -110 // IPVS is at -98
)

// The registers of rules: words of 4 bytes, which registers of 16 share.
const (
	word   = unix.NFT_REG32_00
	result = unix.NFT_REG32_15
)

// rule is the expressions of one.
type rule []expr.Any

func (r rule) and(more ...rule) rule {
	out := append(rule(nil), r...)
	for _, m := range more {
		out = append(out, m...)
	}
	return out
}

// addRules queues the chains of one family, emptied, and their rules.
func (t *table) addRules(f *family) {
	policy := nftables.ChainPolicyAccept
	base := func(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority nftables.ChainPriority) *nftables.Chain {
		return t.chain(&nftables.Chain{Name: name, Table: f.table, Type: kind, Hooknum: hook, Priority: &priority, Policy: &policy})
	}
	named := func(name string) *nftables.Chain { return t.chain(&nftables.Chain{Name: name, Table: f.table}) }
	check := named("check")
	input := base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, inputPriority)
	output := base("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, outputPriority)
	forward := base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, *nftables.ChainPriorityFilter)
	post := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, *nftables.ChainPriorityNATSource)
	unallocated := f.load(daddr, 0).and(f.in(setRanges, false))
	t.add(input, begins(), jump(check))
	t.add(output, begins(), jump(check))
	t.add(output, begins(), unallocated, f.isLocal(daddr, false), drop("unallocated"))
	t.add(forward, begins(), unallocated, drop("unallocated"))
	// Whose terms count is found as IPVS finds a service: the port's, else any's.
	for _, k := range f.keys() {
		own := named(string(k.set))
		t.add(check, k.rule, f.look(k.set), bit(served), goTo(own))
		f.addTerms(t, own, k)
	}
	for _, p := range []lb.Protocol{lb.TCP, lb.UDP, lb.SCTP} {
		t.add(check, protocol(p), f.load(daddr, 0), f.in(setVIPs, false), f.refuse("unknown_port"))
	}
	t.add(post, marked(), setMark(0), masquerade())
	t.add(post, f.load(saddr, 0), f.load(daddr, f.words()), f.in(setServers, false), masquerade())
}

func (t *table) chain(c *nftables.Chain) *nftables.Chain {
	t.conn.AddChain(c)
	t.conn.FlushChain(c)
	return c
}

func (t *table) add(c *nftables.Chain, parts ...rule) {
	t.conn.AddRule(&nftables.Rule{Table: c.Table, Chain: c, Exprs: rule(nil).and(parts...)})
}

// addTerms queues what keeps connections out, and which are masqueraded. IPVS
// refuses what finds no server. A process of the machine itself that connects to a
// VIP has the VIP's address, as it is local, and is always masqueraded.
func (f *family) addTerms(t *table, c *nftables.Chain, k keyOf) {
	has := func(b terms) rule { return k.rule.and(f.look(k.set), bit(b)) }
	notPod := f.load(saddr, 0).and(f.in(setPods, true), notBy(t.devices))
	t.add(c, has(leaving), f.refuse("unknown_port"))
	if k.set == setFrontends { // those of any port have no ranges
		t.add(c, has(restricted), k.rule, f.load(saddr, f.words()+2), f.in(setSources, true), drop("source_range"))
	}
	t.add(c, has(dropAll), drop("no_local"))
	t.add(c, has(dropOutsiders), notPod, f.isLocal(saddr, false), drop("no_local"))
	t.add(c, has(masqueradeAlways), setMark(masqueradeMark))
	t.add(c, has(masqueradeOutsiders), notPod, setMark(masqueradeMark))
	t.add(c, has(masqueradeNode), notPod, f.isLocal(saddr, true), setMark(masqueradeMark))
	t.add(c, f.load(saddr, 0), f.in(setVIPs, false), setMark(masqueradeMark))
}

// keyOf is how rules find the terms of a frontend: with the port or without.
type keyOf struct {
	set setName
	rule
}

func (f *family) keys() []keyOf {
	any := f.load(daddr, 0).and(rule{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: word + f.words()}})
	port := rule{&expr.Payload{DestRegister: word + f.words() + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
	return []keyOf{{setFrontends, any.and(port)}, {setAnyPorts, any}}
}

// notBy says that a packet came by none of these devices.
func notBy(devices []string) (out rule) {
	for _, d := range devices {
		data, isBeginning := strings.CutSuffix(d, "*")
		if !isBeginning {
			data += strings.Repeat("\x00", unix.IFNAMSIZ-len(data))
		}
		out = append(out, &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: unix.NFT_REG_1, Data: []byte(data)})
	}
	return out
}

// masqueradeMark is the bit of packets' marks that says what is to be masqueraded,
// from IPVS's way in to its way out: kube-proxy's, which others leave alone.
const masqueradeMark = 0x4000

// setMark sets the bit, or clears it.
func setMark(to uint32) rule {
	keep := ^uint32(masqueradeMark)
	return rule{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: word},
		&expr.Bitwise{SourceRegister: word, DestRegister: word, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(keep), Xor: binaryutil.NativeEndian.PutUint32(to)},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: word},
	}
}

func marked() rule {
	zero := make([]byte, 4)
	return rule{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: word},
		&expr.Bitwise{SourceRegister: word, DestRegister: word, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(masqueradeMark), Xor: zero},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: word, Data: zero},
	}
}

// masquerade takes a port at random, as two CPUs that look for a free one at the
// same time would find the same.
func masquerade() rule { return rule{&expr.Masq{FullyRandom: true}} }

// words is how many registers an address takes.
func (f *family) words() uint32 {
	if f.Family == lb.IPv6 {
		return 4
	}
	return 1
}

// end is which address of a packet.
type end int

const (
	saddr end = iota
	daddr
)

// load loads an address into the register this many words behind the first.
func (f *family) load(e end, behind uint32) rule {
	offset := uint32(12)
	if f.Family == lb.IPv6 {
		offset = 8
	}
	n := f.words() * 4
	return rule{&expr.Payload{DestRegister: word + behind, Base: expr.PayloadBaseNetworkHeader, Offset: offset + uint32(e)*n, Len: n}}
}

// look looks up what is loaded: the terms are the result.
func (f *family) look(name setName) rule {
	s := f.sets[name]
	return rule{&expr.Lookup{SourceRegister: word, DestRegister: result, IsDestRegSet: true, SetName: s.Name, SetID: s.ID}}
}

// in says that what is loaded is in a set, or is not.
func (f *family) in(name setName, not bool) rule {
	s := f.sets[name]
	return rule{&expr.Lookup{SourceRegister: word, SetName: s.Name, SetID: s.ID, Invert: not}}
}

// isLocal says that an address is the machine's, or is not.
func (f *family) isLocal(e end, is bool) rule {
	op := expr.CmpOpNeq
	if is {
		op = expr.CmpOpEq
	}
	return rule{
		&expr.Fib{Register: result, ResultADDRTYPE: true, FlagSADDR: e == saddr, FlagDADDR: e == daddr},
		&expr.Cmp{Op: op, Register: result, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

func protocol(p lb.Protocol) rule {
	return rule{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: word}, &expr.Cmp{Op: expr.CmpOpEq, Register: word, Data: []byte{byte(p)}}}
}

// bit says that the result has a bit.
func bit(b terms) rule {
	zero := make([]byte, 4)
	return rule{
		&expr.Bitwise{SourceRegister: result, DestRegister: result, Len: 4, Mask: binaryutil.BigEndian.PutUint32(uint32(b)), Xor: zero},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: result, Data: zero},
	}
}

// begins says that a packet is of no connection that was answered or let through.
func begins() rule {
	known := expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	zero := make([]byte, 4)
	return rule{
		&expr.Ct{Key: expr.CtKeySTATE, Register: word},
		&expr.Bitwise{SourceRegister: word, DestRegister: word, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(known), Xor: zero},
		&expr.Cmp{Op: expr.CmpOpEq, Register: word, Data: zero},
	}
}

func goTo(c *nftables.Chain) rule { return rule{&expr.Verdict{Kind: expr.VerdictGoto, Chain: c.Name}} }

func jump(c *nftables.Chain) rule { return rule{&expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name}} }

func counted(counter string) rule {
	return rule{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: counter}}
}

func drop(counter string) rule {
	return counted(counter).and(rule{&expr.Verdict{Kind: expr.VerdictDrop}})
}

// refuse answers with ICMP port unreachable, as IPVS does if it finds no server.
func (f *family) refuse(counter string) rule {
	code := uint8(3) // RFC 792
	if f.Family == lb.IPv6 {
		code = 4 // RFC 4443
	}
	return counted(counter).and(rule{&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: code}})
}
