// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Choose leaves of each pair of programs what the kernel takes, and in the place
// of the other a program that does nothing. The first of a pair is an iterator
// over the elements of a map, which hardened kernels refuse with EPERM: sweep, else
// sweep_piece; and walk_sockets, else walk_files.
func Choose(spec *ebpf.CollectionSpec) error {
	for target, pair := range map[string][2]string{
		"bpf_map_elem": {"sweep", "sweep_piece"}, "bpf_sk_storage_map": {"walk_sockets", "walk_files"},
	} {
		has, err := hasIterator(target)
		if err != nil {
			return err
		}
		if has {
			WithoutProgram(spec, pair[1])
		} else {
			WithoutProgram(spec, pair[0])
		}
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

func hasIterator(target string) (bool, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "probe", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: target, License: "Dual BSD/GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	if errors.Is(err, unix.EPERM) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("try an iterator over elements (%s): %w", target, err)
	}
	return true, p.Close()
}
