// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"

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

// Config returns how to reach the API server: as a kubeconfig file says, or if
// that is "", as a pod does. The caller may change it.
func Config(kubeconfig string) (*rest.Config, error) {
	read := rest.InClusterConfig
	hint := "write --kubeconfig FILE, or run in a pod with a service account"
	if kubeconfig != "" {
		read = func() (*rest.Config, error) { return clientcmd.BuildConfigFromFlags("", kubeconfig) }
		hint = "write a kubeconfig file whose current context is the cluster"
	}
	c, err := read()
	if err != nil {
		return nil, fmt.Errorf("how to reach the API server: %w: %s", err, hint)
	}
	// A source lists and watches four resources and sends few events.
	c.QPS, c.Burst, c.UserAgent = 10, 20, "waggle"
	return c, nil
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
	base.ContentType = runtime.ContentTypeProtobuf
	base.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
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
