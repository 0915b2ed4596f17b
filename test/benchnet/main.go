// SPDX-License-Identifier: Apache-2.0

// Command benchnet measures real traffic through network namespaces: through waggle,
// through the same services as kube-proxy writes them for nftables and for iptables, and
// through nothing. Everything is built first and stays; then one short measurement
// follows the other, by each path in turn, so that what else the machine does meets all
// of them. docs/benchmarks.md explains the method and what it does not show.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
)

type options struct {
	waggle       string
	repeats      int
	seconds      int
	services     []int
	dataplanes   []*dataplane
	measurements []measurement
	asJSON       bool
	quiet        bool
}

func main() {
	o, err := parse(flag.CommandLine, os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "benchnet:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := measured(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "benchnet:", err)
		os.Exit(1)
	}
}

// parse reads flags. What is wrong with one is an error that says what to write.
func parse(fs *flag.FlagSet, args []string) (*options, error) {
	o := &options{}
	fs.StringVar(&o.waggle, "waggle", "bin/waggle", "the waggle to measure")
	fs.IntVar(&o.repeats, "repeats", 5, "measurements of each kind by each path")
	fs.IntVar(&o.seconds, "seconds", 2, "how long each of them takes")
	sizes := fs.String("services", "1,1000,10000", "how many services there are, numbers with commas")
	names := fs.String("dataplanes", "direct,waggle,waggle-sockets,waggle-xdp,nftables,iptables", "what forwards, names with commas: some of "+nameList(dataplanes))
	kinds := fs.String("measure", nameList(measurements), "what is measured, names with commas")
	fs.BoolVar(&o.asJSON, "json", false, "print JSON, every measurement in it, instead of the table")
	fs.BoolVar(&o.quiet, "quiet", false, "do not say on stderr how far it is")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	if o.repeats < 1 || o.seconds < 1 {
		return nil, fmt.Errorf("-repeats %d -seconds %d: write 1 or more", o.repeats, o.seconds)
	}
	for _, word := range strings.Split(*sizes, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 1 || n > 50000 {
			return nil, fmt.Errorf("-services %s: write numbers from 1 to 50000", *sizes)
		}
		o.services = append(o.services, n)
	}
	var err error
	if o.dataplanes, err = named(dataplanes, *names); err != nil {
		return nil, fmt.Errorf("-dataplanes: %w", err)
	}
	if o.measurements, err = named(measurements, *kinds); err != nil {
		return nil, fmt.Errorf("-measure: %w", err)
	}
	return o, nil
}

func (d *dataplane) String() string  { return d.name }
func (m measurement) String() string { return m.name }

func nameList[T fmt.Stringer](all []T) string {
	var names []string
	for _, x := range all {
		names = append(names, x.String())
	}
	return strings.Join(names, ",")
}

// named are those of all that words with commas name.
func named[T fmt.Stringer](all []T, words string) (some []T, err error) {
	for _, word := range strings.Split(words, ",") {
		n := len(some)
		for _, x := range all {
			if x.String() == word {
				some = append(some, x)
			}
		}
		if len(some) == n {
			return nil, fmt.Errorf("%q: write some of %s", word, nameList(all))
		}
	}
	return some, nil
}

// measured does everything, and prints what came of it, as far as it came. What was
// built is removed, also when a signal ends it.
func measured(ctx context.Context, o *options) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("it makes network namespaces and loads eBPF programs: run it as root")
	}
	r := &bench{options: o}
	defer func() { err = errors.Join(err, r.end()) }()
	f, err := r.all(ctx)
	if f == nil || len(f.Samples) == 0 {
		return err
	}
	if o.asJSON {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", " ")
		return errors.Join(err, e.Encode(f))
	}
	return errors.Join(err, printTable(os.Stdout, f))
}
