// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

// restartLines end what others need.
var restartLines = []line{
	{name: "should work after restarting kube-proxy", alone: true, run: func(e *e2e) {
		client, pods := e.pods()[4], e.pods()[1:4]
		first := e.service("first", "type: NodePort").backends(pods...)
		e.reaches(client, first.vip(), pods...)
		streams := append(e.streams(client, first.vip(), pods...), e.streams(e.outside, first.nodePort(e.nodes[0], 0), pods...)...)
		for _, n := range e.nodes {
			n.kill()
		}
		goOn(streams...)
		e.reaches(client, first.vip(), pods...)
		for _, n := range e.nodes {
			n.launch()
			goOn(streams...)
		}
		e.reaches(client, first.vip(), pods...)
		second := e.service("second", "type: NodePort").backends(pods...)
		for _, s := range []*service{first, second} {
			e.reaches(client, s.vip(), pods...)
			s.atNodes(pods...)
		}
		goOn(streams...)
	}},
	{name: "should work after restarting apiserver", alone: true, run: func(e *e2e) {
		client, pods := e.pods()[4], e.pods()[1:4]
		first := e.service("first", "").backends(pods...)
		e.reaches(client, first.vip(), pods...)
		streams := e.streams(client, first.vip(), pods...)
		e.api.Restart(e.t)
		e.reaches(client, first.vip(), pods...)
		second := e.service("second", "").backends(pods...)
		e.reaches(client, second.vip(), pods...)
		e.reaches(client, first.vip(), pods...)
		goOn(streams...)
		if first.vip() == second.vip() {
			e.fail("two Services have the address %s", first.vip())
		}
	}},
}
