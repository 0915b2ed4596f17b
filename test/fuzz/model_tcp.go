// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/waggle-lb/waggle/bpf"
)

// stateTable is that of docs/packet-path.md.
const stateTable = `
         NO ES SS SR FW TW CL CW LA LI SA
in  syn  SR ES ES SR SR SR SR SR SR SR SR
in  fin  CL CW SS TW TW TW CL CW LA LI TW
in  ack  ES ES SS ES FW TW CL CW CL LI ES
in  rst  CL CL CL SR CL CL CL CL LA LI SR
out syn  SS ES SS SR SS SS SS SS SS LI SR
out fin  TW FW SS TW FW TW CL TW LA LI TW
out ack  ES ES SS ES FW TW CL CW LA ES ES
out rst  CL CL SS CL CL TW CL CL CL CL CL
`

// transitions is stateTable by direction, flag and state.
type transitions map[string][]uint8

func parseStates() transitions {
	t := transitions{}
	lines := strings.Split(strings.TrimSpace(stateTable), "\n")
	number := map[string]uint8{}
	for i, name := range strings.Fields(lines[0]) {
		number[name] = uint8(i)
	}
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		for _, s := range f[2:] {
			t[f[0]+" "+f[1]] = append(t[f[0]+" "+f[1]], number[s])
		}
	}
	return t
}

// next is the state that follows when a segment with these flags passes.
func (t transitions) next(from, flags uint8, dir string) uint8 {
	row := "ack"
	switch {
	case flags&tcpRST != 0:
		row = "rst"
	case flags&tcpSYN != 0:
		row = "syn"
	case flags&tcpFIN != 0:
		row = "fin"
	case flags&tcpACK == 0:
		return uint8(bpf.LBFlowStateSTATE_CLOSE)
	}
	return t[dir+" "+row][from]
}

// follow moves a live forward entry by what a segment says.
func (m *model) follow(e *entry, flags uint8, dir string) {
	if !e.live() {
		return
	}
	if dir == "in" && flags&(tcpACK|tcpSYN|tcpRST) == tcpACK {
		m.settle(e)
	}
	if to := m.table.next(e.State, flags, dir); to != e.State {
		m.hit("state: " + dir + " changes it")
		m.move(e, to)
	}
}
