// SPDX-License-Identifier: Apache-2.0

// Package kubetest is a real Kubernetes API server for tests: kube-apiserver
// and etcd as one process, which `make apiserver` builds out of test/apiserver.
// Without that binary a test fails and says so.
//
// A package's tests share one server. It takes 5 seconds to start and ends with
// the test process, however that ends:
//
//	var cluster kubetest.Shared
//
//	func TestNodePort(t *testing.T) {
//		api := cluster.Start(t)
//		ns := api.Namespace(t)
//		api.SetNode(t, kubetest.Node{Name: "n1", Zone: "a", Addrs: addrs})
//		web := api.Apply(t, ns, `
//	apiVersion: v1
//	kind: Service
//	metadata: {name: web}
//	spec: {type: NodePort, ports: [{port: 80}]}`)[0]
//		api.SetEndpoints(t, ns, "web", kubetest.Endpoint{Addr: pod, Node: "n1"})
//		vip, port := web.Text("spec", "clusterIP"), web.Int("spec", "ports", 0, "nodePort")
//		...
//
// What a test makes is removed when it ends: its namespaces with all that is in
// them, and what Apply and SetNode made elsewhere. Objects go in as YAML or JSON
// and come out as Object; a kind is named as in YAML ("EndpointSlice"), and every
// kind that the server has will do. Methods with a testing.TB fail the test, so
// they are for the goroutine of the test; Request is for others and for what is
// to be refused.
//
// There are no controllers, no scheduler and no kubelets. ClusterIPs and node
// ports are allocated by the server (10.96.0.0/16, fd00:10:96::/112,
// 30000-32767); endpoints are what SetEndpoints or an applied EndpointSlice says,
// status is what UpdateStatus says, and a pod is what is written.
//
// The server is at 127.0.0.1. A process in another network namespace reaches it
// at the same address, with the same Kubeconfig, once Forward has a listener
// there:
//
//	l, err := node.Listen(t.Context(), "tcp", api.Addr)
//	...
//	cut := api.Forward(t, l) // cut() parts the node from the API server
//	cmd := exec.Command(waggle, "run", "--kubeconfig", api.Kubeconfig(t))
//
// A guest of test/vm, where the server would take minutes to start, borrows that of
// its host: Lend.
//
// Kubeconfig is for an admin; AccountKubeconfig has the rights that RBAC gives
// a service account. Stop, Kill and Restart are for tests of outages: they touch
// every user of a shared server.
package kubetest
