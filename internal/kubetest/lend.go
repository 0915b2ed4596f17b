// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
)

// lentVariable names the file of a loan. It is for the guests of test/vm, in which
// instructions are emulated: a server of their own takes minutes to start.
const lentVariable = "WAGGLE_LENT_APISERVER"

// loan is what a borrower has to know.
type loan struct {
	Token, CA string
	// Addr is the server's address, and Control that of who stops and starts it,
	// as the borrower reaches them.
	Addr, Control string
}

// Lend lets the processes of another machine use the server as if they had started
// it, until the test ends: they may stop and kill it. host is the address there of
// this machine's 127.0.0.1, file is written and has to be readable there at the same
// path, as the server's CA. env is what their environment needs, NAME=value.
func (s *Server) Lend(t testing.TB, file, host string) (env string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	control := &http.Server{Handler: s.control()}
	var running sync.WaitGroup
	running.Go(func() { _ = control.Serve(l) }) // ends with the test
	t.Cleanup(func() {
		if err := control.Close(); err != nil {
			t.Error(err)
		}
		running.Wait()
	})
	at := func(addr string) string {
		_, port, _ := net.SplitHostPort(addr) // the listener's own
		return net.JoinHostPort(host, port)
	}
	ca, err := os.ReadFile(s.CA)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(loan{Token: s.Token, CA: string(ca), Addr: at(s.Addr), Control: at(l.Addr().String())})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return lentVariable + "=" + file
}

// control answers borrowers, one after the other.
func (s *Server) control() http.Handler {
	var mu sync.Mutex
	mux := http.NewServeMux()
	for name, do := range map[string]func() error{
		"start": func() error { _, err := s.process.start(); return err },
		"stop":  s.process.stop, "kill": s.process.kill,
	} {
		mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			if err := do(); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
			}
		})
	}
	return mux
}

// borrowed is a server that another machine runs.
type borrowed struct {
	said    said
	control string
	ended   bool // it was told to end, and not to start again
	cut     func()
}

// borrow makes the server of a loan usable: at an address of 127.0.0.1, for which the
// server has a certificate, until this process ends.
func borrow(file string, flags []string) (*Server, error) {
	if len(flags) > 0 {
		return nil, fmt.Errorf("the API server of %s is lent as it is, without %v", file, flags)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var of loan
	if err := json.Unmarshal(text, &of); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	f := newForwarder(of.Addr, l)
	ca, err := os.CreateTemp("", "waggle-api-ca-")
	if err == nil {
		_, err = ca.WriteString(of.CA)
		err = errors.Join(err, ca.Close())
	}
	if err != nil {
		return nil, err
	}
	b := &borrowed{control: of.Control, cut: f.cut, said: said{URL: "https://" + l.Addr().String(), Token: of.Token, CA: ca.Name()}}
	return serverOf(b, l.Addr().String(), b.said)
}

func (b *borrowed) start() (said, error) {
	err := b.tell("start")
	b.ended = err != nil
	return b.said, err
}

func (b *borrowed) running() bool { return !b.ended }

func (b *borrowed) stop() error {
	if b.ended {
		return nil
	}
	b.ended = true
	return b.tell("stop")
}

func (b *borrowed) kill() error {
	b.ended = true
	return b.tell("kill")
}

// remove leaves the server to who lent it.
func (b *borrowed) remove() error {
	b.cut()
	return os.Remove(b.said.CA)
}

func (b *borrowed) tell(what string) error {
	res, err := http.Post("http://"+b.control+"/"+what, "", nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s the API server that is lent: %s: %s", what, res.Status, text)
	}
	return err
}
