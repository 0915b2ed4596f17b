// SPDX-License-Identifier: Apache-2.0

// Package deploy_test has helm, Prometheus's parser and a real API server judge
// what is in deploy/.
package deploy_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/waggle-lb/waggle/internal/testbinary"
)

// root is the repository's, from here.
const root = "../.."

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// run runs a program of the tests at the root and returns what it prints, and as
// an error what it complains of.
func run(t *testing.T, b testbinary.Binary, args ...string) (string, error) {
	t.Helper()
	path, err := b.Find()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = root
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), errors.New(strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// helm runs a verb of helm on the chart with values.
func helm(t *testing.T, verb []string, values ...string) (string, error) {
	t.Helper()
	args := append(verb, "deploy/chart", "--namespace", "kube-system")
	for _, v := range values {
		args = append(args, "--set", v)
	}
	return run(t, testbinary.Helm, args...)
}

// object is what a manifest says.
type object struct {
	Kind     string
	Metadata struct{ Name, Namespace string }
	Spec     struct {
		Template struct {
			Metadata struct{ Annotations map[string]string }
			Spec     pod
		}
		Groups    []any
		Endpoints []map[string]any
	}
	Data    map[string]string
	RoleRef struct{ Kind, Name string } `yaml:"roleRef"`
}

type pod struct {
	HostNetwork  bool              `yaml:"hostNetwork"`
	HostPID      bool              `yaml:"hostPID"`
	NodeSelector map[string]string `yaml:"nodeSelector"`
	Containers   []struct {
		Image         string
		Args          []string
		Env           []struct{ Name, Value string }
		LivenessProbe *struct {
			HTTPGet struct {
				Path, Host string
				Port       int
			} `yaml:"httpGet"`
		} `yaml:"livenessProbe"`
		SecurityContext map[string]any `yaml:"securityContext"`
		VolumeMounts    []struct {
			Name      string
			MountPath string `yaml:"mountPath"`
		} `yaml:"volumeMounts"`
	}
	Volumes []struct {
		Name      string
		ConfigMap struct{ Name string } `yaml:"configMap"`
		HostPath  struct{ Path string } `yaml:"hostPath"`
	}
}

// parse reads manifests, by kind; of a kind there is one.
func parse(t *testing.T, text string) map[string]object {
	t.Helper()
	out := make(map[string]object)
	for decoder := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o object
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if _, twice := out[o.Kind]; twice {
			t.Fatalf("two of kind %s in\n%s", o.Kind, text)
		}
		if o.Kind != "" { // nothing but comments
			out[o.Kind] = o
		}
	}
}

// reachable are the values without which the chart refuses.
const reachable = "apiServer.host=192.0.2.1"

// render renders the chart for a new cluster with these values beside reachable.
func render(t *testing.T, values ...string) map[string]object {
	t.Helper()
	return renderFor(t, "1.37.0", append([]string{reachable}, values...)...)
}

func renderFor(t *testing.T, version string, values ...string) map[string]object {
	t.Helper()
	text, err := helm(t, []string{"template", "waggle", "--kube-version", version}, values...)
	if err != nil {
		t.Fatalf("values %v: %v", values, err)
	}
	return parse(t, text)
}
