// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// thousands are services of two backends each that nobody visits.
func thousands(n int) string {
	var b strings.Builder
	for i := range n {
		vip := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 77, byte(i >> 8), byte(i)}), 80)
		fmt.Fprintf(&b, "-A -t %s -s lc\n", vip)
		for j := range 2 {
			fmt.Fprintf(&b, "-a -t %s -r %s -m -w 1\n", vip, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 78, byte(i >> 8), byte(i)}), uint16(8080+j)))
		}
	}
	return b.String()
}

// Connections go on, and their counts are right, while the configuration maps
// become larger.
func TestConfigurationMapsGrowUnderTraffic(t *testing.T) {
	s := started(t, 3, true)
	var streams []*stream
	for i := range 6 {
		streams = append(streams, s.stream(vips[i%2]))
	}
	s.write(s.text(s.Servers()...) + thousands(1500))
	s.logs(1, "configuration maps grew")
	s.goesOn(streams)
	if err := s.never("nobody"); err != nil {
		t.Error(err)
	}
	s.goesOn(streams)
	if text := s.must("stats"); !strings.Contains(text, "difference 0") {
		t.Errorf("stats:\n%s", text)
	}
	s.finish(streams)
}
