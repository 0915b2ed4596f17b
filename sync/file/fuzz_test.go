// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
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
			option := map[lb.Protocol]string{lb.TCP: "-t", lb.UDP: "-u", lb.SCTP: "--sctp-service"}[s.Frontends[0].Protocol]
			at := option + " " + s.Frontends[0].Addr.String()
			fmt.Fprintf(&b, "-A %s -s %s\n", at, s.Scheduler)
			for _, k := range slices.Backward(s.Backends) {
				fmt.Fprintf(&b, "-a %s -r %s -m -w %d\n", at, k.Addr, k.Weight)
			}
		}
		if b.Len() > 0 {
			return b.String()
		}
	}
	fmt.Fprintf(&b, "apiVersion: %s\nkind: %s\nservices: [\n", file.APIVersion, file.Kind)
	for i := 0; i < len(cfg.Services); {
		name := cfg.Services[i].ID.Name
		var frontends, backends strings.Builder
		scheduler, masquerade := cfg.Services[i].Scheduler, cfg.Services[i].Masquerade
		for ; i < len(cfg.Services) && cfg.Services[i].ID.Name == name; i++ {
			for _, f := range cfg.Services[i].Frontends {
				fmt.Fprintf(&frontends, "%q, ", f)
			}
			for _, k := range slices.Backward(cfg.Services[i].Backends) {
				fmt.Fprintf(&backends, "{address: %q, weight: %d}, ", k.Addr, k.Weight)
			}
		}
		fmt.Fprintf(&b, "{name: %q, scheduler: %s, masquerade: %s, frontends: [%s], backends: [%s]},\n", name, scheduler, masquerade, &frontends, &backends)
	}
	b.WriteString("]\n")
	return b.String()
}
