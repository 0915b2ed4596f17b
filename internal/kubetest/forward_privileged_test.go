// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kubetest

import (
	"net/http"
	"testing"

	"github.com/waggle-lb/waggle/internal/netlab"
)

func TestForwardReachesOutOfANamespace(t *testing.T) {
	api := cluster.Start(t)
	lab, err := netlab.New(netlab.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := lab.Close(); err != nil {
			t.Error(err)
		}
	})
	node := lab.Director
	c := clientOf(t, api.Kubeconfig(t))
	c.http.Transport.(*http.Transport).DialContext = node.Dial
	if conn, err := node.Dial(t.Context(), "tcp", api.Addr); err == nil {
		conn.Close()
		t.Fatal("the namespace reaches the server without a forwarder")
	}
	l, err := node.Listen(t.Context(), "tcp", api.Addr)
	if err != nil {
		t.Fatal(err)
	}
	api.Forward(t, l)
	if got := c.code(t, http.MethodGet, "/readyz"); got != http.StatusOK {
		t.Errorf("with the admin's kubeconfig: %d, want 200", got)
	}
	api.Restart(t)
	c.http.CloseIdleConnections()
	if got := c.code(t, http.MethodGet, "/readyz"); got != http.StatusOK {
		t.Errorf("after a restart of the server: %d, want 200", got)
	}
}
