// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
)

// apiServer lists and watches objects as an API server does, and takes Events. It
// selects nothing: tests look at what it was asked for.
type apiServer struct {
	t    *testing.T
	addr string
	srv  *http.Server

	mu       sync.Mutex
	changed  chan struct{} // closed and made anew with each change of what follows
	version  int
	objects  map[string]runtime.Object // by resource/namespace/name
	log      []logged
	oldest   int // version from which watches can go on
	requests []request
	events   []*eventsv1.Event
	again    int // Events that were there already
	// refuse says what is answered instead, if not nil; hold which resources wait.
	refuse func(resource string, r *http.Request) *apierrors.StatusError
	hold   map[string]bool
	// streams says that lists can be streamed by a watch.
	streams bool
	// cut ends the watches that are under way.
	cut int
}

type logged struct {
	version  int
	resource string
	kind     string
	object   runtime.Object
}

// request is what the server was asked.
type request struct {
	resource               string
	watch                  bool
	labels, fields, accept string
	agent                  string
}

func startAPIServer(t *testing.T) *apiServer {
	a := &apiServer{t: t, addr: "127.0.0.1:0", changed: make(chan struct{}), objects: make(map[string]runtime.Object), hold: make(map[string]bool)}
	a.start()
	t.Cleanup(a.stop)
	return a
}

func (a *apiServer) start() {
	a.t.Helper()
	l, err := net.Listen("tcp", a.addr)
	if err != nil {
		a.t.Fatal(err)
	}
	a.addr = l.Addr().String()
	a.srv = &http.Server{Handler: a}
	go func(srv *http.Server) { _ = srv.Serve(l) }(a.srv)
}

// stop ends all connections.
func (a *apiServer) stop() { _ = a.srv.Close() }

func (a *apiServer) config() *rest.Config {
	return &rest.Config{Host: "http://" + a.addr, QPS: 1000, Burst: 1000, UserAgent: "waggle"}
}

// update changes the server's state and wakes who waits for it.
func (a *apiServer) update(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f()
	close(a.changed)
	a.changed = make(chan struct{})
}

// until waits for cond, which is called with the lock held. It reports false when
// ctx ends.
func (a *apiServer) until(ctx context.Context, cond func() bool) bool {
	for {
		a.mu.Lock()
		ok, changed := cond(), a.changed
		a.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// resourceOf returns the resource, and what the API calls the kind.
func resourceOf(o runtime.Object) (resource string, gvk schema.GroupVersionKind) {
	switch o.(type) {
	case *corev1.Service:
		return "services", corev1.SchemeGroupVersion.WithKind("Service")
	case *discoveryv1.EndpointSlice:
		return "endpointslices", discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice")
	case *corev1.Node:
		return "nodes", corev1.SchemeGroupVersion.WithKind("Node")
	case *networkingv1.ServiceCIDR:
		return "servicecidrs", networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR")
	}
	panic(fmt.Sprintf("%T has no resource here", o))
}

func (a *apiServer) put(objects ...runtime.Object) {
	a.update(func() {
		for _, o := range objects {
			a.version++
			o = o.DeepCopyObject()
			resource, gvk := resourceOf(o)
			o.GetObjectKind().SetGroupVersionKind(gvk)
			m, _ := meta.Accessor(o)
			m.SetResourceVersion(strconv.Itoa(a.version))
			m.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: "a test"}})
			key := path.Join(resource, m.GetNamespace(), m.GetName())
			kind := "ADDED"
			if a.objects[key] != nil {
				kind = "MODIFIED"
			}
			a.objects[key] = o
			a.log = append(a.log, logged{a.version, resource, kind, o})
		}
	})
}

func (a *apiServer) remove(key string) {
	a.update(func() {
		a.version++
		o := a.objects[key].DeepCopyObject()
		m, _ := meta.Accessor(o)
		m.SetResourceVersion(strconv.Itoa(a.version))
		delete(a.objects, key)
		a.log = append(a.log, logged{a.version, strings.Split(key, "/")[0], "DELETED", o})
	})
}

// compact forgets what was, so that watches cannot go on, and ends them.
func (a *apiServer) compact() { a.update(func() { a.log, a.oldest = nil, a.version+1; a.cut++ }) }

func (a *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource := path.Base(r.URL.Path)
	q := r.URL.Query()
	watches := q.Get("watch") == "true" || q.Get("watch") == "1"
	var refused *apierrors.StatusError
	a.update(func() {
		a.requests = append(a.requests, request{resource, watches, q.Get("labelSelector"), q.Get("fieldSelector"), r.Header.Get("Accept"), r.UserAgent()})
		if a.refuse != nil {
			refused = a.refuse(resource, r)
		}
	})
	w.Header().Set("Content-Type", "application/json")
	if watches && q.Get("sendInitialEvents") == "true" && !a.streams && refused == nil {
		refused = apierrors.NewInvalid(schema.GroupKind{Kind: "ListOptions"}, "", nil)
	}
	switch {
	case refused != nil:
		a.answer(w, int(refused.ErrStatus.Code), &refused.ErrStatus)
	case r.Method == http.MethodPost:
		a.takeEvent(w, r)
	case !a.until(r.Context(), func() bool { return !a.hold[resource] }):
	case watches:
		a.watch(w, r, resource)
	default:
		a.list(w, resource)
	}
}

func (a *apiServer) answer(w http.ResponseWriter, code int, object any) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object)
}

func (a *apiServer) all(resource string) (out []runtime.Object) {
	for key, o := range a.objects {
		if strings.HasPrefix(key, resource+"/") {
			out = append(out, o)
		}
	}
	return out
}

var listKinds = map[string][2]string{
	"services": {"v1", "ServiceList"}, "nodes": {"v1", "NodeList"},
	"endpointslices": {"discovery.k8s.io/v1", "EndpointSliceList"}, "servicecidrs": {"networking.k8s.io/v1", "ServiceCIDRList"},
}

func (a *apiServer) list(w http.ResponseWriter, resource string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kind := listKinds[resource]
	a.answer(w, http.StatusOK, map[string]any{
		"apiVersion": kind[0], "kind": kind[1], "items": a.all(resource),
		"metadata": map[string]string{"resourceVersion": strconv.Itoa(a.version)},
	})
}

// watch sends what happens after the version that was asked for, or after a list.
func (a *apiServer) watch(w http.ResponseWriter, r *http.Request, resource string) {
	send := func(kind string, o any) {
		_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": o})
	}
	a.mu.Lock()
	cut, sent := a.cut, a.version
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		for _, o := range a.all(resource) {
			send("ADDED", o)
		}
		kind := listKinds[resource]
		send("BOOKMARK", map[string]any{
			"apiVersion": kind[0], "kind": strings.TrimSuffix(kind[1], "List"),
			"metadata": map[string]any{"resourceVersion": strconv.Itoa(sent), "annotations": map[string]string{metav1.InitialEventsAnnotationKey: "true"}},
		})
	} else if sent, _ = strconv.Atoi(r.URL.Query().Get("resourceVersion")); sent < a.oldest {
		a.mu.Unlock()
		gone := apierrors.NewResourceExpired("too old resource version")
		a.answer(w, http.StatusGone, &gone.ErrStatus)
		return
	}
	a.mu.Unlock()
	for {
		w.(http.Flusher).Flush()
		if !a.until(r.Context(), func() bool { return a.cut != cut || a.version > sent }) {
			return
		}
		a.mu.Lock()
		over := a.cut != cut
		for _, l := range a.log {
			if l.version > sent && l.resource == resource && !over {
				send(l.kind, l.object)
			}
		}
		sent = a.version
		a.mu.Unlock()
		if over {
			return
		}
	}
}

func (a *apiServer) takeEvent(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	object, _, err := eventCodecs.UniversalDeserializer().Decode(body, nil, nil)
	e, ok := object.(*eventsv1.Event)
	if err != nil || !ok {
		a.t.Errorf("posted: %T, %v", object, err)
		return
	}
	if want := "/apis/events.k8s.io/v1/namespaces/" + e.Namespace + "/events"; r.URL.Path != want {
		a.t.Errorf("posted to %s, want %s", r.URL.Path, want)
	}
	a.update(func() {
		if slices.ContainsFunc(a.events, func(f *eventsv1.Event) bool { return f.Name == e.Name && f.Namespace == e.Namespace }) {
			a.again++
			exists := apierrors.NewAlreadyExists(schema.GroupResource{Resource: "events"}, e.Name)
			a.answer(w, http.StatusConflict, &exists.ErrStatus)
			return
		}
		a.events = append(a.events, e)
		e.APIVersion, e.Kind = "events.k8s.io/v1", "Event"
		a.answer(w, http.StatusCreated, e)
	})
}

var eventCodecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	if err := eventsv1.AddToScheme(scheme); err != nil {
		panic(err)
	}
	return serializer.NewCodecFactory(scheme)
}()
