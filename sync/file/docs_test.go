// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/sync/file"
)

// page returns docs/services.md by its headings.
func page(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/services.md")
	must(t, err)
	out := make(map[string]string)
	for _, part := range strings.Split(string(text), "\n## ")[1:] {
		title, body, _ := strings.Cut(part, "\n")
		out[title] = body
	}
	return out
}

// example returns the fenced block of a part of the page.
func example(t *testing.T, body string) string {
	t.Helper()
	blocks := regexp.MustCompile("(?s)```[a-z]*\n(.*?)```\n").FindAllStringSubmatch(body, -1)
	if len(blocks) != 1 {
		t.Fatalf("%d fenced blocks, want one", len(blocks))
	}
	return blocks[0][1]
}

func TestTheExamplesOfThePageAreTaken(t *testing.T) {
	for title, want := range map[string]string{
		"YAML": `YAML
web/ipv4 wrr
  203.0.113.10:80/TCP
  203.0.113.10:443/TCP
  -> 192.0.2.3:8080 weight 1
  -> 192.0.2.2:8080 weight 5
web/ipv6 wrr
  [2001:db8::10]:80/TCP
  -> [2001:db8:1::2]:8080 weight 5
dns/ipv4 rr
  203.0.113.53:53/UDP
`,
		"Affinity, thresholds and flags": `YAML
shop/ipv4 sh sh-fallback sh-port affinity 10m0s/24
  203.0.113.20:443/TCP
  -> 192.0.2.3:8443 weight 1 unhealthy
  -> 192.0.2.2:8443 weight 1 thresholds 1000 800
shop/ipv6 sh sh-fallback sh-port affinity 10m0s/64
  [2001:db8::20]:443/TCP
  -> [2001:db8:1::2]:8443 weight 1 thresholds 1000 0
ftp/ipv4 wlc affinity 1h0m0s/32 quiesced keep
  203.0.113.21:0/TCP
  -> 192.0.2.4:0 weight 1
log/ipv4 mh onePacket
  203.0.113.22:514/UDP
  -> 192.0.2.5:514 weight 1
`,
		"ipvsadm": `ipvsadm -S -n
203.0.113.10:80/TCP/ipv4 wrr affinity 5m0s/24
  203.0.113.10:80/TCP
  -> 192.0.2.3:8080 weight 1
  -> 192.0.2.2:8080 weight 5
[2001:db8::53]:53/UDP/ipv6 rr
  [2001:db8::53]:53/UDP
  -> [2001:db8:1::2]:53 weight 1
`,
	} {
		got, _ := outcome(example(t, page(t)[title]))
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", title, diff)
		}
	}
}

// replaced is a good file with line in the place of the one that has its key.
func replaced(line string) string {
	key, _, _ := strings.Cut(line, ":")
	lines := []string{
		"apiVersion: waggle.dev/v1alpha1", "kind: ServiceList", "services:",
		"- name: web", `  frontends: ["203.0.113.10:80/TCP"]`, "  backends:", "  - address: 192.0.2.2:8080", "    weight: 1",
	}
	at := slices.IndexFunc(lines, func(s string) bool { return strings.HasPrefix(strings.TrimLeft(s, " -"), key+":") })
	switch {
	case slices.Contains([]string{"wieght", "upperThreshold", "lowerThreshold", "unhealthy"}, key):
		lines = append(lines, "    "+line)
	case at < 0:
		lines = slices.Insert(lines, 5, "  "+line)
	case key == "services" || key == "backends": // and what is in it
		indent := lines[at][:len(lines[at])-len(key)-1]
		lines = append(lines[:at], indent+line)
	default:
		indent := lines[at][:strings.Index(lines[at], key)]
		lines[at] = indent + line
	}
	return strings.Join(lines, "\n") + "\n"
}

func TestWhatThePageSaysIsRefusedIsRefusedWithTheseWords(t *testing.T) {
	parts := page(t)
	for title, make := range map[string]func(string) string{
		"YAML":    replaced,
		"ipvsadm": func(line string) string { return "-A -t 203.0.113.9:80 -s rr\n" + line + "\n" },
	} {
		_, table, _ := strings.Cut(parts[title], "| written | answer |\n|---|---|\n")
		rows := regexp.MustCompile("(?m)^\\| `(.*)` \\| (.*) \\|$").FindAllStringSubmatch(table, -1)
		if len(rows) < 20 {
			t.Errorf("%s: only %d rows", title, len(rows))
		}
		for _, row := range rows {
			_, err := file.Parse("services", []byte(make(row[1])), file.Options{})
			var all *file.Errors
			if !errors.As(err, &all) || len(all.List) != 1 {
				t.Errorf("%s: got %v, want one error", row[1], err)
				continue
			}
			one := all.List[0]
			if one.Line == 0 || title == "YAML" && one.Field == "" {
				t.Errorf("%s: no place in %v", row[1], one)
			}
			if diff := cmp.Diff(row[2], one.What+": "+one.Remedy); diff != "" {
				t.Errorf("%s (-want +got):\n%s", row[1], diff)
			}
		}
	}
}

func TestTheLogOfABadEditIsThatOfThePage(t *testing.T) {
	parts := page(t)
	good := example(t, parts["YAML"])
	t.Chdir(t.TempDir())
	writeFile(t, "services.yaml", good)
	f := follow(t, "services.yaml")
	renameInto(t, "services.yaml", strings.Replace(good, "weight: 5", "weight: 500000", 1))
	f.eventually("complaint", func() bool { return f.logged("the last good services stay") })
	renameInto(t, "services.yaml", good)
	f.eventually("praise", func() bool { return f.logged("good again") })
	var want []string
	for line := range strings.Lines(parts["Edits"]) {
		if line, ok := strings.CutPrefix(line, "    "); ok {
			want = append(want, strings.TrimSuffix(line, "\n"))
		}
	}
	if len(want) == 0 {
		t.Fatal("the page shows no log")
	}
	f.wantLog(want...)
}

// TestThePageNamesEveryField: and no other.
func TestThePageNamesEveryField(t *testing.T) {
	var got, want []string
	for _, row := range regexp.MustCompile(`(?m)^\| services\[\]\.(\S*) \|`).FindAllStringSubmatch(page(t)["YAML"], -1) {
		got = append(got, row[1])
	}
	for in, prefix := range map[string]string{"frobnicate: 1": "", "wieght: 1": "backends[].", "affinity: {time: 1}": "affinity."} {
		_, err := file.Parse("services", []byte(replaced(in)), file.Options{})
		list, _, _ := strings.Cut(err.Error(), "\n")
		_, list, _ = strings.Cut(list, "write one of ")
		for _, field := range strings.Split(list, ", ") {
			want = append(want, prefix+field)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields of the page (-want +got):\n%s", diff)
	}
}
