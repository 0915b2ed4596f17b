// SPDX-License-Identifier: Apache-2.0

package deploy_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

var cluster kubetest.Shared

func TestTheAPIServerTakesTheManifests(t *testing.T) {
	api := cluster.Start(t)
	chart, err := helm(t, []string{"template", "other", "--kube-version", "1.37.0"}, append([]string{reachable, "cleanup=false",
		"metrics.bindAddress=0.0.0.0:10249", "metrics.dashboard.enabled=true", "podAnnotations.a=b", "imagePullSecrets[0].name=registry"}, everything...)...)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"deploy/waggle.yaml": read(t, "deploy/waggle.yaml"), "the chart": chart} {
		got := make(map[string]kubetest.Object)
		for _, o := range api.DryRun(t, "kube-system", text) {
			got[o.Text("kind")] = o
		}
		ds := got["DaemonSet"]
		if ds == nil || ds.Text("spec", "template", "spec", "priorityClassName") != "system-node-critical" {
			t.Errorf("%s: the DaemonSet is %v", name, ds)
		}
	}
}

// TestTheAccountMayDoWhatIsNeededAndNoMore: its rights are those of
// system:node-proxier, which kube-apiserver makes.
func TestTheAccountMayDoWhatIsNeededAndNoMore(t *testing.T) {
	api := cluster.Start(t)
	api.Apply(t, "kube-system", read(t, "deploy/waggle.yaml"))
	for _, c := range []struct {
		verbs, group, resource string
		want                   bool
	}{
		{"list watch", "", "services", true},
		{"list watch", "discovery.k8s.io", "endpointslices", true},
		{"list watch", "networking.k8s.io", "servicecidrs", true},
		{"get list watch", "", "nodes", true},
		{"create patch update", "", "events", true},
		{"create patch update", "events.k8s.io", "events", true},
		{"create update patch delete", "", "services", false},
		{"update patch", "", "services/status", false},
		{"create update delete", "discovery.k8s.io", "endpointslices", false},
		{"update patch delete", "", "nodes", false},
		{"get list", "", "secrets", false},
		{"get list", "", "configmaps", false},
		{"get list create", "", "pods", false},
	} {
		for verb := range strings.FieldsSeq(c.verbs) {
			if got := allowed(t, api, verb, c.group, c.resource); got != c.want {
				t.Errorf("%s %s of group %q: allowed %v, want %v", verb, c.resource, c.group, got, c.want)
			}
		}
	}
}

// allowed asks whether the account of the manifests may do something everywhere.
func allowed(t *testing.T, api *kubetest.Server, verb, group, resource string) bool {
	t.Helper()
	resource, sub, _ := strings.Cut(resource, "/")
	body := fmt.Sprintf(`{"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": {"user": "system:serviceaccount:kube-system:waggle",
		"resourceAttributes": {"verb": %q, "group": %q, "resource": %q, "subresource": %q}}}`, verb, group, resource, sub)
	b, err := api.Request(t.Context(), "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", "application/json", []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	var review struct{ Status struct{ Allowed bool } }
	if err := json.Unmarshal(b, &review); err != nil {
		t.Fatal(err)
	}
	return review.Status.Allowed
}
