// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func testBackends(weights ...uint16) []backend {
	names := []string{"server1", "server2", "server3"}
	var out []backend
	for i, w := range weights {
		v4 := netip.AddrFrom4([4]byte{198, 19, byte(i + 1), 2})
		v6 := netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x0e, 5: byte(i + 1), 15: 2})
		out = append(out, backend{names[i], w, netip.AddrPortFrom(v4, serverPort), netip.AddrPortFrom(v6, serverPort)})
	}
	return out
}

func TestRulesAreWhatIpvsadmSaves(t *testing.T) {
	got := rules(services([]string{"rr", "wrr"}), testBackends(5, 1))
	want := `-A -t 198.18.255.10:8001 -s rr
-a -t 198.18.255.10:8001 -r 198.19.1.2:8080 -m -w 5
-a -t 198.18.255.10:8001 -r 198.19.2.2:8080 -m -w 1
-A -t [fd00:f::10]:8001 -s rr
-a -t [fd00:f::10]:8001 -r [fd00:e:1::2]:8080 -m -w 5
-a -t [fd00:f::10]:8001 -r [fd00:e:2::2]:8080 -m -w 1
-A -u 198.18.255.10:8001 -s rr
-a -u 198.18.255.10:8001 -r 198.19.1.2:8080 -m -w 5
-a -u 198.18.255.10:8001 -r 198.19.2.2:8080 -m -w 1
-A -u [fd00:f::10]:8001 -s rr
-a -u [fd00:f::10]:8001 -r [fd00:e:1::2]:8080 -m -w 5
-a -u [fd00:f::10]:8001 -r [fd00:e:2::2]:8080 -m -w 1
-A -t 198.18.255.10:8002 -s wrr
-a -t 198.18.255.10:8002 -r 198.19.1.2:8080 -m -w 5
-a -t 198.18.255.10:8002 -r 198.19.2.2:8080 -m -w 1
-A -t [fd00:f::10]:8002 -s wrr
-a -t [fd00:f::10]:8002 -r [fd00:e:1::2]:8080 -m -w 5
-a -t [fd00:f::10]:8002 -r [fd00:e:2::2]:8080 -m -w 1
-A -u 198.18.255.10:8002 -s wrr
-a -u 198.18.255.10:8002 -r 198.19.1.2:8080 -m -w 5
-a -u 198.18.255.10:8002 -r 198.19.2.2:8080 -m -w 1
-A -u [fd00:f::10]:8002 -s wrr
-a -u [fd00:f::10]:8002 -r [fd00:e:1::2]:8080 -m -w 5
-a -u [fd00:f::10]:8002 -r [fd00:e:2::2]:8080 -m -w 1
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules (-want +got):\n%s", diff)
	}
}

func TestOptionsCheck(t *testing.T) {
	good := Options{Schedulers: []string{"rr", "wrr"}, Weights: []uint16{5, 0}, Flows: 90}
	if err := good.Check(); err != nil {
		t.Errorf("good options: %v", err)
	}
	for name, spoil := range map[string]func(*Options){
		"no servers":       func(o *Options) { o.Weights = nil },
		"too many servers": func(o *Options) { o.Weights = make([]uint16, maxServers+1); o.Weights[0] = 1 },
		"all quiesced":     func(o *Options) { o.Weights = []uint16{0, 0} },
		"no flows":         func(o *Options) { o.Flows = 0 },
		"too many flows":   func(o *Options) { o.Flows = maxFlows(2) + 1 },
	} {
		o := good
		spoil(&o)
		if err := o.Check(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Every counted flow has a source port of its own, up to the last one allowed.
func TestMaxFlowsFitsTheSourcePorts(t *testing.T) {
	for schedulers := 1; schedulers <= 10; schedulers++ {
		perClient := (maxFlows(schedulers) + clients - 1) / clients * schedulers * len(protocols) * len(families)
		if last := firstFlowPort + perClient - 1; last > lastFlowPort {
			t.Errorf("%d schedulers: the last port is %d, want at most %d", schedulers, last, lastFlowPort)
		}
	}
}
