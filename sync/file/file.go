// SPDX-License-Identifier: Apache-2.0

// Package file reads services from a file and follows its changes.
//
// A file is either waggle's YAML or the text that `ipvsadm -S -n` prints; its
// content tells which. A file is taken or refused as a whole: docs/services.md
// says what each format may hold.
package file

import (
	"bytes"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// APIVersion and Kind head every YAML file.
const (
	APIVersion = "waggle.dev/v1alpha1"
	Kind       = "ServiceList"
)

// Format is how a file is written.
type Format uint8

// The two formats.
const (
	YAML Format = iota + 1
	IPVSADM
)

// String returns "YAML" or "ipvsadm -S -n".
func (f Format) String() string {
	if f == IPVSADM {
		return "ipvsadm -S -n"
	}
	return "YAML"
}

// Options are what a file does not say itself.
type Options struct {
	// DefaultScheduler is for YAML services that name none; "" is "rr". The
	// ipvsadm text has its own default, wlc.
	DefaultScheduler string
}

// Config is the content of one file. It must not be changed.
type Config struct {
	Format Format
	// Services stand in the order of the file, IPv4 before IPv6 where one
	// entry has both. Their backends stand newest first as everywhere in
	// package lb: the last line of a new service is the first backend.
	Services []*lb.Service
}

// Parse reads the content of a file; name is for messages only. What it
// refuses, it refuses with an *Errors. The same input always gives the same
// result; no file is read. Safe for concurrent use.
func Parse(name string, data []byte, opts Options) (*Config, error) {
	if opts.DefaultScheduler == "" {
		opts.DefaultScheduler = "rr"
	}
	if _, err := sched.Find(opts.DefaultScheduler); err != nil {
		return nil, fmt.Errorf("default scheduler: %w", err)
	}
	errs := &collector{file: name}
	data = bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")) // a UTF-8 byte order mark
	cfg := &Config{Format: detect(data)}
	switch {
	case !checkText(data, errs):
	case cfg.Format == 0:
		errs.add(0, "", "no services", "to serve none, write "+noServices)
	case cfg.Format == IPVSADM:
		cfg.Services = parseIPVSADM(data, errs)
	default:
		cfg.Services = parseYAML(data, opts, errs)
	}
	if err := errs.err(); err != nil {
		return nil, err
	}
	return cfg, nil
}

// noServices is a whole file that serves nothing. It takes these words, so
// that a write that was cut short never takes every service away.
const noServices = "{apiVersion: " + APIVersion + ", kind: " + Kind + ", services: []}"

// Snapshot returns the services as a snapshot.
func (c *Config) Snapshot() (*lb.Snapshot, error) {
	return lb.NewSnapshot(c.Services...)
}

// detect tells the formats apart by the first line that says something; 0 if
// none does. No YAML that waggle takes begins with an option or a command.
func detect(data []byte) Format {
	for line := range bytes.Lines(data) {
		words := bytes.Fields(line)
		if len(words) == 0 || words[0][0] == '#' {
			continue
		}
		first := string(words[0])
		option := len(first) > 1 && first[0] == '-' && first != "---"
		if option || slices.Contains([]string{"$", "ipvsadm", "IP", "Prot", "TCP", "UDP", "SCTP", "FWM", "->"}, first) {
			return IPVSADM
		}
		return YAML
	}
	return 0
}

// checkText refuses what is no text, with its line: the YAML parser knows
// only that there is something.
func checkText(data []byte, errs *collector) bool {
	line := 1
	for i := 0; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 || r < ' ' && r != '\t' && r != '\n' && r != '\r' || r == 0x7f {
			errs.add(line, "", fmt.Sprintf("byte 0x%02x is not text", data[i]), "write the file in UTF-8")
			return false
		}
		if r >= 0x80 && r < 0xa0 && r != 0x85 || r == 0xfffe || r == 0xffff {
			errs.add(line, "", fmt.Sprintf("character %U is not text", r), "remove it")
			return false
		}
		if r == '\n' {
			line++
		}
		i += size
	}
	return true
}

// index remembers what must be unique in a file, and where it was first.
type index struct {
	names     map[string]int
	frontends map[lb.Frontend]int
}

func newIndex() *index {
	return &index{names: make(map[string]int), frontends: make(map[lb.Frontend]int)}
}

// addFrontend returns what is wrong with f if the file has it already.
func (x *index) addFrontend(f lb.Frontend, line int) *problem {
	if first, ok := x.frontends[f]; ok {
		return &problem{fmt.Sprintf("duplicate VIP %s, first in line %d", f, first), "remove one of them"}
	}
	x.frontends[f] = line
	return nil
}

// addName returns what is wrong with name if the file has it already.
func (x *index) addName(name string, line int) *problem {
	if first, ok := x.names[name]; ok {
		return &problem{fmt.Sprintf("duplicate service name %q, first in line %d", name, first), "choose another name"}
	}
	x.names[name] = line
	return nil
}
