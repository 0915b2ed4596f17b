// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/waggle-lb/waggle/dataplane"
	"github.com/waggle-lb/waggle/internal/cli"
	"github.com/waggle-lb/waggle/lb"
)

func TestFormatSetRefusesUnknown(t *testing.T) {
	f := cli.Table
	if err := f.Set("jsno"); err == nil {
		t.Error("Set accepted jsno")
	}
	if f != cli.Table {
		t.Errorf("a refused value changed the format to %q", f)
	}
	for _, name := range cli.Formats() {
		if err := f.Set(name); err != nil || f.String() != name {
			t.Errorf("Set(%q) = %v, format %q", name, err, f)
		}
	}
}

// One schema: a YAML reader must see exactly what a JSON reader sees, types
// included.
func TestYAMLSaysTheSameAsJSON(t *testing.T) {
	snap, c := fixture(t)
	for _, doc := range []cli.Document{
		cli.NewServiceList(snap, c), cli.NewFlowList(flows(), false), cli.NewClientList(snap, clients(), true), cli.NewStats(snap, c, dataplane.Recount{}, nil),
		cli.NewBackendList(snap, c, func(lb.ServiceID) bool { return true }),
	} {
		var j, y bytes.Buffer
		if err := errors.Join(cli.Write(&j, cli.JSON, doc), cli.Write(&y, cli.YAML, doc)); err != nil {
			t.Fatal(err)
		}
		var fromJSON, fromYAML any
		if err := json.Unmarshal(j.Bytes(), &fromJSON); err != nil {
			t.Fatal(err)
		}
		if err := yaml.Unmarshal(y.Bytes(), &fromYAML); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(fromYAML)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(b, &fromYAML); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fromJSON, fromYAML); diff != "" {
			t.Errorf("%T: YAML differs from JSON (-json +yaml):\n%s", doc, diff)
		}
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriteReportsTheWritersError(t *testing.T) {
	snap, c := fixture(t)
	for _, format := range cli.Formats() {
		if err := cli.Write(brokenWriter{}, cli.Format(format), cli.NewServiceList(snap, c)); err == nil {
			t.Errorf("%s: the writer's error is lost", format)
		}
	}
}
