// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package sysctl_test

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/sysctl"
)

// What is of a network namespace is set there, and nowhere else; what is of the
// machine alone is refused there.
func TestSettingsOfANamespace(t *testing.T) {
	lab, err := netlab.New(netlab.Options{Prefix: "sysctl"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	ns, err := lab.AddNamespace("node")
	if err != nil {
		t.Fatal(err)
	}
	settings := append(sysctl.Conntrack{Established: 86399 * time.Second, CloseWait: 3599 * time.Second, UDP: 29 * time.Second, UDPStream: 119 * time.Second, Liberal: true}.Settings(1),
		sysctl.Sysctl("net/ipv4/conf/all/arp_ignore", 1), sysctl.Sysctl("net/ipv4/conf/all/arp_announce", 2))
	before := values(t, settings)
	err = ns.Do(func() error {
		for _, again := range []bool{false, true} {
			for _, s := range settings {
				if changed, err := s.Set(); err != nil || changed == again {
					t.Errorf("%s: changed %v, %v", s, changed, err)
				}
			}
		}
		for i, v := range values(t, settings) {
			if want := settings[i].String(); !strings.HasSuffix(want, "="+v) {
				t.Errorf("%s is %s", want, v)
			}
		}
		limit := sysctl.Setting{Path: "/proc/sys/net/netfilter/nf_conntrack_max", Value: 1 << 30, AtLeast: true}
		if changed, err := limit.Set(); err == nil || changed {
			t.Errorf("the machine's limit was set from a namespace")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i, v := range values(t, settings) {
		if v != before[i] {
			t.Errorf("%s changed here, too: from %s to %s", settings[i], before[i], v)
		}
	}
}

func values(t *testing.T, settings []sysctl.Setting) (out []string) {
	t.Helper()
	for _, s := range settings {
		text, err := os.ReadFile(s.Path)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, strings.TrimSpace(string(text)))
	}
	return out
}
