// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"errors"
	"fmt"
	"os"

	"github.com/waggle-lb/waggle/internal/nlx"
)

// Cleanup removes what a dataplane of this place in the calling thread's network
// namespace has left: our virtual services, table and device, and sets the sysctls to
// what they were. It returns what it removed, in words; nothing is no error, and
// what is another owner's stays. ErrLocked while a process works there. Connections
// end.
func Cleanup(p Place) (removed []string, err error) {
	there, found, err := p.find()
	if err != nil || found && there.owner != p.Owner {
		return nil, err
	}
	// The device goes last. Who took it away by hand has left tables, perhaps.
	if !found && !hasTables() {
		return nil, nil
	}
	lock, err := p.lock()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeLock(lock)) }()
	if removed, err = removeTables(); err != nil || !found {
		return removed, err
	}
	d, err := nlx.OpenDummy(p.device(), aliasWord)
	if err != nil {
		return removed, err
	}
	defer d.Close()
	if err := errors.Join(there.before.write(), d.Remove()); err != nil {
		return removed, err
	}
	return append(removed, "device "+p.device()), nil
}

// hasTables reports whether there are any. It loads no module.
func hasTables() bool {
	if _, err := os.Stat("/sys/module/nf_tables"); err != nil {
		return false
	}
	t, err := openTable()
	if err != nil {
		return false
	}
	defer t.Close()
	there, err := t.existing()
	return err == nil && len(there) > 0
}

// removeTables removes the tables, and the virtual services that they name.
func removeTables() (removed []string, err error) {
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
	return removed, nil
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
