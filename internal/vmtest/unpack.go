// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// unpacked returns the kernel's directory in the cache, complete.
func (k Kernel) unpacked(ctx context.Context, cache string) (dir string, err error) {
	dir = filepath.Join(cache, k.Package+"_"+k.Version)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	tmp, err := os.MkdirTemp(cache, "new-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	deb, err := k.download(ctx, tmp)
	if err != nil {
		return "", err
	}
	k.dir = filepath.Join(tmp, "kernel")
	if _, err := output(ctx, "", "dpkg", "-x", deb, k.dir); err != nil {
		return "", err
	}
	boot := filepath.Join(k.dir, "boot")
	if err := extract(ctx, filepath.Join(boot, "vmlinuz-"+k.Release), k.vmlinux()); err != nil {
		return "", err
	}
	// the package makes this list when it is installed
	if _, err := output(ctx, "", "depmod", "-b", k.dir, k.Release); err != nil {
		return "", err
	}
	if err := errors.Join(os.RemoveAll(boot), os.RemoveAll(filepath.Join(k.dir, "usr"))); err != nil {
		return "", err
	}
	return dir, os.Rename(k.dir, dir)
}

// download fetches the package. The archive may have replaced what apt's lists
// name, so a failure is tried again with new lists.
func (k Kernel) download(ctx context.Context, dir string) (deb string, err error) {
	get := func() error {
		_, err := output(ctx, dir, "apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", k.Package+"="+k.Version)
		return err
	}
	if err := get(); err != nil {
		if err := errors.Join(err, aptUpdate(ctx)); ctx.Err() != nil {
			return "", err
		}
		if err := get(); err != nil {
			return "", err
		}
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil || len(debs) != 1 {
		return "", fmt.Errorf("download %s: found %v, %w", k.Package, debs, err)
	}
	return debs[0], nil
}

// Where a bzImage says what it holds (Documentation/arch/x86/boot.rst).
const (
	setupSectors  = 0x1f1 // one byte: sectors of 512 after the first
	payloadOffset = 0x248 // 32 bits, from the end of the setup
	payloadLength = 0x24c // 32 bits, with the unpacked size in the last four bytes
	headerEnd     = 0x250
)

// extract unpacks the ELF kernel of a bzImage: booted as it is, it need not
// unpack itself, which takes seconds when instructions are emulated.
func extract(ctx context.Context, bzImage, vmlinux string) error {
	b, err := os.ReadFile(bzImage)
	if err != nil {
		return err
	}
	if len(b) < headerEnd || !bytes.Equal(b[0x202:0x206], []byte("HdrS")) {
		return fmt.Errorf("%s is no bzImage", bzImage)
	}
	from := (int(b[setupSectors])+1)*512 + int(binary.LittleEndian.Uint32(b[payloadOffset:]))
	to := from + int(binary.LittleEndian.Uint32(b[payloadLength:])) - 4
	if from > to || to > len(b) {
		return fmt.Errorf("%s: its payload is at %d to %d of %d bytes", bzImage, from, to, len(b))
	}
	elf, err := decompress(ctx, b[from:to])
	if err != nil {
		return fmt.Errorf("unpack the kernel of %s: %w", bzImage, err)
	}
	if !bytes.HasPrefix(elf, []byte("\x7fELF")) {
		return fmt.Errorf("unpack the kernel of %s: it is no ELF file", bzImage)
	}
	return os.WriteFile(vmlinux, elf, 0o644)
}

// decompress unpacks what Debian compresses kernels and modules with; what is
// not compressed stays as it is.
func decompress(ctx context.Context, b []byte) ([]byte, error) {
	var cmd *exec.Cmd
	switch {
	case bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")):
		cmd = exec.CommandContext(ctx, "zstd", "-dcq")
	case bytes.HasPrefix(b, []byte("\xfd7zXZ\x00")):
		cmd = exec.CommandContext(ctx, "xz", "-dcq", "--single-stream")
	default:
		return b, nil
	}
	var complaint bytes.Buffer
	cmd.Stdin, cmd.Stderr = bytes.NewReader(b), &complaint
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("run %s: %w %s", strings.Join(cmd.Args, " "), err, complaint.String())
	}
	return out, nil
}
