// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package takeover

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/internal/netlab"
)

func TestWhoFiltersWhatIsForwardedIsFound(t *testing.T) {
	lab, err := netlab.New(netlab.Options{Prefix: "forward"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, tc := range []struct{ name, rules, want string }{
		{"nothing", "", ""},
		{"a chain that accepts all", "table inet a { chain f { type filter hook forward priority 0; policy accept; }\n}", ""},
		{"rules elsewhere", "table inet a { chain i { type filter hook input priority 0; policy drop; ct state invalid drop\n}\n}", ""},
		{"a chain of a bridge", "table bridge a { chain f { type filter hook forward priority 0; policy drop; }\n}", ""},
		{"waggle's own", "table ip waggle { chain f { type filter hook forward priority 0; counter\n}\n}", ""},
		{"a policy", "table ip6 a { chain f { type filter hook forward priority 0; policy drop; }\n}", "chain f of nftables table ip6 a"},
		{"a rule", "table ip filter { chain FORWARD { type filter hook forward priority 0; ct state invalid drop\n}\n}", "chain FORWARD of nftables table ip filter"},
	} {
		cmd := exec.Command("nft", "-f", "-")
		var out bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("flush ruleset\n"+tc.rules), &out, &out
		if err := lab.Director.Run(cmd); err != nil {
			t.Fatalf("%s: nft: %v\n%s", tc.name, err, &out)
		}
		var got string
		err := lab.Director.Do(func() (err error) {
			got, err = ForwardFilter()
			return err
		})
		if err != nil || got != tc.want {
			t.Errorf("%s: %q, %v, want %q", tc.name, got, err, tc.want)
		}
	}
}
