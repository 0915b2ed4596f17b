// SPDX-License-Identifier: Apache-2.0

package ipvsadm

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
)

// View is what a list shows of each server.
type View uint8

// The views, by ipvsadm's options.
const (
	Connections    View = iota // none
	Statistics                 // --stats: since the beginning
	Rates                      // --rate: of a second
	Thresholds                 // --thresholds
	PersistentConn             // --persistent-conn
)

// DefaultTableSize is how many buckets IPVS's table of connections has unless its
// module is told otherwise.
const DefaultTableSize = 4096

// ListOptions are the options of a list.
type ListOptions struct {
	View View
	// Exact prints numbers of Statistics and Rates in full (--exact).
	Exact bool
	// Unsorted keeps the order of services and servers (--nosort).
	Unsorted bool
	// TableSize is IPVS's number of buckets in the title. With 0 there is no
	// title, as where ipvsadm lists a single service.
	TableSize int
}

// list is how a view looks.
type list struct {
	head string
	// server is what a row says of a server; count prints its counters.
	server func(k *Server, count func(uint64) string) string
	// traffic, if not nil, is what rows say instead, those of services in the
	// place of their scheduler.
	traffic func(total, rate Traffic) Traffic
}

// Titles and rows have the blanks at their ends that those of ipvsadm have.
const remote = "  -> RemoteAddress:Port"

var lists = map[View]list{
	Connections: {
		head: "Prot LocalAddress:Port Scheduler Flags\n" + remote + "           Forward Weight ActiveConn InActConn\n",
		server: func(k *Server, count func(uint64) string) string {
			return fmt.Sprintf(" %-7s %-6d %-10s %-10s", "Masq", k.Weight, count(k.Active), count(k.Inactive))
		},
	},
	Statistics: {
		head:    "Prot LocalAddress:Port               Conns   InPkts  OutPkts  InBytes OutBytes\n" + remote + "\n",
		traffic: func(total, _ Traffic) Traffic { return total },
	},
	Rates: {
		head:    "Prot LocalAddress:Port                 CPS    InPPS   OutPPS    InBPS   OutBPS\n" + remote + "\n",
		traffic: func(_, rate Traffic) Traffic { return rate },
	},
	Thresholds: {
		head: "Prot LocalAddress:Port            Uthreshold Lthreshold ActiveConn InActConn \n" + remote + "\n",
		server: func(k *Server, count func(uint64) string) string {
			return fmt.Sprintf(" %-10d %-10d %-10s %-10s", k.Upper, k.Lower, count(k.Active), count(k.Inactive))
		},
	},
	PersistentConn: {
		head: "Prot LocalAddress:Port            Weight    PersistConn ActiveConn InActConn \n" + remote + "\n",
		server: func(k *Server, count func(uint64) string) string {
			return fmt.Sprintf(" %-9d %-11s %-10s %-10s", k.Weight, count(k.Persistent), count(k.Active), count(k.Inactive))
		},
	},
}

// List writes services as ipvsadm -L -n does.
func List(w io.Writer, services []Service, o ListOptions) error {
	view, ok := lists[o.View]
	if !ok {
		return fmt.Errorf("unknown view %d", o.View)
	}
	out := bufio.NewWriter(w)
	if o.TableSize > 0 {
		fmt.Fprintf(out, "IP Virtual Server version 1.2.1 (size=%d)\n", o.TableSize)
	}
	fmt.Fprint(out, view.head)
	services = slices.Clone(services)
	if !o.Unsorted {
		sortServices(services)
	}
	for _, s := range services {
		if !o.Unsorted {
			s.Servers = sorted(s.Servers)
		}
		view.write(out, &s, o.Exact)
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	return nil
}

// write leaves errors to the flush.
func (l *list) write(w *bufio.Writer, s *Service, exact bool) {
	name := fmt.Sprintf("%-4s %s", s.Frontend.Protocol, s.Frontend.Addr)
	if l.traffic != nil {
		fmt.Fprintf(w, "%-33s%s\n", name, l.traffic(s.Total, s.Rate).columns(s.Shared, exact))
	} else {
		fmt.Fprintf(w, "%s %s\n", name, s.scheduling())
	}
	for _, k := range s.Servers {
		cells := ""
		if l.traffic != nil {
			cells = l.traffic(k.Total, k.Rate).columns(s.Shared, exact)
		} else {
			cells = l.server(&k, s.count)
		}
		fmt.Fprintf(w, "  -> %-28s%s\n", k.Addr, cells)
	}
}

// count prints a counter of a server.
func (s *Service) count(n uint64) string {
	if s.Shared {
		return "-"
	}
	return strconv.FormatUint(n, 10)
}

// scheduling is what a list says of a service.
func (s *Service) scheduling() string {
	out := s.Scheduler
	if f := s.flags(); f != "" {
		out += " (" + f + ")"
	}
	out += s.persistence(" persistent", " mask")
	if s.OnePacket {
		out += " ops"
	}
	return out
}

func (t Traffic) columns(shared, exact bool) (out string) {
	for _, n := range []uint64{t.Connections, t.InPackets, t.OutPackets, t.InBytes, t.OutBytes} {
		switch {
		case shared:
			out += fmt.Sprintf(" %8s", "-")
		case exact:
			out += fmt.Sprintf(" %8d", n)
		default:
			out += short(n)
		}
	}
	return out
}

// short is a number of nine columns: those that fill eight are cut.
func short(n uint64) string {
	for _, unit := range []struct {
		below, size uint64
		letter      string
	}{
		{1e9, 1e3, "K"}, {1e11, 1e6, "M"}, {1e14, 1e9, "G"},
	} {
		switch {
		case n < 1e8:
			return fmt.Sprintf("%9d", n)
		case n < unit.below:
			return fmt.Sprintf("%8d%s", n/unit.size, unit.letter)
		}
	}
	return fmt.Sprintf("%8dT", n/1e12)
}
