// SPDX-License-Identifier: Apache-2.0

// Command gotest runs go test with the given arguments, prints what failed and
// one line a package, then counts and the slowest tests. It fails if a test
// failed, was skipped, or if there was none.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"slices"
)

// event is a line of `go test -json` (cmd/test2json).
type event struct {
	Action, Package, Test, Output string
	Elapsed                       float64 // seconds
}

// summary is what the events add up to.
type summary struct {
	passed, failed, skipped int
	slow                    []event
	output                  map[string][]string // of tests that have not passed
}

func main() {
	cmd := exec.Command("go", append([]string{"test", "-json"}, os.Args[1:]...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gotest:", err)
		os.Exit(1)
	}
	s := summary{output: map[string][]string{}}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Println(lines.Text()) // a build error
			continue
		}
		s.add(e)
	}
	err = cmd.Wait()
	s.print()
	if err != nil || s.failed > 0 || s.skipped > 0 || s.passed == 0 {
		os.Exit(1)
	}
}

func (s *summary) add(e event) {
	key := e.Package + "." + e.Test
	switch e.Action {
	case "output", "build-output":
		s.output[key] = append(s.output[key], e.Output)
	case "pass", "fail", "skip", "build-fail":
		if e.Action != "pass" {
			for _, line := range s.output[key] {
				fmt.Print(line)
			}
		}
		delete(s.output, key)
		if e.Test == "" {
			fmt.Printf("%s\t%s\t%.1fs\n", e.Action, e.Package, e.Elapsed)
			if e.Action == "fail" || e.Action == "build-fail" {
				s.failed++
			}
			return // "skip" without a test is a package that has none
		}
		s.count(e)
	}
}

func (s *summary) count(e event) {
	switch e.Action {
	case "pass":
		s.passed++
	case "fail":
		s.failed++
	case "skip":
		s.skipped++
	}
	s.slow = append(s.slow, e)
	slices.SortFunc(s.slow, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	s.slow = s.slow[:min(len(s.slow), 8)]
}

func (s *summary) print() {
	fmt.Println("\nslowest:")
	for _, e := range s.slow {
		fmt.Printf("  %6.1fs  %s %s\n", e.Elapsed, e.Package, e.Test)
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", s.passed, s.failed, s.skipped)
	if s.skipped > 0 {
		fmt.Println("a skipped test shows nothing: make it run or remove it")
	}
	if s.passed == 0 {
		fmt.Println("no test ran")
	}
}
