// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Connection says how to reach the API server.
type Connection struct {
	// Kubeconfig names a file; "": as a pod does, or by Server alone.
	Kubeconfig string
	// Server is its address, in the place of what Kubeconfig or the pod says; "":
	// that stays.
	Server string
	// QPS and Burst are how many requests are sent, in a second and at once; 0:
	// kube-proxy's 5 and 10. QPS < 0 is no limit.
	QPS   float32
	Burst int
	// ContentType is that of requests, AcceptContentTypes those of answers; "":
	// Protobuf, and JSON where there is none.
	ContentType, AcceptContentTypes string
}

// Config makes the configuration of a client. It refuses the ClusterIP that kubelet
// tells pods: waggle itself, which serves that address, cannot begin there.
func Config(c Connection) (*rest.Config, error) {
	read := rest.InClusterConfig
	hint := "write --kubeconfig FILE, or run in a pod with a service account"
	switch {
	case c.Kubeconfig != "":
		read = func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags(c.Server, c.Kubeconfig) }
		hint = "write a kubeconfig file whose current context is the cluster"
	case c.Server == "":
		if err := checkHost(os.Getenv); err != nil {
			return nil, err
		}
	case os.Getenv(hostVariable) == "":
		read = func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags(c.Server, "") }
		hint = "write --master https://ADDRESS:PORT"
	}
	out, err := read()
	if err != nil {
		return nil, fmt.Errorf("how to reach the API server: %w: %s", err, hint)
	}
	out.Host = cmp.Or(c.Server, out.Host)
	out.QPS, out.Burst, out.UserAgent = cmp.Or(c.QPS, 5), cmp.Or(c.Burst, 10), "waggle"
	out.ContentType = cmp.Or(c.ContentType, runtime.ContentTypeProtobuf)
	out.AcceptContentTypes = c.AcceptContentTypes
	return out, nil
}

// hostVariable is how kubelet names the API server to a pod.
const hostVariable = "KUBERNETES_SERVICE_HOST"

// checkHost fails if the environment's API server is the Service's ClusterIP, as
// kubelet writes it: both variables are the same address then. Who overrides the
// first for a pod, or writes a host name into both, has given it another.
func checkHost(getenv func(string) string) error {
	host := getenv(hostVariable)
	ip, err := netip.ParseAddr(host)
	if err != nil || getenv("KUBERNETES_PORT_443_TCP_ADDR") != host {
		return nil
	}
	return fmt.Errorf("the API server at %s=%s is a ClusterIP, which nobody serves before waggle does: write --kubeconfig FILE or --master https://ADDRESS:PORT with the control plane's own endpoint, "+
		"or set %s and KUBERNETES_SERVICE_PORT to that in the pod's environment", hostVariable, ip, hostVariable)
}

// scheme has the groups that a source uses, and no more.
var scheme = runtime.NewScheme()

func init() {
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme, eventsv1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			panic(err) // two types of one name in the libraries
		}
	}
}

// clients are those of the groups, over one HTTP client.
type clients struct {
	core, discovery, networking, events rest.Interface
}

func newClients(config *rest.Config) (*clients, error) {
	base := rest.CopyConfig(config)
	base.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	base.ContentType = cmp.Or(base.ContentType, runtime.ContentTypeProtobuf)
	base.AcceptContentTypes = cmp.Or(base.AcceptContentTypes, base.ContentType+","+runtime.ContentTypeJSON)
	http, err := rest.HTTPClientFor(base)
	if err != nil {
		return nil, err
	}
	c := new(clients)
	for _, g := range []struct {
		version schema.GroupVersion
		path    string
		to      *rest.Interface
	}{
		{corev1.SchemeGroupVersion, "/api", &c.core},
		{discoveryv1.SchemeGroupVersion, "/apis", &c.discovery},
		{networkingv1.SchemeGroupVersion, "/apis", &c.networking},
		{eventsv1.SchemeGroupVersion, "/apis", &c.events},
	} {
		of := rest.CopyConfig(base)
		of.GroupVersion, of.APIPath = &g.version, g.path
		client, err := rest.RESTClientForConfigAndClient(of, http)
		if err != nil {
			return nil, err
		}
		*g.to = client
	}
	return c, nil
}
