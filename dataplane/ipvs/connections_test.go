// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/waggle-lb/waggle/lb"
)

// connectionTable is as Linux 6.12 prints it.
const connectionTable = `Pro FromIP   FPrt ToIP     TPrt DestIP   DPrt State       Expires PEName PEData
TCP C6336407 C350 CB00710A 0050 C0000202 1F90 ESTABLISHED     897
TCP C6336407 0000 CB00710A 0050 C0000202 1F90 ASSURED         299
UDP C6336407 C351 CB00710A 0035 C0000202 1F90 UDP             120
IP  C6336407 0000 00000001 0000 C0000202 0000 NONE             10
TCP 2001:0db8:0009:0000:0000:0000:0000:0001 C350 2001:0db8:0000:0000:0000:0000:0000:0010 0050 2001:0db8:0001:0000:0000:0000:0000:0002 1F90 TIME_WAIT        12
`

func TestConnectionsOfTheKernel(t *testing.T) {
	at := netip.MustParseAddrPort
	web, server := at("203.0.113.10:80"), at("192.0.2.2:8080")
	want := []connection{
		{lb.TCP, at("198.51.100.7:50000"), web, server, "ESTABLISHED", 897 * time.Second},
		{lb.TCP, at("198.51.100.7:0"), web, server, "ASSURED", 299 * time.Second},
		{lb.UDP, at("198.51.100.7:50001"), at("203.0.113.10:53"), server, "UDP", 120 * time.Second},
		{lb.TCP, at("[2001:db8:9::1]:50000"), at("[2001:db8::10]:80"), at("[2001:db8:1::2]:8080"), "TIME_WAIT", 12 * time.Second},
	}
	var got []connection
	live := 0
	err := readConnections(strings.NewReader(connectionTable), func(c *connection) error {
		got = append(got, *c)
		if c.isLive() {
			live++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(connection{}), cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Errorf("connections (-want +got):\n%s", d)
	}
	if live != 1 {
		t.Errorf("%d have not ended, want 1", live)
	}
}

func TestLinesThatAreNoConnection(t *testing.T) {
	for _, line := range []string{
		"TCP C6336407 C350",
		"TCP C63364 C350 CB00710A 0050 C0000202 1F90 ESTABLISHED 897",
		"TCP C6336407 port CB00710A 0050 C0000202 1F90 ESTABLISHED 897",
		"TCP C6336407 C350 CB00710A 0050 C0000202 1F90 ESTABLISHED soon",
	} {
		err := readConnections(strings.NewReader("title\n"+line), func(*connection) error { return nil })
		if err == nil || !strings.Contains(err.Error(), line) {
			t.Errorf("%q: %v", line, err)
		}
	}
}
