// SPDX-License-Identifier: Apache-2.0

package ebpf

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"

	"github.com/waggle-lb/waggle/bpf"
)

// names are the words of enums, from the BTF of the programs: the C is the one
// list of them.
type names struct {
	drops  []string // by enum drop_reason, lower case; "" for those that are none
	states []string // by enum flow_state
}

func loadNames() (*names, error) {
	spec, err := bpf.LoadLB()
	if err != nil {
		return nil, fmt.Errorf("read the embedded programs: %w", err)
	}
	drops, err := enum(spec.Types, "drop_reason", "DROP_")
	if err != nil {
		return nil, err
	}
	states, err := enum(spec.Types, "flow_state", "STATE_")
	if err != nil {
		return nil, err
	}
	for i := range drops {
		drops[i] = strings.ToLower(drops[i])
	}
	drops[bpf.LBDropReasonDROP_NONE] = ""
	return &names{drops: drops[:bpf.LBDropReasonDROP_MAX], states: states[:bpf.LBFlowStateSTATE_MAX]}, nil
}

// enum returns the names of an enum's values, less a prefix, by value.
func enum(types *btf.Spec, name, prefix string) ([]string, error) {
	var e *btf.Enum
	if err := types.TypeByName(name, &e); err != nil {
		return nil, fmt.Errorf("find enum %s in the embedded programs: %w", name, err)
	}
	var last uint64
	for _, v := range e.Values {
		last = max(last, v.Value)
	}
	out := make([]string, last+1)
	for _, v := range e.Values {
		out[v.Value] = strings.TrimPrefix(v.Name, prefix)
	}
	return out, nil
}

func (n *names) drop(reason uint32) string {
	if int(reason) >= len(n.drops) {
		return ""
	}
	return n.drops[reason]
}

func (n *names) state(s uint8) string {
	if int(s) >= len(n.states) {
		return fmt.Sprintf("STATE(%d)", s)
	}
	return n.states[s]
}

// Reasons returns the names of the drop reasons as Counters uses them, in the
// order of their numbers, which begin at 1.
func Reasons() []string {
	n, err := loadNames()
	if err != nil {
		// The object is part of the binary: only a build that never
		// passed a test gets here.
		panic(err)
	}
	return n.drops[1:]
}
