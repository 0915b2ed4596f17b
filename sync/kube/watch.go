// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
)

// missingRetry is how long an API server that lacks an optional resource is not
// asked for it again.
const missingRetry = 10 * time.Minute

var parameters = runtime.NewParameterCodec(scheme)

// watcher follows one resource and gives what it has to a sink.
type watcher struct {
	client   rest.Interface
	resource string
	object   runtime.Object
	newList  func() runtime.Object
	labels   string
	fields   string
	// dispensable says that the sink does without fields: API servers differ in
	// the fields that they can select by.
	dispensable bool
	withoutThem atomic.Bool
	// missing is called, if it is not nil, when the API server does not have the
	// resource, or does not give it.
	missing func()

	sink   cache.TransformingStore
	health *health
	log    *slog.Logger
}

// run returns when ctx ends.
func (w *watcher) run(ctx context.Context) {
	ctx = klog.NewContext(ctx, logr.FromSlogHandler(quiet{w.log.Handler()}))
	r := cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc:  w.list,
		WatchFuncWithContext: w.watch,
	}, w.object, w.sink, cache.ReflectorOptions{Name: w.resource, Clock: impatient{ctx: ctx}})
	r.RunWithContext(ctx)
}

// impatient ends waits with ctx: a Reflector would wait out its pauses.
type impatient struct {
	clock.RealClock
	ctx context.Context
}

func (i impatient) After(d time.Duration) <-chan time.Time {
	c := make(chan time.Time, 1)
	go func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case now := <-timer.C:
			c <- now
		case <-i.ctx.Done():
			c <- time.Now()
		}
	}()
	return c
}

func (w *watcher) list(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	list := w.newList()
	err := w.request(ctx, o, func(r *rest.Request) error { return r.Do(ctx).Into(list) })
	if w.missing != nil && (apierrors.IsNotFound(err) || apierrors.IsForbidden(err)) {
		w.missing()
		select {
		case <-ctx.Done():
		case <-time.After(missingRetry):
		}
	}
	return list, err
}

// errEnded is of a watch that client-go makes of a connection that breaks at once.
var errEnded = errors.New("the connection ended")

func (w *watcher) watch(ctx context.Context, o metav1.ListOptions) (out watch.Interface, err error) {
	o.Watch = true
	err = w.request(ctx, o, func(r *rest.Request) (err error) {
		out, err = r.Watch(ctx)
		if _, connected := out.(*watch.StreamWatcher); err == nil && !connected {
			return errEnded
		}
		return err
	})
	if errors.Is(err, errEnded) {
		return out, nil
	}
	return out, err
}

// request sends one with the selectors, and once more without those of fields if
// that is what the API server may not like about it.
func (w *watcher) request(ctx context.Context, o metav1.ListOptions, send func(*rest.Request) error) error {
	o.LabelSelector, o.FieldSelector = w.labels, w.fields
	if w.withoutThem.Load() {
		o.FieldSelector = ""
	}
	err := send(w.client.Get().Resource(w.resource).VersionedParams(&o, parameters))
	if apierrors.IsBadRequest(err) && w.dispensable && o.FieldSelector != "" {
		w.log.Info("the API server cannot select by these fields: waggle does", "resource", w.resource, "fields", w.fields, "error", err)
		w.withoutThem.Store(true)
		return w.request(ctx, o, send)
	}
	if !ordinary(o, err) {
		w.health.observe(ctx, w.resource, err)
	}
	return err
}

// ordinary reports whether a Reflector knows another way: it lists where the API
// server streams no lists, and where a watch cannot go on.
func ordinary(o metav1.ListOptions, err error) bool {
	return o.SendInitialEvents != nil && apierrors.IsInvalid(err) || apierrors.IsResourceExpired(err) || apierrors.IsGone(err)
}

// strip takes away what is most of many objects and nobody here reads.
func strip(o any) (any, error) {
	if m, err := meta.Accessor(o); err == nil {
		m.SetManagedFields(nil)
	}
	return o, nil
}
