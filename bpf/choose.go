// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// ChooseSweep leaves of the sweeper's two programs what the kernel takes: the
// iterator, or sweep_piece where the kernel refuses iterators over elements with
// EPERM, as hardened ones do. In the place of the other stands a program that
// does nothing.
func ChooseSweep(spec *ebpf.CollectionSpec) error {
	has, err := hasElementIterator()
	if err != nil {
		return err
	}
	if has {
		WithoutProgram(spec, "sweep_piece")
	} else {
		WithoutProgram(spec, "sweep")
	}
	return nil
}

// WithoutProgram puts a program that does nothing in the place of one, so that
// nothing is verified for it.
func WithoutProgram(spec *ebpf.CollectionSpec, name string) {
	spec.Programs[name] = &ebpf.ProgramSpec{
		Name: name, Type: ebpf.SocketFilter, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	}
}

func hasElementIterator() (bool, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "probe", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "bpf_map_elem", License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if errors.Is(err, unix.EPERM) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("try an iterator over elements: %w", err)
	}
	return true, p.Close()
}
