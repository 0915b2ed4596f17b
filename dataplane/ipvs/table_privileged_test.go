// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ipvs

import (
	"errors"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/lb"
)

// inNamespace runs f in a network namespace of its own.
func inNamespace(t *testing.T, f func(ns *netlab.Namespace) error) {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "ipvs"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := lab.Director.Do(func() error { return f(lab.Director) }); err != nil {
		t.Fatal(err)
	}
}

// newTable opens a table in the calling thread's namespace.
func newTable(t *testing.T) *table {
	t.Helper()
	tab, err := openTable()
	if err != nil {
		t.Error(err)
		return nil
	}
	t.Cleanup(func() {
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
	})
	return tab
}

func elementAt(vip string, terms terms, note string) element {
	return element{set: setFrontends, key: key{netip.MustParseAddrPort(vip), lb.TCP}, terms: terms, note: note}
}

func sourceAt(vip, prefix string) element {
	return element{set: setSources, key: key{netip.MustParseAddrPort(vip), lb.UDP}, source: netip.MustParsePrefix(prefix)}
}

func addressIn(set setName, a string) element { return element{set: set, addr: netip.MustParseAddr(a)} }

func wantElements(t *testing.T, tab *table, want []element) {
	t.Helper()
	got, err := tab.read(setFrontends, setAnyPorts, setSources, setVIPs, setServers)
	if err != nil {
		t.Error(err)
		return
	}
	missing, more := without(want, got), without(got, want)
	if len(missing)+len(more) > 0 {
		t.Errorf("elements missing: %+v, too many: %+v", missing, more)
	}
}

func TestTheTableHoldsWhatItWasGiven(t *testing.T) {
	long := strings.Repeat("n", maxName)
	all := []element{
		elementAt("203.0.113.1:80", masqueradeAlways|restricted, "keep any 0 0 web"),
		{set: setAnyPorts, key: key{netip.MustParseAddrPort("203.0.113.1:0"), lb.TCP}, terms: masqueradeNode, note: "keep any 0 0 all ports"},
		{set: setAnyPorts, key: key{netip.MustParseAddrPort("[2001:db8::1]:0"), lb.UDP}, note: "keep any 0 0 all ports"},
		elementAt("[2001:db8::1]:80", policyLocal|dropAll, "keep any 0 0 "+long),
		sourceAt("203.0.113.1:80", "192.0.2.0/24"), sourceAt("203.0.113.1:80", "198.51.100.7/32"), sourceAt("203.0.113.1:81", "0.0.0.0/0"),
		sourceAt("[2001:db8::1]:80", "2001:db8:1::/48"), sourceAt("[2001:db8::1]:80", "::/0"),
		addressIn(setVIPs, "203.0.113.1"), addressIn(setVIPs, "2001:db8::1"),
		addressIn(setServers, "192.0.2.1"), addressIn(setServers, "2001:db8:2::1"),
	}
	all = slices.DeleteFunc(all, func(e element) bool { return e == sourceAt("[2001:db8::1]:80", "2001:db8:1::/48") }) // within ::/0
	inNamespace(t, func(*netlab.Namespace) error {
		tab := newTable(t)
		if err := tab.create(); err != nil {
			return err
		}
		if err := tab.change(nil, all); err != nil {
			return err
		}
		wantElements(t, tab, all)
		changed := slices.Clone(all)
		changed[0].terms, changed[0].note = masqueradeNode, "reset never 3 0 web"
		if err := tab.change(all[:1], changed[:1]); err != nil {
			return err
		}
		wantElements(t, tab, changed)
		if err := tab.create(); err != nil { // as the next process does
			return err
		}
		wantElements(t, tab, changed)
		if err := tab.change(changed, nil); err != nil {
			return err
		}
		wantElements(t, tab, nil)
		there, err := tab.existing()
		if len(there) != 2 {
			t.Errorf("tables of %v are there", there)
		}
		for _, f := range there {
			err = errors.Join(err, tab.remove(f))
		}
		return err
	})
}

func TestManyElementsChangeAtOnce(t *testing.T) {
	var all []element
	for i := range 3000 {
		a := netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		all = append(all, elementAt(netip.AddrPortFrom(a, 80).String(), 0, "keep any 0 0 "+strings.Repeat("x", 100)), element{set: setVIPs, addr: a})
	}
	inNamespace(t, func(*netlab.Namespace) error {
		tab := newTable(t)
		if err := tab.create(); err != nil {
			return err
		}
		if err := tab.change(nil, all); err != nil {
			return err
		}
		wantElements(t, tab, all)
		return tab.change(all, nil)
	})
}

func TestNetworksReplaceThoseBefore(t *testing.T) {
	inNamespace(t, func(*netlab.Namespace) error {
		tab := newTable(t)
		if err := tab.create(); err != nil {
			return err
		}
		for _, list := range [][]string{
			{"10.0.0.0/8", "10.1.0.0/16", "11.0.0.0/8", "192.0.2.0/24", "255.0.0.0/8", "2001:db8::/32"},
			{"0.0.0.0/0", "10.0.0.0/8", "::/0"},
			{},
			{"10.244.0.0/16"},
		} {
			var networks []netip.Prefix
			for _, p := range list {
				networks = append(networks, netip.MustParsePrefix(p))
			}
			if err := tab.replace(setPods, networks); err != nil {
				t.Errorf("%v: %v", list, err)
			}
		}
		return nil
	})
}

// TestTheTableIsReadable has nft print the table: a set that is described badly
// ends it.
func TestTheTableIsReadable(t *testing.T) {
	inNamespace(t, func(ns *netlab.Namespace) error {
		tab := newTable(t)
		if err := tab.create(); err != nil {
			return err
		}
		list := []element{elementAt("203.0.113.1:80", masqueradeAlways, "keep any 0 0 web"), sourceAt("203.0.113.1:80", "192.0.2.0/24")}
		if err := tab.change(nil, list); err != nil {
			return err
		}
		if err := tab.tellPods([]string{"cali*", "cni0"}); err != nil {
			return err
		}
		for _, bad := range []string{"*", "a?b", "a*b", "anameofsixteen..", ""} {
			if err := tab.tellPods([]string{bad}); err == nil {
				t.Errorf("device %q is taken", bad)
			}
		}
		out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		if err != nil {
			t.Errorf("nft: %v\n%s", err, out)
		}
		t.Logf("%s", out)
		for _, want := range []string{`203.0.113.1 . tcp . 80 comment "keep any 0 0 web" : 0x00000001`, "203.0.113.1 . udp . 80 . 192.0.2.0/24", "masquerade fully-random", `counter name "unknown_port" reject`, `ip saddr != @pods iifname != "cali*" iifname != "cni0" meta mark set`} {
			if !strings.Contains(string(out), want) {
				t.Errorf("nft does not print %q", want)
			}
		}
		return nil
	})
}

func TestSpans(t *testing.T) {
	tests := []struct{ networks, want string }{
		{"", ""},
		{"10.0.0.0/8", "10.0.0.0-11.0.0.0"},
		{"10.0.0.0/8 10.1.0.0/16 11.0.0.0/8 2001:db8::/32", "10.0.0.0-12.0.0.0"},
		{"192.0.2.0/24 10.0.0.0/8", "10.0.0.0-11.0.0.0 192.0.2.0-192.0.3.0"},
		{"255.0.0.0/8 0.0.0.0/0", "0.0.0.0-invalid IP"},
	}
	for _, tt := range tests {
		var networks []netip.Prefix
		for _, p := range strings.Fields(tt.networks) {
			networks = append(networks, netip.MustParsePrefix(p))
		}
		var got []string
		for _, s := range spans(networks, lb.IPv4) {
			got = append(got, s.first.String()+"-"+s.next.String())
		}
		if d := cmp.Diff(strings.Join(got, " "), tt.want, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s (-got +want):\n%s", tt.networks, d)
		}
	}
}
