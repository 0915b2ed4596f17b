// SPDX-License-Identifier: Apache-2.0

package deploy_test

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// What `make image` puts into the image of each architecture. TestTheImage
// (test/lab) runs the image of this machine's.
func TestTheImagesFiles(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		dir := t.TempDir()
		cmd := exec.Command("make", "image-root", "GOARCH="+arch, "IMAGE_ROOT="+dir)
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		f, err := elf.Open(filepath.Join(dir, "usr/local/bin/waggle"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if f.Machine != machine {
			t.Errorf("%s: the binary is for %v", arch, f.Machine)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s: the binary is not static: it has %v, and nothing else is in the image", arch, p.Type)
			}
		}
		if to, err := os.Readlink(filepath.Join(dir, "usr/local/bin/kube-proxy")); to != "waggle" {
			t.Errorf("%s: kube-proxy leads to %q: %v", arch, to, err)
		}
	}
}

// The builder's stage of the Dockerfile is not run by `make image`, so it has to do
// the same.
func TestTheDockerfileBuildsAsTheMakefileDoes(t *testing.T) {
	file, module := read(t, "Dockerfile"), read(t, "go.mod")
	version := regexp.MustCompile(`(?m)^go (1\.\d+)`).FindStringSubmatch(module)[1]
	for _, want := range []string{" golang:" + version, "RUN make image-root ", "\nFROM scratch\n", "COPY --from=build /image/ /\n"} {
		if !strings.Contains(file, want) {
			t.Errorf("the Dockerfile has no %q", want)
		}
	}
}
