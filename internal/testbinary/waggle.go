// SPDX-License-Identifier: Apache-2.0

package testbinary

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// WaggleVariable names a directory of the environment with what BuildWaggle would
// build, for machines that cannot: the guests of test/vm.
const WaggleVariable = "WAGGLE_LAB_BINARIES"

// Waggle is the program under test, built from the source that the test is of.
type Waggle struct {
	dir string
	// Given says that the environment has it and nothing was built: the test runs in a
	// guest, where all takes longer.
	Given bool
}

// BuildWaggle builds it, and once more for each of the build tags. The caller calls
// Remove, unless there is an error.
func BuildWaggle(tags ...string) (w Waggle, err error) {
	if w.dir, w.Given = os.LookupEnv(WaggleVariable); w.Given {
		return w, nil
	}
	if w.dir, err = os.MkdirTemp("", "waggle-binaries-"); err != nil {
		return w, err
	}
	for _, tag := range append([]string{""}, tags...) {
		cmd := exec.Command("go", "build", "-tags", tag, "-o", w.Path(tag), "github.com/waggle-lb/waggle/cmd/waggle")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			w.Remove()
			return w, fmt.Errorf("build waggle: %w\n%s", err, out)
		}
	}
	return w, nil
}

// Path is where the one of a build tag is; the empty tag is none.
func (w Waggle) Path(tag string) string {
	if tag == "" {
		return filepath.Join(w.dir, "waggle")
	}
	return filepath.Join(w.dir, "waggle-"+tag)
}

// Remove removes what was built.
func (w Waggle) Remove() {
	if !w.Given {
		os.RemoveAll(w.dir)
	}
}
