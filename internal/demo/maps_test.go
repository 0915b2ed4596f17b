// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestEntriesAreThoseOfTheTextsInTheirOrder(t *testing.T) {
	entry := func(field string, port string) string {
		return "\n        \"key\": {\n            \"" + field + "\": " + port + ",\n            \"pad\": 0\n        }\n    "
	}
	dump := "[{" + strings.Join([]string{entry("dport", "10000"), entry("sport", "1000"), entry("sport", "10000"), entry("sport", "8080")}, "},{") + "}\n]\n"
	got := entries(dump, []string{line("sport", 10000), line("dport", 10000)})
	if diff := cmp.Diff([]string{entry("sport", "10000"), entry("dport", "10000")}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, empty := range []string{"", "[]\n", "[{" + entry("sport", "1") + "}\n]"} {
		if got := entries(empty, []string{line("sport", 10000)}); got != nil {
			t.Errorf("%q: %q, want nothing", empty, got)
		}
	}
}
