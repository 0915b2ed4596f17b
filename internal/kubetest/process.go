// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// startTimeout bounds the start, which takes 5 seconds on two cores.
	startTimeout = 2 * time.Minute
	// stopTimeout bounds a graceful end: it takes 2 seconds if there are watches.
	stopTimeout = 30 * time.Second
)

// process is the server's process, or the place where one was and can be again.
// Its methods must not be called at once.
type process struct {
	binary, dir string
	addr        netip.AddrPort
	flags       []string
	hold        int // a socket that keeps the port

	cmd    *exec.Cmd     // nil: stopped
	stderr bytes.Buffer  // what was said before there was a log
	done   chan struct{} // closed when it has ended
	exit   error         // what cmd.Wait returned; read after done is closed
}

// said is the line that the server prints when it is ready.
type said struct{ URL, Token, CA string }

func newProcess(binary string, flags []string) (*process, error) {
	hold, addr, err := holdPort()
	if err != nil {
		return nil, fmt.Errorf("take a port of 127.0.0.1: %w", err)
	}
	// not in a test's own directory: the path of a socket has 107 bytes
	dir, err := os.MkdirTemp("", "waggle-api-")
	if err != nil {
		return nil, errors.Join(err, unix.Close(hold))
	}
	return &process{binary: binary, dir: dir, addr: addr, flags: flags, hold: hold}, nil
}

// holdPort binds a socket to a free port, so that the kernel gives the port to
// nobody, while one who also says SO_REUSEADDR can listen on it: nothing does
// on this socket (tcp(7), socket(7)).
func holdPort() (fd int, addr netip.AddrPort, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, addr, err
	}
	loopback := [4]byte{127, 0, 0, 1}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback})
	}
	var name unix.Sockaddr
	if err == nil {
		name, err = unix.Getsockname(fd)
	}
	if err != nil {
		return 0, addr, errors.Join(err, unix.Close(fd))
	}
	port := name.(*unix.SockaddrInet4).Port // the socket is of AF_INET
	return fd, netip.AddrPortFrom(netip.AddrFrom4(loopback), uint16(port)), nil
}

// start starts the server and returns when it is ready.
func (p *process) start() (said, error) {
	args := append([]string{"-dir", p.dir, "-listen", p.addr.String(), "-temporary", "--"}, p.flags...)
	cmd := exec.Command(p.binary, args...)
	p.stderr.Reset()
	cmd.Stderr = &p.stderr
	// Only its stdin tells it to end, not the terminal's interrupt: that is for
	// the test.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// cmd has its other end, which closes with this process
	if _, err := cmd.StdinPipe(); err != nil {
		return said{}, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return said{}, err
	}
	if err := cmd.Start(); err != nil {
		return said{}, fmt.Errorf("start %s: %w", p.binary, err)
	}
	p.cmd, p.done = cmd, make(chan struct{})
	lines := make(chan []byte, 1)
	go func() {
		defer close(p.done)
		line, err := bufio.NewReader(stdout).ReadBytes('\n')
		if err == nil {
			lines <- line
		}
		p.exit = cmd.Wait()
	}()
	var s said
	select {
	case line := <-lines:
		err = json.Unmarshal(line, &s)
	case <-p.done:
		err = errors.New("it ended before it was ready")
	case <-time.After(startTimeout):
		err = fmt.Errorf("it was not ready within %v", startTimeout)
	}
	if err != nil {
		err = p.explain(fmt.Errorf("start the API server of the tests: %w", err))
		return said{}, errors.Join(err, p.kill())
	}
	return s, nil
}

// explain adds the end of what the server has said to the error.
func (p *process) explain(err error) error {
	const tail = 4 << 10 // bytes
	log, readErr := os.ReadFile(filepath.Join(p.dir, "log"))
	if readErr != nil {
		log = []byte(readErr.Error())
	}
	text := log[max(0, len(log)-tail):]
	select {
	case <-p.done: // nobody writes to stderr any more
		text = append(bytes.Clone(p.stderr.Bytes()), text...)
	default:
	}
	return fmt.Errorf("%w; it said:\n%s", err, text)
}

// stop ends the server as a rolling update would; data and port stay.
func (p *process) stop() error {
	if p.cmd == nil {
		return nil
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return p.explain(fmt.Errorf("stop the API server of the tests: %w", err))
	}
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		err := p.explain(fmt.Errorf("the API server of the tests did not end within %v of SIGTERM", stopTimeout))
		return errors.Join(err, p.kill())
	}
	p.cmd = nil
	if p.exit != nil {
		return p.explain(fmt.Errorf("stop the API server of the tests: %w", p.exit))
	}
	return nil
}

// kill ends the server without asking; data and port stay.
func (p *process) kill() error {
	if p.cmd == nil {
		return nil
	}
	// an error says that it has ended
	_ = p.cmd.Process.Kill()
	<-p.done
	p.cmd = nil
	return nil
}

func (p *process) running() bool { return p.cmd != nil }

// remove ends the server for good and removes its data.
func (p *process) remove() error {
	return errors.Join(p.kill(), os.RemoveAll(p.dir), unix.Close(p.hold))
}
