// SPDX-License-Identifier: Apache-2.0

package loader

import "testing"

func TestKernelsThatAreTooOld(t *testing.T) {
	for release, old := range map[string]bool{
		"5.15.0-100-generic": true, "6.0.9": true, "4.19": true,
		"6.1.0-37-amd64": false, "6.12.1": false, "7.0.0-rc1": false, "10.1": false, "unknown": false,
	} {
		if err := checkRelease(release); (err != nil) != old {
			t.Errorf("%s: %v, want too old: %v", release, err, old)
		}
	}
}
