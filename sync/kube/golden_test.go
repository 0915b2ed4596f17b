// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
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
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/sync/kube"
)

var update = flag.Bool("update", false, "write the golden files anew")

// section is one file of a txtar archive.
type section struct{ name, body string }

var marker = regexp.MustCompile(`(?m)^-- (.+) --\n`)

func readArchive(t *testing.T, path string) (comment string, sections []section) {
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

// TestObjectsBecomeServices reads testdata/*.txtar. A section "case NAME" begins
// with an empty store and sets its objects, "then NAME" changes them, and the
// section "want" after either is what comes of it. Lines "#option: value" set
// options, "#delete Kind namespace/name" deletes.
func TestObjectsBecomeServices(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("testdata/*.txtar: %d files, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) { replay(t, path) })
	}
}

func replay(t *testing.T, path string) {
	comment, sections := readArchive(t, path)
	out := comment
	var store *kube.Store
	var title, outcome string
	for _, s := range sections {
		word, name, _ := strings.Cut(s.name, " ")
		switch word {
		case "case":
			title = name
			store = newStore(t, s.body)
			outcome = apply(t, store, s.body)
		case "then":
			outcome = apply(t, store, s.body)
			title += ", " + name
		case "want":
			if diff := cmp.Diff(s.body, outcome); diff != "" && !*update {
				t.Errorf("%s (-want +got):\n%s", title, diff)
			}
			s.body = outcome
		default:
			t.Fatalf("section %q: write case, then or want", s.name)
		}
		out += "-- " + s.name + " --\n" + s.body
	}
	if *update {
		if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

var option = regexp.MustCompile(`(?m)^#([a-zA-Z]+): (.*)$`)

func newStore(t *testing.T, text string) *kube.Store {
	t.Helper()
	tr := kube.Translation{NodeName: "here"}
	for _, m := range option.FindAllStringSubmatch(text, -1) {
		words := strings.Fields(m[2])
		switch m[1] {
		case "scheduler":
			tr.Scheduler = m[2]
		case "masqueradeAll":
			tr.MasqueradeAll = true
		case "externalIPs":
			tr.ExternalIPs = prefixes(words)
		case "proxyName":
			tr.ProxyName = m[2]
		case "schedulerPort":
			tr.SchedulerFlags = lb.SchedulerPort
		case "nodePortAddresses":
			tr.NodePortAddresses = words
		case "noLocalhost":
			tr.NoLocalhost = true
		case "address":
			tr.Address = netip.MustParseAddr(m[2])
		case "clusterCIDRs":
			tr.DetectLocal.ClusterCIDRs = prefixes(words)
		case "detectLocal":
			tr.DetectLocal.Mode = kube.Mode(words[0])
			tr.DetectLocal.Device = strings.Join(words[1:], "")
		default:
			t.Fatalf("unknown option %q", m[1])
		}
	}
	store, err := kube.NewStore(tr)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

func prefixes(words []string) (out []netip.Prefix) {
	for _, w := range words {
		out = append(out, netip.MustParsePrefix(w))
	}
	return out
}

var (
	deletion = regexp.MustCompile(`(?m)^#delete (\w+) (?:([^/\s]+)/)?(\S+)$`)
	versions = map[string]string{
		"Service": "v1", "Node": "v1", "EndpointSlice": "discovery.k8s.io/v1", "ServiceCIDR": "networking.k8s.io/v1",
	}
	kindOf = regexp.MustCompile(`kind: (\w+)`)
)

func apply(t *testing.T, store *kube.Store, text string) string {
	t.Helper()
	for _, m := range deletion.FindAllStringSubmatch(text, -1) {
		key := types.NamespacedName{Namespace: m[2], Name: m[3]}
		switch m[1] {
		case "Service":
			store.DeleteService(key)
		case "EndpointSlice":
			store.DeleteSlice(key)
		case "ServiceCIDR":
			store.DeleteServiceCIDR(key.Name)
		default:
			t.Fatalf("%s: cannot be deleted", m[0])
		}
	}
	for doc := range strings.SplitSeq(text, "---\n") {
		if m := kindOf.FindStringSubmatch(doc); m != nil {
			set(t, store, "apiVersion: "+versions[m[1]]+"\n"+doc)
		}
	}
	snap, problems, err := store.Flush()
	if err != nil {
		t.Fatal(err)
	}
	for svc := range snap.All() {
		if err := svc.Check(); err != nil {
			t.Error(err)
		}
	}
	return dump(snap) + dumpProblems(problems)
}

var codecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict)
}()

func set(t *testing.T, store *kube.Store, doc string) {
	t.Helper()
	object, _, err := codecs.UniversalDeserializer().Decode([]byte(doc), nil, nil)
	if err != nil {
		t.Fatalf("%v in:\n%s", err, doc)
	}
	switch o := object.(type) {
	case *corev1.Service:
		store.SetService(o)
	case *discoveryv1.EndpointSlice:
		store.SetSlice(o)
	case *corev1.Node:
		store.SetNode(o)
	case *networkingv1.ServiceCIDR:
		store.SetServiceCIDR(o)
	}
}

// dump shows a snapshot as one reads it. After a backend stand its pools.
func dump(snap *lb.Snapshot) string {
	var b strings.Builder
	n := snap.Node()
	for _, line := range []string{
		fmt.Sprintln("node ports", n.NodePorts), fmt.Sprintln("pods", n.Pods),
		fmt.Sprintln("pod devices", n.PodDevices), fmt.Sprintln("service ranges", n.ServiceRanges),
	} {
		if !strings.HasSuffix(line, "[]\n") {
			b.WriteString(line)
		}
	}
	if snap.Len() == 0 {
		b.WriteString("no services\n")
	}
	for svc := range snap.All() {
		dumpService(&b, svc)
	}
	return b.String()
}

func dumpService(b *strings.Builder, svc *lb.Service) {
	fmt.Fprintf(b, "%s %s", svc.ID, svc.Scheduler)
	if a := svc.Affinity; a != (lb.Affinity{}) {
		fmt.Fprintf(b, " affinity %s/%d", a.Timeout, a.Prefix)
		if !a.Lapses || a.Quiesced {
			b.WriteString(" of IPVS's kind")
		}
	}
	if svc.HostSockets {
		b.WriteString(" sockets host")
	}
	for _, flag := range sched.FlagNames(svc.Scheduler, svc.SchedulerFlags) {
		b.WriteString(" " + flag)
	}
	if svc.Lost != lb.LostKeep || svc.Reuse != lb.ReuseAny || svc.OnePacket {
		b.WriteString(" of IPVS's options")
	}
	b.WriteByte('\n')
	for _, f := range svc.Frontends {
		fmt.Fprintf(b, "  %s %s, masquerade %s", f, f.Policy, f.Masquerade)
		if f.Restricted {
			fmt.Fprintf(b, ", from %v", svc.SourceRanges)
		}
		b.WriteByte('\n')
	}
	for _, k := range svc.Backends {
		pools := []string{"-", "cluster", "local", "cluster local"}[3&^k.Outside]
		fmt.Fprintf(b, "  -> %s weight %d: %s\n", k.Addr, k.Weight, pools)
	}
}

func dumpProblems(problems []kube.Problem) string {
	var lines []string
	for _, p := range problems {
		lines = append(lines, fmt.Sprintf("! %s %s/%s %s: %s\n", p.Object.Kind, p.Object.Namespace, p.Object.Name, p.Reason, p.Text))
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}
