// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/dataplane/conformance"
	"github.com/waggle-lb/waggle/lb"
)

// step does one step of a case and compares what was recorded of it.
func (p *replay) step(i int, s recorded) {
	switch s.Op {
	case "add", "edit", "del", "svcedit", "sysctl":
		p.change(s)
	case "conn":
		p.compare(i, s, "picked", s.Picked, s.Waggle, p.connect(s))
	case "send":
		p.compare(i, s, "picked", s.Picked, s.Waggle, p.send(s))
	case "close":
		p.close(s)
	case "sleep":
		p.pass(time.Duration(s.MS) * time.Millisecond)
	case "list":
		p.list(i, s)
	case "conntab":
		p.entries(i, s)
		if s.List != nil {
			p.list(i, s)
		}
	default:
		p.t.Fatalf("step %d: operation %q", i, s.Op)
	}
}

// compare wants what was recorded, or where waggle differs what it does.
func (p *replay) compare(i int, s recorded, what, want, waggle, got string) {
	p.t.Helper()
	if !p.kernel && s.D != "" && waggle != "" {
		if waggle == want {
			p.t.Errorf("step %d (%s): %s that is none", i, s.Op, s.D)
		}
		want = waggle
		p.differs[s.D]++
	}
	if d := cmp.Diff(want, got); d != "" {
		p.t.Errorf("step %d (%s): %s (-want +got):\n%s", i, s.Op, what, d)
	}
}

// change edits the service.
func (p *replay) change(s recorded) {
	next := *p.svc
	next.Backends = slices.Clone(p.svc.Backends)
	b := lb.Backend{Addr: s.Dest, Weight: s.Weight, Upper: s.UThresh, Lower: s.LThresh}
	at := slices.IndexFunc(next.Backends, func(b lb.Backend) bool { return b.Addr == s.Dest })
	switch s.Op {
	case "add":
		next.Backends = slices.Insert(next.Backends, 0, b)
	case "edit":
		next.Backends[at] = b
	case "del":
		next.Backends = slices.Delete(next.Backends, at, at+1)
	case "svcedit":
		p.setArgs(&next, s.Value)
	case "sysctl":
		p.sysctl[s.Name] = s.Value
		p.setOptions(&next)
	}
	p.svc = &next
	p.apply(p.svc)
	if s.Op == "del" {
		p.do(p.d.sweep(context.Background(), nil)) // expire_nodest_conn ends flows soon after, not at once
	}
}

// pass lets time pass, with the sweeper at work.
func (p *replay) pass(d time.Duration) {
	for ; d > 0; d -= time.Second {
		p.Advance(min(d, time.Second))
	}
}

func (p *replay) packet(c *goldenConn, from conformance.Side, flags conformance.Flag) conformance.Outcome {
	p.t.Helper()
	k := conformance.Packet{From: from, Src: c.client, Dst: c.vip, Protocol: p.proto(), Flags: flags}
	if from == conformance.Backend {
		k.Src, k.Dst = c.server, c.client
	}
	if p.proto() == lb.UDP {
		k.Flags, k.Payload = 0, []byte("hi")
	}
	return p.Send(k)
}

// said is how the recordings say what became of a client's packet.
func (p *replay) said(c *goldenConn, out conformance.Outcome) string {
	switch {
	case out.Verdict == lb.Forward:
		c.server = out.Dst
		return out.Dst.String()
	case out.Verdict == lb.Refuse && out.Answer == conformance.Unreachable:
		return "none:refused"
	case out.Verdict == lb.Refuse:
		c.reset = true
		return "none:connection reset by peer"
	}
	return "none:timeout"
}

// discard is the port of servers that refuse, in the recordings.
const discard = 9

// connect is a new connection: with hold it stays, else the client resets it.
func (p *replay) connect(s recorded) string {
	if p.expires() && !p.waited {
		p.Advance(300 * time.Millisecond) // one after the other, so that they end so
	}
	c := &goldenConn{client: netip.AddrPortFrom(netip.MustParseAddr(s.Src), s.Sport)}
	c.vip = netip.AddrPortFrom(netip.MustParseAddr(p.rec.VIP(s.Dst)), s.Dport)
	p.conns[s.ID] = c
	picked := p.said(c, p.packet(c, conformance.Client, conformance.SYN))
	switch {
	case !c.server.IsValid():
		return picked
	case c.server.Port() == discard, strings.HasPrefix(s.Picked, "none:no route"):
		return s.Picked // the server is not there, or says so itself
	}
	if p.svc.OnePacket {
		return picked
	}
	p.packet(c, conformance.Backend, conformance.SYN|conformance.ACK)
	if p.proto() == lb.UDP {
		return picked
	}
	p.packet(c, conformance.Client, conformance.ACK)
	if !s.Hold {
		p.packet(c, conformance.Client, conformance.RST)
	}
	return picked
}

// VIP is where a connection to dst goes, which is empty but for services by
// firewall mark.
func (r *recording) VIP(dst string) string {
	if dst != "" {
		return dst
	}
	return r.Vip
}

// send is data of a client, and who answered it.
func (p *replay) send(s recorded) string {
	c := p.conns[s.ID]
	if c.reset {
		return "none:broken pipe"
	}
	before := c.server
	got := p.said(c, p.packet(c, conformance.Client, conformance.ACK))
	if before != c.server && p.proto() == lb.TCP {
		p.t.Errorf("connection %d of %s goes to %s", s.ID, before, c.server)
	}
	if c.reset || strings.HasPrefix(got, "none:") {
		return got
	}
	if s.Value == "q" { // the server closes
		p.packet(c, conformance.Backend, conformance.FIN|conformance.ACK)
		p.packet(c, conformance.Client, conformance.ACK)
		return "none:eof"
	}
	p.packet(c, conformance.Backend, conformance.ACK)
	return got
}

// close is the client's: with FIN, which the server answers with its own, but
// where the recording shows that it did not; or with RST.
func (p *replay) close(s recorded) {
	c := p.conns[s.ID]
	if s.How == "rst" {
		p.packet(c, conformance.Client, conformance.RST)
		return
	}
	p.packet(c, conformance.Client, conformance.FIN|conformance.ACK)
	p.packet(c, conformance.Backend, conformance.ACK)
	if p.staysOpen(c) {
		return
	}
	p.packet(c, conformance.Backend, conformance.FIN|conformance.ACK)
	p.packet(c, conformance.Client, conformance.ACK)
}

// staysOpen says that the server of a connection does not close it: the next
// listing of entries has it in CLOSE_WAIT.
func (p *replay) staysOpen(c *goldenConn) bool {
	for _, s := range p.rec.Steps {
		if s.Op != "conntab" {
			continue
		}
		for line := range strings.Lines(s.Out) {
			if strings.Contains(line, "CLOSE_WAIT") && strings.Contains(line, " "+c.client.String()+" ") {
				return true
			}
		}
	}
	return false
}

// list compares the counters of the backends.
func (p *replay) list(i int, s recorded) {
	want, waggle := describe(s.List), describe(s.WaggleList)
	got := p.counts()
	for waited := time.Duration(0); got != want && p.expires() && waited < 12*time.Second; waited += 100 * time.Millisecond {
		p.waited = true
		p.Advance(100 * time.Millisecond)
		got = p.counts()
	}
	p.compare(i, s, "counters", want, waggle, got)
}

func describe(list []listed) string {
	var out strings.Builder
	for _, l := range list {
		fmt.Fprintf(&out, "%s weight %d active %d inactive %d\n", l.Dest, l.Weight, l.Active, l.Inactive)
	}
	return out.String()
}

func (p *replay) counts() string {
	c, err := p.d.Counters()
	p.do(err)
	held, err := p.d.Read()
	p.do(err)
	var out []listed
	for _, b := range held.Service(p.svc.ID).Backends {
		n := c.Backends[lb.BackendID{Service: p.svc.ID, Addr: b.Addr}]
		out = append(out, listed{b.Addr, b.Weight, n.Active, n.Inactive})
	}
	return describe(out)
}
