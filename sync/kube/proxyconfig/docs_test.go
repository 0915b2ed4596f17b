// SPDX-License-Identifier: Apache-2.0

package proxyconfig

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
)

// The page has a row for each field, with its flag, and says which are ignored.
func TestThePageHasEveryField(t *testing.T) {
	page, err := os.ReadFile("../../../docs/kube-proxy-configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := regexp.MustCompile("(?m)^\\| `[a-zA-Z0-9.]+` \\| .*$").FindAllString(string(page), -1)
	if len(rows) != len(Fields) {
		t.Errorf("%d rows for %d fields", len(rows), len(Fields))
	}
	for i, f := range Fields {
		flag := " "
		if f.Flag != "" {
			flag = " `--" + f.Flag + "` "
		}
		begin := fmt.Sprintf("| `%s` |%s| ", f.Path, flag)
		if i >= len(rows) || !strings.HasPrefix(rows[i], begin) {
			t.Errorf("row %d does not begin with %s", i, begin)
			continue
		}
		if ignored := strings.HasPrefix(rows[i][len(begin):], "ignored, with a warning"); ignored != (f.Use == Ignored) {
			t.Errorf("%s: ignored is %v in %s", f.Path, f.Use == Ignored, rows[i])
		}
	}
}
