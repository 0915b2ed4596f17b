// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/waggle-lb/waggle/lb"
)

// maxName is the longest name of a service in bytes: all characters are ASCII.
const maxName = 128

// namePattern takes Kubernetes' names of services ("default/web:http") and
// ipvsadm's ("[2001:db8::1]:80/TCP").
var namePattern = regexp.MustCompile(`^[A-Za-z0-9\[][A-Za-z0-9._:/\[\]-]*$`)

// yamlReader reads one YAML file.
type yamlReader struct {
	*collector
	opts Options
	seen *index
}

func parseYAML(data []byte, opts Options, errs *collector) []*lb.Service {
	y := &yamlReader{errs, opts, newIndex()}
	root := y.document(data)
	if root == nil {
		return nil
	}
	f := y.fields(root, "", nil, "apiVersion", "kind", "services")
	if f == nil {
		return nil
	}
	y.constant(root, f["apiVersion"], "apiVersion", APIVersion)
	y.constant(root, f["kind"], "kind", Kind)
	list := f["services"]
	if list == nil {
		y.add(root.Line, "services", "missing", "to serve none, write services: []")
		return nil
	}
	if isNull(list) {
		y.add(list.Line, "services", "empty", "to serve none, write services: []")
		return nil
	}
	var out []*lb.Service
	for i, n := range y.items(list, "services") {
		out = append(out, y.service(n, fmt.Sprintf("services[%d]", i))...)
	}
	return out
}

// document returns the root of the one document that the file holds, or nil.
func (y *yamlReader) document(data []byte) *yaml.Node {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var doc, extra yaml.Node
	if err := dec.Decode(&doc); errors.Is(err, io.EOF) || err == nil && isNull(doc.Content[0]) {
		y.add(0, "", "no services", "to serve none, write "+noServices)
		return nil
	} else if err != nil {
		y.syntax(data, err)
		return nil
	}
	switch err := dec.Decode(&extra); {
	case err == nil:
		y.add(extra.Line, "", "a second YAML document", "write all services into one list")
		return nil
	case !errors.Is(err, io.EOF):
		y.syntax(data, err)
		return nil
	}
	return doc.Content[0]
}

// isNull reports whether n is what YAML reads where nothing is written.
func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null" }

// isEmpty reports whether that is what n has: nothing, or YAML's sign for it.
func isEmpty(n *yaml.Node) bool { return isNull(n) && (n.Value == "" || n.Value == "~") }

var (
	// lineOf finds the line that the YAML parser puts into its messages, unless
	// it is the first.
	lineOf = regexp.MustCompile(`^line (\d+): `)
	// unknownAlias is the one message for which it has no line.
	unknownAlias = regexp.MustCompile(`^unknown anchor '(.*)' referenced$`)
)

// syntax adds an error of the YAML parser. The line is the one in which the
// broken thing begins; the parser does not say where it breaks.
func (y *yamlReader) syntax(data []byte, err error) {
	line, msg := 1, strings.TrimPrefix(err.Error(), "yaml: ")
	if m := unknownAlias.FindStringSubmatch(msg); m != nil {
		before, _, _ := bytes.Cut(data, []byte("*"+m[1]))
		y.add(1+bytes.Count(before, []byte("\n")), "", fmt.Sprintf("YAML alias *%s is not part of the format", m[1]), "write the value out")
		return
	}
	if m := lineOf.FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1])
		msg = strings.TrimPrefix(msg, m[0])
	}
	y.add(line, "", "not YAML here or just below ("+msg+")", "check indentation, quotes and brackets")
}

// plain refuses what YAML has and the format has not.
func (y *yamlReader) plain(n *yaml.Node, path string) bool {
	switch {
	case n.Kind == yaml.AliasNode:
		y.add(n.Line, path, fmt.Sprintf("YAML alias *%s is not part of the format", n.Value), "write the value out")
	case n.Anchor != "":
		y.add(n.Line, path, fmt.Sprintf("YAML anchor &%s is not part of the format", n.Anchor), "remove it")
	case n.Style&yaml.TaggedStyle != 0:
		y.add(n.Line, path, fmt.Sprintf("YAML tag %s is not part of the format", n.Tag), "remove it")
	default:
		return true
	}
	return false
}

// notYet names the fields that waggle will have.
func notYet(field string) bool {
	return slices.Contains([]string{"forwarding", "healthCheck"}, field)
}

// fields returns the values of a mapping whose keys are some of known, each
// once. It returns nil if n is no mapping; unknown and repeated keys are added
// as errors, and the rest is returned. example is what to write instead.
func (y *yamlReader) fields(n *yaml.Node, path string, example *problem, known ...string) map[string]*yaml.Node {
	if !y.plain(n, path) {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		if example == nil {
			example = &problem{"no mapping", "write " + strings.Join(known, ":, ") + ":"}
		}
		y.addProblem(n.Line, path, example)
		return nil
	}
	out := make(map[string]*yaml.Node, len(known))
	lines := make(map[string]int, len(known))
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		at := strings.TrimPrefix(path+"."+key.Value, ".")
		switch {
		case !y.plain(key, path):
		case key.Kind != yaml.ScalarNode:
			y.add(key.Line, path, "a key that is no word", "write one of "+strings.Join(known, ", "))
		case notYet(key.Value):
			y.add(key.Line, at, "not yet supported", "remove it")
		case !slices.Contains(known, key.Value):
			y.add(key.Line, at, "unknown field", "write one of "+strings.Join(known, ", "))
		case out[key.Value] != nil:
			y.add(key.Line, at, fmt.Sprintf("given twice, first in line %d", lines[key.Value]), "remove one of them")
		default:
			out[key.Value], lines[key.Value] = value, key.Line
		}
	}
	return out
}

// items returns the elements of a list.
func (y *yamlReader) items(n *yaml.Node, path string) []*yaml.Node {
	if !y.plain(n, path) {
		return nil
	}
	if n.Kind != yaml.SequenceNode {
		y.add(n.Line, path, "not a list", "write [] for none, else one \"- \" per element")
		return nil
	}
	return n.Content
}

// text returns a string; anything else that looks like one is refused, since
// what YAML makes of it is rarely what was meant.
func (y *yamlReader) text(n *yaml.Node, path string) (string, bool) {
	switch {
	case !y.plain(n, path):
	case n.Kind == yaml.SequenceNode:
		y.add(n.Line, path, "a list where text is needed", "write one value, in quotes if it begins with a bracket")
	case n.Kind != yaml.ScalarNode:
		y.add(n.Line, path, "a mapping where text is needed", "write one value")
	case isEmpty(n):
		y.add(n.Line, path, "empty", "write a value")
	case n.ShortTag() != "!!str":
		y.add(n.Line, path, fmt.Sprintf("YAML does not read %q as text", n.Value), fmt.Sprintf("write %q in quotes", n.Value))
	default:
		return n.Value, true
	}
	return "", false
}

// constant checks a field that has only one value.
func (y *yamlReader) constant(parent, n *yaml.Node, path, want string) {
	if n == nil {
		y.add(parent.Line, path, "missing", "write "+path+": "+want)
		return
	}
	if isEmpty(n) {
		y.add(n.Line, path, "empty", "write "+want)
		return
	}
	if s, ok := y.text(n, path); ok && s != want {
		y.add(n.Line, path, fmt.Sprintf("%q is not known", s), "write "+want)
	}
}
