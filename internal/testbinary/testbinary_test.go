// SPDX-License-Identifier: Apache-2.0

package testbinary_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/internal/testbinary"
)

func TestBinaryIsNamedByItsSources(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	find := func() (string, error) { return testbinary.APIServer.Path(root) }
	write(testbinary.APIServer.Source+"/go.mod", "module m")
	write(testbinary.APIServer.Source+"/main.go", "package main")
	first, err := find()
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "make apiserver") {
		t.Errorf("without the binary: %v, want fs.ErrNotExist and the command", err)
	}
	write(testbinary.APIServer.Source+"/main_test.go", "package main")
	if same, _ := find(); same != first {
		t.Errorf("a test in its folder makes it %s, was %s", same, first)
	}
	write(testbinary.APIServer.Source+"/go.sum", "sums")
	second, _ := find()
	if second == first {
		t.Errorf("it is %s whatever go.sum says", second)
	}
	write(strings.TrimPrefix(second, root), "")
	if got, err := find(); got != second || err != nil {
		t.Errorf("got %s, %v, want %s", got, err, second)
	}
}
