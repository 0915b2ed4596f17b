// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"log/slog"
	"maps"
	"strings"
	"sync"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// The reasons of Events about a Service.
const (
	reasonUnsupported = "DataplaneUnsupported" // it is not served as it is now
	reasonOtherwise   = "DataplaneDiffers"     // it is, but not quite
	reasonFailed      = "DataplaneFailed"      // it could not be written
)

// told is a dataplane that says aloud what it cannot do for a service, and what it
// does otherwise: in the log, and to event.
type told struct {
	dataplane.Dataplane
	differences func(*lb.Service) []string
	event       func(id lb.ServiceID, reason, text string)
	log         *slog.Logger

	failed map[lb.ServiceID]string // what was told; for the goroutine of the loop

	mu        sync.Mutex
	otherwise map[lb.ServiceID]error // guarded by mu
}

func newTold(s *serving, event func(id lb.ServiceID, reason, text string), log *slog.Logger) *told {
	return &told{Dataplane: s.forwarder, differences: s.differences, event: event, log: log, otherwise: make(map[lb.ServiceID]error)}
}

// Supports is asked about each service that is new or has changed.
func (t *told) Supports(svc *lb.Service) error {
	err := t.Dataplane.Supports(svc)
	text := ""
	if err != nil {
		t.event(svc.ID, reasonUnsupported, err.Error())
	} else {
		text = strings.Join(t.differences(svc), "; ")
	}
	t.mu.Lock()
	before := t.otherwise[svc.ID]
	delete(t.otherwise, svc.ID)
	if text != "" {
		t.otherwise[svc.ID] = errors.New(text)
	}
	t.mu.Unlock()
	if text != "" && (before == nil || before.Error() != text) {
		t.log.Warn("service served not quite as desired", "service", svc.ID.String(), "differences", text)
		t.event(svc.ID, reasonOtherwise, text)
	}
	return err
}

// Apply tells of each failure once, until its text changes.
func (t *told) Apply(snap *lb.Snapshot) dataplane.Report {
	rep := t.Dataplane.Apply(snap)
	failed := make(map[lb.ServiceID]string, len(rep.Failed))
	for id, err := range rep.Failed {
		failed[id] = err.Error()
		if t.failed[id] != failed[id] {
			t.event(id, reasonFailed, failed[id])
		}
	}
	t.failed = failed
	return rep
}

// Otherwise returns the differences of the services that are wanted.
func (t *told) Otherwise(wanted *lb.Snapshot) map[lb.ServiceID]error {
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.otherwise, func(id lb.ServiceID, _ error) bool { return wanted != nil && wanted.Service(id) == nil })
	return maps.Clone(t.otherwise)
}
