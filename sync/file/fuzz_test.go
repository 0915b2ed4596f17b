// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/dataplane/fake"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/sync/file"
)

// No input panics; what is refused is refused with places; what is taken makes a
// snapshot that a dataplane takes, and written anew it is the same.

func FuzzYAML(f *testing.F) { fuzz(f, "testdata/yaml-accepted.txtar", "testdata/yaml-refused.txtar") }

func FuzzIPVSADM(f *testing.F) {
	saved, err := os.ReadFile("testdata/Sn.txt")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(saved)
	fuzz(f, "testdata/ipvsadm-accepted.txtar", "testdata/ipvsadm-refused.txtar")
}

// fuzz begins with the inputs of archives. What is served before is the first of
// them.
func fuzz(f *testing.F, archives ...string) {
	var before []*lb.Service
	for _, path := range archives {
		_, sections := readArchive(f, path)
		for _, s := range sections {
			f.Add([]byte(s.body))
			if cfg, err := file.Parse("before", []byte(s.body), file.Options{}); err == nil && len(before) == 0 {
				before = cfg.Services
			}
		}
	}
	if len(before) == 0 {
		f.Fatalf("%v have no services", archives)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		cfg, err := file.Parse("in", in, file.Options{})
		if err != nil {
			checkRefusal(t, err)
			return
		}
		text := write(cfg)
		again, err := file.Parse("again", []byte(text), file.Options{})
		if err != nil {
			t.Fatalf("written anew it is refused: %v\n%s", err, text)
		}
		if diff := cmp.Diff(dump(cfg.Services), dump(again.Services)); diff != "" {
			t.Fatalf("written anew it differs (-first +again):\n%s\n%s", diff, text)
		}
		checkApplied(t, nil, cfg)
		checkApplied(t, before, cfg)
	})
}

// checkApplied wants a dataplane that holds other services to hold those of a
// file, and to find nothing to do when they are applied again.
func checkApplied(t *testing.T, before []*lb.Service, cfg *file.Config) {
	t.Helper()
	for _, svc := range cfg.Services {
		if err := svc.Check(); err != nil {
			t.Fatalf("the file is taken, the service is not: %v", err)
		}
	}
	held, err := lb.NewSnapshot(before...)
	if err != nil {
		t.Fatal(err)
	}
	next, err := lb.NewSnapshot(file.Order(held, cfg.Services)...)
	if err != nil {
		t.Fatalf("taken, but no snapshot: %v", err)
	}
	d := fake.New(fake.Options{})
	d.Apply(held)
	for i := range 2 {
		rep := d.Apply(next)
		if rep.Err != nil || len(rep.Failed) > 0 {
			t.Fatalf("apply: error %v, failed %v", rep.Err, rep.Failed)
		}
		if n := rep.Added + rep.Changed + rep.Removed; i > 0 && n > 0 {
			t.Fatalf("applied again: %+v, want nothing to do", rep)
		}
		got, err := d.Read()
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(dump(slices.Collect(next.All())), dump(slices.Collect(got.All()))); diff != "" {
			t.Fatalf("held services (-want +got):\n%s", diff)
		}
	}
}

func checkRefusal(t *testing.T, err error) {
	t.Helper()
	var all *file.Errors
	if !errors.As(err, &all) || len(all.List) == 0 || len(all.List) > 10 {
		t.Fatalf("got %T with %v, want 1 to 10 errors", err, err)
	}
	for _, e := range all.List {
		if e.What == "" || e.Remedy == "" {
			t.Fatalf("incomplete error %q", e)
		}
		if e.Line == 0 && e.What != "no services" {
			t.Fatalf("error %q has no line", e)
		}
	}
}

// write is the inverse of Parse.
func write(cfg *file.Config) string {
	var b strings.Builder
	if cfg.Format == file.IPVSADM {
		for _, s := range cfg.Services {
			writeRules(&b, s)
		}
		if b.Len() > 0 {
			return b.String()
		}
	}
	fmt.Fprintf(&b, "apiVersion: %s\nkind: %s\nservices: [\n", file.APIVersion, file.Kind)
	for rest := cfg.Services; len(rest) > 0; {
		n := 1
		if len(rest) > 1 && rest[1].ID.Name == rest[0].ID.Name {
			n = 2
		}
		writeEntry(&b, rest[:n])
		rest = rest[n:]
	}
	b.WriteString("]\n")
	return b.String()
}

func writeRules(b *strings.Builder, s *lb.Service) {
	f := s.Frontends[0]
	at := map[lb.Protocol]string{lb.TCP: "-t ", lb.UDP: "-u ", lb.SCTP: "--sctp-service "}[f.Protocol] + f.Addr.String()
	fmt.Fprintf(b, "-A %s -s %s", at, s.Scheduler)
	if s.SchedulerFlags != 0 {
		fmt.Fprintf(b, " -b %s", strings.Join(sched.FlagNames(s.Scheduler, s.SchedulerFlags), ","))
	}
	if s.OnePacket {
		b.WriteString(" -o")
	}
	if a := s.Affinity; a.Enabled() {
		mask := fmt.Sprint(a.Prefix)
		if s.ID.Family == lb.IPv4 {
			mask = net.IP(net.CIDRMask(int(a.Prefix), 32)).String()
		}
		fmt.Fprintf(b, " -p %d -M %s", a.Timeout/time.Second, mask)
	}
	b.WriteByte('\n')
	for _, k := range slices.Backward(s.Backends) {
		fmt.Fprintf(b, "-a %s -r %s -m -w %d -x %d -y %d\n", at, k.Addr, k.Weight, k.Upper, k.Lower)
	}
}

// writeEntry writes the services of one name, at most one of each family.
func writeEntry(b *strings.Builder, services []*lb.Service) {
	var frontends, backends, masks strings.Builder
	for _, s := range services {
		for _, f := range s.Frontends {
			fmt.Fprintf(&frontends, "%q, ", f)
		}
		for _, k := range slices.Backward(s.Backends) {
			fmt.Fprintf(&backends, "{address: %q, weight: %d, upperThreshold: %d, lowerThreshold: %d, unhealthy: %v}, ",
				k.Addr, k.Weight, k.Upper, k.Lower, k.Unhealthy)
		}
		mask := map[lb.Family]string{lb.IPv4: "mask", lb.IPv6: "mask6"}[s.ID.Family]
		fmt.Fprintf(&masks, "%s: %d, ", mask, s.Affinity.Prefix)
	}
	s := services[0]
	fmt.Fprintf(b, "{name: %q, scheduler: %s, flags: [%s], masquerade: %s, onePacket: %v, lostBackend: %s, portReuse: %s, sockets: %s, frontends: [%s], backends: [%s]",
		s.ID.Name, s.Scheduler, strings.Join(sched.FlagNames(s.Scheduler, s.SchedulerFlags), ", "), s.Masquerade(), s.OnePacket, s.Lost, s.Reuse, s.Sockets(), &frontends, &backends)
	if a := s.Affinity; a.Enabled() {
		fmt.Fprintf(b, ", affinity: {timeout: %s, %squiesced: %s}", a.Timeout, &masks, map[bool]string{false: "pick", true: "keep"}[a.Quiesced])
	}
	b.WriteString("},\n")
}
