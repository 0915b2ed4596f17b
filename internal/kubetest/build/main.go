// SPDX-License-Identifier: Apache-2.0

// Command build builds the API server of the tests into .cache, under a name
// that says what it was built from, unless it is there, and removes older ones.
// `make apiserver` runs it.
package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/internal/kubetest"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "build the API server of the tests:", err)
		os.Exit(1)
	}
}

func run() error {
	root, err := kubetest.Root(".")
	if err != nil {
		return err
	}
	path, err := kubetest.Binary(root)
	if err == nil || !errors.Is(err, fs.ErrNotExist) || path == "" {
		return err
	}
	if err := build(filepath.Join(root, kubetest.Source), path); err != nil {
		return err
	}
	return removeOthers(path)
}

// build makes the binary appear at path when it is whole.
func build(source, path string) error {
	fmt.Println("building the API server of the tests (6 minutes, once): kube-apiserver and etcd, for tests of what waggle does in Kubernetes")
	start := time.Now()
	partial := fmt.Sprintf("%s.partial-%d", path, os.Getpid())
	defer os.Remove(partial)
	version, err := goOutput(source, "list", "-m", "-mod=readonly", "-f", "{{.Version}}", "k8s.io/kubernetes")
	if err != nil {
		return err
	}
	// without symbols, which would be a third of it; clients ask for the version
	ldflags := "-s -w -X k8s.io/component-base/version.gitVersion=" + version
	if _, err := goOutput(source, "build", "-mod=readonly", "-buildvcs=false", "-ldflags", ldflags, "-o", partial, "."); err != nil {
		return err
	}
	info, err := os.Stat(partial)
	if err != nil {
		return err
	}
	if err := os.Rename(partial, path); err != nil {
		return err
	}
	fmt.Printf("built %s: %d MB in %v\n", filepath.Base(path), info.Size()>>20, time.Since(start).Round(time.Second))
	return nil
}

// goOutput runs the go command in the module and returns the line it prints.
// Without cgo no C compiler is needed.
func goOutput(source string, args ...string) (string, error) {
	cmd := exec.Command("go", args...)
	cmd.Dir = source
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s in %s: %w", args[0], source, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// removeOthers removes what was built from other sources.
func removeOthers(path string) error {
	others, err := filepath.Glob(filepath.Join(filepath.Dir(path), "apiserver-*"))
	if err != nil {
		return err
	}
	for _, other := range others {
		if other == path {
			continue
		}
		if err := os.Remove(other); err != nil {
			return err
		}
	}
	return nil
}
