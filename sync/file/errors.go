// SPDX-License-Identifier: Apache-2.0

package file

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// maxErrors is how many errors of one file are listed: enough to mend a file
// in one go, few enough to read.
const maxErrors = 10

// Error is one reason to refuse a file.
type Error struct {
	// File is the name that Parse was given.
	File string
	// Line counts from 1; 0 means the file as a whole.
	Line int
	// Field is where in the line: "services[0].name", "-s"; "" if the line as
	// a whole is meant.
	Field string
	// What is wrong, and what to write instead.
	What, Remedy string
}

// Error returns "file:line: field: what: remedy", without what is not set.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	for _, part := range []string{e.Field, e.What, e.Remedy} {
		if part != "" {
			b.WriteString(": " + part)
		}
	}
	return b.String()
}

// Errors are the reasons to refuse a file, at most ten, in the order of its
// lines.
type Errors struct {
	List []*Error
	// More is how many there are beyond those in List.
	More int
}

// Error returns one line per error.
func (e *Errors) Error() string {
	lines := make([]string, 0, len(e.List)+1)
	for _, one := range e.List {
		lines = append(lines, one.Error())
	}
	if e.More > 0 {
		lines = append(lines, fmt.Sprintf("%s: and %d more errors", e.List[0].File, e.More))
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes errors.As find each *Error.
func (e *Errors) Unwrap() []error {
	out := make([]error, 0, len(e.List))
	for _, one := range e.List {
		out = append(out, one)
	}
	return out
}

// collector gathers the errors of one file.
type collector struct {
	file string
	list []*Error
}

func (c *collector) add(line int, field, what, remedy string) {
	c.list = append(c.list, &Error{File: c.file, Line: line, Field: field, What: what, Remedy: remedy})
}

// addProblem adds a problem that its finder could not place.
func (c *collector) addProblem(line int, field string, p *problem) {
	c.add(line, field, p.what, p.remedy)
}

// err returns an *Errors, or nil if nothing was added.
func (c *collector) err() error {
	if len(c.list) == 0 {
		return nil
	}
	slices.SortStableFunc(c.list, func(a, b *Error) int { return cmp.Compare(a.Line, b.Line) })
	n := min(len(c.list), maxErrors)
	return &Errors{List: c.list[:n], More: len(c.list) - n}
}

// problem is an Error without its place.
type problem struct{ what, remedy string }
