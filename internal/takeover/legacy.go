// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// legacyFamily is how the older tables of iptables, which are the kernel's own, are
// reached in a family.
type legacyFamily struct {
	command     string // iptables-legacy
	names       string // file that lists the tables that there are
	domain      int
	level       int
	head        int // where in an entry the offsets are: of its target, and of the next
	translation string
}

var legacyFamilies = []legacyFamily{
	{"iptables-legacy", "/proc/thread-self/net/ip_tables_names", unix.AF_INET, unix.IPPROTO_IP, 88, "nat"},
	{"ip6tables-legacy", "/proc/thread-self/net/ip6_tables_names", unix.AF_INET6, unix.IPPROTO_IPV6, 140, "nat"},
}

// Of linux/netfilter/x_tables.h and ip_tables.h: options of sockets that tell of a
// table, and what they tell.
const (
	getInfo       = 64 // IPT_SO_GET_INFO
	getEntries    = 65
	tableNameSize = 32
	infoSize      = 84 // struct ipt_getinfo
	infoEntries   = 80 // where in it the size of the entries is
	entriesHead   = 40 // of struct ipt_get_entries, before the entries
	targetHead    = 32 // of struct xt_entry_target: its size, name and revision
	errorTarget   = "ERROR"
)

// tables are those that the kernel has in the calling thread's network namespace. To
// ask for another one would make it.
func (f *legacyFamily) tables() ([]string, error) {
	b, err := os.ReadFile(f.names)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return nil, nil // none, or not for us
	}
	return strings.Fields(string(b)), err
}

// chains are the names of a table's chains that users made, as the kernel has them:
// such a chain begins with an entry whose target is an error of that name.
func (f *legacyFamily) chains(table string) (names []string, err error) {
	fd, err := unix.Socket(f.domain, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0) // any will do
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	info := make([]byte, infoSize)
	copy(info[:tableNameSize], table)
	if err := f.get(fd, getInfo, info); err != nil {
		return nil, fmt.Errorf("ask for the size of table %s: %w", table, err)
	}
	size := binary.NativeEndian.Uint32(info[infoEntries:])
	all := make([]byte, entriesHead+int(size))
	copy(all[:tableNameSize], table)
	binary.NativeEndian.PutUint32(all[tableNameSize:], size)
	if err := f.get(fd, getEntries, all); err != nil {
		return nil, fmt.Errorf("read table %s: %w", table, err)
	}
	for b := all[entriesHead:]; len(b) >= f.head+4; {
		target, next := int(binary.NativeEndian.Uint16(b[f.head:])), int(binary.NativeEndian.Uint16(b[f.head+2:]))
		if next == 0 || next > len(b) || target+targetHead > next {
			return nil, fmt.Errorf("read table %s: an entry is cut off", table)
		}
		if word(b[target+2:next]) == errorTarget {
			names = append(names, word(b[target+targetHead:next]))
		}
		b = b[next:]
	}
	return names, nil
}

// word is a text up to its end.
func word(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

func (f *legacyFamily) get(fd, option int, b []byte) error {
	size := uint32(len(b))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(f.level), uintptr(option),
		uintptr(unsafe.Pointer(&b[0])), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// legacyChains are kube-proxy's chains in one of the kernel's own tables.
type legacyChains struct {
	*legacyFamily
	table  string
	chains []string
}

func legacyParts() (parts []part, err error) {
	for i := range legacyFamilies {
		f := &legacyFamilies[i]
		tables, err := f.tables()
		if err != nil {
			return nil, err
		}
		for _, table := range tables {
			chains, err := f.chains(table)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.command, err)
			}
			parts = append(parts, &legacyChains{f, table, slices.DeleteFunc(chains, func(name string) bool { return !isProxyChain(name) })})
		}
	}
	return parts, nil
}

func (l *legacyChains) items() []string {
	if len(l.chains) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("%d chains in table %s of %s", len(l.chains), l.table, l.command)}
}

// remove has iptables' own program do it, in one transaction: a table can only be
// replaced as a whole.
func (l *legacyChains) remove() error {
	save, restore := l.command+"-save", l.command+"-restore"
	for _, program := range []string{save, restore} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("table %s of %s: the program %s is not here: run on the machine itself `waggle cleanup --kube-proxy`, or `kube-proxy --cleanup`", l.table, l.command, program)
		}
	}
	rules, err := exec.Command(save, "-t", l.table).Output()
	if err != nil {
		return fmt.Errorf("%s -t %s: %w", save, l.table, err)
	}
	script, err := removal(l.table, string(rules))
	if err != nil {
		return err
	}
	cmd := exec.Command(restore, "--noflush", "--wait", "5")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s --noflush: %w: %s", restore, err, bytes.TrimSpace(out))
	}
	return nil
}

// removal makes of what iptables-save prints what iptables-restore --noflush is to
// do: it empties kube-proxy's chains, deletes the rules of built-in chains that lead
// there, and then the chains. It refuses if another's chain leads there.
func removal(table, saved string) (string, error) {
	var empty, jumps, chains []string
	builtin := make(map[string]bool)
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		if name, rest, ok := strings.Cut(strings.TrimPrefix(line, ":"), " "); ok && strings.HasPrefix(line, ":") {
			builtin[name] = !strings.HasPrefix(rest, "- ")
			if isProxyChain(name) {
				empty, chains = append(empty, ":"+name+" - [0:0]"), append(chains, "-X "+name)
			}
			continue
		}
		spec, ok := strings.CutPrefix(line, "-A ")
		if !ok {
			continue
		}
		chain, _, _ := strings.Cut(spec, " ")
		if isProxyChain(chain) || !isProxyChain(targetOf(spec)) {
			continue
		}
		if !builtin[chain] {
			return "", fmt.Errorf("table %s: chain %s uses %s, which is kube-proxy's: nothing of the table is removed; have it use a chain of its own (portmap: leave externalSetMarkChain out)", table, chain, targetOf(spec))
		}
		jumps = append(jumps, "-D "+spec)
	}
	return strings.Join(slices.Concat([]string{"*" + table}, empty, jumps, chains, []string{"COMMIT", ""}), "\n"), nil
}

// targetOf is the chain that a rule, as iptables-save writes it, jumps or goes to;
// words in quotes are none of its own.
func targetOf(spec string) string {
	quoted, leads := false, false
	for _, w := range strings.Fields(spec) {
		if !quoted && leads {
			return w
		}
		leads = !quoted && (w == "-j" || w == "-g")
		if strings.Count(w, `"`)%2 == 1 { // iptables writes \" for one within
			quoted = !quoted
		}
	}
	return ""
}

// translates is as nftTranslates: the table does so as long as it is there.
func (f *legacyFamily) translates() (bool, error) {
	tables, err := f.tables()
	return slices.Contains(tables, f.translation), err
}
