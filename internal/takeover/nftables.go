// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"syscall"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
)

// Of a netlink socket: how many messages go in one transaction, and room for them
// and what the kernel answers to each.
const (
	perBatch   = 1000
	socketRoom = 4 << 20
)

// openNft opens nftables in the calling thread's network namespace.
func openNft() (*nftables.Conn, error) {
	return nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(socketRoom), c.SetWriteBuffer(socketRoom))
	}))
}

// without is what a kernel without nftables, or without this part, says.
func without(err error) bool {
	return errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EPROTONOSUPPORT) || errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EINVAL)
}

func familyWord(f nftables.TableFamily) string {
	if f == nftables.TableFamilyIPv6 {
		return "ip6"
	}
	return "ip"
}

// ownTables are nftables tables that are all kube-proxy's.
type ownTables []*nftables.Table

func findOwnTables(c *nftables.Conn, tables []*nftables.Table) (found ownTables) {
	for _, t := range tables {
		if t.Name == tableName && (t.Family == nftables.TableFamilyIPv4 || t.Family == nftables.TableFamilyIPv6) {
			found = append(found, t)
		}
	}
	return found
}

func (o ownTables) items() (out []string) {
	for _, t := range o {
		out = append(out, fmt.Sprintf("nftables table %s %s", familyWord(t.Family), t.Name))
	}
	return out
}

func (o ownTables) remove() error {
	c, err := openNft()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, t := range o {
		c.DelTable(t)
	}
	if err := errors.Join(c.Flush(), c.CloseLasting()); err != nil {
		return fmt.Errorf("remove kube-proxy's nftables tables: %w", err)
	}
	return nil
}

// iptablesTables are the names of what iptables' nftables backend makes.
var iptablesTables = []string{"nat", "filter", "mangle", "raw", "security"}

// ownChains are kube-proxy's chains in one table of iptables' nftables backend, and
// the rules of its base chains that lead there.
type ownChains struct {
	table  *nftables.Table
	jumps  []*nftables.Rule
	chains []*nftables.Chain
	kept   []string // chains that stay, as others use them, and who does
}

// findChains looks through the tables of one family.
func findChains(c *nftables.Conn, tables []*nftables.Table, family nftables.TableFamily) (found []*ownChains, err error) {
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Family == family && slices.Contains(iptablesTables, t.Name) }) {
		return nil, nil
	}
	all, err := c.ListChainsOfTableFamily(family)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", err)
	}
	for _, name := range iptablesTables {
		o := &ownChains{}
		var others []*nftables.Chain
		for _, ch := range all {
			switch {
			case ch.Table.Name != name:
			case isProxyChain(ch.Name):
				o.chains = append(o.chains, ch)
				o.table = ch.Table
			default:
				others = append(others, ch)
			}
		}
		if len(o.chains) == 0 {
			continue
		}
		if err := o.spare(c, others); err != nil {
			return nil, err
		}
		found = append(found, o)
	}
	return found, nil
}

// spare finds who leads to kube-proxy's chains. A base chain's rule is kube-proxy's
// own; what another's chain leads to stays, as that rule would have to go with it,
// and what that leads to.
func (o *ownChains) spare(c *nftables.Conn, others []*nftables.Chain) error {
	stays := make(map[string]bool)
	var next []string
	keep := func(name, why string) {
		if isProxyChain(name) && !stays[name] {
			stays[name] = true
			next = append(next, name)
			o.kept = append(o.kept, fmt.Sprintf("chain %s of table %s %s, %s", name, familyWord(o.table.Family), o.table.Name, why))
		}
	}
	for _, ch := range others {
		rules, err := c.GetRules(o.table, ch)
		if err != nil {
			return fmt.Errorf("list the rules of chain %s: %w", ch.Name, err)
		}
		for _, r := range rules {
			target := leadsTo(r)
			switch {
			case !isProxyChain(target):
			case ch.Hooknum != nil:
				o.jumps = append(o.jumps, r)
			default:
				keep(target, "which "+ch.Name+" uses")
			}
		}
	}
	for len(next) > 0 {
		name := next[0]
		next = next[1:]
		if name == markChain {
			keep(masqueradeChain, "which does what "+markChain+" asks for")
		}
		rules, err := c.GetRules(o.table, &nftables.Chain{Name: name})
		if err != nil {
			return fmt.Errorf("list the rules of chain %s: %w", name, err)
		}
		for _, r := range rules {
			keep(leadsTo(r), "which "+name+" uses")
		}
	}
	o.jumps = slices.DeleteFunc(o.jumps, func(r *nftables.Rule) bool { return stays[leadsTo(r)] })
	o.chains = slices.DeleteFunc(o.chains, func(ch *nftables.Chain) bool { return stays[ch.Name] })
	return nil
}

// leadsTo returns the chain that a rule jumps or goes to, else "".
func leadsTo(r *nftables.Rule) string {
	for _, e := range r.Exprs {
		if v, ok := e.(*expr.Verdict); ok && (v.Kind == expr.VerdictJump || v.Kind == expr.VerdictGoto) {
			return v.Chain
		}
	}
	return ""
}

func (o *ownChains) items() []string {
	if len(o.chains) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d chains in table %s %s (iptables, nftables backend), and %d rules that lead there",
		len(o.chains), familyWord(o.table.Family), o.table.Name, len(o.jumps))}
}

// remove takes away first what leads to the chains, so no packet meets half of them,
// then their rules, then them.
func (o *ownChains) remove() error {
	c, err := openNft()
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	for _, r := range o.jumps {
		if err := c.DelRule(&nftables.Rule{Table: o.table, Chain: r.Chain, Handle: r.Handle}); err != nil {
			return errors.Join(err, c.CloseLasting())
		}
	}
	err = c.Flush()
	for _, do := range []func(*nftables.Chain){c.FlushChain, c.DelChain} {
		for batch := range slices.Chunk(o.chains, perBatch) {
			for _, ch := range batch {
				do(&nftables.Chain{Table: o.table, Name: ch.Name})
			}
			err = cmp.Or(err, c.Flush())
		}
	}
	if err = errors.Join(err, c.CloseLasting()); err != nil {
		return fmt.Errorf("remove kube-proxy's chains from table %s %s: %w", familyWord(o.table.Family), o.table.Name, err)
	}
	return nil
}

// nftParts are all parts that nftables holds.
func nftParts() (parts []part, kept []string, err error) {
	c, err := openNft()
	if err != nil {
		return nil, nil, fmt.Errorf("open nftables: %w", err)
	}
	defer func() { err = errors.Join(err, c.CloseLasting()) }()
	tables, err := c.ListTables()
	if without(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list nftables tables: %w", err)
	}
	for _, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		chains, err := findChains(c, tables, family)
		if err != nil {
			return nil, nil, fmt.Errorf("look through nftables of family %s: %w", familyWord(family), err)
		}
		for _, o := range chains {
			parts, kept = append(parts, o), append(kept, o.kept...)
		}
	}
	return append(parts, findOwnTables(c, tables)), kept, nil
}

// nftTranslates reports whether a chain of type nat is left for a family: with the
// last one the kernel ends all translation of it, that of established connections
// too.
func nftTranslates(family nftables.TableFamily) (bool, error) {
	c := &nftables.Conn{}
	for _, f := range []nftables.TableFamily{family, nftables.TableFamilyINet} {
		chains, err := c.ListChainsOfTableFamily(f)
		if without(err) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("list chains: %w", err)
		}
		if slices.ContainsFunc(chains, func(ch *nftables.Chain) bool { return ch.Type == nftables.ChainTypeNAT }) {
			return true, nil
		}
	}
	return false, nil
}
