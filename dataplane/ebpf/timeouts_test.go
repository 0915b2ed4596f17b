// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"testing"
	"time"

	"github.com/waggle-lb/waggle/bpf"
)

func TestTimeoutsAreIPVSsUnlessSaid(t *testing.T) {
	got, err := Timeouts{}.byState()
	if err != nil || got != defaultTimeouts {
		t.Errorf("%v, %v", got, err)
	}
	got, err = Timeouts{TCP: 24 * time.Hour, TCPFin: time.Second, UDP: 31 * 24 * time.Hour}.byState()
	want := defaultTimeouts
	want[bpf.LBFlowStateSTATE_ESTABLISHED], want[bpf.LBFlowStateSTATE_FIN_WAIT], want[bpf.LBFlowStateSTATE_UDP] = 86400, 1, 2678400
	if err != nil || got != want {
		t.Errorf("%v, %v, want %v", got, err, want)
	}
}

func TestTimeoutsThatCannotBe(t *testing.T) {
	for _, c := range []struct {
		timeouts Timeouts
		want     string
	}{
		{Timeouts{TCP: 1500 * time.Millisecond}, "--ipvs-tcp-timeout 1.5s: write whole seconds, 1s to 744h, or 0 for IPVS's"},
		{Timeouts{TCPFin: -time.Second}, "--ipvs-tcpfin-timeout -1s: write whole seconds, 1s to 744h, or 0 for IPVS's"},
		{Timeouts{UDP: 745 * time.Hour}, "--ipvs-udp-timeout 745h0m0s: write whole seconds, 1s to 744h, or 0 for IPVS's"},
	} {
		if err := c.timeouts.Check(); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}
