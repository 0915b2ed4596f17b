// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package demo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// fakeEnv makes the test binary a stand-in for waggle: a proxy in user space
// that reads the demo's rules and takes turns by weight, or breaks a promise.
const fakeEnv = "DEMO_TEST_FAKE"

const (
	fakeGood    = "good"
	fakeSkewed  = "skewed"  // ignores the weights of wrr
	fakeCorrupt = "corrupt" // flips a bit of every large read
	fakeMute    = "mute"    // listens nowhere
	fakeBroken  = "broken"  // ends at once
	fakeRude    = "rude"    // ends badly after SIGTERM
)

func TestMain(m *testing.M) {
	mode := os.Getenv(fakeEnv)
	if mode == "" || len(os.Args) < 2 {
		os.Exit(m.Run())
	}
	if err := fakeWaggle(mode, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func fakeWaggle(mode string, args []string) error {
	if args[0] == "cleanup" {
		return os.RemoveAll(args[2])
	}
	if args[0] == "stats" {
		_, err := fmt.Println(`{"drops": [{"reason": "no_flow", "packets": 7, "meaning": "of the fake"}, {"reason": "busy"}]}`)
		return err
	}
	if mode == fakeBroken {
		return errors.New("the fake was told to break")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := os.Mkdir(args[4], 0o755); err != nil {
		return err
	}
	if mode != fakeMute {
		if err := fakeServe(mode, args[2]); err != nil {
			return err
		}
	}
	<-ctx.Done()
	if mode == fakeRude {
		return errors.New("the fake was told to end badly")
	}
	return nil
}

// fakePool gives out backends in turn.
type fakePool struct {
	mu    sync.Mutex
	next  int
	slots []string
}

func (p *fakePool) pick() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next++
	return p.slots[p.next%len(p.slots)]
}

func fakeServe(mode, file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	pools := map[string]*fakePool{}
	scheduler := map[string]string{}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		key := f[1] + " " + f[2]
		if f[0] == "-A" {
			pools[key], scheduler[key] = &fakePool{}, f[4]
			continue
		}
		weight := 1
		if scheduler[key] == "wrr" && mode != fakeSkewed {
			if _, err := fmt.Sscan(f[7], &weight); err != nil {
				return err
			}
		}
		for range weight {
			pools[key].slots = append(pools[key].slots, f[4])
		}
	}
	for key, pool := range pools {
		serve := fakeTCP
		if strings.HasPrefix(key, "-u") {
			serve = fakeUDP
		}
		if err := serve(mode, key[3:], pool); err != nil {
			return err
		}
	}
	return nil
}

func fakeTCP(mode, addr string, pool *fakePool) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer in.Close()
				out, err := net.Dial("tcp", pool.pick())
				if err != nil {
					return
				}
				defer out.Close()
				go func() {
					fakeCopy(mode, out, in)
					_ = out.(*net.TCPConn).CloseWrite()
				}()
				fakeCopy(mode, in, out)
			}()
		}
	}()
	return nil
}

func fakeCopy(mode string, to io.Writer, from io.Reader) {
	r := bufio.NewReaderSize(from, 64<<10)
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if mode == fakeCorrupt && n > 1000 {
			buf[n/2] ^= 1
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

func fakeUDP(_, addr string, pool *fakePool) error {
	in, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	go func() {
		flows := map[string]net.Conn{}
		buf := make([]byte, 2048)
		for {
			n, from, err := in.ReadFrom(buf)
			if err != nil {
				return
			}
			out := flows[from.String()]
			if out == nil {
				if out, err = net.Dial("udp", pool.pick()); err != nil {
					return
				}
				flows[from.String()] = out
				go func() {
					reply := make([]byte, 2048)
					for {
						n, err := out.Read(reply)
						if err != nil {
							return
						}
						_, _ = in.WriteTo(reply[:n], from)
					}
				}()
			}
			_, _ = out.Write(buf[:n])
		}
	}()
	return nil
}
