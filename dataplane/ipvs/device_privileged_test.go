// SPDX-License-Identifier: Apache-2.0

//go:build privileged && ipvs

package ipvs

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/internal/netlab"
	"github.com/waggle-lb/waggle/internal/nlx"
)

// newNode makes a namespace and a watcher of it.
func newNode(t *testing.T) (*netlab.Namespace, watcher) {
	t.Helper()
	lab, err := netlab.New(netlab.Options{Prefix: "ipvs"})
	if err != nil {
		t.Fatal(err)
	}
	var w watcher
	err = lab.Director.Do(func() (err error) {
		w.Watcher, err = nlx.NewWatcher(slog.New(slog.NewTextHandler(t.Output(), nil)))
		return err
	})
	if err != nil {
		t.Fatal(errors.Join(err, lab.Close()))
	}
	t.Cleanup(func() {
		if err := errors.Join(w.Close(), lab.Close()); err != nil {
			t.Error(err)
		}
	})
	return lab.Director, w
}

type watcher struct{ *nlx.Watcher }

func (w watcher) addresses(t *testing.T) []nlx.Address {
	t.Helper()
	list, err := w.Addresses()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestADummyHoldsAddressesAndOutlivesItsProcess(t *testing.T) {
	node, w := newNode(t)
	all := []netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8::1")}
	var index int
	err := node.Do(func() error {
		for range 2 { // the second finds what the first left
			d, err := nlx.OpenDummy("vips0", "owner before=1")
			if err != nil {
				return err
			}
			for _, a := range all {
				if err := d.Add(a); err != nil {
					return err
				}
			}
			if d.Alias() != "owner before=1" {
				t.Errorf("alias %q", d.Alias())
			}
			index = d.Index()
			d.Close()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[netip.Addr]bool{all[0]: true, all[1]: true}
	for _, a := range w.addresses(t) {
		if a.Device == index && !a.IsLinkLocalUnicast() && !want[a.Addr] {
			t.Errorf("the device has %s too", a)
		}
		if a.Device == index {
			delete(want, a.Addr)
		}
	}
	if len(want) > 0 {
		t.Errorf("the device has not %v", want)
	}
	err = node.Do(func() error {
		d, err := nlx.OpenDummy("vips0", "owner")
		if err != nil {
			return err
		}
		defer d.Close()
		for range 2 { // the second finds nothing
			if err := d.Delete(all[0]); err != nil {
				return err
			}
		}
		return d.Remove()
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestADeviceOfAnotherIsNotTaken(t *testing.T) {
	node, _ := newNode(t)
	for name, link := range map[string]netlink.Link{
		"bridge": &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "bridge"}},
		"dummy":  &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "dummy"}},
		"named":  &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: "named"}},
	} {
		if err := node.Netlink().LinkAdd(link); err != nil {
			t.Fatal(err)
		}
		if name == "named" {
			if err := node.Netlink().LinkSetAlias(link, "ownership of somebody"); err != nil {
				t.Fatal(err)
			}
		}
		err := node.Do(func() error {
			_, err := nlx.OpenDummy(name, "owner")
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "not ours") {
			t.Errorf("open %s: %v, want that it is not ours", name, err)
		}
	}
}
