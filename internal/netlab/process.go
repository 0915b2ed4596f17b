// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Process is a subprocess inside a namespace. Its methods may be called from
// any goroutine.
type Process struct {
	// PID is the process id.
	PID int

	cmd  *exec.Cmd
	done chan struct{}
	err  error // what cmd.Wait returned; read after done is closed
}

// Start starts cmd, made by package exec and not yet started, inside the
// namespace. The process gets SIGTERM when this one dies, unless the caller
// has set another Pdeathsig; Lab.Close kills it. The mount namespace is the
// caller's, so it sees the same bpffs.
//
// The kernel sends Pdeathsig when the *thread* that forked ends, so that
// thread lives as long as the process (prctl(2), PR_SET_PDEATHSIG).
func (n *Namespace) Start(cmd *exec.Cmd) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	if cmd.SysProcAttr.Pdeathsig == 0 {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, fmt.Errorf("start %s in namespace %s: the lab is closed", cmd.Path, n.Name)
	}
	p, group := &Process{cmd: cmd, done: make(chan struct{})}, n.cgroup
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer close(p.done)
		if err := n.enter(group); err != nil {
			started <- err
			return
		}
		if err := cmd.Start(); err != nil {
			started <- fmt.Errorf("start %s in namespace %s: %w", cmd.Path, n.Name, err)
			return
		}
		p.PID = cmd.Process.Pid
		started <- nil
		p.err = cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	n.processes = append(n.processes, p)
	return p, nil
}

// Run starts cmd inside the namespace and waits for it, as exec.Cmd.Run does.
func (n *Namespace) Run(cmd *exec.Cmd) error {
	p, err := n.Start(cmd)
	if err != nil {
		return err
	}
	return p.Wait()
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the process and returns what exec.Cmd.Wait does.
func (p *Process) Wait() error {
	<-p.done
	return p.err
}

// Stop asks the process to end (SIGTERM), kills it if it has not after grace,
// and returns what Wait does. A process that has ended already is no error of
// its own.
func (p *Process) Stop(grace time.Duration) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err == nil {
		select {
		case <-p.done:
		case <-time.After(grace):
			p.kill()
			return fmt.Errorf("process %d (%s) did not end within %v of SIGTERM and was killed", p.PID, p.cmd.Path, grace)
		}
	}
	return p.Wait()
}

// kill ends the process without asking and waits for it. One that has ended
// is left alone: exec.Cmd knows, so no other process can be meant.
func (p *Process) kill() {
	// The error says only that the process has ended.
	_ = p.cmd.Process.Kill()
	<-p.done
}
