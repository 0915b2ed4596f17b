// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"path/filepath"
	"testing"

	"github.com/waggle-lb/waggle/internal/takeover"
	"github.com/waggle-lb/waggle/lb"
)

// TestCleanupOfKubeProxy reads like a session: what is said, and what is removed.
func TestCleanupOfKubeProxy(t *testing.T) {
	idle := takeover.Found{Items: []string{"nftables table ip kube-proxy", "17 ipsets"}, Kept: []string{"chain KUBE-MARK-MASQ of table ip nat, which CNI-DN-1 uses"}}
	busy := idle
	busy.Live = 3
	for _, c := range []struct {
		name    string
		args    []string
		found   takeover.Found
		err     error
		removed bool
	}{
		{"none", nil, takeover.Found{}, nil, false},
		{"idle", nil, idle, nil, true},
		{"busy", nil, busy, nil, false},
		{"busy-force", []string{"--force"}, busy, nil, true},
		{"busy-dry-run", []string{"--dry-run"}, busy, nil, false},
		{"no-waggle", []string{"--pin-path", "/sys/fs/bpf/other"}, idle, nil, false},
		{"no-waggle-force", []string{"--pin-path", "/sys/fs/bpf/other", "--force"}, idle, nil, true},
		{"fails", nil, idle, errors.New("remove ipset KUBE-LOOP-BACK: device or resource busy"), true},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newTestEnv(newFakeReader(t))
			e.leftovers = func(*lb.Snapshot) (*takeover.Found, error) { return &c.found, nil }
			removed := false
			e.remove = func(*takeover.Found) error { removed = true; return c.err }
			compareGolden(t, filepath.Join("testdata", "verbs", "cleanup-kube-proxy-"+c.name+".txt"), e.transcript(t, append([]string{"cleanup", "--kube-proxy"}, c.args...)...))
			if removed != c.removed {
				t.Errorf("removed: %v, want %v", removed, c.removed)
			}
		})
	}
	e := newTestEnv(newFakeReader(t))
	compareGolden(t, filepath.Join("testdata", "verbs", "cleanup-force-alone.txt"), e.transcript(t, "cleanup", "--force"))
}
