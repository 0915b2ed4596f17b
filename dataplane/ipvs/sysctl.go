// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/internal/sysctl"
)

// sysctls are values below /proc/sys/net/ipv4/vs, of the calling thread's network
// namespace (Documentation/networking/ipvs-sysctl.rst).
type sysctls map[string]string

// ours are kube-proxy's too. conntrack lets connection tracking follow what IPVS
// translates: without it nothing is masqueraded. expire_nodest_conn ends the
// connections of a server that was deleted: waggle deletes those that have none, or
// shall have none. expire_quiescent_template ends the affinity to a server that
// takes nothing new.
var ours = sysctls{"conntrack": "1", "expire_nodest_conn": "1", "expire_quiescent_template": "1"}

// aliasWord begins the alias of our device. What the sysctls were follows: there it
// outlives the process, and whoever finds the device reads it.
const aliasWord = "waggle"

func sysctlPath(name string) string { return filepath.Join("/proc/sys/net/ipv4/vs", name) }

func readSysctls() (sysctls, error) {
	out := make(sysctls)
	for name := range ours {
		b, err := os.ReadFile(sysctlPath(name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read sysctl net.ipv4.vs.%s: %w: the kernel needs CONFIG_IP_VS_NFCT, and only it", name, err)
		}
		if err != nil {
			return nil, fmt.Errorf("read sysctl net.ipv4.vs.%s: %w", name, err)
		}
		out[name] = strings.TrimSpace(string(b))
	}
	return out, nil
}

func setSysctls() error { return ours.write() }

// write writes those that differ.
func (s sysctls) write() error {
	now, err := readSysctls()
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if now[name] == s[name] {
			continue
		}
		if err := sysctl.Write(sysctlPath(name), s[name]); err != nil {
			return fmt.Errorf("write sysctl net.ipv4.vs.%s: %w: set it to %s, or let waggle write there, in a container below /host/proc/sys/net", name, err, s[name])
		}
	}
	return nil
}

// tag is what the alias of our device says: who keeps IPVS here, and what the sysctls
// were before.
type tag struct {
	owner  string
	before sysctls
}

// ownerWord is its name there.
const ownerWord = "owner"

func (t tag) String() string {
	words := []string{aliasWord, ownerWord + "=" + url.PathEscape(t.owner)}
	for _, name := range slices.Sorted(maps.Keys(t.before)) {
		words = append(words, name+"="+t.before[name])
	}
	return strings.Join(words, " ")
}

// parseTag is String's inverse. It takes no names but ours.
func parseTag(text string) tag {
	t := tag{before: make(sysctls)}
	for _, word := range strings.Fields(text) {
		name, value, ok := strings.Cut(word, "=")
		switch {
		case ok && name == ownerWord:
			if owner, err := url.PathUnescape(value); err == nil {
				t.owner = owner
			}
		case ok && ours[name] != "":
			t.before[name] = value
		}
	}
	return t
}
