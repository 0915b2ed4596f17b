// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"testing"
)

func TestServices(t *testing.T) {
	runLines(t, []line{
		{name: "should serve a basic endpoint from pods", run: func(e *e2e) {
			s := e.service("basic", "")
			client := e.pods()[2]
			e.refuses(client, s.vip())
			s.backends(e.pods()[0])
			e.reaches(client, s.vip(), e.pods()[0])
			s.backends(e.pods()[1], e.pods()[3])
			e.reaches(client, s.vip(), e.pods()[1], e.pods()[3])
			s.backends()
			e.refuses(client, s.vip())
		}},
		{name: "should preserve source pod IP for traffic thru service cluster IP", run: func(e *e2e) {
			s := e.service("source", "").backends(e.pods()[0])
			for _, client := range []*pod{e.pods()[1], e.pods()[3]} {
				if r := e.reaches(client, s.vip()); r.source != client.addr(e.v6) {
					e.fail("%s is seen as %s", client.addr(e.v6), r.source)
				}
			}
		}},
		{name: "should allow pods to hairpin back to themselves through services", run: func(e *e2e) {
			s := e.service("hairpin", "").backends(e.pods()[0])
			e.reaches(e.pods()[0], s.vip(), e.pods()[0])
		}},
	})
}
