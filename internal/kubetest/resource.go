// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
)

// resource is how the server serves a kind.
type resource struct {
	prefix     string // "/apis/discovery.k8s.io/v1"
	name       string // "endpointslices"
	namespaced bool
	emptied    bool // all of a namespace can be deleted in one request
}

// discovery is the part that is used here of the aggregated discovery document
// (apidiscovery.k8s.io/v2, APIGroupDiscoveryList).
type discovery struct {
	Items []struct {
		Metadata struct{ Name string }
		Versions []struct {
			Version   string
			Resources []struct {
				Resource     string
				ResponseKind struct{ Kind string }
				Scope        string
				Verbs        []string
			}
		}
	}
}

// discover asks for all kinds. The keys are "v1/Service" and, for the preferred
// version, "Service"; if two groups have a kind, the core's comes first.
func (s *Server) discover(ctx context.Context) (map[string]resource, error) {
	kinds := make(map[string]resource)
	for _, root := range []string{"/api", "/apis"} {
		a, err := s.do(ctx, request{
			method: http.MethodGet, path: root,
			accept: "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
		})
		if err != nil {
			return nil, err
		}
		var d discovery
		if err := json.Unmarshal(a.body, &d); err != nil {
			return nil, fmt.Errorf("parse discovery of %s: %w", root, err)
		}
		d.addTo(kinds, root)
	}
	return kinds, nil
}

func (d discovery) addTo(kinds map[string]resource, root string) {
	for _, group := range d.Items {
		for _, version := range group.Versions {
			apiVersion := version.Version
			if group.Metadata.Name != "" {
				apiVersion = group.Metadata.Name + "/" + version.Version
			}
			for _, r := range version.Resources {
				found := resource{
					prefix: root + "/" + apiVersion, name: r.Resource,
					namespaced: r.Scope == "Namespaced", emptied: slices.Contains(r.Verbs, "deletecollection"),
				}
				for _, key := range []string{r.ResponseKind.Kind, apiVersion + "/" + r.ResponseKind.Kind} {
					if _, ok := kinds[key]; !ok {
						kinds[key] = found
					}
				}
			}
		}
	}
}

// resource returns how a kind is served; its name may have the apiVersion
// before it. A kind that is not known may be new, of a custom resource.
func (s *Server) resource(ctx context.Context, kind string) (resource, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.kinds[kind]; ok {
		return r, nil
	}
	kinds, err := s.discover(ctx)
	if err != nil {
		return resource{}, err
	}
	s.kinds = kinds
	r, ok := kinds[kind]
	if !ok {
		return r, fmt.Errorf("the API server knows no kind %s: write it as in YAML (Service), or with its apiVersion (discovery.k8s.io/v1/EndpointSlice)", kind)
	}
	return r, nil
}

// all is the path of all objects: of a namespace, or with "" everywhere.
func (r resource) all(namespace string) string {
	if r.namespaced && namespace != "" {
		return r.prefix + "/namespaces/" + namespace + "/" + r.name
	}
	return r.prefix + "/" + r.name
}

// one is the path of an object; one without a namespace leaves it empty or not.
func (r resource) one(namespace, name string) (string, error) {
	if name == "" {
		return "", fmt.Errorf("one of %s has no name", r.name)
	}
	if r.namespaced && namespace == "" {
		return "", fmt.Errorf("%s of %s: say in which namespace it is", name, r.name)
	}
	return r.all(namespace) + "/" + name, nil
}
