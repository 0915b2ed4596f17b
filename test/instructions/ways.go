// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/nlx"
)

// The ways that packets take through a director.
const (
	plainRouting = "plain routing"
	emptyTC      = "empty tc programs"
	emptyXDP     = "empty XDP programs"
	ipvsMasq     = "IPVS masquerade"
	ipvsWaggle   = "IPVS of waggle"
	ebpfTC       = "eBPF tc"
	ebpfXDP      = "eBPF XDP"
	nftDNAT      = "nftables DNAT"
)

// way is one of them: a client, a director and a server of its own. What one costs
// once it is used anywhere, such as a check for hooks, all of them pay.
type way struct {
	name string
	*netlab.Lab
	// serve makes the director serve these VIPs, more than before; nil: clients
	// address the server.
	serve func(w *way, vips []netip.AddrPort) error
	// programs says that there are some to print, and hears that the ends take frames
	// of XDP.
	programs, hears bool

	dir     string // for files
	waggle  string // the binary
	backend netip.AddrPort
	ends
}

// ways are in the order of the table. All use the same director's devices, and the
// ends finish their checksums themselves, as frames of a network card are.
func ways() []*way {
	return []*way{
		{name: plainRouting},
		{name: emptyTC, programs: true},
		{name: emptyXDP, programs: true, hears: true},
		{name: ipvsMasq, serve: (*way).serveIPVS},
		{name: ipvsWaggle, serve: func(w *way, vips []netip.AddrPort) error { return w.serveWaggle(vips, "ipvs") }},
		{name: ebpfTC, programs: true, serve: func(w *way, vips []netip.AddrPort) error {
			return w.serveWaggle(vips, "ebpf", "--socket-lb", "off", "--xdp", "off")
		}},
		{name: ebpfXDP, programs: true, hears: true, serve: func(w *way, vips []netip.AddrPort) error {
			return w.serveWaggle(vips, "ebpf", "--socket-lb", "off", "--xdp", "native")
		}},
		{name: nftDNAT, serve: (*way).serveNFT},
	}
}

// prepare builds its namespaces.
func (w *way) prepare(p plan) (err error) {
	if w.Lab, err = netlab.New(netlab.Options{Prefix: "instructions", Clients: 1, Servers: 1}); err != nil {
		return err
	}
	if w.dir, err = os.MkdirTemp("", "instructions-"); err != nil {
		return err
	}
	w.waggle, w.backend = p.waggle, netip.AddrPortFrom(w.Servers()[0].Addr(p.ipv6), backendPort)
	for _, n := range slices.Concat(w.Clients(), w.Servers()) {
		if err := n.SetOffload("eth0", netlab.TxChecksum, false); err != nil {
			return err
		}
		if w.hears {
			if err := n.PassXDP("eth0"); err != nil {
				return err
			}
		}
	}
	if w.name == emptyTC || w.name == emptyXDP {
		if err := w.attachEmpty(); err != nil {
			return err
		}
	}
	return w.open(w.Servers()[0].Namespace, w.backend)
}

// run runs a program on the director with the text as its input.
func (w *way) run(input, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	var out bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &out
	if err := w.Director.Run(cmd); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, &out)
	}
	return nil
}

// serveIPVS does what an administrator does, with all sysctls as they are at first.
// That all addresses of the VIPs' network are local spares ten thousand calls, and
// costs a packet nothing.
func (w *way) serveIPVS(vips []netip.AddrPort) error {
	network := vipNetworks[vips[0].Addr().Is6()].String()
	return errors.Join(
		w.run("", "ip", "route", "replace", "local", network, "dev", "lo"),
		w.run("", "ipvsadm", "-C"),
		w.run(ipvsRules(vips, w.backend), "ipvsadm", "-R"))
}

// kubeProxyRules is the table that kube-proxy makes at its start, with one service.
const kubeProxyRules = "test/lab/testdata/kubeproxy/nftables.nft"

func (w *way) serveNFT(vips []netip.AddrPort) error {
	base, err := os.ReadFile(kubeProxyRules)
	if err != nil {
		return err
	}
	const anew = "table ip kube-proxy\ndelete table ip kube-proxy\ntable ip6 kube-proxy\ndelete table ip6 kube-proxy\n"
	return w.run(anew+string(base)+nftRules(vips, w.backend), "nft", "-f", "-")
}

// serveWaggle writes the rules file of a daemon and starts it if it does not run.
func (w *way) serveWaggle(vips []netip.AddrPort, dataplane string, flags ...string) error {
	rules := filepath.Join(w.dir, "rules")
	_, err := os.Stat(rules)
	runs := err == nil
	if err := os.WriteFile(rules+".new", []byte(ipvsRules(vips, w.backend)), 0o600); err != nil {
		return err
	}
	if err := os.Rename(rules+".new", rules); err != nil || runs {
		return err
	}
	args := append([]string{"run", "--services", rules, "--dataplane", dataplane, "--pin-path", "/sys/fs/bpf/" + filepath.Base(w.dir)}, flags...)
	cmd := exec.Command(w.waggle, args...)
	log, err := os.Create(filepath.Join(w.dir, "log"))
	if err != nil {
		return err
	}
	defer log.Close() // the daemon has its own
	cmd.Stdout, cmd.Stderr = log, log
	_, err = w.Director.Start(cmd)
	return err
}

// said is the daemon's log, for errors.
func (w *way) said() string {
	b, err := os.ReadFile(filepath.Join(w.dir, "log"))
	if err != nil {
		return ""
	}
	return string(b)
}

// attachEmpty puts programs where waggle's are that do nothing but pass.
func (w *way) attachEmpty() error {
	devices := []string{w.Clients()[0].Device, w.Servers()[0].Device}
	if w.name == emptyXDP {
		return errors.Join(w.Director.PassXDP(devices[0]), w.Director.PassXDP(devices[1]))
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty", Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm32(asm.R0, -1), asm.Return()}, // TCX_NEXT
	})
	if err != nil {
		return err
	}
	return w.Director.Do(func() error {
		for _, device := range devices {
			index, err := w.Director.Ifindex(device)
			if err != nil {
				return err
			}
			if err := attachBoth(p, index); err != nil {
				return fmt.Errorf("attach to %s: %w", device, err)
			}
		}
		return nil
	})
}

// links hold what attachBoth attached.
var links []link.Link

// attachBoth attaches at ingress and egress, as the loader would.
func attachBoth(p *ebpf.Program, index int) error {
	for _, at := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index, Program: p, Attach: at})
		if errors.Is(err, ebpf.ErrNotSupported) {
			return attachFilters(p, index)
		}
		if err != nil {
			return err
		}
		links = append(links, l)
	}
	return nil
}

func attachFilters(p *ebpf.Program, index int) error {
	ns, err := nlx.Namespace()
	if err != nil {
		return err
	}
	tc, err := nlx.OpenTC(ns)
	if err != nil {
		return err
	}
	defer tc.Close()
	errs := []error{tc.AddClsact(index)}
	for _, egress := range []bool{false, true} {
		errs = append(errs, tc.Replace(nlx.Filter{Index: index, Egress: egress, Priority: 1, Handle: 1, Name: "empty"}, p.FD()))
	}
	return errors.Join(errs...)
}
