// SPDX-License-Identifier: Apache-2.0

// Package repo_test holds what the repository promises about itself: who
// imports whom, how long files are, and that lists in the docs are complete.
package repo_test

import (
	"bytes"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/waggle-lb/waggle/"

// arrows say which of our packages a package may import: prefixes of paths.
// The longest prefix that fits a package counts. docs/design.md draws them.
var arrows = map[string][]string{
	"bpf":                   {},
	"lb":                    {},
	"lb/sched":              {"lb"},
	"maps":                  {"bpf", "lb", "maps"},
	"loader":                {"bpf", "internal/nlx"},
	"dataplane":             {"lb"},
	"dataplane/fake":        {"lb", "dataplane"},
	"dataplane/conformance": {"lb", "dataplane"},
	"dataplane/ebpf":        {"bpf", "lb", "maps", "loader", "dataplane", "internal/nlx", "internal/task"},
	"dataplane/ipvs":        {"lb", "dataplane", "internal/nlx", "internal/sysctl", "internal/task"},
	"sync/file":             {"lb", "internal/task", "internal/filewatch"},
	"sync/kube":             {"lb", "internal/task"},
	"sync/control":          {"lb", "dataplane", "internal/task"},
	"internal":              {"lb", "internal"},
	"internal/cli":          {"lb", "dataplane", "sync/control", "internal"},
	"internal/metrics":      {"lb", "dataplane", "sync/control", "internal"},
	"internal/takeover":     {"lb", "dataplane", "internal"},
	"cmd":                   {""},
	"test":                  {""},
}

// outsiders are modules that only these packages may import.
var outsiders = map[string][]string{
	"github.com/cilium/ebpf":     {"bpf", "maps", "loader", "dataplane/ebpf", "internal/netlab", "test"},
	"github.com/moby/ipvs":       {"dataplane/ipvs", "internal/takeover"},
	"github.com/google/nftables": {"dataplane/ipvs", "internal/takeover"},
	"k8s.io/":                    {"sync/kube"},
	"github.com/spf13/cobra":     {"cmd"},
	"github.com/prometheus/":     {"internal/metrics"},
	"github.com/vishvananda/":    {"internal/nlx", "internal/netlab", "internal/takeover"},
}

func under(pkg string, prefixes []string) bool {
	for _, p := range prefixes {
		if p == "" || pkg == p || strings.HasPrefix(pkg, p+"/") {
			return true
		}
	}
	return false
}

func root(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestImportArrows(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = root(t)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); n++ {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkg := strings.TrimPrefix(p.ImportPath, module)
		best := ""
		for prefix := range arrows {
			if under(pkg, []string{prefix}) && len(prefix) > len(best) {
				best = prefix
			}
		}
		if best == "" {
			t.Errorf("package %s has no place in the arrows: give it one, here and in docs/design.md", pkg)
		}
		for _, imp := range p.Imports {
			if own, ok := strings.CutPrefix(imp, module); ok && !under(own, arrows[best]) {
				t.Errorf("%s imports %s: the arrows allow it only %v", pkg, own, arrows[best])
			}
			for outsider, users := range outsiders {
				if strings.HasPrefix(imp, outsider) && !under(pkg, users) {
					t.Errorf("%s imports %s: only %v may", pkg, imp, users)
				}
			}
			if pkg == "lb" && strings.Contains(strings.Split(imp, "/")[0], ".") {
				t.Errorf("lb imports %s: the model is stdlib only", imp)
			}
		}
	}
	if n < 10 {
		t.Errorf("only %d packages were seen", n)
	}
}

// What is kept was written, or is generated and small: a program that was built stays
// in each clone for good.
func TestNothingThatWasBuiltIsKept(t *testing.T) {
	for _, f := range files(t, "") {
		info, err := os.Stat(filepath.Join(root(t), f))
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 1<<20 {
			t.Errorf("%s has %d bytes: if it was built, add it to .gitignore", f, info.Size())
		}
	}
}

// files lists what git knows, with one of the suffixes.
func files(t *testing.T, suffixes ...string) (out []string) {
	t.Helper()
	cmd := exec.Command("git", "ls-files", "-co", "--exclude-standard")
	cmd.Dir = root(t)
	b, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range strings.Fields(string(b)) {
		for _, s := range suffixes {
			if strings.HasSuffix(f, s) && !strings.Contains(f, "_bpfel.") {
				out = append(out, f)
			}
		}
	}
	if len(out) == 0 {
		t.Fatalf("no files %v", suffixes)
	}
	return out
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root(t), file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFilesAndFunctionsAreShort(t *testing.T) {
	for _, f := range files(t, ".go", ".c", ".h") {
		text, limit := read(t, f), 400
		if strings.HasSuffix(f, "_test.go") {
			limit = 700
		}
		if n := strings.Count(text, "\n"); n > limit {
			t.Errorf("%s has %d lines, more than %d: split it by concern", f, n, limit)
		}
		if strings.HasSuffix(f, ".go") {
			shortFunctions(t, f, text)
		}
	}
}

func shortFunctions(t *testing.T, file, text string) {
	t.Helper()
	fset := token.NewFileSet()
	parsed, err := parser.ParseFile(fset, file, text, 0)
	if err != nil {
		t.Fatal(err)
	}
	limit := 60
	switch {
	case strings.HasPrefix(file, "dataplane/conformance/"):
		limit = 150 // tables of cases
	case strings.HasSuffix(file, "_test.go"):
		limit = 100
	}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			if n := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line; n > limit {
				t.Errorf("%s: function %s has %d lines, more than %d: give its parts names", file, f.Name.Name, n, limit)
			}
		}
	}
}

func TestEveryFileSaysItsLicense(t *testing.T) {
	for _, f := range files(t, ".go", ".c", ".h") {
		want := "SPDX-License-Identifier: Apache-2.0"
		if strings.HasSuffix(f, ".c") || strings.HasSuffix(f, ".h") {
			want = "SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause"
		}
		head := strings.SplitN(read(t, f), "\n", 5)
		if !strings.Contains(strings.Join(head[:min(len(head), 4)], "\n"), want) {
			t.Errorf("%s: the first lines do not say %q", f, want)
		}
	}
}

func TestDocsListWhatTheCodeHas(t *testing.T) {
	drops := read(t, "docs/drops.md")
	for _, m := range regexp.MustCompile(`(?m)^\tDROP_([A-Z_]+),`).FindAllStringSubmatch(read(t, "bpf/drop.h"), -1) {
		if name := strings.ToLower(m[1]); name != "max" && !strings.Contains(drops, "\n| "+name+" |") {
			t.Errorf("docs/drops.md has no row for %s", name)
		}
	}
	maps := read(t, "docs/maps.md")
	for _, m := range regexp.MustCompile(`(?m)^} ([a-z_]+) SEC\("\.maps"\)`).FindAllStringSubmatch(read(t, "bpf/maps.h"), -1) {
		if !strings.Contains(maps, "| "+m[1]+" |") && !strings.Contains(maps, "| config/"+m[1]+" |") {
			t.Errorf("docs/maps.md has no row for %s", m[1])
		}
	}
	makefile := read(t, "Makefile")
	for _, m := range regexp.MustCompile("make ([a-z-]+)").FindAllStringSubmatch(read(t, "README.md")+read(t, "CONTRIBUTING.md"), -1) {
		if !strings.Contains(makefile, "\n"+m[1]+":") {
			t.Errorf("the README says `make %s`, the Makefile has no such target", m[1])
		}
	}
}

func TestNoGoFileShadowsTheStandardLibrary(t *testing.T) {
	for _, f := range files(t, ".go") {
		if dir := filepath.Dir(f); dir == "sync" || dir == "maps" {
			t.Errorf("%s: %s is a folder of packages, not one", f, dir)
		}
	}
}
