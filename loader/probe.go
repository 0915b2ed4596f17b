// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"

	"github.com/waggle-lb/waggle/bpf"
)

// Obstacle is what keeps the programs from a kernel. What is one word for it: kernel,
// btf or programs.
type Obstacle struct {
	What string
	Err  error
}

func (o *Obstacle) Error() string { return o.Err.Error() }

func (o *Obstacle) Unwrap() error { return o.Err }

// The oldest kernel on which the programs work.
const oldestMajor, oldestMinor = 6, 1

// btfFile is there if the kernel was built with CONFIG_DEBUG_INFO_BTF.
const btfFile = "/sys/kernel/btf/vmlinux"

// Probe returns the Obstacle that keeps the programs from this kernel, nil if there is
// none: the verifier is given all of them, with small maps, and they are taken out
// again. Packets see nothing of it.
func Probe() error {
	if err := checkRelease(kernelRelease()); err != nil {
		return &Obstacle{"kernel", err}
	}
	if _, err := os.Stat(btfFile); err != nil {
		return &Obstacle{"btf", fmt.Errorf("the kernel says nothing of its types: %w: it needs CONFIG_DEBUG_INFO_BTF", err)}
	}
	if err := tryPrograms(); err != nil {
		return &Obstacle{"programs", err}
	}
	return nil
}

// checkRelease takes what it cannot read: the verifier will say.
func checkRelease(release string) error {
	var major, minor int
	if n, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil || n != 2 {
		return nil
	}
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return fmt.Errorf("the kernel is Linux %s: eBPF takes %d.%d or later", release, oldestMajor, oldestMinor)
	}
	return nil
}

func tryPrograms() error {
	spec, err := bpf.LoadLB()
	if err != nil {
		return fmt.Errorf("read the compiled programs: %w", err)
	}
	if err := bpf.Choose(spec); err != nil {
		return err
	}
	bpf.WithoutProgram(spec, "move_piece") // of a growth, long after
	Sizes{Flows: smallest, HalfOpen: smallest, Direct: smallest, Affinity: smallest, Fragments: smallest, Held: smallest}.write(spec)
	takeWalker(spec)
	if err := spec.Variables["with_xdp"].Set(true); err != nil { // more to verify
		return fmt.Errorf("try the programs: %w", err)
	}
	var programs bpf.LBPrograms
	if err := load(spec, nil, false, &programs); err != nil {
		return err
	}
	return programs.Close()
}
