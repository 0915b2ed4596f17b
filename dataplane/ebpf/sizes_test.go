// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

func TestLimitsThatNothingCouldBeDoneWith(t *testing.T) {
	most, err := bpf.MostBackends()
	if err != nil {
		t.Fatal(err)
	}
	most = max(most, DefaultLimits.Backends)
	for _, c := range []struct {
		backends uint32
		want     string // in the error; "": none
	}{
		{minBackends - 1, "--backends-max 2047: "}, {minBackends, ""}, {DefaultLimits.Backends, ""}, {most, ""}, {most + 1, "--backends-max "}, {1<<32 - 1, "--backends-max 4294967295: "},
	} {
		l := DefaultLimits
		l.Backends = c.backends
		if err := l.Check(); (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%d backends: error %v, want %q", c.backends, err, c.want)
		}
		if l, err := l.possible(); err != nil || l.Backends > most || l.Backends > c.backends {
			t.Errorf("%d backends: %d are possible, error %v", c.backends, l.Backends, err)
		}
	}
}
