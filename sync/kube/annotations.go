// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

func (r *serviceReader) scheduler() (string, lb.SchedulerFlags) {
	name, ok := r.o.Annotations[SchedulerAnnotation]
	if !ok {
		return r.t.Scheduler, r.t.SchedulerFlags
	}
	if _, err := sched.Find(name); err != nil {
		r.problem(ReasonInvalidAnnotation, "Annotation %s: %v. The default, %s, is used.", SchedulerAnnotation, err, r.t.Scheduler)
		return r.t.Scheduler, r.t.SchedulerFlags
	}
	return name, 0
}

func (r *serviceReader) hostSockets() bool {
	word, ok := r.o.Annotations[SocketAnnotation]
	i := slices.Index(lb.SocketWords, word)
	if ok && i < 0 {
		r.problem(ReasonInvalidAnnotation, "Annotation %s: unknown word %q: write %s. The default, %s, is used.", SocketAnnotation, word, strings.Join(lb.SocketWords, " or "), lb.SocketWords[0])
	}
	return i > 0
}

func (r *serviceReader) zoneWeights() map[string]uint16 {
	text, ok := r.o.Annotations[ZoneWeightsAnnotation]
	if !ok {
		return nil
	}
	weights, err := parseZoneWeights(text)
	if err != nil {
		r.problem(ReasonInvalidAnnotation, "Annotation %s: %v. Weight 1 is used.", ZoneWeightsAnnotation, err)
	}
	return weights
}

func parseZoneWeights(text string) (map[string]uint16, error) {
	weights := make(map[string]uint16)
	for word := range strings.SplitSeq(text, ",") {
		zone, number, ok := strings.Cut(strings.TrimSpace(word), "=")
		if !ok || zone == "" {
			return nil, fmt.Errorf("%q: write zones with weights, such as zone-a=5,zone-b=1", word)
		}
		if _, twice := weights[zone]; twice {
			return nil, fmt.Errorf("zone %q appears twice: write it once", zone)
		}
		w, err := parseWeight(number)
		if err != nil {
			return nil, fmt.Errorf("zone %q: %w", zone, err)
		}
		weights[zone] = w
	}
	return weights, nil
}

func parseWeight(s string) (uint16, error) {
	w, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("weight %q: write 0 to 65535", s)
	}
	return uint16(w), nil
}
