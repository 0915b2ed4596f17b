// SPDX-License-Identifier: Apache-2.0

// Package takeover finds what kube-proxy has left in a network namespace, in each of
// its modes, tells of the connections that this still translates, and removes
// exactly it: docs/takeover.md. Everything is of the calling thread's network
// namespace.
package takeover

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/lb"
)

// part is a kind of what kube-proxy makes.
type part interface {
	// items says in words what there is; none: nothing.
	items() []string
	remove() error
}

// Found is what there was of kube-proxy's at one time.
type Found struct {
	// Items say in words what there is: tables, chains, virtual servers.
	Items []string
	// Kept say what Remove leaves, as others use it. It is no item.
	Kept []string
	// Live is how many connections of TCP and SCTP its translation carries.
	Live int
	// Behind is what the dataplane is to know.
	Behind dataplane.Behind

	parts     []part
	frontends *frontends
}

// Look finds it. snap is what is served, as far as known; nil: nothing yet. other says
// that another dataplane of waggle's translates by IPVS, too: that is no item, but
// Behind has its connections.
func Look(snap *lb.Snapshot, other bool) (*Found, error) {
	f := &Found{}
	parts, kept, err := nftParts()
	if err != nil {
		return nil, err
	}
	legacy, err := legacyParts()
	if err != nil {
		return nil, err
	}
	sets, err := findSets()
	if err != nil {
		return nil, err
	}
	virtual, err := findServers(sets)
	if err != nil {
		return nil, err
	}
	// sets last: rules match them
	f.parts, f.Kept = slices.Concat(parts, legacy, []part{virtual, sets}), kept
	f.parts = slices.DeleteFunc(f.parts, func(p part) bool { return len(p.items()) == 0 })
	for _, p := range f.parts {
		f.Items = append(f.Items, p.items()...)
	}
	if f.frontends, err = frontendsOf(snap); err != nil {
		return nil, err
	}
	if err := f.count(len(virtual.virtual) > 0, other); err != nil {
		return nil, err
	}
	f.Live += virtual.live
	return f, nil
}

// count reads connection tracking. What IPVS translates is not marked as translated
// there, and is counted by IPVS itself.
func (f *Found) count(ipvs, other bool) error {
	is := f.frontends.knows
	if len(f.Items) > 0 {
		is = f.frontends.mayBe
	}
	ports := make(map[uint16]bool)
	for family := range families {
		err := eachEntry(family, !ipvs && !other, func(e *entry) {
			if !e.isTranslated() || !e.isLive() || !is(e) {
				return
			}
			if e.status&statusDstNAT != 0 {
				f.Live++
			}
			if e.isMasqueraded() {
				ports[e.reply.dst.Port()] = true
			} else {
				f.Behind.Pairs = append(f.Behind.Pairs, dataplane.Pair{Client: e.orig.src, Backend: e.reply.src, Protocol: e.protocol})
			}
		})
		if err != nil {
			return err
		}
	}
	for p := range ports {
		f.Behind.Ports = append(f.Behind.Ports, p)
	}
	slices.Sort(f.Behind.Ports)
	f.Behind.Translates = len(f.Items) > 0 || f.Live > 0 || other
	return nil
}

// Remove removes what was found, and nothing else. Connections that nothing
// translates any more, as the last rules of a family that do such a thing are gone,
// are not tracked any more either: their clients hear of it, instead of nothing.
func (f *Found) Remove() error {
	for _, p := range f.parts {
		if err := p.remove(); err != nil {
			return err
		}
	}
	var errs []error
	for i, family := range []nftables.TableFamily{nftables.TableFamilyIPv4, nftables.TableFamilyIPv6} {
		nft, err := nftTranslates(family)
		legacy, err2 := legacyFamilies[i].translates()
		if err := errors.Join(err, err2); err != nil || nft || legacy {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, forget([]uint8{unix.AF_INET, unix.AF_INET6}[i], f.frontends.mayBe))
	}
	return errors.Join(errs...)
}

// Check refuses, with the count, to remove what connections still need.
func (f *Found) Check() error {
	if f.Live == 0 || len(f.Items) == 0 {
		return nil
	}
	return fmt.Errorf("%d connections go on through kube-proxy's rules and would end with them", f.Live)
}
