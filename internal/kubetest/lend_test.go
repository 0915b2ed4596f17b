// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

func TestALentServerIsStoppedAndStarted(t *testing.T) {
	own := Start(t)
	name, file, _ := strings.Cut(own.Lend(t, filepath.Join(t.TempDir(), "loan"), "127.0.0.1"), "=")
	t.Setenv(name, file)
	if _, err := start([]string{"--event-ttl=1m"}); err == nil {
		t.Error("flags that it was not started with are no error")
	}
	lent := Start(t)
	if lent.Addr == own.Addr {
		t.Fatalf("both are at %s", own.Addr)
	}
	ns := lent.Namespace(t)
	for what, end := range map[string]func(testing.TB){"stopped": lent.Stop, "killed": lent.Kill} {
		if own.Get(t, "Namespace", "", ns) == nil {
			t.Errorf("there is no %s", ns)
		}
		end(t)
		for _, s := range []*Server{own, lent} {
			if _, err := s.Request(t.Context(), http.MethodGet, namespacesPath+ns, "", nil); err == nil {
				t.Errorf("it was %s, and %s answers", what, s.Addr)
			}
		}
		lent.Restart(t)
		lent.Restart(t) // while it runs
	}
	if lent.Get(t, "Namespace", "", ns) == nil {
		t.Errorf("there is no %s", ns)
	}
}
