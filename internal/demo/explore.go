// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"io"
	"os"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/lb"
)

// WriteNetwork writes what was built.
func (d *Demo) WriteNetwork(w io.Writer) error {
	_, err := fmt.Fprintf(w, "%d clients -> director with `waggle run`, VIPs %s and %s -> %d servers, all network namespaces.\n\n",
		clients, netlab.VIP4, netlab.VIP6, len(d.backends))
	return err
}

// WriteExplore writes commands to try while the demo is kept, and how to end it.
func (d *Demo) WriteExplore(w io.Writer) error {
	client, server := d.lab.Clients()[0].Name, d.lab.Servers()[0].Name
	scheduler := d.opts.Schedulers[0]
	v4, v6 := d.find(scheduler, lb.TCP, lb.IPv4).vip, d.find(scheduler, lb.TCP, lb.IPv6).vip
	_, err := fmt.Fprintf(w, `The demo goes on. From another terminal, as root:
  ip netns exec %[1]s curl -s http://%[2]s/          # which server answers?
  ip netns exec %[1]s curl -s 'http://%[3]s/'
  %[4]s services --pin-path %[5]s
  %[4]s backends --pin-path %[5]s
  %[4]s flows --pin-path %[5]s --limit 10
  bpftool map dump pinned %[5]s/config/vips
  cat %[6]s                     # the rules; edit them
  tail -f %[7]s
  ip netns exec %[8]s ip addr; ip netns exec %[9]s ip addr
Ctrl-C here, or kill %[10]d, removes all of it. What a kill -9 leaves, the next
waggle demo removes.
`, client, v4, v6, d.opts.Exe, d.pinPath, d.rulesFile(), d.log, d.lab.Director.Name, server, os.Getpid())
	return err
}
