// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"errors"
	"fmt"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// Cleanup removes what a dataplane in the calling thread's network namespace has
// left: our virtual services, table and device, and sets the sysctls to what they
// were. It returns what it removed, in words; nothing is no error. device is
// Options.Device. Connections end.
func Cleanup(device string) (removed []string, err error) {
	if device == "" {
		device = DefaultDevice
	}
	t, err := openTable()
	if err != nil {
		return nil, err
	}
	defer t.Close()
	there, err := t.existing()
	if err != nil {
		return nil, err
	}
	for _, f := range there {
		n, err := deleteVirtuals(t, f)
		if err != nil {
			return removed, err
		}
		if n > 0 {
			removed = append(removed, fmt.Sprintf("%d virtual services of %s", n, f))
		}
		if err := t.remove(f); err != nil {
			return removed, err
		}
		removed = append(removed, fmt.Sprintf("table %s of %s", tableName, f))
	}
	alias, err := nlx.FindDummy(device)
	if err != nil || alias == "" {
		return removed, err
	}
	d, err := nlx.OpenDummy(device, aliasWord)
	if err != nil {
		return removed, err
	}
	defer d.Close()
	if err := errors.Join(parseAlias(alias).write(), d.Remove()); err != nil {
		return removed, err
	}
	return append(removed, "device "+device), nil
}

// deleteVirtuals deletes the virtual services that the table names.
func deleteVirtuals(t *table, f *family) (n int, err error) {
	elements, err := t.readFamily(f, setFrontends, setAnyPorts)
	if err != nil || len(elements) == 0 {
		return 0, err
	}
	handle, err := openIPVS()
	if err != nil {
		return 0, err
	}
	defer handle.Close()
	m := &machine{Handle: handle}
	for _, e := range elements {
		if err := m.delVirtual(e.key); err != nil {
			return n, fmt.Errorf("delete virtual service %s: %w", e.key, err)
		}
		n++
	}
	return n, nil
}
