// SPDX-License-Identifier: Apache-2.0

package deploy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/internal/kubetest"
	"github.com/waggle-lb/waggle/internal/testbinary"
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

// TestAReleaseFromItsInstallationToItsEnd goes the way of docs/install.md with helm,
// as a user does. There are no kubelets: objects are what is looked at.
func TestAReleaseFromItsInstallationToItsEnd(t *testing.T) {
	api := cluster.Start(t)
	ns := api.Namespace(t)
	config := api.Kubeconfig(t)
	release := func(args ...string) string {
		t.Helper()
		out, err := run(t, testbinary.Helm, append(args, "--namespace", ns, "--kubeconfig", config)...)
		if err != nil {
			t.Fatalf("helm %q: %v", args, err)
		}
		return out
	}
	args := func() string {
		return fmt.Sprint(api.Get(t, "DaemonSet", ns, "waggle").Texts("spec", "template", "spec", "containers", 0, "args"))
	}

	notes := release("install", "waggle", "deploy/chart", "--set", reachable)
	for _, want := range []string{"It follows the API server at 192.0.2.1:6443.", "kubectl -n " + ns + " exec ds/waggle -- waggle status", "clusterCIDR is not set", "--set cleanup=true"} {
		if !strings.Contains(notes, want) {
			t.Errorf("the notes do not say %q:\n%s", want, notes)
		}
	}
	notes = release("upgrade", "waggle", "deploy/chart", "--set", "apiServer.kubeconfig.configMap=kube-proxy", "--set", "clusterCIDR={10.244.0.0/16}")
	if !strings.Contains(notes, "ConfigMap kube-proxy") || strings.Contains(notes, "is not set") || !strings.Contains(args(), "--kubeconfig=") {
		t.Errorf("arguments %s and notes\n%s", args(), notes)
	}
	notes = release("upgrade", "waggle", "deploy/chart", "--set", "cleanup=true")
	if !strings.Contains(notes, "helm -n "+ns+" uninstall waggle") || args() != "[cleanup --stay]" {
		t.Errorf("arguments %s and notes\n%s", args(), notes)
	}
	release("uninstall", "waggle")
	for _, path := range []string{"/apis/apps/v1/namespaces/" + ns + "/daemonsets/waggle", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/waggle"} {
		var status *kubetest.StatusError
		if _, err := api.Request(t.Context(), "GET", path, "", nil); !errors.As(err, &status) || status.Code != 404 {
			t.Errorf("%s is left: %v", path, err)
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
