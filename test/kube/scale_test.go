// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package kube_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// A large cluster's Services and the ports of each. A port of a family is a service of
// its own to the dataplane: that makes ten thousand. The API server counts all cluster
// IPs for each that it gives, so ten thousand Services of one port would keep it busy
// for minutes.
const (
	manyServices = 500
	portsEach    = 10
	many         = manyServices * portsEach * 2
)

// TestManyServices makes, changes and deletes them while one node's daemon follows.
func TestManyServices(t *testing.T) { runLines(t, manyLines()) }

func manyLines() []line {
	return []line{{name: "ten thousand services come, change and go", alone: true, families: []string{"ipv4"}, run: func(e *e2e) {
		for _, n := range e.nodes[1:] {
			n.kill()
		}
		n := e.nodes[0]
		first := e.service("first", "").backends(e.pods()[0])
		e.reaches(e.pods()[2], first.vip(), e.pods()[0])
		before := len(e.list(n))
		f := e.traffic(first.vip(), e.pods()[2])
		e.patience = 5 * patience // a busy machine's API server takes its time

		e.each(func(i int) error { return e.post("/api/v1", "services", e.manyYAML(i)) })
		e.settles(n, before+many, 0)
		e.each(func(i int) error {
			return errors.Join(e.post(discovery, "endpointslices", e.manySliceYAML(i, false)), e.post(discovery, "endpointslices", e.manySliceYAML(i, true)))
		})
		e.settles(n, before+many, 1)
		e.each(func(i int) error { return e.remove("/api/v1", "services", fmt.Sprintf("many%d", i)) })
		e.each(func(i int) error {
			return errors.Join(e.remove(discovery, "endpointslices", manySlice(i, false)), e.remove(discovery, "endpointslices", manySlice(i, true)))
		})
		e.settles(n, before, 1)
		f.succeeded()
	}}}
}

const discovery = "/apis/discovery.k8s.io/v1"

// manyYAML is number i of the Services.
func (e *e2e) manyYAML(i int) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: many%d}, spec: {ipFamilies: [IPv4, IPv6], ipFamilyPolicy: RequireDualStack, ports: [%s]}}`,
		i, manyPorts("{name: p%d, port: %d, targetPort: 8080}"))
}

// manySliceYAML is its endpoint of a family, which nobody asks.
func (e *e2e) manySliceYAML(i int, v6 bool) string {
	family := map[bool]string{false: "IPv4", true: "IPv6"}[v6]
	return fmt.Sprintf(`{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: %s, labels: {kubernetes.io/service-name: many%d}},
addressType: %s, ports: [%s], endpoints: [{addresses: [%q]}]}`,
		manySlice(i, v6), i, family, manyPorts("{name: p%d, port: %d, protocol: TCP}"), podAddr(9, 2+i%250, v6))
}

func manySlice(i int, v6 bool) string { return fmt.Sprintf("many%d-%t", i, v6) }

func manyPorts(format string) string {
	var list []string
	for port := range portsEach {
		list = append(list, fmt.Sprintf(format, port, 80+port))
	}
	return strings.Join(list, ", ")
}

// each does something for every number, several at once.
func (e *e2e) each(do func(i int) error) {
	const workers = 16
	var running sync.WaitGroup
	errs := make([]error, workers)
	for w := range workers {
		running.Go(func() {
			for i := w; i < manyServices && errs[w] == nil; i += workers {
				errs[w] = do(i)
			}
		})
	}
	running.Wait()
	e.try(errors.Join(errs...))
}

// post makes an object of the line's namespace.
func (e *e2e) post(api, resource, yaml string) error {
	path := fmt.Sprintf("%s/namespaces/%s/%s", api, e.ns, resource)
	_, err := e.api.Request(context.Background(), http.MethodPost, path, "application/yaml", []byte(yaml))
	return err
}

func (e *e2e) remove(api, resource, name string) error {
	path := fmt.Sprintf("%s/namespaces/%s/%s/%s", api, e.ns, resource, name)
	_, err := e.api.Request(context.Background(), http.MethodDelete, path, "", nil)
	return err
}

// listed is a service as `waggle services` has it.
type listed struct {
	Name     string
	Backends int
}

// list are the services of a node's kernel.
func (e *e2e) list(n *node) []listed {
	var stdout, stderr strings.Builder
	cmd := exec.Command(waggle, "services", "-o", "json", "--pin-path", n.pins())
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := n.Run(cmd); err != nil {
		e.fail("waggle services: %v: %s", err, stderr.String())
	}
	var doc struct{ Items []listed }
	e.try(json.Unmarshal([]byte(stdout.String()), &doc))
	return doc.Items
}

// settles waits until the kernel has so many services, with so many backends each but
// for the line's first, and until what it has is what the daemon wants.
func (e *e2e) settles(n *node, services, backends int) {
	e.eventually("the kernel has what the API server says", func() error {
		list := e.list(n)
		if len(list) != services {
			return fmt.Errorf("it has %d services, want %d", len(list), services)
		}
		for _, s := range list {
			if strings.HasPrefix(s.Name, e.ns+"/many") && s.Backends != backends {
				return fmt.Errorf("%s has %d backends, want %d", s.Name, s.Backends, backends)
			}
		}
		if out, err := n.output(exec.Command(waggle, "diff", "--pin-path", n.pins())); err != nil {
			return fmt.Errorf("waggle diff: %w: %.1000s", err, out)
		}
		return nil
	})
}
