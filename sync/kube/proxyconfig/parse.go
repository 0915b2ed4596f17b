// SPDX-License-Identifier: Apache-2.0

package proxyconfig

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	goyaml "go.yaml.in/yaml/v3"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// File is what a file says.
type File struct {
	// Config is complete: what is not written is as in kube-proxy.
	Config *Configuration
	// Warnings are about what is written and has no effect: FILE:LINE: field: why.
	Warnings []string
}

// parser reads one file.
type parser struct {
	path     string
	lines    *goyaml.Node // the root; nil if that cannot be told
	warnings []string
	errs     []error
}

// Parse reads a file of kind KubeProxyConfiguration; path is for messages. As in
// kube-proxy a field that there is not, or twice, is no error: it is a warning, and
// the rest counts. All errors are FILE:LINE: field: what is wrong: what to write,
// joined.
func Parse(path string, data []byte) (*File, error) {
	p := &parser{path: path}
	p.index(data)
	doc, err := p.document(data)
	if err != nil {
		return nil, err
	}
	c := p.decode(doc)
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	complete(c)
	check(c, func(field, what string) { p.errs = append(p.errs, errors.New(p.at(field)+what)) })
	if len(p.errs) > 0 {
		return nil, errors.Join(p.errs...)
	}
	p.tellIdle(c, doc)
	if note := NodePortsNote(c); note != "" {
		p.warnings = append(p.warnings, p.at("nodePortAddresses")+note)
	}
	return &File{c, p.warnings}, nil
}

// document returns what the file says, as JSON has it.
func (p *parser) document(data []byte) (map[string]any, error) {
	text, err := yaml.YAMLToJSONStrict(data)
	if err != nil { // something twice, or no YAML
		strict := err
		if text, err = yaml.YAMLToJSON(data); err != nil {
			return nil, fmt.Errorf("%s: %w: write YAML", p.path, err)
		}
		p.warnings = append(p.warnings, fmt.Sprintf("%s: %s: the last one counts", p.path, strings.ReplaceAll(strict.Error(), "\n", "")))
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil || doc == nil {
		return nil, fmt.Errorf("%s: no configuration: write apiVersion: %s and kind: %s, and fields of it", p.path, APIVersion, Kind)
	}
	if doc["apiVersion"] != APIVersion || doc["kind"] != Kind {
		return nil, fmt.Errorf("%sapiVersion %v and kind %v: write %s and %s", p.at("apiVersion"), doc["apiVersion"], doc["kind"], APIVersion, Kind)
	}
	return doc, nil
}

// decode makes the configuration of a document.
func (p *parser) decode(doc map[string]any) *Configuration {
	c := new(Configuration)
	unknown, err := decode(doc, c)
	for _, u := range unknown {
		p.warnings = append(p.warnings, p.at(fieldOfError(u))+u.Error()+": it is ignored")
	}
	if err == nil {
		return c
	}
	// What is wrong is in one field or more, which the decoder does not always name.
	for _, l := range leaves(doc) {
		if _, err := decode(l.alone(), new(Configuration)); err != nil {
			p.errs = append(p.errs, fmt.Errorf("%s%w: write a value of its type", p.at(l.path), err))
		}
	}
	if len(p.errs) == 0 {
		p.errs = append(p.errs, fmt.Errorf("%s: %w", p.path, err))
	}
	return c
}

func decode(doc map[string]any, c *Configuration) (unknown []error, err error) {
	text, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	return kjson.UnmarshalStrict(text, c)
}

// fieldOfError returns the path that a strict decoding error names: unknown field
// "iptables.typo".
func fieldOfError(err error) string {
	_, rest, _ := strings.Cut(err.Error(), `"`)
	field, _, _ := strings.Cut(rest, `"`)
	return field
}

// leaf is a value that is no object.
type leaf struct {
	path  string
	value any
}

// alone returns a document of nothing else.
func (l leaf) alone() map[string]any {
	names := strings.Split(l.path, ".")
	v := l.value
	for _, name := range slices.Backward(names) {
		v = map[string]any{name: v}
	}
	return v.(map[string]any)
}

// leaves lists all values, those of featureGates and the like too, in order.
func leaves(doc map[string]any) (out []leaf) {
	for name, v := range doc {
		inner, ok := v.(map[string]any)
		if !ok {
			out = append(out, leaf{name, v})
			continue
		}
		for _, l := range leaves(inner) {
			out = append(out, leaf{name + "." + l.path, l.value})
		}
	}
	slices.SortFunc(out, func(a, b leaf) int { return strings.Compare(a.path, b.path) })
	return out
}

// says reports whether a value asks for something: one that is empty or 0 stands
// for the default.
func (l leaf) says(unset map[string]any) bool {
	switch l.value {
	case nil, "", false, 0.0, "0", "0s":
		return false
	}
	if v := reflect.ValueOf(l.value); v.Kind() == reflect.Slice && v.Len() == 0 {
		return false
	}
	return !reflect.DeepEqual(l.value, unset[l.path])
}

// unsetValues are the values of a configuration in which nothing is written.
func unsetValues() map[string]any {
	c := new(Configuration)
	complete(c)
	// as kube-proxy writes them, unlike complete
	c.IPTables.MinSyncPeriod.Duration, c.NFTables.MinSyncPeriod.Duration = kubeMinSync, kubeMinSync
	text, err := json.Marshal(c)
	var doc map[string]any
	if err == nil {
		err = json.Unmarshal(text, &doc)
	}
	if err != nil {
		panic(err) // it has no value that JSON lacks
	}
	out := make(map[string]any)
	for _, l := range leaves(doc) {
		out[l.path] = l.value
	}
	return out
}

// tellIdle warns of values that are written and have no effect.
func (p *parser) tellIdle(c *Configuration, doc map[string]any) {
	unset := unsetValues()
	all := leaves(doc)
	for i := range Fields {
		f := &Fields[i]
		why := ""
		switch {
		case f.Use == Ignored:
			why = f.Text
		case !f.readIn(string(c.Mode)):
			why = fmt.Sprintf("mode %s does not read it: it is for %s", c.Mode, strings.Join(f.Modes, ", "))
		default:
			continue
		}
		for _, l := range all {
			if (l.path == f.Path || strings.HasPrefix(l.path, f.Path+".")) && l.says(unset) {
				p.warnings = append(p.warnings, fmt.Sprintf("%s%v has no effect: %s", p.at(l.path), l.value, why))
			}
		}
	}
}

// index finds out where fields are.
func (p *parser) index(data []byte) {
	var doc goyaml.Node
	if goyaml.Unmarshal(data, &doc) == nil && len(doc.Content) == 1 {
		p.lines = doc.Content[0]
	}
}

// at returns "FILE:LINE: field: ", of the deepest part of the path that is there.
func (p *parser) at(field string) string {
	line, n := 0, p.lines
	for name := range strings.SplitSeq(field, ".") {
		if n == nil || n.Kind != goyaml.MappingNode {
			break
		}
		var inner *goyaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == name {
				line, inner = n.Content[i].Line, n.Content[i+1]
			}
		}
		n = inner
	}
	where := p.path
	if line > 0 {
		where += ":" + strconv.Itoa(line)
	}
	return where + ": " + field + ": "
}
