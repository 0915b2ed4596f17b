// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
)

// waggleTable is the name of the IPVS dataplane's tables, which drop nothing that
// is forwarded.
const waggleTable = "waggle"

// ForwardFilter says in words who filters what the calling thread's network namespace
// forwards: nftables' chains at the hook forward that have rules or drop by policy, and
// the table filter of iptables' legacy backend. "" if nobody does. What goes past the
// stack meets none of it.
func ForwardFilter() (string, error) {
	for _, name := range []string{"ip_tables_names", "ip6_tables_names"} {
		b, err := os.ReadFile("/proc/thread-self/net/" + name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("look for rules about what is forwarded: %w", err)
		}
		if slices.Contains(strings.Fields(string(b)), "filter") {
			return "table filter of iptables' legacy backend", nil
		}
	}
	c, err := openNft()
	if err != nil {
		return "", fmt.Errorf("open nftables: %w", err)
	}
	filter, err := nftForward(c)
	if without(err) {
		err = nil
	}
	return filter, errors.Join(err, c.CloseLasting())
}

func nftForward(c *nftables.Conn) (string, error) {
	chains, err := c.ListChains()
	if err != nil {
		return "", fmt.Errorf("list chains: %w", err)
	}
	for _, ch := range chains {
		words := map[nftables.TableFamily]string{nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet"}
		family := words[ch.Table.Family]
		if family == "" || ch.Table.Name == waggleTable || ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return "", fmt.Errorf("list rules of chain %s: %w", ch.Name, err)
		}
		if len(rules) > 0 || ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			return fmt.Sprintf("chain %s of nftables table %s %s", ch.Name, family, ch.Table.Name), nil
		}
	}
	return "", nil
}
