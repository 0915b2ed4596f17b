// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
)

const (
	eventsQueued    = 1000
	eventsPerSecond = 1
	eventsAtOnce    = 25
	eventNamePrefix = 230 // of an object's name, so that the event's is one
)

// Event is something that is told of an object: by the API server, to who looks at it.
type Event struct {
	Object Object
	// Normal says that it is no warning.
	Normal bool
	// Action is what was done, or tried, Reason one word for what came of it, Text the
	// same for people: of 1024 bytes at most.
	Action, Reason, Text string
}

// NodeObject is this machine's Node, as Events speak of it: by its name, which kubelet
// and kube-proxy give as its UID, too.
func (t *Translation) NodeObject() Object {
	return Object{APIVersion: "v1", Kind: "Node", Name: t.NodeName, UID: t.NodeName}
}

// reporter sends Events. What it cannot send it forgets.
type reporter struct {
	client   rest.Interface
	log      *slog.Logger
	instance string
	queue    chan Event
}

func newReporter(client rest.Interface, instance string, log *slog.Logger) *reporter {
	return &reporter{client: client, log: log, instance: instance, queue: make(chan Event, eventsQueued)}
}

// report never waits.
func (r *reporter) report(problems []Problem) {
	for _, p := range problems {
		r.log.Info("not served as the object says", "kind", p.Object.Kind, "namespace", p.Object.Namespace,
			"name", p.Object.Name, "reason", p.Reason, "problem", p.Text)
		r.tell(Event{Object: p.Object, Action: "Serve", Reason: p.Reason, Text: p.Text})
	}
}

// tell never waits.
func (r *reporter) tell(e Event) {
	select {
	case r.queue <- e:
	default:
		r.log.Debug("no Event is sent: too many wait", "name", e.Object.Name, "reason", e.Reason)
	}
}

func (r *reporter) run(ctx context.Context) {
	limit := flowcontrol.NewTokenBucketRateLimiter(eventsPerSecond, eventsAtOnce)
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-r.queue:
			if limit.Wait(ctx) != nil {
				return
			}
			r.send(ctx, e)
		}
	}
}

func (r *reporter) send(ctx context.Context, e Event) {
	o := r.object(e, time.Now())
	err := r.client.Post().Namespace(o.Namespace).Resource("events").Body(o).Do(ctx).Error()
	if err != nil && !apierrors.IsAlreadyExists(err) {
		r.log.Debug("an Event was not sent", "name", e.Object.Name, "reason", e.Reason, "error", err)
	}
}

// object has a name made of what it says: all nodes see the same problem, and so
// the API server keeps one Event of it. What is no problem happens again.
func (r *reporter) object(e Event, now time.Time) *eventsv1.Event {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s", e.Object.Kind, e.Object.UID, e.Reason, e.Text)
	kind := corev1.EventTypeWarning
	if e.Normal {
		fmt.Fprintf(h, "\x00%d", now.UnixNano())
		kind = corev1.EventTypeNormal
	}
	name := e.Object.Name[:min(len(e.Object.Name), eventNamePrefix)]
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: cmp.Or(e.Object.Namespace, metav1.NamespaceDefault),
			Name:      fmt.Sprintf("%s.%016x", name, h.Sum64()),
		},
		EventTime:           metav1.NewMicroTime(now),
		ReportingController: "waggle",
		ReportingInstance:   r.instance,
		Action:              e.Action,
		Reason:              e.Reason,
		Type:                kind,
		Note:                cut(e.Text),
		Regarding: corev1.ObjectReference{
			APIVersion: e.Object.APIVersion, Kind: e.Object.Kind,
			Namespace: e.Object.Namespace, Name: e.Object.Name, UID: types.UID(e.Object.UID),
		},
	}
}

// cut leaves no more of a text than an Event takes.
func cut(text string) string {
	const most = 1024 // bytes
	return strings.ToValidUTF8(text[:min(len(text), most)], "")
}
