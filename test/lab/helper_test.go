// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/internal/netlab"
)

// helperVariable names what this binary is to do instead of tests: it is a process of
// its own in a scene's namespace and control group.
const helperVariable = "WAGGLE_LAB_HELPER"

// helpers get what follows on the command line.
var helpers = map[string]func(args []string) error{
	"connect":  connectUntilTold,
	"shortly":  connectShortly,
	"inherits": useInherited,
}

func runHelper(name string) int {
	if err := helpers[name](os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// helper is a process that does one of helpers until its input ends.
type helper struct {
	t    testing.TB
	p    *netlab.Process
	in   io.WriteCloser
	said bytes.Buffer
}

func startHelper(t testing.TB, n *netlab.Namespace, name string, files []*os.File, args ...string) *helper {
	t.Helper()
	h := &helper{t: t}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), helperVariable+"="+name)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = &h.said, &h.said, files
	var err error
	if h.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if h.p, err = n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	return h
}

// ends tells it to end, and wants that nothing went wrong.
func (h *helper) ends() {
	h.t.Helper()
	err := h.in.Close()
	if errors.Is(err, os.ErrClosed) { // it has ended
		err = nil
	}
	if err := errors.Join(err, h.p.Wait()); err != nil {
		h.t.Errorf("a helper: %v\n%s", err, &h.said)
	}
}

// inputEnds returns what is closed when the input ends.
func inputEnds() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(done)
	}()
	return done
}

// asksOnce makes a connection to a VIP and wants an answer.
func asksOnce(network, vip string) error {
	c, err := net.DialTimeout(network, vip, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := c.Write([]byte("?")); err != nil {
		return err
	}
	if _, err := io.ReadFull(c, make([]byte, nameSize)); err != nil {
		return fmt.Errorf("%s %s: %w", network, vip, err)
	}
	return nil
}

// connectUntilTold wants every connect to the VIPs to work.
func connectUntilTold(vips []string) error {
	done := inputEnds()
	for n := 0; ; n++ {
		select {
		case <-done:
			if n < len(vips) {
				return fmt.Errorf("only %d connections were made", n)
			}
			return nil
		default:
		}
		if err := asksOnce("tcp", vips[n%len(vips)]); err != nil {
			return fmt.Errorf("connection %d: %w", n, err)
		}
	}
}

// connectShortly makes many sockets that live for a moment: of TCP, and unless the
// first argument says so of UDP that is connected and that is not.
func connectShortly(args []string) error {
	for n := range 300 {
		for _, vip := range args[1:] {
			if err := asksOnce("tcp", vip); err != nil {
				return fmt.Errorf("round %d: %w", n, err)
			}
			if args[0] == "tcp" {
				continue
			}
			if err := asksOnce("udp", vip); err != nil {
				return fmt.Errorf("round %d: %w", n, err)
			}
		}
		if args[0] == "tcp" {
			continue
		}
		if err := sendOnce(args[1:]); err != nil {
			return fmt.Errorf("round %d: %w", n, err)
		}
	}
	return nil
}

// sendOnce sends a datagram of one socket to each VIP.
func sendOnce(vips []string) error {
	c, err := net.ListenPacket("udp", ":0")
	if err != nil {
		return err
	}
	defer c.Close()
	for _, vip := range vips {
		to, err := netip.ParseAddrPort(vip)
		if err != nil {
			return err
		}
		if _, err := c.WriteTo([]byte("?"), netAddr(to)); err != nil {
			return err
		}
	}
	return nil
}

// useInherited echoes over a connection that came with the process, whose greeting
// was read, then waits.
func useInherited([]string) error {
	f := os.NewFile(3, "connection")
	if err := netlab.Echo(f, f, []byte("hello")); err != nil {
		return err
	}
	fmt.Println("echoed")
	<-inputEnds()
	return f.Close()
}
