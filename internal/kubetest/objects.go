// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"
)

// awaitTimeout bounds Await.
const awaitTimeout = time.Minute

// Apply makes the objects of a YAML text, or changes them into what it says, and
// returns them as the server keeps them, in order. It is a server-side apply: a
// field that the last Apply of the object had and this one has not is removed.
// Objects that name no namespace are made in the given one. What it makes is
// removed when the test ends.
func (s *Server) Apply(t testing.TB, namespace, text string) []Object {
	t.Helper()
	objects, err := parseObjects(text)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range objects {
		objects[i] = s.apply(t, namespace, o)
	}
	return objects
}

// DryRun returns the objects of a YAML text as Apply would make them, and makes
// none. The server judges them as it would then, and does not take fields that it
// does not know.
func (s *Server) DryRun(t testing.TB, namespace, text string) []Object {
	t.Helper()
	objects, err := parseObjects(text)
	if err != nil {
		t.Fatal(err)
	}
	for i, o := range objects {
		objects[i], _ = s.sendApply(t, namespace, o, "&dryRun=All&fieldValidation=Strict")
	}
	return objects
}

// sendApply sends an object, with more parameters than all have, and returns it as
// the server keeps it, and HTTP's code.
func (s *Server) sendApply(t testing.TB, namespace string, o Object, parameters string) (Object, int) {
	t.Helper()
	ctx := context.Background()
	_, path, err := s.path(ctx, kindOf(o), namespaceOf(o, namespace), o.Name())
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	applied, code, err := s.object(ctx, request{
		method: http.MethodPatch, path: path + "?fieldManager=kubetest&force=true" + parameters, contentType: applyPatch, body: body,
	})
	if err != nil {
		t.Fatal(err)
	}
	return applied, code
}

// kindOf is an object's kind with its apiVersion.
func kindOf(o Object) string { return o.Text("apiVersion") + "/" + o.Text("kind") }

// namespaceOf is the one that the object names, or else the other.
func namespaceOf(o Object, other string) string {
	return cmp.Or(o.Text("metadata", "namespace"), other)
}

// apply applies one object.
func (s *Server) apply(t testing.TB, namespace string, o Object) Object {
	t.Helper()
	kind, namespace := kindOf(o), namespaceOf(o, namespace)
	r, err := s.resource(context.Background(), kind)
	if err != nil {
		t.Fatal(err)
	}
	applied, code := s.sendApply(t, namespace, o, "")
	s.mu.Lock()
	defer s.mu.Unlock()
	goesWithNamespace := r.namespaced && s.namespaces[namespace]
	if code == http.StatusCreated && !goesWithNamespace {
		t.Cleanup(func() {
			t.Helper()
			s.deleteIfThere(t, kind, namespace, o.Name())
		})
	}
	if kind == "v1/Namespace" {
		s.namespaces[o.Name()] = true
	}
	return applied
}

// Get returns an object, which must be there.
func (s *Server) Get(t testing.TB, kind, namespace, name string) Object {
	t.Helper()
	return s.about(t, kind, namespace, name, "", nil)
}

// Patch changes the fields of an object that a YAML text names, and returns the
// object: lists are replaced as a whole, and null removes (a JSON merge patch).
func (s *Server) Patch(t testing.TB, kind, namespace, name, text string) Object {
	t.Helper()
	patch, err := parseObject(text)
	if err != nil {
		t.Fatal(err)
	}
	return s.about(t, kind, namespace, name, "", patch)
}

// UpdateStatus is Patch of the object's status, as a controller or kubelet sets
// it; the text is what is under status:
//
//	api.UpdateStatus(t, "Service", ns, "web", `loadBalancer: {ingress: [{ip: 192.0.2.1}]}`)
func (s *Server) UpdateStatus(t testing.TB, kind, namespace, name, text string) Object {
	t.Helper()
	status, err := parseObject(text)
	if err != nil {
		t.Fatal(err)
	}
	return s.patchStatus(t, kind, namespace, name, status)
}

// Delete deletes an object, which must be there. A namespace goes with all that
// is in it.
func (s *Server) Delete(t testing.TB, kind, namespace, name string) {
	t.Helper()
	if err := s.delete(context.Background(), kind, namespace, name); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) deleteIfThere(t testing.TB, kind, namespace, name string) {
	t.Helper()
	var status *StatusError
	err := s.delete(context.Background(), kind, namespace, name)
	gone := errors.As(err, &status) && status.Code == http.StatusNotFound
	if err != nil && !gone {
		t.Error(err)
	}
}

func (s *Server) delete(ctx context.Context, kind, namespace, name string) error {
	_, path, err := s.path(ctx, kind, namespace, name)
	if err != nil {
		return err
	}
	// pods with a node otherwise wait for its kubelet
	_, err = s.Request(ctx, http.MethodDelete, path+"?gracePeriodSeconds=0", "", nil)
	if err != nil || path != namespacesPath+name {
		return err
	}
	return s.emptyNamespace(ctx, name)
}

// Await returns the first object of a kind that ok accepts, of those that are
// there and those that come or change; what says in a failure which it is. With
// "" for a namespace it looks everywhere.
func (s *Server) Await(t testing.TB, kind, namespace, what string, ok func(Object) bool) Object {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), awaitTimeout)
	defer cancel()
	r, err := s.resource(ctx, kind)
	if err != nil {
		t.Fatal(err)
	}
	var seen int
	var last Object
	for {
		err := s.watch(ctx, r.all(namespace), func(o Object) bool {
			seen, last = seen+1, o
			return ok(o)
		})
		if err == nil {
			return last
		}
		select {
		case <-ctx.Done():
			t.Fatalf("no %s %s within %v, of %d versions seen; the last is %v (%v)", kind, what, awaitTimeout, seen, last, err)
		case <-time.After(100 * time.Millisecond): // the server is away
		}
	}
}

// watch calls ok with what is there and then with what comes and changes, until
// it returns true. An error says that the watch ended before.
func (s *Server) watch(ctx context.Context, path string, ok func(Object) bool) error {
	resp, err := s.send(ctx, request{method: http.MethodGet, path: path + "?watch=true"})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for d := json.NewDecoder(resp.Body); ; {
		var e struct {
			Type   string
			Object Object
		}
		if err := d.Decode(&e); err != nil {
			return fmt.Errorf("watch %s: %w", path, err)
		}
		if (e.Type == "ADDED" || e.Type == "MODIFIED") && ok(e.Object) {
			return nil
		}
	}
}

// patchStatus changes fields of the object's status.
func (s *Server) patchStatus(t testing.TB, kind, namespace, name string, status Object) Object {
	t.Helper()
	return s.about(t, kind, namespace, name, "/status", Object{"status": status})
}

// about patches an object, or a subresource of it, or reads it if there is no
// patch, and returns it.
func (s *Server) about(t testing.TB, kind, namespace, name, subresource string, patch Object) Object {
	t.Helper()
	ctx := context.Background()
	_, path, err := s.path(ctx, kind, namespace, name)
	if err != nil {
		t.Fatal(err)
	}
	r := request{method: http.MethodGet, path: path + subresource}
	if patch != nil {
		r.method, r.contentType = http.MethodPatch, mergePatch
		if r.body, err = json.Marshal(patch); err != nil {
			t.Fatal(err)
		}
	}
	o, _, err := s.object(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// path finds out how a kind is served and where one object of it is.
func (s *Server) path(ctx context.Context, kind, namespace, name string) (resource, string, error) {
	r, err := s.resource(ctx, kind)
	if err != nil {
		return r, "", err
	}
	path, err := r.one(namespace, name)
	return r, path, err
}

// object sends a request whose answer is an object.
func (s *Server) object(ctx context.Context, r request) (Object, int, error) {
	a, err := s.do(ctx, r)
	if err != nil {
		return nil, 0, err
	}
	var o Object
	if err := json.Unmarshal(a.body, &o); err != nil {
		return nil, 0, fmt.Errorf("%s %s: parse the answer: %w", r.method, r.path, err)
	}
	return o, a.code, nil
}
