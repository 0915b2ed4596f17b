// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/waggle-lb/waggle/internal/filewatch"
	"github.com/waggle-lb/waggle/internal/task"
	"github.com/waggle-lb/waggle/sync/kube/proxyconfig"
)

// What waggle's own file says it is.
const (
	ownAPIVersion = "waggle.dev/v1alpha1"
	ownKind       = "Configuration"
)

// read reads the file of --config, if there is one, of either kind: the apiVersion
// tells.
func (f *proxyFlags) read(s *pflag.FlagSet) error {
	if f.file == "" {
		return nil
	}
	data, err := os.ReadFile(f.file)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	f.content = data
	root := new(yaml.Node)
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err == nil && len(doc.Content) == 1 { // else of neither kind
		root = doc.Content[0]
	}
	switch version, kind := word(root, "apiVersion"), word(root, "kind"); {
	case version == ownAPIVersion && kind == ownKind:
		return setFlags(s, f.file, root)
	case strings.HasPrefix(version, "waggle.dev/"):
		return fmt.Errorf("%s: apiVersion %s and kind %s: write %s and %s", f.file, version, kind, ownAPIVersion, ownKind)
	}
	read, err := proxyconfig.Parse(f.file, data)
	if err != nil {
		return err
	}
	f.ofKubeProxy, f.config = true, read.Config
	f.warnings = append(f.warnings, read.Warnings...)
	return nil
}

// word returns the plain value of a field; "": there is none.
func word(root *yaml.Node, name string) string {
	for i := 0; root.Kind == yaml.MappingNode && i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == name {
			return root.Content[i+1].Value
		}
	}
	return ""
}

// notInFile are flags that say what to do instead of running, or where the file is.
var notInFile = []string{"config", "check", "cleanup", "help", "init-only", "version", "write-config-to"}

// setFlags sets the flags that waggle's own file has: a field is a flag, without its
// dashes, and its value is written as that of the flag, a list of several as a list.
// What is on the command line counts more.
func setFlags(s *pflag.FlagSet, path string, root *yaml.Node) error {
	var errs []error
	seen := make(map[string]bool)
	for i := 0; i+1 < len(root.Content); i += 2 {
		name, value := root.Content[i], root.Content[i+1]
		flag := s.Lookup(name.Value)
		bad := func(what string) { errs = append(errs, fmt.Errorf("%s:%d: %s: %s", path, name.Line, name.Value, what)) }
		switch {
		case seen[name.Value]:
			bad("appears twice: write it once")
		case name.Value == "apiVersion", name.Value == "kind":
		case flag == nil || slices.Contains(notInFile, name.Value):
			bad("no setting has this name: write a flag of `waggle run` without its dashes")
		case flag.Changed: // on the command line
		default:
			text, err := textOf(value)
			if err == nil {
				err = s.Set(flag.Name, text)
			}
			if err != nil {
				bad(err.Error())
			}
		}
		seen[name.Value] = true
	}
	return errors.Join(errs...)
}

// textOf returns the value as a flag's.
func textOf(n *yaml.Node) (string, error) {
	switch n.Kind {
	case yaml.ScalarNode:
		if n.Tag == "!!null" {
			return "", errors.New("empty: write a value, or leave it out")
		}
		return n.Value, nil
	case yaml.SequenceNode:
		var parts []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return "", errors.New("write a list of plain values")
			}
			parts = append(parts, item.Value)
		}
		return strings.Join(parts, ","), nil
	}
	return "", errors.New("write a plain value, or a list of them")
}

// errConfigChanged ends the process: whoever started it starts it again.
var errConfigChanged = errors.New("the file has changed: the process ends to be started with it; the kernel goes on forwarding")

// configTask ends the process when the file of --config is another.
type configTask struct {
	task.Readiness
	path string
	same func(content []byte) bool
	log  *slog.Logger
}

// tasks are one that watches the file, if there is one, and one that sets what the kernel
// does not have yet, if there is such.
func (f *proxyFlags) tasks(log *slog.Logger) (out []task.Task) {
	if f.file != "" {
		out = append(out, &configTask{path: f.file, same: f.same, log: log})
	}
	if len(f.missing) > 0 {
		out = append(out, &settingsTask{missing: f.missing, every: settingsEvery, log: log})
	}
	return out
}

func (t *configTask) String() string { return "configuration file " + t.path }

func (t *configTask) Run(ctx context.Context) error {
	w, err := filewatch.New(t.path)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := w.Update(); err != nil {
		return err
	}
	if err := t.look(); err != nil { // it may have changed since it was read
		return err
	}
	t.SetReady()
	return w.Follow(ctx, filewatch.Turns{
		Changed: func() (bool, error) {
			if err := w.Update(); err != nil {
				return true, nil // tried again
			}
			return false, t.look()
		},
		Disturbed: func(err error) {
			t.log.Warn("watching the configuration file is disturbed", "path", t.path, "error", err)
		},
	})
}

// look fails if the file says something else now. One that is gone says nothing.
func (t *configTask) look() error {
	content, err := os.ReadFile(t.path)
	if err != nil {
		t.log.Warn("the configuration file cannot be read: what it said goes on", "path", t.path, "error", err)
		return nil
	}
	if t.same(content) {
		return nil
	}
	t.log.Error("the configuration file has changed", "path", t.path)
	return errConfigChanged
}
