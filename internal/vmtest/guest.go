// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Guest is a machine that boots, runs its commands one after the other and is
// gone. Its root directory is the host's, writable in memory; /tmp, /run and
// /var are empty, /sys/fs/bpf and /sys/fs/cgroup mounted, loopback is up, and
// modprobe finds the kernel's modules. The only network is what it makes, unless
// ReachesHost.
type Guest struct {
	Kernel Kernel
	// Modules are loaded at the start.
	Modules []string
	// Timeout bounds its whole life; 10 minutes if 0.
	Timeout time.Duration
	// MemoryMiB is 1024 if 0.
	MemoryMiB int
	// CountInstructions makes the guest's clocks count instructions: each takes a
	// nanosecond, and time without any is skipped (QEMU's -icount). So what is
	// measured there does not depend on the host. It runs about half as fast.
	CountInstructions bool
	// ReachesHost gives it a device by which it reaches, at HostAddr, what listens at
	// the host's 127.0.0.1.
	ReachesHost bool
}

// HostAddr is the host's address to guests that reach it, guestAddr theirs: QEMU's own
// for its user mode network.
const (
	HostAddr  = "10.0.2.2"
	guestAddr = "10.0.2.15"
)

// Command is a program to run in a guest, as root, with an empty standard
// input.
type Command struct {
	Args []string
	// Dir is the working directory; "/" if empty.
	Dir string
	// Env are NAME=value, beside PATH and HOME.
	Env []string
	// Output takes what it prints, standard error included, as it comes; nil
	// throws it away.
	Output io.Writer
}

// Result is what became of a command.
type Result struct {
	ExitStatus int
	Took       time.Duration
}

// Times are of the host's clock.
type Times struct {
	Boot  time.Duration // until the first command starts
	Total time.Duration
}

// ConsoleError says that a guest did not end as it should, with its kernel's
// last words.
type ConsoleError struct {
	Err     error
	Console string
}

func (e *ConsoleError) Error() string {
	return fmt.Sprintf("%v; the guest's console:\n%s", e.Err, e.Console)
}

func (e *ConsoleError) Unwrap() error { return e.Err }

// kernelParameters make the boot quick and its end visible. On a busy machine
// the guest's test of its timer fails, and with it the boot.
const kernelParameters = "console=ttyS0 quiet panic=-1 no_timer_check nokaslr mitigations=off rcupdate.rcu_expedited=1"

const (
	pollEvery      = 50 * time.Millisecond
	defaultTimeout = 10 * time.Minute
	defaultMemory  = 1024
)

// Run boots the guest and returns a result for each command. It is an error if
// the guest did not come to run them all; a command that fails is none.
func (g *Guest) Run(ctx context.Context, cmds ...Command) ([]Result, Times, error) {
	job, err := Workspace()
	if err != nil {
		return nil, Times{}, err
	}
	defer os.RemoveAll(job)
	if err := g.write(ctx, job, cmds); err != nil {
		return nil, Times{}, err
	}
	timeout := g.Timeout
	if timeout == 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("the guest ran for longer than %v and was killed", timeout))
	defer cancel()
	begun := time.Now()
	// killed with the context, by its own pid
	qemu := exec.CommandContext(ctx, "qemu-system-x86_64", g.arguments(job)...)
	out, err := os.Create(filepath.Join(job, "qemu"))
	if err != nil {
		return nil, Times{}, err
	}
	defer out.Close()
	qemu.Stdout, qemu.Stderr = out, out
	ended, err := start(qemu)
	if err != nil {
		return nil, Times{}, fmt.Errorf("start the guest: %w: `make test-vm` installs what it needs", err)
	}
	f := follower{job: job, cmds: cmds, start: begun, kill: cancel}
	err = f.follow(ended)
	times := Times{Boot: f.boot, Total: time.Since(begun)}
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), context.Canceled) {
		err = context.Cause(ctx)
	}
	if err == nil && len(f.results) < len(cmds) {
		err = fmt.Errorf("the guest ended with %d of %d commands run", len(f.results), len(cmds))
	}
	if err != nil {
		err = &ConsoleError{err, lastWords(job)}
	}
	return f.results, times, err
}

// start starts a process that ends with this one, however this one ends. The
// kernel ends it with the thread that started it, so that thread waits for it
// (prctl(2), PR_SET_PDEATHSIG).
func start(cmd *exec.Cmd) (ended <-chan error, err error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, result := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			result <- cmd.Wait()
		}
	}()
	return result, <-started
}

// write puts what the guest reads into the directory that it shares.
func (g *Guest) write(ctx context.Context, job string, cmds []Command) error {
	root, err := Root()
	if err != nil {
		return err
	}
	initramfs, err := g.Kernel.initramfs(ctx)
	if err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(job, "initramfs"), initramfs, 0o600),
		os.WriteFile(filepath.Join(job, "start"), []byte(g.script(root, cmds)), 0o600),
	)
}

// script is what the guest runs once the files are there. Files that say that
// something is complete are renamed into place.
func (g *Guest) script(root string, cmds []Command) string {
	var b strings.Builder
	fmt.Fprintf(&b, "export PATH=%s HOME=/root\n", quote("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"))
	if isHidden(root) {
		fmt.Fprintf(&b, "mkdir -p %s && mount --bind %s %s\n", quote(root), quote("/host"+root), quote(root))
	}
	modules := "/lib/modules/" + g.Kernel.Release
	fmt.Fprintf(&b, "mkdir -p %s && mount --bind %s %s\n", modules, quote(g.Kernel.modules()), modules)
	b.WriteString("/bin/busybox ip link set lo up\n")
	if g.ReachesHost { // and nothing else: there is no other route
		fmt.Fprintf(&b, "modprobe virtio_net\n")
		for _, args := range []string{"addr add " + guestAddr + "/32 dev eth0", "link set eth0 up", "route add " + HostAddr + " dev eth0"} {
			fmt.Fprintf(&b, "/bin/busybox ip %s\n", args)
		}
	}
	if len(g.Modules) > 0 {
		fmt.Fprintf(&b, "modprobe -a %s\n", strings.Join(g.Modules, " "))
	}
	for i, c := range cmds {
		dir := c.Dir
		if dir == "" {
			dir = "/"
		}
		env := []string{"/usr/bin/env"}
		for _, word := range append(append(env, c.Env...), c.Args...) {
			env = append(env, quote(word))
		}
		fmt.Fprintf(&b, ": >/vm/begun.%d\n(cd %s && exec %s) </dev/null >/vm/output.%d 2>&1\necho $? >/vm/new\n/bin/busybox mv /vm/new /vm/status.%d\n",
			i, quote(dir), strings.Join(env[1:], " "), i, i)
	}
	b.WriteString("/bin/busybox poweroff -f\n")
	return b.String()
}

// isHidden says whether a directory of the host is another one in guests: the
// checkout, with workspaces and kernels, may be below one that they have of
// their own.
func isHidden(dir string) bool {
	return slices.ContainsFunc([]string{"/tmp/", "/run/", "/var/"}, func(own string) bool { return strings.HasPrefix(dir, own) })
}

// quote makes one word of the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

func (g *Guest) arguments(job string) []string {
	memory := g.MemoryMiB
	if memory == 0 {
		memory = defaultMemory
	}
	share := func(tag, path string, options string) []string {
		return []string{
			"-fsdev", "local,id=" + tag + ",path=" + path + ",security_model=none" + options,
			"-device", "virtio-9p-pci,fsdev=" + tag + ",mount_tag=" + tag,
		}
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-M", "pc",
		"-cpu", "max", "-smp", "1", "-m", strconv.Itoa(memory),
		"-kernel", g.Kernel.vmlinux(), "-initrd", filepath.Join(job, "initramfs"),
		"-append", kernelParameters,
		"-serial", "file:" + filepath.Join(job, "console"),
	}
	if g.CountInstructions {
		args = append(args, "-accel", "tcg,thread=single,tb-size=512", "-icount", "shift=0,sleep=off")
	} else {
		args = append(args, "-accel", "tcg,thread=multi,tb-size=512")
	}
	if g.ReachesHost {
		args = append(args, "-netdev", "user,id=host", "-device", "virtio-net-pci,netdev=host,romfile=")
	}
	args = append(args, share("root", "/", ",readonly=on,multidevs=remap")...)
	return append(args, share("job", job, "")...)
}

// follower copies what the commands print and collects how they ended.
type follower struct {
	job     string
	cmds    []Command
	start   time.Time
	kill    func()
	boot    time.Duration
	begun   time.Time
	results []Result
	output  *os.File // of the command that runs
}

// follow returns when the guest has ended.
func (f *follower) follow(ended <-chan error) error {
	defer func() {
		if f.output != nil {
			f.output.Close()
		}
	}()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil {
				err = fmt.Errorf("run the guest: %w", err)
			}
			return errors.Join(f.advance(), err)
		case <-tick.C:
			if err := f.advance(); err != nil {
				f.kill()
				return errors.Join(err, <-ended)
			}
		}
	}
}

// advance takes everything that is there now.
func (f *follower) advance() error {
	for len(f.results) < len(f.cmds) {
		i := len(f.results)
		if f.output == nil {
			if _, err := os.Stat(filepath.Join(f.job, "begun."+strconv.Itoa(i))); errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			out, err := os.OpenFile(filepath.Join(f.job, "output."+strconv.Itoa(i)), os.O_RDONLY|os.O_CREATE, 0o600)
			if err != nil {
				return err
			}
			f.output, f.begun = out, time.Now()
			if i == 0 {
				f.boot = time.Since(f.start)
			}
		}
		status, err := os.ReadFile(filepath.Join(f.job, "status."+strconv.Itoa(i)))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		to := f.cmds[i].Output
		if to == nil {
			to = io.Discard
		}
		if _, cerr := io.Copy(to, f.output); cerr != nil {
			return cerr
		}
		if err != nil {
			return nil // it still runs
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(status)))
		if err != nil {
			return fmt.Errorf("exit status of command %d: %w", i, err)
		}
		f.results = append(f.results, Result{n, time.Since(f.begun)})
		f.output.Close()
		f.output = nil
	}
	return nil
}

// lastWords are the ends of the console and of QEMU's own messages.
func lastWords(job string) string {
	var b strings.Builder
	for _, name := range []string{"console", "qemu"} {
		text, err := os.ReadFile(filepath.Join(job, name))
		if err != nil {
			continue
		}
		b.Write(text[max(0, len(text)-16<<10):])
	}
	return b.String()
}
