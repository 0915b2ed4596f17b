// SPDX-License-Identifier: Apache-2.0

package demo

import (
	"fmt"
	"io"
)

// progress tells a person what is being done: on a terminal in one line that
// changes, elsewhere in a line for each step.
type progress struct {
	w   io.Writer
	tty bool
}

// clearLine goes to the line's start and erases it (ECMA-48: CR, EL).
const clearLine = "\r\x1b[K"

// step shows what is being done now.
func (p *progress) step(format string, args ...any) {
	if p.tty {
		fmt.Fprintf(p.w, clearLine+format+" ...", args...)
		return
	}
	fmt.Fprintf(p.w, format+"\n", args...)
}

// note writes a line that stays.
func (p *progress) note(format string, args ...any) {
	p.done()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// done takes the changing line away.
func (p *progress) done() {
	if p.tty {
		fmt.Fprint(p.w, clearLine)
	}
}
