// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed init.sh
var initScript []byte

// busybox is what runs before the machine's own files are there.
const busybox = "/bin/busybox"

// needed are the modules that the files of the machine come through. What a
// kernel has built in is in no list of modules.
var needed = []string{"virtio_pci", "9pnet_virtio", "9p", "overlay"}

// initramfs makes the archive that the guest starts from.
func (k Kernel) initramfs(ctx context.Context) ([]byte, error) {
	var a archive
	for _, dir := range []string{"bin", "dev", "lib", "proc", "sys", "lower", "rw", "new"} {
		a.add(dir, 0o040755, nil)
	}
	// the kernel opens it for init before devtmpfs is there
	a.node("dev/console", 5, 1)
	shell, err := os.ReadFile(busybox)
	if err != nil {
		return nil, fmt.Errorf("read busybox for the guest: %w: `make test-vm` installs it", err)
	}
	a.add("bin/busybox", 0o100755, shell)
	a.add("init", 0o100755, initScript)
	list, err := os.ReadFile(filepath.Join(k.modules(), "modules.dep"))
	if err != nil {
		return nil, err
	}
	order, err := loadOrder(string(list), needed)
	if err != nil {
		return nil, fmt.Errorf("modules of %s: %w", k.Release, err)
	}
	var names strings.Builder
	for _, m := range order {
		b, err := os.ReadFile(filepath.Join(k.modules(), m))
		if err == nil {
			b, err = decompress(ctx, b)
		}
		if err != nil {
			return nil, fmt.Errorf("read module %s: %w", m, err)
		}
		name := moduleName(m)
		fmt.Fprintln(&names, name)
		a.add("lib/"+name, 0o100644, b)
	}
	a.add("lib/order", 0o100644, []byte(names.String()))
	return a.bytes(), nil
}

// moduleName is the name of the module in a file like kernel/fs/9p/9p.ko.xz.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// loadOrder returns the files of the modules and of all they need, these
// first. A line of modules.dep is "file: files it needs", the last first.
func loadOrder(list string, modules []string) (order []string, err error) {
	needs := make(map[string][]string)
	for line := range strings.Lines(list) {
		if file, rest, ok := strings.Cut(line, ":"); ok {
			deps := strings.Fields(rest)
			slices.Reverse(deps)
			needs[moduleName(file)] = append(deps, file)
		}
	}
	for _, m := range modules {
		for _, file := range needs[m] {
			if !slices.Contains(order, file) {
				order = append(order, file)
			}
		}
	}
	if len(order) == 0 {
		return nil, fmt.Errorf("modules.dep names none of %v", modules)
	}
	return order, nil
}

// archive writes cpio's "newc" format, which the kernel unpacks
// (Documentation/driver-api/early-userspace/buffer-format.rst).
type archive struct {
	buf   bytes.Buffer
	inode int
}

func (a *archive) add(name string, mode int, content []byte) { a.entry(name, mode, 0, 0, content) }

// node adds a character device.
func (a *archive) node(name string, major, minor int) { a.entry(name, 0o020600, major, minor, nil) }

func (a *archive) entry(name string, mode, major, minor int, content []byte) {
	a.inode++
	fmt.Fprintf(&a.buf, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name)+1, 0)
	_, _ = io.WriteString(&a.buf, name+"\x00") // a buffer takes everything
	a.pad()
	a.buf.Write(content)
	a.pad()
}

func (a *archive) pad() {
	for a.buf.Len()%4 != 0 {
		a.buf.WriteByte(0)
	}
}

func (a *archive) bytes() []byte {
	a.add("TRAILER!!!", 0, nil)
	return a.buf.Bytes()
}
