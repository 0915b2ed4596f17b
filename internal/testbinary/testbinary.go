// SPDX-License-Identifier: Apache-2.0

// Package testbinary finds programs that tests run and that are built out of Go
// modules of their own, below test, which no `./...` of the main module reaches:
// so that waggle's go.mod has nothing of them. Its command build builds them into
// .cache, once: `make apiserver helm` runs it.
package testbinary

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Binary is such a program.
type Binary struct {
	// Name is what it is called: in .cache a hash of what it is built from follows.
	Name string
	// Source is the folder of its module, from the repository's root.
	Source string
	// Package is what is built there, as go build takes it.
	Package string
	// What is said before it is built: what it is, and how long that takes.
	What string
	// Version is a module whose version goes into Variable, if it is not empty.
	Version, Variable string
}

// The programs.
var (
	APIServer = Binary{
		Name: "apiserver", Source: "test/apiserver", Package: ".",
		What:    "the API server of the tests (6 minutes, once): kube-apiserver and etcd, for tests of what waggle does in Kubernetes",
		Version: "k8s.io/kubernetes", Variable: "k8s.io/component-base/version.gitVersion",
	}
	Helm = Binary{
		Name: "helm", Source: "test/chart", Package: "helm.sh/helm/v3/cmd/helm",
		What:    "helm (3 minutes, once), which checks and renders the chart",
		Version: "helm.sh/helm/v3", Variable: "helm.sh/helm/v3/internal/version.version",
	}
	Queries = Binary{
		Name: "queries", Source: "test/chart", Package: ".",
		What: "a reader of PromQL (a minute, once), for tests of the alerts and the dashboard",
	}
)

// All are the programs by their names.
var All = map[string]Binary{APIServer.Name: APIServer, Helm.Name: Helm, Queries.Name: Queries}

// Root returns the repository's root, which has the modules: dir or one above it.
func Root(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for up := dir; ; up = filepath.Dir(up) {
		if _, err := os.Stat(filepath.Join(up, APIServer.Source, "go.mod")); err == nil {
			return up, nil
		}
		if up == filepath.Dir(up) {
			return "", fmt.Errorf("no folder from %s upwards has %s: run tests in their package's folder, as go test does", dir, APIServer.Source)
		}
	}
}

// Find returns where the program is, for a test anywhere in the repository. If it
// has to be built first the error says so.
func (b Binary) Find() (string, error) {
	root, err := Root(".")
	if err != nil {
		return "", err
	}
	return b.Path(root)
}

// Path returns where the program is or would be. No error means that it is there;
// fs.ErrNotExist that it has to be built.
func (b Binary) Path(root string) (string, error) {
	sum, err := sourceSum(filepath.Join(root, b.Source))
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".cache", b.Name+"-"+sum)
	if _, err := os.Stat(path); err != nil {
		return path, fmt.Errorf("find %s of the tests, which `make apiserver helm` builds: %w", b.Name, err)
	}
	return path, nil
}

// sourceSum is a hash of what a binary is built from, in 12 digits.
func sourceSum(dir string) (string, error) {
	entries, err := os.ReadDir(dir) // sorted
	if err != nil {
		return "", err
	}
	h := sha256.New()
	n := 0
	for _, e := range entries {
		name := e.Name()
		source := strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go")
		if !source && name != "go.mod" && name != "go.sum" {
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%s %d\n%s", name, len(b), b)
		n++
	}
	if n == 0 {
		return "", errors.New(dir + " has no sources")
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:6]), nil
}
