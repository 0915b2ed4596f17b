// SPDX-License-Identifier: Apache-2.0

package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
)

// rig is Checks at work. Its machine has addresses of 127.0.0.0/8 and ::1.
type rig struct {
	*Checks
	t       *testing.T
	mu      sync.Mutex
	healthy bool
	addrs   []netip.Addr
	failed  chan string
}

func newRig(t *testing.T, addrs ...string) *rig {
	t.Helper()
	t.Parallel() // what is tried again takes five seconds
	r := &rig{t: t, healthy: true, failed: make(chan string, 100)}
	r.machine(addrs...)
	r.Checks = NewChecks(ChecksOptions{
		Families: bothFamilies, Log: slog.New(slog.DiscardHandler),
		Healthy: func() bool { r.mu.Lock(); defer r.mu.Unlock(); return r.healthy },
		Addrs:   func() ([]netip.Addr, error) { r.mu.Lock(); defer r.mu.Unlock(); return r.addrs, nil },
		Failed:  func(c Check, err error) { r.failed <- c.Name + ": " + err.Error() },
	})
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	<-r.Ready()
	return r
}

func (r *rig) machine(addrs ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.addrs = nil
	for _, a := range addrs {
		r.addrs = append(r.addrs, netip.MustParseAddr(a))
	}
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

// freePort is one that nobody has at any address, a moment ago.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return netip.MustParseAddrPort(l.Addr().String()).Port()
}

// get asks with a connection of its own.
func get(method, at, path string) (*http.Response, string, error) {
	req, err := http.NewRequest(method, "http://"+at+path, nil)
	if err != nil {
		return nil, "", err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res, string(b), err
}

// eventually waits for f to return nil.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for err := f(); err != nil; err = f() {
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// answers waits until all addresses answer with these endpoints.
func (r *rig) answers(local int, at ...string) {
	r.t.Helper()
	eventually(r.t, func() error {
		for _, a := range at {
			res, body, err := get("GET", a, "/")
			if err != nil {
				return err
			}
			if want := fmt.Sprintf(`"localEndpoints": %d,`, local); !strings.Contains(body, want) {
				return fmt.Errorf("%s answers %d, %s, want %s", a, res.StatusCode, body, want)
			}
		}
		return nil
	})
}

// refuses waits until no address answers.
func (r *rig) refuses(at ...string) {
	r.t.Helper()
	eventually(r.t, func() error {
		for _, a := range at {
			if c, err := net.Dial("tcp", a); err == nil {
				return errors.Join(fmt.Errorf("%s takes connections", a), c.Close())
			} else if !errors.Is(err, syscall.ECONNREFUSED) {
				return err
			}
		}
		return nil
	})
}

func (r *rig) setHealthy(is bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.healthy = is
}

func TestTheAnswerOfAHealthCheckNodePort(t *testing.T) {
	r := newRig(t)
	check := Check{Namespace: "ns", Name: "web", Family: lb.IPv4, Port: freePort(t), Local: 2}
	at := fmt.Sprintf("127.0.0.1:%d", check.Port)
	r.Set([]Check{check}, prefixes("0.0.0.0/0"))
	r.answers(2, at)
	want := func(code, local int, healthy bool) {
		t.Helper()
		for _, ask := range [][2]string{{"GET", "/healthz"}, {"GET", "/"}, {"POST", "/any/path"}, {"DELETE", "//x/../y?z"}, {"HEAD", "/healthz"}} {
			res, body, err := get(ask[0], at, ask[1])
			if err != nil {
				t.Fatal(err)
			}
			for _, h := range []string{"Date", "Content-Length", "Connection"} {
				res.Header.Del(h)
			}
			head := http.Header{"Content-Type": {"application/json"}, "X-Content-Type-Options": {"nosniff"}, "X-Load-Balancing-Endpoint-Weight": {fmt.Sprint(local)}}
			if diff := cmp.Diff(head, res.Header); diff != "" || res.StatusCode != code {
				t.Errorf("%s: status %d, want %d, header (-want +got):\n%s", ask, res.StatusCode, code, diff)
			}
			text := fmt.Sprintf("{\n\t\"service\": {\n\t\t\"namespace\": \"ns\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": %d,\n\t\"serviceProxyHealthy\": %v\n}", local, healthy)
			if ask[0] == "HEAD" {
				text = ""
			}
			if diff := cmp.Diff(text, body); diff != "" {
				t.Errorf("%s (-want +got):\n%s", ask, diff)
			}
		}
	}
	want(200, 2, true)
	r.setHealthy(false)
	want(503, 2, false)
	r.setHealthy(true)
	check.Local = 0
	r.Set([]Check{check}, prefixes("0.0.0.0/0"))
	want(503, 0, true) // without a wait: what is told is answered
}

func TestPortsFollowTheServices(t *testing.T) {
	r := newRig(t)
	a, b := freePort(t), freePort(t)
	all := prefixes("0.0.0.0/0", "::/0")
	v4 := func(port uint16) string { return fmt.Sprintf("127.0.0.1:%d", port) }
	v6 := func(port uint16) string { return fmt.Sprintf("[::1]:%d", port) }
	one := Check{Namespace: "ns", Name: "one", Family: lb.IPv4, Port: a, Local: 1}
	six := Check{Namespace: "ns", Name: "one", Family: lb.IPv6, Port: a, Local: 6}
	two := Check{Namespace: "ns", Name: "two", Family: lb.IPv4, Port: b, Local: 2}
	r.Set([]Check{one, six, two}, all)
	r.answers(1, v4(a))
	r.answers(6, v6(a))
	r.answers(2, v4(b))
	r.refuses(v6(b))

	one.Port, two.Port = b, a // and they change places
	r.Set([]Check{one, six, two}, all)
	r.answers(2, v4(a))
	r.answers(1, v4(b))
	r.answers(6, v6(a))

	// who has a connection does not go on asking for what is gone
	conn, err := net.Dial("tcp", v4(b))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r.Set([]Check{two}, all)
	r.refuses(v4(b), v6(a))
	if n, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, syscall.EAGAIN) {
		t.Errorf("an old connection goes on: %d, %v", n, err)
	}
	r.answers(2, v4(a))
	r.Set(nil, all)
	r.refuses(v4(a))
	if len(r.failed) > 0 {
		t.Errorf("it failed: %s", <-r.failed)
	}
}

func TestPortsAreAtTheAddressesThatServeNodePorts(t *testing.T) {
	r := newRig(t, "127.0.0.2", "127.0.1.3", "127.0.2.4", "::1")
	port := freePort(t)
	at := func(a string) string { return net.JoinHostPort(a, fmt.Sprint(port)) }
	checks := []Check{{Namespace: "ns", Name: "web", Family: lb.IPv4, Port: port, Local: 4}, {Namespace: "ns", Name: "web", Family: lb.IPv6, Port: port, Local: 6}}
	r.Set(checks, prefixes("127.0.0.0/24", "127.0.1.3/32"))
	r.answers(4, at("127.0.0.2"), at("127.0.1.3"))
	r.refuses(at("127.0.0.1"), at("127.0.2.4"), at("::1"))
	r.Set(checks, prefixes("127.0.2.0/24", "::/0"))
	r.answers(4, at("127.0.2.4"))
	r.answers(6, at("::1"))
	r.refuses(at("127.0.0.2"), at("127.0.1.3"))
	r.machine("127.0.0.2", "127.0.2.5") // noticed later
	r.refuses(at("127.0.2.4"))
	r.answers(4, at("127.0.2.5"))
}

func TestAPortThatIsTakenIsTriedAgain(t *testing.T) {
	r := newRig(t, "127.0.0.2", "127.0.0.3")
	taken, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := netip.MustParseAddrPort(taken.Addr().String()).Port()
	check := Check{Namespace: "ns", Name: "web", Family: lb.IPv4, Port: port, Local: 1}
	for range 3 { // tried each time, and told once
		r.Set([]Check{check}, prefixes("127.0.0.0/24"))
	}
	if got, want := <-r.failed, fmt.Sprintf("web: listen tcp4 127.0.0.2:%d: bind: address already in use", port); got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	r.answers(1, fmt.Sprintf("127.0.0.3:%d", port))
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	r.answers(1, fmt.Sprintf("127.0.0.2:%d", port))
	if len(r.failed) > 0 {
		t.Errorf("told again: %s", <-r.failed)
	}
}

func TestTheMachinesOwnAddresses(t *testing.T) {
	addrs, err := machine()
	if err != nil {
		t.Fatal(err)
	}
	loopback := false
	for _, a := range addrs {
		loopback = loopback || a.IsLoopback()
		if a.IsLinkLocalUnicast() || a.Is4In6() {
			t.Errorf("it has %s", a)
		}
	}
	if !loopback {
		t.Errorf("no loopback address in %v", addrs)
	}
}
