// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Workspace makes a directory for files that guests read: /tmp is another one
// there. The caller removes it; what a process that died left is removed here.
func Workspace() (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	cache := filepath.Join(root, ".cache")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	left, err := filepath.Glob(filepath.Join(cache, "vm-*-*"))
	if err != nil {
		return "", err
	}
	for _, dir := range left {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(dir), "vm-%d-", &pid); err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			continue
		}
		if err := os.RemoveAll(dir); err != nil {
			return "", fmt.Errorf("remove what a dead process left: %w", err)
		}
	}
	return os.MkdirTemp(cache, fmt.Sprintf("vm-%d-", os.Getpid()))
}

// Build compiles a program of the repository, "./cmd/waggle" say, to run in
// any guest, as a file of the workspace. args are of go build.
func Build(ctx context.Context, workspace, name, pkg string, args ...string) (path string, err error) {
	path = filepath.Join(workspace, name)
	return path, compile(ctx, path, pkg, append([]string{"build"}, args...))
}

// GoTest compiles the privileged tests of a package, "./loader" say, and
// returns the command that runs them with -test.v where the package's files
// are. It takes more flags of a test binary. tags are build tags beside privileged.
func GoTest(ctx context.Context, workspace, pkg string, tags ...string) (Command, error) {
	path := filepath.Join(workspace, strings.ReplaceAll(filepath.Clean(pkg), "/", "-")+".test")
	if err := compile(ctx, path, pkg, []string{"test", "-c", "-tags", strings.Join(append([]string{"privileged"}, tags...), ",")}); err != nil {
		return Command{}, err
	}
	if _, err := os.Stat(path); err != nil {
		return Command{}, fmt.Errorf("%s has no tests: %w", pkg, err)
	}
	root, err := Root()
	return Command{Args: []string{path, "-test.v"}, Dir: filepath.Join(root, pkg)}, err
}

// compile makes a static binary: the guest reads one file and no libraries.
func compile(ctx context.Context, path, pkg string, args []string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	args = append([]string{"CGO_ENABLED=0", "go"}, args...)
	_, err = output(ctx, root, "env", append(args, "-o", path, pkg)...)
	return err
}

// Verdicts counts what a test binary printed with -test.v, subtests included.
type Verdicts struct{ Passed, Failed, Skipped int }

// CountVerdicts reads the output of a test binary.
func CountVerdicts(out string) (v Verdicts) {
	for line := range strings.Lines(out) {
		switch line = strings.TrimLeft(line, " "); {
		case strings.HasPrefix(line, "--- PASS: "):
			v.Passed++
		case strings.HasPrefix(line, "--- FAIL: "):
			v.Failed++
		case strings.HasPrefix(line, "--- SKIP: "):
			v.Skipped++
		}
	}
	return v
}
