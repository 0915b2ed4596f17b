// SPDX-License-Identifier: Apache-2.0

// Package cli prints what the read verbs of waggle show: as a table for
// people, and as JSON or YAML of a versioned schema for programs. It reads no
// kernel state itself; the caller hands it a snapshot and counters.
package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"go.yaml.in/yaml/v3"
)

// APIVersion is the version of every document's schema. Within it fields are
// only added, never renamed, removed or given another meaning.
const APIVersion = "waggle.dev/v1alpha1"

// Format is how a document is written. It is a flag value (pflag.Value).
type Format string

// The formats. Table and Wide are for people and may change between releases;
// JSON and YAML are the same schema.
const (
	Table Format = "table"
	Wide  Format = "wide"
	JSON  Format = "json"
	YAML  Format = "yaml"
)

// Formats returns all formats, in the order of the help text.
func Formats() []string {
	return []string{string(Table), string(Wide), string(JSON), string(YAML)}
}

// String returns the format as the user writes it.
func (f *Format) String() string { return string(*f) }

// Type names the value in the help text.
func (*Format) Type() string { return "format" }

// Set reads a format; an unknown one is an error that lists the known ones.
func (f *Format) Set(s string) error {
	switch Format(s) {
	case Table, Wide, JSON, YAML:
		*f = Format(s)
		return nil
	}
	return fmt.Errorf("unknown output format: write one of %s", strings.Join(Formats(), ", "))
}

// Document is the output of one verb. Its fields are the JSON schema.
type Document interface {
	// rows writes the document as rows of tab-separated cells; wide asks for
	// every column.
	rows(w *rows, wide bool)
}

// header is the part of the schema that all documents share.
type header struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
}

// Write writes doc to w.
func Write(w io.Writer, f Format, doc Document) error {
	switch f {
	case JSON:
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "  ")
		if err := enc.Encode(doc); err != nil {
			return fmt.Errorf("write JSON: %w", err)
		}
		return nil
	case YAML:
		return writeYAML(w, doc)
	}
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	r := &rows{w: tw}
	doc.rows(r, f == Wide)
	if r.err == nil {
		r.err = tw.Flush()
	}
	if r.err != nil {
		return fmt.Errorf("write table: %w", r.err)
	}
	return nil
}

// writeYAML goes through JSON, so that there is one schema with one set of
// field names and one order.
func writeYAML(w io.Writer, doc Document) error {
	b, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	var node yaml.Node
	if err := yaml.Unmarshal(b, &node); err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	blockStyle(&node)
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(&node); err != nil {
		return fmt.Errorf("write YAML: %w", err)
	}
	return enc.Close()
}

// blockStyle drops JSON's braces and quotes. The encoder quotes again what
// would otherwise read as another type. Empty lists keep their brackets.
func blockStyle(n *yaml.Node) {
	if n.Kind == yaml.ScalarNode || len(n.Content) > 0 {
		n.Style = 0
	}
	for _, c := range n.Content {
		blockStyle(c)
	}
}

// rows collects cells; the first error of the writer sticks.
type rows struct {
	w   io.Writer
	err error
}

// add writes one row.
func (r *rows) add(cells ...any) {
	if r.err != nil {
		return
	}
	s := make([]string, len(cells))
	for i, c := range cells {
		s[i] = fmt.Sprint(c)
	}
	_, r.err = fmt.Fprintln(r.w, strings.Join(s, "\t"))
}
