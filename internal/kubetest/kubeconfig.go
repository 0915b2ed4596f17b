// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// Kubeconfig writes a kubeconfig of the admin and returns its path. It is good
// for the time of the test, across restarts of the server.
func (s *Server) Kubeconfig(t testing.TB) string {
	t.Helper()
	return s.writeKubeconfig(t, s.Token)
}

// AccountKubeconfig writes a kubeconfig of a service account, which must be
// there, and returns its path: it may do what RBAC gives the account.
func (s *Server) AccountKubeconfig(t testing.TB, namespace, account string) string {
	t.Helper()
	ctx := context.Background()
	_, path, err := s.path(ctx, "ServiceAccount", namespace, account)
	if err != nil {
		t.Fatal(err)
	}
	o, _, err := s.object(ctx, request{
		method: http.MethodPost, path: path + "/token", contentType: jsonType,
		body: []byte(`{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 86400}}`),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s.writeKubeconfig(t, o.Text("status", "token"))
}

// writeKubeconfig writes JSON, which YAML contains.
func (s *Server) writeKubeconfig(t testing.TB, token string) string {
	t.Helper()
	ca, err := os.ReadFile(s.CA)
	if err != nil {
		t.Fatal(err)
	}
	type named map[string]any
	b, err := json.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "current-context": "test",
		"clusters": []named{{"name": "test", "cluster": named{"server": s.URL, "certificate-authority-data": ca}}},
		"users":    []named{{"name": "test", "user": named{"token": token}}},
		"contexts": []named{{"name": "test", "context": named{"cluster": "test", "user": "test"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
