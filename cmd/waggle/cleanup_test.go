// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"strings"
	"testing"
)

func TestCleanupStaysUntilItIsTold(t *testing.T) {
	for _, c := range []struct {
		args []string
		want int
	}{{[]string{"cleanup"}, 0}, {[]string{"cleanup", "--stay"}, 3}} {
		ctx, cancel := context.WithCancel(t.Context())
		e, waits := newTestEnv(nil), 0
		e.meanwhile = func() {
			if waits++; waits == 3 {
				cancel()
			}
			if !strings.Contains(e.out.String(), "removed "+defaultPinPath+"\n") {
				t.Errorf("it waits before all is removed:\n%s", &e.out)
			}
		}
		if code := execute(ctx, &e.env, c.args); code != exitOK || waits != c.want {
			t.Errorf("%v: exit %d after %d waits, want %d", c.args, code, waits, c.want)
		}
		cancel()
	}
}
