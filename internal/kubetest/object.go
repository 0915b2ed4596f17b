// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Object is an object of the API, as encoding/json reads it.
type Object map[string]any

// At returns what is at a path of field names and indices, or nil:
// o.At("spec", "ports", 0, "nodePort").
func (o Object) At(path ...any) any {
	var v any = map[string]any(o)
	for _, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if step < 0 || step >= len(l) {
				return nil
			}
			v = l[step]
		default:
			panic(fmt.Sprintf("kubetest: a step of a path is a field's name or an index, not %T", step))
		}
	}
	return v
}

// Text returns the string at a path, or "".
func (o Object) Text(path ...any) string {
	s, _ := o.At(path...).(string)
	return s
}

// Int returns the number at a path, or 0.
func (o Object) Int(path ...any) int {
	f, _ := o.At(path...).(float64)
	return int(f)
}

// Texts returns the list of strings at a path; what is no string is left out.
func (o Object) Texts(path ...any) []string {
	var out []string
	l, _ := o.At(path...).([]any)
	for _, v := range l {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// Name returns metadata.name.
func (o Object) Name() string { return o.Text("metadata", "name") }

// parseObjects reads the documents of a YAML or JSON text; empty ones are left
// out.
func parseObjects(text string) ([]Object, error) {
	var out []Object
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var o Object
		err := d.Decode(&o)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("parse YAML: %w", err)
		}
		if len(o) == 0 {
			continue
		}
		// numbers and lists are to be what encoding/json makes of them
		b, err := json.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("turn YAML into JSON: %w", err)
		}
		o = nil
		if err := json.Unmarshal(b, &o); err != nil {
			return nil, err
		}
		out = append(out, o)
	}
}

// parseObject reads the only document of a text.
func parseObject(text string) (Object, error) {
	objects, err := parseObjects(text)
	if err != nil {
		return nil, err
	}
	if len(objects) != 1 {
		return nil, fmt.Errorf("%d documents of YAML where one is wanted", len(objects))
	}
	return objects[0], nil
}
