// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/sync/file"
)

// FuzzParse: no input panics; what is refused is refused with places; what is
// taken makes a snapshot, and written anew it is the same.
func FuzzParse(f *testing.F) {
	for _, path := range archives(f) {
		_, sections := readArchive(f, path)
		for _, s := range sections {
			f.Add([]byte(s.body))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		cfg, err := file.Parse("in", in, file.Options{})
		if err != nil {
			checkRefusal(t, err)
			return
		}
		if _, err := cfg.Snapshot(); err != nil {
			t.Fatalf("taken, but no snapshot: %v", err)
		}
		text := write(cfg)
		again, err := file.Parse("again", []byte(text), file.Options{})
		if err != nil {
			t.Fatalf("written anew it is refused: %v\n%s", err, text)
		}
		if diff := cmp.Diff(dump(cfg.Services), dump(again.Services)); diff != "" {
			t.Fatalf("written anew it differs (-first +again):\n%s\n%s", diff, text)
		}
	})
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
	fmt.Fprintf(b, "{name: %q, scheduler: %s, flags: [%s], masquerade: %s, onePacket: %v, lostBackend: %s, portReuse: %s, frontends: [%s], backends: [%s]",
		s.ID.Name, s.Scheduler, strings.Join(sched.FlagNames(s.Scheduler, s.SchedulerFlags), ", "), s.Masquerade, s.OnePacket, s.Lost, s.Reuse, &frontends, &backends)
	if a := s.Affinity; a.Enabled() {
		fmt.Fprintf(b, ", affinity: {timeout: %s, %squiesced: %s}", a.Timeout, &masks, map[bool]string{false: "pick", true: "keep"}[a.Quiesced])
	}
	b.WriteString("},\n")
}
