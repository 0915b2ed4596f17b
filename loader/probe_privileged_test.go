// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package loader

import "testing"

func TestThisKernelTakesThePrograms(t *testing.T) {
	if err := Probe(); err != nil {
		t.Error(err)
	}
}
