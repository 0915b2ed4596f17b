// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

const namespacesPath = "/api/v1/namespaces/"

// Namespace makes a namespace, which is removed with all that is in it when the
// test ends, and returns its name.
func (s *Server) Namespace(t testing.TB) string {
	t.Helper()
	name := "test-" + strings.ToLower(rand.Text()[:8])
	s.apply(t, "", Object{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": name},
	})
	return name
}

// emptyNamespace does the part of the namespace controller: it deletes all that
// is in a namespace that is being deleted, and lets it go.
func (s *Server) emptyNamespace(ctx context.Context, name string) error {
	if _, err := s.resource(ctx, "Namespace"); err != nil { // asks for the kinds
		return err
	}
	s.mu.Lock()
	kinds := slices.Collect(maps.Values(s.kinds))
	s.mu.Unlock()
	emptied := make(map[string]bool)
	for _, r := range kinds {
		path := r.all(name)
		if !r.namespaced || !r.emptied || emptied[path] {
			continue
		}
		emptied[path] = true
		// pods with a node otherwise wait for its kubelet
		if _, err := s.Request(ctx, http.MethodDelete, path+"?gracePeriodSeconds=0", "", nil); err != nil {
			return fmt.Errorf("empty namespace %s: %w", name, err)
		}
	}
	// nothing is left that its finalizer waits for
	body, err := json.Marshal(Object{
		"apiVersion": "v1", "kind": "Namespace",
		"metadata": map[string]any{"name": name},
		"spec":     map[string]any{"finalizers": []any{}},
	})
	if err != nil {
		return err
	}
	if _, err := s.Request(ctx, http.MethodPut, namespacesPath+name+"/finalize", jsonType, body); err != nil {
		return fmt.Errorf("finalize namespace %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.namespaces, name)
	return nil
}
