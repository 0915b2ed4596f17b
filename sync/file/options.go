// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"strings"
)

// argument says whether an option of ipvsadm takes one.
type argument uint8

const (
	none argument = iota
	needed
	maybe // the next word, unless it is an option
)

// option is one option of ipvsadm, by its long name. Those with a refusal are
// understood, so that their argument is not taken for something else.
type option struct {
	short    string // "-t"; "" if there is only the long form
	long     string // "--tcp-service"
	arg      argument
	on       string // the commands it belongs to: "-A", "-a" or both
	refusal  string // what is wrong with it; "" if it is taken
	remedy   string
	isMethod bool // says how packets are forwarded, as -m does
}

// name is how messages call the option.
func (o *option) name() string {
	if o.short == "" {
		return o.long
	}
	return o.short
}

// options are those of ipvsadm 1.31 that describe a service or a server
// (ipvsadm(8)).
func options() []option {
	return []option{
		{short: "-t", long: "--tcp-service", arg: needed, on: "-A -a"},
		{short: "-u", long: "--udp-service", arg: needed, on: "-A -a"},
		{long: "--sctp-service", arg: needed, on: "-A -a"},
		{short: "-s", long: "--scheduler", arg: needed, on: "-A"},
		{short: "-r", long: "--real-server", arg: needed, on: "-a"},
		{short: "-m", long: "--masquerading", on: "-a", isMethod: true},
		{short: "-w", long: "--weight", arg: needed, on: "-a"},
		{short: "-p", long: "--persistent", arg: maybe, on: "-A"},
		{short: "-M", long: "--netmask", arg: needed, on: "-A"},
		{short: "-b", long: "--sched-flags", arg: needed, on: "-A"},
		{short: "-o", long: "--ops", on: "-A"},
		{short: "-x", long: "--u-threshold", arg: needed, on: "-a"},
		{short: "-y", long: "--l-threshold", arg: needed, on: "-a"},

		{short: "-f", long: "--fwmark-service", arg: needed, on: "-A -a", refusal: "services by firewall mark are not yet supported", remedy: "write a service for each address, with -t or -u"},
		{short: "-g", long: "--gatewaying", on: "-a", isMethod: true, refusal: "forwarding by route (-g) is not yet supported", remedy: "write -m instead"},
		{short: "-i", long: "--ipip", on: "-a", isMethod: true, refusal: "forwarding by tunnel (-i) is not yet supported", remedy: "write -m instead"},
		{long: "--pe", arg: needed, on: "-A", refusal: "persistence engines are not yet supported", remedy: "remove it"},
		{short: "-6", long: "--ipv6", on: "-A", refusal: "services by firewall mark are not yet supported, and only they have this option", remedy: "write a service for each address, with -t or -u"},
		{long: "--tun-type", arg: needed, on: "-a", refusal: "tunnels are not yet supported", remedy: "remove it and write -m instead of -i"},
		{long: "--tun-port", arg: needed, on: "-a", refusal: "tunnels are not yet supported", remedy: "remove it and write -m instead of -i"},
		{long: "--tun-nocsum", on: "-a", refusal: "tunnels are not yet supported", remedy: "remove it and write -m instead of -i"},
		{long: "--tun-csum", on: "-a", refusal: "tunnels are not yet supported", remedy: "remove it and write -m instead of -i"},
		{long: "--tun-remcsum", on: "-a", refusal: "tunnels are not yet supported", remedy: "remove it and write -m instead of -i"},
	}
}

// optionTable finds options by either name.
func optionTable() map[string]*option {
	out := make(map[string]*option)
	for _, o := range options() {
		out[o.long] = &o
		if o.short != "" {
			out[o.short] = &o
		}
	}
	return out
}

// command is one line of ipvsadm text.
type command struct {
	line int
	name string // "-A" or "-a"
	// values are the arguments of the options that are taken, by option.name.
	values map[string]string
	// method says that an option for forwarding is there, taken or not.
	method bool
	// unserved says that an option names the service in a refused way.
	unserved bool
}

// commandName returns "-A", "-a", or what is wrong with the first word of a
// line.
func commandName(word string) (string, *problem) {
	switch word {
	case "-A", "--add-service":
		return "-A", nil
	case "-a", "--add-server":
		return "-a", nil
	case "$", "ipvsadm":
		return "", &problem{"this is a command line, not a line of ipvsadm -S -n", "remove the line, or what comes before -A or -a"}
	case "IP", "Prot", "TCP", "UDP", "SCTP", "FWM", "->":
		return "", &problem{"this is the output of ipvsadm -L", "write that of ipvsadm -S -n"}
	}
	return "", &problem{fmt.Sprintf("%q is neither -A nor -a", word), "write the services as ipvsadm -S -n prints them"}
}

// parseCommand reads one line, which is not empty. It returns nil if the line
// is no command.
func (p *ipvsadmReader) parseCommand(line int, words []string) *command {
	name, bad := commandName(words[0])
	if bad != nil {
		p.addProblem(line, "", bad)
		return nil
	}
	c := &command{line: line, name: name, values: make(map[string]string)}
	seen := make(map[string]bool)
	for words = words[1:]; len(words) > 0; {
		words = p.parseOption(c, words, seen)
	}
	return c
}

// parseOption reads the option at the head of words and returns the rest.
func (p *ipvsadmReader) parseOption(c *command, words []string, seen map[string]bool) []string {
	word := words[0]
	words = words[1:]
	value, attached := "", false
	if strings.HasPrefix(word, "--") {
		word, value, attached = strings.Cut(word, "=")
	}
	o := p.table[word]
	if o == nil {
		p.add(c.line, word, "unknown option", "write the services as ipvsadm -S -n prints them")
		return words
	}
	if o.arg != none && !attached && len(words) > 0 && (o.arg == needed || !strings.HasPrefix(words[0], "-")) {
		value, attached, words = words[0], true, words[1:]
	}
	c.method = c.method || o.isMethod
	switch {
	case o.refusal != "":
		p.add(c.line, o.name(), o.refusal, o.remedy)
		c.unserved = c.unserved || o.long == "--fwmark-service"
	case !strings.Contains(o.on, c.name):
		p.add(c.line, o.name(), "does not belong to "+c.name, "remove it")
	case seen[o.long]:
		p.add(c.line, o.name(), "given twice", "remove one of them")
	case o.arg == needed && !attached:
		p.add(c.line, o.name(), "needs a value", "write the services as ipvsadm -S -n prints them")
	case o.arg == none && attached:
		p.add(c.line, o.name(), "takes no value", "remove what follows =")
	default:
		c.values[o.name()] = value
	}
	seen[o.long] = true
	return words
}
