// SPDX-License-Identifier: Apache-2.0

package deploy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// pages are those that tell users what to type.
var pages = []string{"docs/install.md", "docs/migration.md"}

// TestTheValuesOfTheDocsRender takes the values.yaml that the pages show.
func TestTheValuesOfTheDocsRender(t *testing.T) {
	block := regexp.MustCompile(`(?m)^    # values\.yaml\n((?:    .+\n)+)`)
	for _, page := range pages {
		m := block.FindStringSubmatch(read(t, page))
		if m == nil {
			t.Fatalf("%s shows no values.yaml", page)
		}
		file := filepath.Join(t.TempDir(), "values.yaml")
		if err := os.WriteFile(file, []byte(m[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		text, err := helm(t, []string{"template", "waggle", "--kube-version", "1.37.0", "--values", file})
		if err != nil {
			t.Fatalf("%s: %v", page, err)
		}
		if c := parse(t, text)["DaemonSet"].Spec.Template.Spec.Containers[0]; c.Image != "registry.example/waggle:0.1" {
			t.Errorf("%s: the image is %s", page, c.Image)
		}
	}
}

// kubeProxy is a DaemonSet as kubeadm makes it, as far as patches are about it.
const kubeProxy = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: kube-proxy}
spec:
  selector: {matchLabels: {k8s-app: kube-proxy}}
  template:
    metadata: {labels: {k8s-app: kube-proxy}}
    spec:
      containers:
      - name: kube-proxy
        image: registry.example/kube-proxy:v1.37.0
        command: [/usr/local/bin/kube-proxy, --config=/var/lib/kube-proxy/config.conf, --hostname-override=$(NODE_NAME)]
        volumeMounts: [{name: kube-proxy, mountPath: /var/lib/kube-proxy}]
      volumes: [{name: kube-proxy, configMap: {name: kube-proxy}}]
`

// TestThePatchesOfTheDocs sends the patches of the pages, as kubectl does.
func TestThePatchesOfTheDocs(t *testing.T) {
	api := cluster.Start(t)
	ns := api.Namespace(t)
	api.Apply(t, ns, kubeProxy)
	patches := regexp.MustCompile(`(?s)kubectl -n kube-system patch ds kube-proxy (--type json )?--patch '([^']+)'`).FindAllStringSubmatch(read(t, "docs/migration.md"), -1)
	if len(patches) != 3 {
		t.Fatalf("docs/migration.md has %d patches, want 3", len(patches))
	}
	wants := []string{
		"matchExpressions:[map[key:waggle.dev/proxy operator:NotIn values:[waggle]]]",
		"mountPath:/var/lib/kube-proxy name:kube-proxy", // and not bpf alone
		"",
	}
	for i, p := range patches {
		kind := "application/strategic-merge-patch+json"
		if p[1] != "" {
			kind = "application/json-patch+json"
		}
		if _, err := api.Request(t.Context(), "PATCH", "/apis/apps/v1/namespaces/"+ns+"/daemonsets/kube-proxy?fieldValidation=Strict", kind, []byte(p[2])); err != nil {
			t.Fatalf("%s: %v", p[2], err)
		}
		if spec := fmt.Sprint(api.Get(t, "DaemonSet", ns, "kube-proxy").At("spec", "template", "spec")); !strings.Contains(spec, wants[i]) {
			t.Errorf("after %s it is %s", p[2], spec)
		}
	}
	spec := api.Get(t, "DaemonSet", ns, "kube-proxy")
	if spec.At("spec", "template", "spec", "affinity") != nil || spec.Text("spec", "template", "spec", "containers", 0, "image") != "registry.example/waggle:0.1" {
		t.Errorf("in the end it is %v", spec)
	}
}

// TestTheManifestsAreEditedAsTheDocsSay has nothing of the placeholders left.
func TestTheManifestsAreEditedAsTheDocsSay(t *testing.T) {
	text := read(t, "deploy/waggle.yaml")
	edits := regexp.MustCompile(`-e s(?:/([A-Z_]+)/([^/ ]+)/|,([^, ]+),([^, ]+),)`).FindAllStringSubmatch(read(t, "docs/install.md"), -1)
	if len(edits) != 3 {
		t.Fatalf("docs/install.md has %d edits, want 3", len(edits))
	}
	for _, e := range edits {
		from, to := e[1]+e[3], e[2]+e[4]
		if !strings.Contains(text, from) {
			t.Errorf("deploy/waggle.yaml has no %s", from)
		}
		text = strings.ReplaceAll(text, from, to)
	}
	c := parse(t, text)["DaemonSet"].Spec.Template.Spec.Containers[0]
	if args := strings.Join(c.Args, " "); c.Image != "registry.example/waggle:0.1" || !strings.Contains(args, "--cluster-cidr=10.244.0.0/16") {
		t.Errorf("image %s, arguments %s", c.Image, args)
	}
}
