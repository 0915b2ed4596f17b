// SPDX-License-Identifier: Apache-2.0

// Package vmtest runs commands under kernels that this machine does not run:
// Debian's, downloaded and unpacked but not installed, in QEMU without KVM. A
// guest sees the machine's own files, so what is built here runs there.
package vmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Kernel is one that Boot can boot.
type Kernel struct {
	// Package and Version are Debian's names for it.
	Package, Version string
	// Release is what uname -r says in it.
	Release string

	dir string // holds vmlinux and lib/modules/RELEASE
}

func (k Kernel) String() string { return fmt.Sprintf("Linux %s (%s)", k.Release, k.Version) }

func (k Kernel) vmlinux() string { return filepath.Join(k.dir, "vmlinux") }

func (k Kernel) modules() string { return filepath.Join(k.dir, "lib/modules", k.Release) }

// series is a line of kernels in the archive.
type series struct {
	prefix string         // of package names
	name   *regexp.Regexp // of packages, whole
	// floor is the oldest version that counts IPVS's connections as the
	// recordings in lb/sched/testdata do; older ones are in the archive too.
	floor string
}

var lines = map[string]series{
	"6.1":  {"linux-image-6.1.0-", regexp.MustCompile(`^linux-image-6\.1\.0-[0-9]+-amd64$`), "6.1.187"},
	"6.12": {"linux-image-6.12.", regexp.MustCompile(`^linux-image-6\.12\.[0-9]+\+deb12-amd64$`), "6.12.105"},
}

// Series lists the lines of kernels that Fetch knows, the oldest first.
func Series() []string { return []string{"6.1", "6.12"} }

// Fetch returns the newest kernel of a line, "6.12" say, that the package
// lists of apt offer. It is downloaded once into .cache/kernels of the
// repository. The first call on a machine takes some ten seconds.
func Fetch(ctx context.Context, line string) (Kernel, error) {
	s, ok := lines[line]
	if !ok {
		return Kernel{}, fmt.Errorf("kernel %q: the lab knows %s", line, strings.Join(Series(), " and "))
	}
	root, err := Root()
	if err != nil {
		return Kernel{}, err
	}
	cache := filepath.Join(root, ".cache", "kernels")
	unlock, err := lock(cache)
	if err != nil {
		return Kernel{}, err
	}
	defer unlock()
	k, err := s.newest(ctx)
	if err != nil {
		return Kernel{}, fmt.Errorf("kernel %s: %w", line, err)
	}
	if k.dir, err = k.unpacked(ctx, cache); err != nil {
		return Kernel{}, fmt.Errorf("kernel %s: %w", line, err)
	}
	return k, nil
}

// newest asks apt. Lists that are missing or old are a reason to fetch them,
// once.
func (s series) newest(ctx context.Context) (Kernel, error) {
	k, err := s.choose(s.offered(ctx))
	if err == nil {
		return k, nil
	}
	if uerr := aptUpdate(ctx); uerr != nil {
		return Kernel{}, errors.Join(err, uerr)
	}
	return s.choose(s.offered(ctx))
}

func (s series) offered(ctx context.Context) (all []Kernel, err error) {
	out, err := output(ctx, "", "apt-cache", "pkgnames", s.prefix)
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(strings.Fields(out), func(n string) bool { return !s.name.MatchString(n) })
	if len(names) == 0 {
		return nil, nil
	}
	if out, err = output(ctx, "", "apt-cache", append([]string{"madison"}, names...)...); err != nil {
		return nil, err
	}
	return parseMadison(out), nil
}

// parseMadison reads lines of "package | version | where".
func parseMadison(out string) (all []Kernel) {
	for line := range strings.Lines(out) {
		if f := strings.Split(line, "|"); len(f) == 3 {
			all = append(all, Kernel{Package: strings.TrimSpace(f[0]), Version: strings.TrimSpace(f[1])})
		}
	}
	return all
}

// choose takes the newest, and refuses one that is older than the floor.
func (s series) choose(all []Kernel, err error) (Kernel, error) {
	if err != nil {
		return Kernel{}, err
	}
	if len(all) == 0 {
		return Kernel{}, fmt.Errorf("apt offers no package %s: the lab needs Debian 12's archive and its security updates in /etc/apt/sources.list", s.name)
	}
	k := slices.MaxFunc(all, func(a, b Kernel) int { return compareVersions(a.Version, b.Version) })
	if compareVersions(k.Version, s.floor) < 0 {
		return Kernel{}, fmt.Errorf("the newest package is %s %s, older than %s: such a kernel counts IPVS's connections in another way; run `apt-get update` with Debian's security updates in /etc/apt/sources.list",
			k.Package, k.Version, s.floor)
	}
	k.Release = strings.TrimPrefix(k.Package, "linux-image-")
	return k, nil
}

var digits = regexp.MustCompile(`[0-9]+`)

// compareVersions compares the numbers in two versions, one after the other:
// for kernels of one line that is Debian's order.
func compareVersions(a, b string) int {
	return slices.CompareFunc(digits.FindAllString(a, -1), digits.FindAllString(b, -1), func(x, y string) int {
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		return strings.Compare(x, y)
	})
}

// Root is the directory of go.mod above the working directory.
func Root() (string, error) {
	wd, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := wd; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", fmt.Errorf("no go.mod above %s: run in the repository", wd)
		}
	}
}

// lock keeps two processes from unpacking one kernel.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), f.Close())
	}
	return func() { f.Close() }, nil
}

// output runs a tool and returns what it prints; what it complains of is in
// the error.
func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		err = fmt.Errorf("%w: `make test-vm` installs what it needs", err)
	}
	if err != nil {
		return "", fmt.Errorf("run %s: %w\n%s", strings.Join(cmd.Args, " "), err, complaint.String())
	}
	return string(out), nil
}

func aptUpdate(ctx context.Context) error {
	_, err := output(ctx, "", "apt-get", "update", "-qq")
	return err
}
