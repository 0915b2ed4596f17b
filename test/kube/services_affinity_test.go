// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"fmt"
	"net/netip"
	"time"
)

const byClient = "sessionAffinity: ClientIP"

// affinityTimeout is for lines that wait it out: the suite's own is two minutes.
const affinityTimeout = 2 * time.Second

var brief = fmt.Sprintf(byClient+", sessionAffinityConfig: {clientIP: {timeoutSeconds: %d}}", affinityTimeout/time.Second)

var affinityLines = []line{
	{name: "should have session affinity work for service with type clusterIP", run: func(e *e2e) {
		s := e.service("sticky", byClient).backends(e.pods()[1:5]...)
		e.sticks(e.pods()[0], s.vip())
	}},
	{name: "should have session affinity work for service with type clusterIP (from the node)", run: func(e *e2e) {
		s := e.service("sticky", byClient).backends(e.pods()[1:5]...)
		e.sticks(e.nodes[0], s.vip())
	}},
	{name: "should have session affinity timeout work for service with type clusterIP", run: func(e *e2e) {
		s := e.service("sticky", brief).backends(e.pods()[1:5]...)
		e.sticksForAWhile(e.pods()[0], s.vip())
	}},
	{name: "should be able to switch session affinity for service with type clusterIP", run: func(e *e2e) {
		s := e.service("sticky", "").backends(e.pods()[1:5]...)
		s.switches("", e.pods()[0], s.vip())
	}},
	{name: "should have session affinity work for NodePort service", run: func(e *e2e) {
		s := e.service("sticky", "type: NodePort, "+byClient).backends(e.pods()[1:5]...)
		e.sticks(e.pods()[0], s.nodePort(e.nodes[0], 0))
		e.sticks(e.pods()[0], s.nodePort(e.nodes[1], 0))
		e.sticks(e.outside, s.nodePort(e.nodes[2], 0))
	}},
	{name: "should have session affinity timeout work for NodePort service", run: func(e *e2e) {
		s := e.service("sticky", "type: NodePort, "+brief).backends(e.pods()[1:5]...)
		e.sticksForAWhile(e.outside, s.nodePort(e.nodes[0], 0))
	}},
	{name: "should be able to switch session affinity for NodePort service", run: func(e *e2e) {
		s := e.service("sticky", "type: NodePort").backends(e.pods()[1:5]...)
		s.switches("type: NodePort, ", e.outside, s.nodePort(e.nodes[1], 0))
	}},
}

// sticks waits until 15 connections in turn are answered by one pod, and so datagrams.
func (e *e2e) sticks(c client, to netip.AddrPort) {
	for _, network := range networks {
		e.sticksBy(network, c, to)
	}
}

func (e *e2e) sticksBy(network string, c client, to netip.AddrPort) (pod string) {
	e.eventually(fmt.Sprintf("%s sticks at %s by %s", c.addr(e.v6), to, network), func() error {
		pod = ""
		for range 15 {
			r, err := once(c, network, to)
			switch {
			case err != nil:
				return err
			case pod != "" && r.pod != pod:
				return fmt.Errorf("%s answers, after %s", r.pod, pod)
			}
			pod = r.pod
		}
		return nil
	})
	return pod
}

// sticksForAWhile is sticks, and who waits the timeout out goes elsewhere.
func (e *e2e) sticksForAWhile(c client, to netip.AddrPort) {
	for _, network := range networks {
		pod := e.sticksBy(network, c, to)
		e.eventually(fmt.Sprintf("%s leaves %s at %s by %s", c.addr(e.v6), pod, to, network), func() error {
			time.Sleep(affinityTimeout + time.Second/2) // each try puts the end off
			r, err := once(c, network, to)
			if err == nil && r.pod == pod {
				err = fmt.Errorf("%s still answers", r.pod)
			}
			return err
		})
	}
}

// switches sets affinity and takes it away again; spec is what the Service has else.
func (s *service) switches(spec string, c client, to netip.AddrPort) {
	pods := s.e.pods()[1:5]
	s.e.reaches(c, to, pods...)
	s.apply(spec + byClient)
	s.e.sticks(c, to)
	s.apply(spec + "sessionAffinity: None")
	s.e.reaches(c, to, pods...)
	s.apply(spec + byClient)
	s.e.sticks(c, to)
}
