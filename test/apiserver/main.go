// SPDX-License-Identifier: Apache-2.0

// Command apiserver is a Kubernetes API server with its etcd in one process, for
// tests: the real kube-apiserver, without controllers, scheduler or nodes. What
// is written to it is validated, given ClusterIPs and node ports, and watched,
// as in a cluster; EndpointSlices and deletions of namespaces are up to the test.
//
//	apiserver -dir DIR [-listen ADDRESS:PORT] [-temporary] [-- FLAGS OF KUBE-APISERVER]
//
// When it can be used it writes one line of JSON to stdout: url, token (of
// system:masters), ca (a file). All it keeps and its log are in DIR; a second
// run there goes on with what the first one had.
//
// It ends on SIGTERM, gracefully, and at once when stdin closes, which is how it
// learns that the test is dead: then -temporary also removes DIR.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

func main() {
	var s settings
	flag.StringVar(&s.dir, "dir", "", "`directory` of etcd's data, keys and the log; made if missing")
	flag.StringVar(&s.listen, "listen", "127.0.0.1:0", "loopback `address:port` to serve at; port 0 takes a free one")
	flag.BoolVar(&s.temporary, "temporary", false, "remove the directory when stdin closes")
	flag.Parse()
	s.flags = flag.Args()
	if err := run(s); err != nil {
		fmt.Fprintln(os.Stderr, "apiserver:", err)
		os.Exit(1)
	}
}

// settings are what the command line says.
type settings struct {
	dir, listen string
	temporary   bool
	flags       []string // of kube-apiserver; the last of a name counts
}

// ready is the line on stdout.
type ready struct {
	URL   string `json:"url"`
	Token string `json:"token"`
	CA    string `json:"ca"`
}

func run(s settings) error {
	if s.dir == "" {
		return errors.New("no directory: say -dir DIR")
	}
	dir, err := filepath.Abs(s.dir)
	if err != nil {
		return err
	}
	s.dir = dir
	go endWithStdin(s)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := logInto(filepath.Join(dir, "log")); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return fmt.Errorf("listen at %s, which -listen says: %w", s.listen, err)
	}
	token, err := writeSecrets(dir)
	if err != nil {
		return err
	}
	etcd, err := startEtcd(ctx, dir)
	if err != nil {
		return err
	}
	defer etcd.Close()
	line := ready{URL: "https://" + listener.Addr().String(), Token: token, CA: filepath.Join(dir, certFile)}
	go func() {
		if err := awaitReady(ctx, line); err != nil {
			return // ctx has ended, run says why
		}
		// a reader that has gone has closed stdin too
		_ = json.NewEncoder(os.Stdout).Encode(line)
	}()
	return serve(ctx, listener, dir, s.flags)
}

// endWithStdin ends the process when the other end of stdin closes. Nothing is
// flushed: nobody is left to read it.
func endWithStdin(s settings) {
	// an error is an end as well
	_, _ = io.Copy(io.Discard, os.Stdin)
	if s.temporary {
		// under another name etcd, which still runs, makes no new files in it
		gone := s.dir + ".gone"
		if err := errors.Join(os.Rename(s.dir, gone), os.RemoveAll(gone)); err != nil {
			fmt.Fprintln(os.Stderr, "apiserver:", err)
			os.Exit(1)
		}
	}
	os.Exit(0)
}

// logInto turns stderr into the file, appending: the libraries write there, and
// the runtime what it says in a panic.
func logInto(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Dup2(int(f.Fd()), int(os.Stderr.Fd()))
}
