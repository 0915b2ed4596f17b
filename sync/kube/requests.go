// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"net/url"
	"time"

	"k8s.io/client-go/tools/metrics"
)

// Requests is told of requests to API servers. Methods are called from any goroutine. A
// verb is that of HTTP, as method is; host is name and port; code is that of HTTP,
// "<error>" if there was no answer.
type Requests interface {
	Done(code, method, host string)
	Retried(code, verb, host string)
	Took(verb, host string, d time.Duration)
	// Waited is for the limits that the process gives itself.
	Waited(verb, host string, d time.Duration)
	Sent(verb, host string, bytes float64)
	Received(verb, host string, bytes float64)
}

// ObserveRequests has r told of all requests of the process. It is called before the first
// source runs, and only the first call of a process counts: client-go keeps one observer
// for all, without a lock.
func ObserveRequests(r Requests) {
	metrics.Register(metrics.RegisterOpts{
		RequestResult: done(r.Done), RequestRetry: retried(r.Retried), RequestLatency: took(r.Took),
		RateLimiterLatency: took(r.Waited), RequestSize: size(r.Sent), ResponseSize: size(r.Received),
	})
}

type done func(code, method, host string)

func (f done) Increment(_ context.Context, code, method, host string) { f(code, method, host) }

type retried func(code, verb, host string)

func (f retried) IncrementRetry(_ context.Context, code, verb, host string) { f(code, verb, host) }

type took func(verb, host string, d time.Duration)

func (f took) Observe(_ context.Context, verb string, u url.URL, d time.Duration) { f(verb, u.Host, d) }

type size func(verb, host string, bytes float64)

func (f size) Observe(_ context.Context, verb, host string, bytes float64) { f(verb, host, bytes) }
