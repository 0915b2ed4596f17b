// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/sync/file"
)

// TestParseEveryLineOfIPVSADM feeds what ipvsadm 1.31 printed for services of
// all kinds, service by service, and lists for each line whether it is taken,
// or why not.
func TestParseEveryLineOfIPVSADM(t *testing.T) {
	data, err := os.ReadFile("testdata/Sn.txt")
	if err != nil {
		t.Fatal(err)
	}
	const taken = "taken"
	const mark = "-f: services by firewall mark are not yet supported: write a service for each address, with -t or -u"
	want := [][2]string{
		{"-A -t 198.18.255.10:2101 -s rr", taken},
		{"-a -t 198.18.255.10:2101 -r 198.19.0.1:8080 -m -w 1", taken},
		{"-a -t 198.18.255.10:2101 -r 198.19.0.2:8080 -m -w 3", taken},
		{"-a -t 198.18.255.10:2101 -r 198.19.0.3:8080 -m -w 0", taken},
		{"-A -t 198.18.255.10:2103 -s sh -p 360 -M 255.255.255.0 -b sh-fallback,sh-port", taken},
		{"-a -t 198.18.255.10:2103 -r 198.19.0.2:8080 -m -w 1", taken},
		{"-a -t 198.18.255.10:2103 -r 198.19.0.10:8080 -m -w 1", taken},
		{"-A -u 198.18.255.10:2102 -s wrr", taken},
		{"-a -u 198.18.255.10:2102 -r 198.19.0.1:8080 -m -w 10", taken},
		{"-a -u 198.18.255.10:2102 -r 198.19.0.2:8080 -m -w 5", taken},
		{"-A -u 198.18.255.10:2105 -s rr -o", taken},
		{"-a -u 198.18.255.10:2105 -r 198.19.0.1:8080 -m -w 1", taken},
		{"-A -t [fd00:f::10]:2104 -s mh -p 100 -M 64 -b mh-port", taken},
		{"-a -t [fd00:f::10]:2104 -r [fd00:e::1]:8080 -m -w 1", taken},
		{"-a -t [fd00:f::10]:2104 -r [fd00:e::2]:8080 -m -w 1", taken},
		{"-A -f 55 -s wlc", mark},
		{"-a -f 55 -r 198.19.0.8:0 -i -w 2 --tun-type ipip", mark + "; " +
			"-i: forwarding by tunnel (-i) is not yet supported: write -m instead; " +
			"--tun-type: tunnels are not yet supported: remove it and write -m instead of -i"},
		{"-a -f 55 -r 198.19.0.9:0 -g -w 2", mark + "; -g: forwarding by route (-g) is not yet supported: write -m instead"},
		{"-A -f 56 -6 -s lc -p 360", mark + "; " +
			"-6: services by firewall mark are not yet supported, and only they have this option: write a service for each address, with -t or -u"},
	}
	var got [][2]string
	for _, group := range groups(string(data)) {
		reasons := make(map[int][]string)
		_, err := file.Parse("Sn.txt", []byte(strings.Join(group, "\n")), file.Options{})
		if all := (*file.Errors)(nil); errors.As(err, &all) {
			for _, e := range all.List {
				reasons[e.Line] = append(reasons[e.Line], e.Field+": "+e.What+": "+e.Remedy)
			}
		} else if err != nil {
			t.Fatal(err)
		}
		for i, line := range group {
			verdict := strings.Join(reasons[i+1], "; ")
			if verdict == "" {
				verdict = taken
			}
			got = append(got, [2]string{line, verdict})
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// groups splits ipvsadm text into services: an -A and its -a.
func groups(text string) [][]string {
	var out [][]string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "-A") {
			out = append(out, nil)
		}
		out[len(out)-1] = append(out[len(out)-1], strings.TrimSpace(line))
	}
	return out
}
