// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"strings"
	"testing"
)

// The labs that attaching matters to, with the binary that attaches as on
// kernels without tcx: newScene takes it for what runs below this test.
func TestByClsact(t *testing.T) {
	t.Run("TCP", TestTCPThroughTheVIPIsByteExact)
	t.Run("kill", TestKillAndStartAgainUnderTraffic)
	t.Run("layout", TestConnectionsOfAnotherLayoutGoOn)
	t.Run("device", TestADeviceThatAppearsIsServed)
	t.Run("mend", TestWhatOthersTakeAwayComesBack)
	t.Run("log", func(t *testing.T) {
		if s := started(t, 1, false); !strings.Contains(s.logText(), "filters of clsact") {
			t.Errorf("the daemon does not say that it attaches by clsact:\n%s", s.logText())
		}
	})
}
