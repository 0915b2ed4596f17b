// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/waggle-lb/waggle/maps/flows"

// setFlush tells the sweeper whether lost flows end.
func (k *kernel) setFlush(on bool) error {
	var v uint32
	if on {
		v = 1
	}
	return k.FlushLost.Set(v)
}

// walk sweeps the flow table once.
func (k *kernel) walk() error {
	_, err := flows.Sweep(&k.LBObjects, func() error { return nil })
	return err
}
