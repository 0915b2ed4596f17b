// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// kind is something that is done n times, and timed.
type kind struct {
	name string
	n    int
	time func(w *way, to []netip.AddrPort, n int) (time.Duration, error)
}

// kinds are what is measured. Of those of new flows, sockets are made before the
// clock starts and closed after it has stopped.
var kinds = []kind{
	{"UDP there and back", 600, timeDatagrams},
	{"the same, new flow", 150, timeNewDatagrams},
	{"TCP there and back", 600, timeSegments},
	{"TCP connect", 150, timeConnects},
}

// measure is the half that runs in the guest.
func measure(p plan) error {
	runtime.LockOSThread()
	// nobody else runs meanwhile: no daemon, and no other thread of this process
	if err := unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1, Flags: unix.SCHED_FLAG_RESET_ON_FORK}, 0); err != nil {
		return fmt.Errorf("run before all others: %w", err)
	}
	if err := checkClock(); err != nil {
		return err
	}
	all := ways()
	for _, w := range all {
		if err := w.prepare(p); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		defer w.Close()
	}
	r := make(results)
	for _, n := range p.services {
		if err := serve(all, vips(n, p.ipv6)); err != nil {
			return err
		}
		for i := range p.repeats + 1 {
			taken, err := once(all, n, p.ipv6)
			if err != nil {
				return err
			}
			if i > 0 { // the first warms up
				r.merge(taken)
			}
		}
	}
	return report(r, p, all)
}

// once measures everything of a number of services, way by way.
func once(all []*way, n int, ipv6 bool) (results, error) {
	r := make(results)
	for _, k := range kinds {
		for _, w := range all {
			took, err := w.measure(k, vips(n, ipv6))
			if err != nil {
				return nil, fmt.Errorf("%s, %d services, %s: %w\n%s", w.name, n, k.name, err, w.said())
			}
			r.add(what{n, k.name}, w.name, took)
		}
	}
	return r, nil
}

func report(r results, p plan, all []*way) error {
	var kindNames, wayNames []string
	for _, k := range kinds {
		kindNames = append(kindNames, k.name)
	}
	for _, w := range all {
		wayNames = append(wayNames, w.name)
	}
	if err := r.print(os.Stdout, p.services, kindNames, wayNames, plainRouting, ipvsMasq); err != nil {
		return err
	}
	return printPrograms(os.Stdout, all, vips(p.services[len(p.services)-1], p.ipv6))
}

// serve has all ways serve the VIPs, and waits until the last is served.
func serve(all []*way, vips []netip.AddrPort) error {
	for _, w := range all {
		if w.serve == nil {
			continue
		}
		begun := time.Now()
		if err := w.serve(w, vips); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		if err := w.await(vips[len(vips)-1]); err != nil {
			return fmt.Errorf("%s: %w\n%s", w.name, err, w.said())
		}
		fmt.Printf("%s: %d VIPs are served after %.1f s of the guest's\n", w.name, len(vips), time.Since(begun).Seconds())
	}
	return nil
}

// await sends datagrams until one is answered.
func (w *way) await(vip netip.AddrPort) error {
	for begun := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		fds, err := w.clients(unix.SOCK_DGRAM, 1, vip.Addr().Is6())
		if err != nil {
			return err
		}
		_, err = call(unix.SYS_CONNECT, fds[0], raw(vip))
		if err == nil {
			err = whole(unix.SYS_WRITE, fds[0])
		}
		time.Sleep(10 * time.Millisecond)
		n, _, rerr := unix.Recvfrom(w.datagrams, payload[:], unix.MSG_DONTWAIT)
		unix.Close(fds[0])
		if n == len(payload) {
			return nil
		}
		if time.Since(begun) > 10*time.Minute {
			return fmt.Errorf("%s is not served: %w", vip, errors.Join(err, rerr))
		}
	}
}

// measure returns what one of a kind takes: n and twice as many are timed, and the
// difference has nothing of what both have once.
func (w *way) measure(k kind, vips []netip.AddrPort) (float64, error) {
	if w.serve == nil {
		vips = []netip.AddrPort{w.backend}
	}
	single, err := k.time(w, vips, k.n)
	if err != nil {
		return 0, err
	}
	double, err := k.time(w, vips, 2*k.n)
	return float64(double-single) / float64(k.n), err
}

// nth spreads flows over VIPs.
func nth(to []netip.AddrPort, n int) netip.AddrPort { return to[n*7919%len(to)] }

// closeAll ends the client's sockets.
func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// connected are sockets of UDP to VIPs, over which they are spread.
func (w *way) connected(to []netip.AddrPort, n int) ([]int, error) {
	fds, err := w.clients(unix.SOCK_DGRAM, n, to[0].Addr().Is6())
	for i, fd := range fds {
		if err == nil {
			_, err = call(unix.SYS_CONNECT, fd, raw(nth(to, int(w.port)+i)))
		}
	}
	return fds, err
}

// clock says when it begins: once what was done before has come to its end, as what is
// freed later, and when nothing is left to do.
func clock() time.Time {
	time.Sleep(100 * time.Millisecond)
	return time.Now()
}

// warm is how often there is an answer before an established flow is timed.
const warm = 20

func timeDatagrams(w *way, to []netip.AddrPort, n int) (took time.Duration, err error) {
	fds, err := w.connected(to, 1)
	defer closeAll(fds)
	var begun time.Time
	for i := 0; i < warm+n && err == nil; i++ {
		if i == warm {
			begun = clock()
		}
		err = w.datagram(fds[0])
	}
	return time.Since(begun), err
}

func timeNewDatagrams(w *way, to []netip.AddrPort, n int) (took time.Duration, err error) {
	fds, err := w.connected(to, n)
	defer closeAll(fds)
	begun := clock()
	for i := 0; i < n && err == nil; i++ {
		err = w.datagram(fds[i])
	}
	return time.Since(begun), err
}

func timeSegments(w *way, to []netip.AddrPort, n int) (took time.Duration, err error) {
	fds, err := w.clients(unix.SOCK_STREAM, 1, to[0].Addr().Is6())
	defer closeAll(fds)
	if err != nil {
		return 0, err
	}
	server, err := w.connect(fds[0], raw(nth(to, int(w.port))))
	defer unix.Close(server)
	var begun time.Time
	for i := 0; i < warm+n && err == nil; i++ {
		if i == warm {
			begun = clock()
		}
		err = segment(fds[0], server)
	}
	return time.Since(begun), err
}

func timeConnects(w *way, to []netip.AddrPort, n int) (took time.Duration, err error) {
	fds, err := w.clients(unix.SOCK_STREAM, n, to[0].Addr().Is6())
	defer closeAll(fds)
	addresses, accepted := make([][]byte, n), make([]int, n)
	for i := range n {
		addresses[i] = raw(nth(to, int(w.port)+i))
	}
	begun := clock()
	for i := 0; i < n && err == nil; i++ {
		accepted[i], err = w.connect(fds[i], addresses[i])
	}
	took = time.Since(begun)
	closeAll(accepted)
	return took, err
}

// checkClock says what an instruction takes, as the clock has it, and refuses a clock
// that counts something else. Each round of spin has five.
func checkClock() error {
	const rounds = 10_000_000
	begun := clock()
	sum := spin(rounds)
	each := float64(time.Since(begun)) / (5 * rounds)
	fmt.Printf("an instruction takes %.4f ns (%d)\n", each, sum&1)
	if each < 0.9 || each > 1.1 {
		return errors.New("the clock does not count instructions: this half is for guests that do")
	}
	return nil
}

//go:noinline
func spin(rounds int) int {
	x := 1
	for i := 0; i < rounds; i++ {
		x ^= x<<1 + i
	}
	return x
}
