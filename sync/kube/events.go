// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/flowcontrol"
)

const (
	eventsQueued    = 1000
	eventsPerSecond = 1
	eventsAtOnce    = 25
	eventNamePrefix = 230 // of an object's name, so that the event's is one
)

// reporter sends problems as Events. What it cannot send it forgets.
type reporter struct {
	client   rest.Interface
	log      *slog.Logger
	instance string
	queue    chan Problem
}

func newReporter(client rest.Interface, instance string, log *slog.Logger) *reporter {
	return &reporter{client: client, log: log, instance: instance, queue: make(chan Problem, eventsQueued)}
}

// report never waits.
func (r *reporter) report(problems []Problem) {
	for _, p := range problems {
		r.log.Info("not served as the object says", "kind", p.Object.Kind, "namespace", p.Object.Namespace,
			"name", p.Object.Name, "reason", p.Reason, "problem", p.Text)
		select {
		case r.queue <- p:
		default:
			r.log.Debug("no Event is sent: too many wait", "name", p.Object.Name, "reason", p.Reason)
		}
	}
}

func (r *reporter) run(ctx context.Context) {
	limit := flowcontrol.NewTokenBucketRateLimiter(eventsPerSecond, eventsAtOnce)
	defer limit.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-r.queue:
			if limit.Wait(ctx) != nil {
				return
			}
			r.send(ctx, p)
		}
	}
}

func (r *reporter) send(ctx context.Context, p Problem) {
	e := r.event(p)
	err := r.client.Post().Namespace(e.Namespace).Resource("events").Body(e).Do(ctx).Error()
	if err != nil && !apierrors.IsAlreadyExists(err) {
		r.log.Debug("an Event was not sent", "name", p.Object.Name, "reason", p.Reason, "error", err)
	}
}

// event has a name made of what it says: all nodes see the same problem, and so
// the API server keeps one Event of it.
func (r *reporter) event(p Problem) *eventsv1.Event {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s\x00%s\x00%s", p.Object.Kind, p.Object.UID, p.Reason, p.Text)
	name := p.Object.Name[:min(len(p.Object.Name), eventNamePrefix)]
	return &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: cmp.Or(p.Object.Namespace, metav1.NamespaceDefault),
			Name:      fmt.Sprintf("%s.%016x", name, h.Sum64()),
		},
		EventTime:           metav1.NewMicroTime(time.Now()),
		ReportingController: "waggle",
		ReportingInstance:   r.instance,
		Action:              "Serve",
		Reason:              p.Reason,
		Type:                corev1.EventTypeWarning,
		Note:                p.Text,
		Regarding: corev1.ObjectReference{
			APIVersion: p.Object.APIVersion, Kind: p.Object.Kind,
			Namespace: p.Object.Namespace, Name: p.Object.Name, UID: p.Object.UID,
		},
	}
}
