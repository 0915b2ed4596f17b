// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strings"
	"testing"
)

// Help is read like code: a change of it is a change of a golden file. It
// needs no pins, and a help file of a verb that is gone is an error too.
func TestHelp(t *testing.T) {
	e := newTestEnv(nil)
	verbs := [][]string{{}}
	for _, cmd := range newRootCommand(&e.env).Commands() {
		verbs = append(verbs, []string{cmd.Name()})
	}
	verbs = append(verbs, []string{"completion"})
	known := make(map[string]bool)
	for _, verb := range verbs {
		name := strings.Join(append([]string{"waggle"}, verb...), "-")
		known[name+".txt"] = true
		t.Run(name, func(t *testing.T) {
			compareGolden(t, filepath.Join("testdata", "help", name+".txt"), e.transcript(t, append(verb, "--help")...))
		})
	}
	files, err := filepath.Glob(filepath.Join("testdata", "help", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !known[filepath.Base(f)] {
			t.Errorf("%s belongs to no verb", f)
		}
	}
}

func TestEveryVerbExplainsItself(t *testing.T) {
	e := newTestEnv(nil)
	for _, cmd := range newRootCommand(&e.env).Commands() {
		if cmd.Short == "" || cmd.Long == "" {
			t.Errorf("%s: Short or Long is empty", cmd.Name())
		}
		if n := strings.Count(cmd.Example, "waggle "); n < 2 {
			t.Errorf("%s: %d examples, want 2 or 3", cmd.Name(), n)
		}
	}
}
