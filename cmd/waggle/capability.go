// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// capability is one of capabilities(7).
type capability struct {
	name string
	bit  uint
}

// needed are the capabilities without which `waggle run` cannot begin:
// docs/security.md says what each is for, and what else needs more.
var needed = []capability{{"CAP_BPF", unix.CAP_BPF}, {"CAP_NET_ADMIN", unix.CAP_NET_ADMIN}, {"CAP_PERFMON", unix.CAP_PERFMON}}

// checkCapabilities names what this process lacks: the kernel only says that
// something is not permitted, or that its verifier does not like a program.
func checkCapabilities(needed []capability) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData // 32 capabilities each
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return fmt.Errorf("read the capabilities: %w", err)
	}
	var lacking []string
	for _, c := range needed {
		if sets[c.bit/32].Effective&(1<<(c.bit%32)) == 0 {
			lacking = append(lacking, c.name)
		}
	}
	if lacking == nil {
		return nil
	}
	return &remediedError{
		fmt.Errorf("this process lacks %s", strings.Join(lacking, " and ")),
		"run it as root, or give it what it lacks (docs/security.md)",
	}
}
