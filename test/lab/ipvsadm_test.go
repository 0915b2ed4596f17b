// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// shapes has a persistent service of two frontends with thresholds, one of UDP,
// and one of IPv6 with a backend that is unhealthy.
const shapes = `apiVersion: waggle.dev/v1alpha1
kind: ServiceList
services:
- name: web
  frontends: ["198.18.255.10:81/TCP", "198.18.255.10:80/TCP"]
  scheduler: rr
  affinity: {timeout: 300s, mask: 24}
  backends:
  - {address: 198.19.1.2:8080, upperThreshold: 3, lowerThreshold: 1}
  - {address: 198.19.2.2:8080, weight: 2}
- name: dns
  frontends: ["198.18.255.10:80/UDP"]
  scheduler: wrr
  backends: [{address: 198.19.1.2:8080, weight: 2}, {address: 198.19.2.2:8080}]
- name: web6
  frontends: ["[fd00:f::10]:80/TCP"]
  scheduler: mh
  flags: [mh-port, mh-fallback]
  lostBackend: reset
  backends: [{address: "[fd00:e:1::2]:8080"}, {address: "[fd00:e:2::2]:8080", unhealthy: true}]
`

// What is noted of them.
const (
	noteShared    = "counted over all frontends of the service; the numbers stand with the first, \"-\" with the others: web/ipv4\n"
	noteUnhealthy = "unhealthy, which is weight 0 here: web6/ipv6 [fd00:e:2::2]:8080\n"
	noteLeft      = "not listed, as they have left their service, but with connections still: web/ipv4 198.19.2.2:8080\n"
	noteClients   = "a client is kept for all frontends of its service, and stands with the first: web/ipv4\n"
)

// shown is what a verb has to print, blanks at the ends of lines aside.
type shown struct{ args, want, notes string }

// wantShown waits for it: the acknowledgement of a greeting may be late.
func (s *scene) wantShown(list ...shown) {
	s.t.Helper()
	for _, w := range list {
		s.eventually("waggle "+w.args, func() error {
			got, notes, code := s.verb(strings.Fields(w.args)...)
			got = regexp.MustCompile(`(?m) +$`).ReplaceAllString(got, "")
			if diff := cmp.Diff(w.want+"-- stderr --\n"+w.notes, got+"-- stderr --\n"+notes); diff != "" || code != 0 {
				return fmt.Errorf("exit %d (-want +got):\n%s", code, diff)
			}
			return nil
		})
	}
}

// newShapes is a lab with three clients, two servers and the services above.
func newShapes(t *testing.T) *scene {
	t.Helper()
	s := newScene(t, netlab.Options{Prefix: "lab", Clients: 3, Servers: 2, VIPs: []netip.Addr{netlab.VIP4, netlab.VIP6}})
	for i, srv := range s.Servers() {
		s.serve(srv, fmt.Sprintf("s%d", i+1), 8080)
	}
	s.write(shapes)
	s.start()
	return s
}

// keep opens connections that stay, each to be answered by the server named, and
// returns the lines that ipvsadm has of them.
func (s *scene) keep(client int, to string, n int, server string) (lines []string) {
	s.t.Helper()
	for range n {
		c, who, err := connect(s.Clients()[client-1], netip.MustParseAddrPort(to))
		if err != nil {
			s.t.Fatal(err)
		}
		s.t.Cleanup(func() { c.Close() })
		if who != server {
			s.t.Errorf("client %d is served by %s, want %s", client, who, server)
		}
		lines = append(lines, connectionLine("TCP", "ESTABLISHED", c.LocalAddr().String(), to, server))
	}
	return lines
}

// connectionLine is what ipvsadm -Lnc has of a connection, but for its time.
func connectionLine(proto, state, client, to, server string) string {
	at := "198.19." + server[1:] + ".2:8080"
	if strings.HasPrefix(to, "[") {
		at = "[fd00:e:" + server[1:] + "::2]:8080"
	}
	return fmt.Sprintf("%s %s %s %s %s", proto, state, client, to, at)
}

// traffic is the same each time: 7 connections of web, overloading its first
// server by 3, 6 datagrams of dns and 2 connections of web6. It returns the
// lines of ipvsadm -Lnc.
func (s *scene) traffic() (lines []string) {
	s.t.Helper()
	lines = slices.Concat(
		s.keep(1, "198.18.255.10:80", 3, "s2"),
		s.keep(2, "198.18.255.10:80", 2, "s1"),
		s.keep(2, "198.18.255.10:81", 1, "s1"),
		s.keep(3, "198.18.255.10:81", 1, "s2"),
		s.keep(1, "[fd00:f::10]:80", 2, "s1"),
	)
	for i, want := range strings.Fields("s2 s1 s1 s2 s1 s1") {
		client, who := s.datagram()
		if who != want {
			s.t.Errorf("datagram %d is answered by %s, want %s", i, who, want)
		}
		lines = append(lines, connectionLine("UDP", "UDP", client, vip4.String(), want))
	}
	for client, server := range map[string]string{"198.18.1.0:0": "s2", "198.18.2.0:0": "s1", "198.18.3.0:0": "s2"} {
		lines = append(lines, connectionLine("TCP", "ASSURED", client, "198.18.255.10:80", server))
	}
	slices.Sort(lines)
	return lines
}

// datagram sends one to dns and returns from where, and who answered. The port is
// nobody else's as long as the test lasts: each is a flow of its own.
func (s *scene) datagram() (client, who string) {
	s.t.Helper()
	c, err := s.Clients()[0].Dial(s.t.Context(), "udp", vip4.String())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		s.t.Fatal(err)
	}
	if _, err := c.Write([]byte("?")); err != nil {
		s.t.Fatal(err)
	}
	buf := make([]byte, 64)
	n, err := c.Read(buf)
	if err != nil || n != nameSize+1 {
		s.t.Fatalf("the answer is %q, error %v", buf[:n], err)
	}
	return c.LocalAddr().String(), strings.TrimSpace(string(buf[:nameSize]))
}

// A connection of TCP that has been greeted is a SYN and two acknowledgements
// of 60, 52 and 52 bytes, and two packets of 60 bytes back; IPv6 has 20 more. A
// datagram has 28 bytes of headers, 1 is asked and 9 are answered.
const (
	shapesList = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn
TCP  198.18.255.10:80 rr persistent 300 mask 255.255.255.0
  -> 198.19.1.2:8080              Masq    1      3          0
  -> 198.19.2.2:8080              Masq    2      4          0
TCP  198.18.255.10:81 rr persistent 300 mask 255.255.255.0
  -> 198.19.1.2:8080              Masq    1      -          -
  -> 198.19.2.2:8080              Masq    2      -          -
UDP  198.18.255.10:80 wrr
  -> 198.19.1.2:8080              Masq    2      0          4
  -> 198.19.2.2:8080              Masq    1      0          2
TCP  [fd00:f::10]:80 mh (mh-fallback,mh-port)
  -> [fd00:e:1::2]:8080           Masq    1      2          0
  -> [fd00:e:2::2]:8080           Masq    0      0          0
`
	shapesStats = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  198.18.255.10:80                    7       21       14     1148      840
  -> 198.19.1.2:8080                     3        9        6      492      360
  -> 198.19.2.2:8080                     4       12        8      656      480
TCP  198.18.255.10:81                    -        -        -        -        -
  -> 198.19.1.2:8080                     -        -        -        -        -
  -> 198.19.2.2:8080                     -        -        -        -        -
UDP  198.18.255.10:80                    6        6        6      174      222
  -> 198.19.1.2:8080                     4        4        4      116      148
  -> 198.19.2.2:8080                     2        2        2       58       74
TCP  [fd00:f::10]:80                     2        6        4      448      320
  -> [fd00:e:1::2]:8080                  2        6        4      448      320
  -> [fd00:e:2::2]:8080                  0        0        0        0        0
`
	shapesThresholds = `Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn
  -> RemoteAddress:Port
TCP  198.18.255.10:80 rr persistent 300 mask 255.255.255.0
  -> 198.19.1.2:8080              3          1          3          0
  -> 198.19.2.2:8080              0          0          4          0
`
	shapesPersistent = `IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn
  -> RemoteAddress:Port
TCP  198.18.255.10:80 rr persistent 300 mask 255.255.255.0
  -> 198.19.2.2:8080              2         2           4          0
  -> 198.19.1.2:8080              1         1           3          0
TCP  198.18.255.10:81 rr persistent 300 mask 255.255.255.0
  -> 198.19.2.2:8080              2         -           -          -
  -> 198.19.1.2:8080              1         -           -          -
UDP  198.18.255.10:80 wrr
  -> 198.19.2.2:8080              1         0           0          2
  -> 198.19.1.2:8080              2         0           0          4
TCP  [fd00:f::10]:80 mh (mh-fallback,mh-port)
  -> [fd00:e:2::2]:8080           0         0           0          0
  -> [fd00:e:1::2]:8080           1         0           2          0
`
	shapesLeft = `Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes
  -> RemoteAddress:Port
TCP  198.18.255.10:80                    7       21       14     1148      840
  -> 198.19.1.2:8080                     3        9        6      492      360
`
)

// TestShapesOfIPVSAdmShowTheTraffic that is known, with the daemon alive and dead.
func TestShapesOfIPVSAdmShowTheTraffic(t *testing.T) {
	s := newShapes(t)
	lines := s.traffic()
	one := strings.Replace(noteShared, "; the numbers stand with the first, \"-\" with the others", ", not for this one alone", 1)
	all := []shown{
		{"services -o ipvsadm", shapesList, noteShared + noteUnhealthy},
		{"services -o ipvsadm --stats", shapesStats, noteShared},
		{"services -o ipvsadm --stats --exact", shapesStats, noteShared},
		{"services -o ipvsadm --thresholds -t 198.18.255.10:80", shapesThresholds, one},
		{"services -o ipvsadm --thresholds -t 198.18.255.10:81", strings.Replace(shapesThresholds, ":80 ", ":81 ", 1), one},
		{"services -o ipvsadm --persistent-conn --nosort", shapesPersistent, noteShared + noteUnhealthy},
	}
	s.wantShown(all...)
	s.wantConnections(lines)
	s.wantNative()

	s.write(strings.Replace(shapes, "  - {address: 198.19.2.2:8080, weight: 2}\n", "", 1))
	left := shown{"services -o ipvsadm --stats -t 198.18.255.10:80", shapesLeft, one + noteLeft}
	s.wantShown(left)
	for _, b := range s.items("backends") {
		if b["service"] == "web" && b["address"] == "198.19.2.2:8080" && (b["state"] != "draining" || b["active"] != 4.0) {
			t.Errorf("the backend that was removed is %v, want draining with 4 active", b)
		}
	}
	s.write(shapes)
	s.wantShown(all...)
	s.kill()
	s.wantShown(all...)
	s.wantConnections(lines)
}

// wantConnections compares the lines of -Lnc, less the times, which have begun
// to run.
func (s *scene) wantConnections(want []string) {
	s.t.Helper()
	for _, c := range []struct{ args, head string }{
		{"flows -o ipvsadm", "pro expire state       source             virtual            destination"},
		{"flows -o ipvsadm --persistent-conn", "pro expire state       source             virtual            destination        pe name          pe_data"},
	} {
		out, notes, code := s.verb(strings.Fields(c.args)...)
		head, rest, _ := strings.Cut(out, c.head+"\n")
		if code != 0 || notes != noteClients || head != "IPVS connection entries\n" {
			s.t.Errorf("%s: exit %d, %q, head %q", c.args, code, notes, head)
		}
		var got []string
		for line := range strings.Lines(rest) {
			w := strings.Fields(line)
			expires := regexp.MustCompile(`^(0[34]:..|05:00)$`)
			if w[2] == "ESTABLISHED" {
				expires = regexp.MustCompile(`^(1[34]:..|15:00)$`)
			}
			if !expires.MatchString(w[1]) {
				s.t.Errorf("%s: time of %q", c.args, line)
			}
			got = append(got, strings.Join(slices.Delete(w, 1, 2), " "))
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			s.t.Errorf("%s (-want +got):\n%s", c.args, diff)
		}
	}
}

// wantNative compares the same state in waggle's own words.
func (s *scene) wantNative() {
	s.t.Helper()
	s.wantShown(
		shown{"services", `NAME  FAMILY  SCHEDULER  FRONTENDS                                  BACKENDS  ACTIVE  INACTIVE  OPTIONS
dns   ipv4    wrr        198.18.255.10:80/UDP                       2         0       6         -
web   ipv4    rr         198.18.255.10:80/TCP,198.18.255.10:81/TCP  2         7       0         affinity=300s/24
web6  ipv6    mh         [fd00:f::10]:80/TCP                        2         2       0         mh-fallback,mh-port,lostBackend=reset
`, ""},
		shown{"backends", `SERVICE  BACKEND             WEIGHT  ACTIVE  INACTIVE  CONNECTIONS  STATE
dns      198.19.2.2:8080     1       0       2         2            active
dns      198.19.1.2:8080     2       0       4         4            active
web      198.19.2.2:8080     2       4       0         4            active
web      198.19.1.2:8080     1       3       0         3            active,overloaded
web6     [fd00:e:2::2]:8080  1       0       0         0            unhealthy
web6     [fd00:e:1::2]:8080  1       2       0         2            active
`, ""},
	)
	for _, b := range s.items("backends") {
		limited := b["service"] == "web" && b["address"] == "198.19.1.2:8080"
		if b["overloaded"] != limited || (b["upperThreshold"] == 3.0 && b["lowerThreshold"] == 1.0) != limited {
			s.t.Errorf("backend %v: want overloaded and thresholds %v", b, limited)
		}
	}
	kept := make(map[string]any)
	for _, c := range s.items("clients") {
		if c["service"] != "web" || c["mask"] != 24.0 || c["assured"] != true {
			s.t.Errorf("client %v", c)
		}
		kept[c["client"].(string)] = c["backend"]
	}
	want := map[string]any{"198.18.1.0": "198.19.2.2:8080", "198.18.2.0": "198.19.1.2:8080", "198.18.3.0": "198.19.2.2:8080"}
	if diff := cmp.Diff(want, kept); diff != "" {
		s.t.Errorf("clients (-want +got):\n%s", diff)
	}
	for _, verb := range []string{"services", "backends", "clients"} {
		s.wantSameInYAML(verb)
	}
}

// terminal makes a pseudo-terminal: what is written to end is read from user.
func terminal(t *testing.T) (user, end *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if end, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end.Close() })
	return user, end
}

// TestRatesAreThoseOfTheTraffic sends datagrams between the readings: the note
// on a terminal says when.
func TestRatesAreThoseOfTheTraffic(t *testing.T) {
	s := newShapes(t)
	if out, notes, code := s.verb("services", "-o", "ipvsadm", "--rate", "--interval", "100ms", "-u", vip4.String()); code != 0 || notes != "" {
		t.Errorf("without a terminal: exit %d, %q\n%s", code, notes, out)
	}
	user, end := terminal(t)
	cmd := exec.Command(waggle, "services", "-o", "ipvsadm", "--rate", "--exact", "-u", vip4.String(), "--pin-path", s.pins)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, end
	p, err := s.Director.Start(cmd)
	if err != nil {
		t.Fatal(err)
	}
	const note = "counting for 2s"
	said := make([]byte, len(note))
	if _, err := io.ReadFull(user, said); err != nil || string(said) != note {
		t.Fatalf("the verb says %q, error %v, want %q", said, err, note)
	}
	const sent = 60
	for range sent {
		s.datagram()
	}
	if err := p.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	var rows []string
	for line := range strings.Lines(out.String()) {
		w := strings.Fields(line)
		if len(w) == 7 && (w[1] == vip4.String() || w[1] == "198.19.1.2:8080") {
			rows = append(rows, strings.Join(w[2:], " "))
		}
	}
	if len(rows) != 2 {
		t.Fatalf("rows %q of\n%s", rows, out.String())
	}
	for i, most := range []float64{sent / 2, sent / 2 * 2. / 3} { // the weights are 2 and 1
		if err := wantRates(rows[i], most); err != nil {
			t.Errorf("%v\n%s", err, out.String())
		}
	}
}

// wantRates wants what goes with as many datagrams a second, or with less if
// the machine was slow; then one may be on its way while it is counted.
func wantRates(row string, most float64) error {
	var v [5]float64
	for i, word := range strings.Fields(row) {
		n, err := strconv.ParseFloat(word, 64)
		if err != nil {
			return err
		}
		v[i] = n
	}
	if v[0] < 1 || v[0] > most || math.Abs(v[1]-v[0]) > 1 || math.Abs(v[2]-v[1]) > 1 {
		return fmt.Errorf("rates %q, want equal ones up to %v", row, most)
	}
	for i, bytes := range map[int]float64{3: 29, 4: 37} {
		if math.Abs(v[i]-bytes*v[i-2]) > bytes {
			return fmt.Errorf("rates %q: want %v bytes for each", row, bytes)
		}
	}
	return nil
}
