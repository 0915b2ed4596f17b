// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Source is the folder of the API server's module, from the repository's root.
const Source = "test/apiserver"

// Root returns the repository's root, which has Source: dir or one above it.
func Root(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for up := dir; ; up = filepath.Dir(up) {
		if _, err := os.Stat(filepath.Join(up, Source, "go.mod")); err == nil {
			return up, nil
		}
		if up == filepath.Dir(up) {
			return "", fmt.Errorf("no folder from %s upwards has %s: run tests in their package's folder, as go test does", dir, Source)
		}
	}
}

// Binary returns where the API server's binary is or would be: its name says
// what it was built from. No error means that it is there; fs.ErrNotExist that
// it has to be built.
func Binary(root string) (string, error) {
	sum, err := sourceSum(filepath.Join(root, Source))
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".cache", "apiserver-"+sum)
	if _, err := os.Stat(path); err != nil {
		return path, fmt.Errorf("find the API server of the tests, which `make apiserver` builds: %w", err)
	}
	return path, nil
}

// sourceSum is a hash of what the binary is built from, in 12 digits.
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
