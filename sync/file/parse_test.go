// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/sync/file"
)

var update = flag.Bool("update", false, "write the golden files anew")

// section is one file of a txtar archive.
type section struct{ name, body string }

var marker = regexp.MustCompile(`(?m)^-- (.+) --\n`)

// readArchive reads the txtar format: a comment, then files, each after a line
// with its name between dashes.
func readArchive(t testing.TB, path string) (comment string, sections []section) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	at := marker.FindAllStringSubmatchIndex(text, -1)
	if len(at) == 0 {
		t.Fatalf("%s has no sections", path)
	}
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		sections = append(sections, section{text[m[2]:m[3]], text[m[1]:end]})
	}
	return text[:at[0][0]], sections
}

func archives(t testing.TB) []string {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("testdata/*.txtar: %d files, %v", len(paths), err)
	}
	return paths
}

// dump shows services as one reads them; the backends in the order of the list.
func dump(services []*lb.Service) string {
	var b strings.Builder
	if len(services) == 0 {
		b.WriteString("no services\n")
	}
	for _, s := range services {
		fmt.Fprintf(&b, "%s %s%s\n", s.ID, s.Scheduler, extras(s))
		for _, f := range s.Frontends {
			fmt.Fprintf(&b, "  %s\n", f)
		}
		for _, k := range s.Backends {
			fmt.Fprintf(&b, "  -> %s weight %d", k.Addr, k.Weight)
			if k.Upper != 0 {
				fmt.Fprintf(&b, " thresholds %d %d", k.Upper, k.Lower)
			}
			if k.Unhealthy {
				b.WriteString(" unhealthy")
			}
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// extras are the fields of a service that are not as if left out.
func extras(s *lb.Service) (out string) {
	for _, name := range sched.FlagNames(s.Scheduler, s.SchedulerFlags) {
		out += " " + name
	}
	if a := s.Affinity; a != (lb.Affinity{}) {
		out += fmt.Sprintf(" affinity %s/%d", a.Timeout, a.Prefix)
		if a.Quiesced {
			out += " quiesced keep"
		}
	}
	if s.OnePacket {
		out += " onePacket"
	}
	if s.HostSockets {
		out += " sockets host"
	}
	if s.Masquerade() != lb.MasqueradeNever {
		out += fmt.Sprintf(" masquerade %s", s.Masquerade())
	}
	if s.Lost != lb.LostKeep {
		out += fmt.Sprintf(" lost %s", s.Lost)
	}
	if s.Reuse != lb.ReuseAny {
		out += fmt.Sprintf(" reuse %s", s.Reuse)
	}
	return out
}

func outcome(input string) (string, error) {
	cfg, err := file.Parse("services", []byte(input), file.Options{})
	if err != nil {
		return err.Error() + "\n", err
	}
	return cfg.Format.String() + "\n" + dump(cfg.Services), nil
}

const want = ": want"

// TestParse runs the archives of testdata: what is taken and as what, what is
// refused and in which words.
func TestParse(t *testing.T) {
	for _, path := range archives(t) {
		comment, sections := readArchive(t, path)
		wants := make(map[string]string)
		for _, s := range sections {
			if name, ok := strings.CutSuffix(s.name, want); ok {
				wants[name] = s.body
			}
		}
		out := comment
		for _, s := range sections {
			if strings.HasSuffix(s.name, want) {
				continue
			}
			got, err := outcome(s.body)
			out += fmt.Sprintf("-- %s --\n%s-- %s%s --\n%s", s.name, s.body, s.name, want, got)
			t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar")+"/"+s.name, func(t *testing.T) {
				if accepted := strings.HasSuffix(path, "-accepted.txtar"); accepted != (err == nil) {
					t.Errorf("error %v in %s", err, path)
				}
				if diff := cmp.Diff(wants[s.name], got); diff != "" && !*update {
					t.Errorf("(-want +got):\n%s", diff)
				}
			})
		}
		if *update {
			if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestParseDefaultScheduler(t *testing.T) {
	const one = `{apiVersion: waggle.dev/v1alpha1, kind: ServiceList, services: [
		{name: a, frontends: ["203.0.113.1:80/TCP"], backends: []},
		{name: b, frontends: ["203.0.113.2:80/TCP"], backends: [], scheduler: rr}]}`
	cfg, err := file.Parse("services", []byte(one), file.Options{DefaultScheduler: "wrr"})
	if err != nil {
		t.Fatal(err)
	}
	got := []string{cfg.Services[0].Scheduler, cfg.Services[1].Scheduler}
	if diff := cmp.Diff([]string{"wrr", "rr"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// ipvsadm text means what it means to ipvsadm.
	cfg, err = file.Parse("services", []byte("-A -t 203.0.113.1:80\n"), file.Options{DefaultScheduler: "wrr"})
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Services[0].Scheduler; got != "wlc" {
		t.Errorf("ipvsadm text without -s: scheduler %s, want wlc", got)
	}

	var unknown *sched.UnknownError
	if _, err := file.Parse("services", []byte(one), file.Options{DefaultScheduler: "robin"}); !errors.As(err, &unknown) {
		t.Errorf("default scheduler robin: got %v, want an UnknownError", err)
	}
}

func TestParseErrorsCanBeTakenApart(t *testing.T) {
	_, err := file.Parse("etc/web", []byte("-A -t 203.0.113.1:80 -s rr\n-A -t 203.0.113.1:80 -s fo --pe sip\n"), file.Options{})
	var all *file.Errors
	if !errors.As(err, &all) {
		t.Fatalf("got %v, want an *Errors", err)
	}
	var fields []string
	for _, e := range all.List {
		if e.File != "etc/web" || e.Line != 2 || e.What == "" || e.Remedy == "" {
			t.Errorf("incomplete: %+v", e)
		}
		fields = append(fields, e.Field)
	}
	slices.Sort(fields)
	if diff := cmp.Diff([]string{"", "--pe", "-s"}, fields); diff != "" {
		t.Errorf("fields (-want +got):\n%s", diff)
	}
	var first *file.Error
	if !errors.As(err, &first) || first.Line != 2 {
		t.Errorf("errors.As found no *Error in %v", err)
	}
}

func TestParseRefusesWhatIsNoText(t *testing.T) {
	for name, c := range map[string]struct{ in, want string }{
		"UTF-16":      {"\xff\xfea\x00", "services:1: byte 0xff is not text: write the file in UTF-8"},
		"NUL":         {"# one\n-A\x00\n", "services:2: byte 0x00 is not text: write the file in UTF-8"},
		"C1 control":  {"a: b\nc: \u0080\n", "services:2: character U+0080 is not text: remove it"},
		"no rune":     {"a: \uffff\n", "services:1: character U+FFFF is not text: remove it"},
		"broken rune": {"a: \"\xc3\x28\"\n", "services:1: byte 0xc3 is not text: write the file in UTF-8"},
	} {
		if _, err := file.Parse("services", []byte(c.in), file.Options{}); err == nil || err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", name, err, c.want)
		}
	}
}

func TestParseTakesWindowsText(t *testing.T) {
	for _, in := range []string{
		"\xef\xbb\xbf-A -t 203.0.113.1:80 -s rr\r\n",
		"\xef\xbb\xbfapiVersion: waggle.dev/v1alpha1\r\nkind: ServiceList\r\nservices:\r\n" +
			"- name: 203.0.113.1:80/TCP\r\n  frontends: [203.0.113.1:80/TCP]\r\n  backends: []\r\n",
	} {
		got, _ := outcome(in)
		_, got, _ = strings.Cut(got, "\n")
		if diff := cmp.Diff("203.0.113.1:80/TCP/ipv4 rr\n  203.0.113.1:80/TCP\n", got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
}

// TestParseRefusesMoreBackendsThanARunCanName: of each family.
func TestParseRefusesMoreBackendsThanARunCanName(t *testing.T) {
	var text, doc strings.Builder
	text.WriteString("-A -t 203.0.113.1:80 -s rr\n")
	doc.WriteString("apiVersion: waggle.dev/v1alpha1\nkind: ServiceList\nservices:\n" +
		"- name: web\n  frontends: [203.0.113.1:80/TCP]\n  backends:\n")
	for i := range 65536 {
		addr := netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
		fmt.Fprintf(&text, "-a -t 203.0.113.1:80 -r %s:80 -m\n", addr)
		fmt.Fprintf(&doc, "  - address: %s:80\n", addr)
	}
	for in, want := range map[string]string{
		text.String(): "services:1: 65536 backends of ipv4: write at most 65535",
		doc.String():  "services:7: services[0].backends: 65536 backends of ipv4: write at most 65535",
	} {
		if _, err := file.Parse("services", []byte(in), file.Options{}); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestSnapshotHoldsAllServices(t *testing.T) {
	cfg, err := file.Parse("services", []byte("-A -t 203.0.113.1:80 -s rr\n-A -u 203.0.113.1:80 -s wrr\n"), file.Options{})
	if err != nil {
		t.Fatal(err)
	}
	snap, err := cfg.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(dump(cfg.Services), dump(slices.Collect(snap.All()))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
