// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/dataplane"
)

// entry is a line of the table of connections: a client, or with port 0 one that
// affinity keeps.
type entry struct {
	state          string
	client, server netip.AddrPort
	expires        time.Duration
}

// key is all but the time.
func (e entry) key() string { return fmt.Sprintf("%s %s -> %s", e.state, e.client, e.server) }

// real is how far a recording's clock may be from the replay's, which stands
// still while the recorder waited for answers.
const real = 4 * time.Second

// parseEntry reads a line as `ipvsadm -Lnc` prints it, or as the recorder of
// timers.json did.
func parseEntry(line string) (e entry, err error) {
	words := strings.Fields(strings.NewReplacer(",", "", " left", "").Replace(line))
	if len(words) < 6 {
		return e, fmt.Errorf("entry %q", line)
	}
	expires, client := words[1], words[3]
	e.state = words[2]
	if !strings.Contains(expires, ":") { // TCP CLOSE 9 left, CLIENT -> vport 0899 -> SERVER
		e.state, expires = words[1], "0:"+words[2]
	}
	minutes, seconds, _ := strings.Cut(expires, ":")
	m, merr := strconv.Atoi(minutes)
	s, serr := strconv.Atoi(seconds)
	if merr != nil || serr != nil {
		return e, fmt.Errorf("time in entry %q", line)
	}
	e.expires = time.Duration(m)*time.Minute + time.Duration(s)*time.Second
	if e.client, err = netip.ParseAddrPort(client); err == nil {
		e.server, err = netip.ParseAddrPort(words[len(words)-1])
	}
	return e, err
}

// held are the entries of the case's service.
func (p *replay) held() (out []entry) {
	p.do(p.d.withReader(func(r *reader) error {
		err := r.Flows(func(f dataplane.Flow) error {
			if f.Service == p.svc.ID {
				out = append(out, entry{f.State, f.Client, f.Backend, f.Expires})
			}
			return nil
		})
		if err != nil {
			return err
		}
		return r.Clients(func(c dataplane.Client) error {
			if c.Service == p.svc.ID {
				state := "NONE"
				if c.Assured {
					state = "ASSURED"
				}
				out = append(out, entry{state, netip.AddrPortFrom(c.Client, 0), c.Backend, c.Expires})
			}
			return nil
		})
	}))
	return out
}

// entries compares the table of connections: states, servers, and how long they
// have left.
func (p *replay) entries(i int, s recorded) {
	var want []entry
	for line := range strings.Lines(s.Out) {
		e, err := parseEntry(line)
		p.do(err)
		want = append(want, e)
	}
	got := p.held()
	p.compare(i, s, "entries", keys(want), s.WaggleEntries, keys(got))
	if p.t.Failed() || (s.WaggleEntries != "" && !p.kernel) {
		return
	}
	left := make(map[string]time.Duration)
	for _, e := range got {
		left[e.key()] = e.expires
	}
	for _, e := range want {
		if d := left[e.key()] - e.expires; d < -real || d > real {
			p.t.Errorf("step %d: %s: %s left, want %s", i, e.key(), left[e.key()], e.expires)
		}
	}
}

func keys(list []entry) string {
	var out []string
	for _, e := range list {
		out = append(out, e.key())
	}
	slices.Sort(out)
	return strings.Join(out, "\n")
}
