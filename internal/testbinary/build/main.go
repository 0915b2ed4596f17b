// SPDX-License-Identifier: Apache-2.0

// Command build builds programs of the tests, whose names are its arguments, into
// .cache, under names that say what they were built from, unless they are there,
// and removes older ones. It prints where they are, and on stderr what it does.
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

	"github.com/waggle-lb/waggle/internal/testbinary"
)

func main() {
	for _, name := range os.Args[1:] {
		path, err := run(name)
		if err != nil {
			fmt.Fprintf(os.Stderr, "build %s of the tests: %v\n", name, err)
			os.Exit(1)
		}
		fmt.Println(path)
	}
}

func run(name string) (string, error) {
	b, ok := testbinary.All[name]
	if !ok {
		return "", errors.New("there is no such program: internal/testbinary has them")
	}
	root, err := testbinary.Root(".")
	if err != nil {
		return "", err
	}
	path, err := b.Path(root)
	if err == nil || !errors.Is(err, fs.ErrNotExist) || path == "" {
		return path, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	if err := build(b, filepath.Join(root, b.Source), path); err != nil {
		return "", err
	}
	return path, removeOthers(b, path)
}

// build makes the binary appear at path when it is whole.
func build(b testbinary.Binary, source, path string) error {
	fmt.Fprintln(os.Stderr, "building "+b.What)
	start := time.Now()
	partial := fmt.Sprintf("%s.partial-%d", path, os.Getpid())
	defer os.Remove(partial)
	ldflags := "-s -w" // without symbols, which would be a third of it
	if b.Version != "" {
		version, err := goOutput(source, "list", "-m", "-mod=readonly", "-f", "{{.Version}}", b.Version)
		if err != nil {
			return err
		}
		ldflags += " -X " + b.Variable + "=" + version
	}
	if _, err := goOutput(source, "build", "-mod=readonly", "-buildvcs=false", "-ldflags", ldflags, "-o", partial, b.Package); err != nil {
		return err
	}
	info, err := os.Stat(partial)
	if err != nil {
		return err
	}
	if err := os.Rename(partial, path); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "built %s: %d MB in %v\n", filepath.Base(path), info.Size()>>20, time.Since(start).Round(time.Second))
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
func removeOthers(b testbinary.Binary, path string) error {
	others, err := filepath.Glob(filepath.Join(filepath.Dir(path), b.Name+"-*"))
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
