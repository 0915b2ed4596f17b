// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package ebpf

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
	"github.com/waggle-lb/waggle/maps/info"
)

// goldenDir has the recordings of the Linux kernel's IPVS: what ipvsadm was
// told, and what then became of connections and counters.
const goldenDir = "../../lb/sched/testdata/golden"

// recording is one case: steps in the order in which they were done.
type recording struct {
	Name, Family, Proto, Vip, Sched string
	Vport                           uint16
	SchedFlags                      string `json:"sched_flags"`
	SvcArgs                         string `json:"svc_args"`
	Sysctl                          map[string]string
	Steps                           []recorded
}

// recorded is one step. D and Waggle are ours: which difference this is, of
// those in docs/ipvs-compatibility.md, and what waggle does instead.
type recorded struct {
	Op            string
	ID            int
	Name, Value   string
	Src           string
	Sport, Dport  uint16
	Dst           string
	Picked        string
	Hold          bool
	How           string
	MS            int
	Dest          netip.AddrPort
	Weight        uint16
	UThresh       uint32 `json:"u_thresh"`
	LThresh       uint32 `json:"l_thresh"`
	List          []listed
	Out           string
	D             string
	Waggle        string
	WaggleList    []listed `json:"waggle_list"`
	WaggleEntries string   `json:"waggle_out"`
}

type listed struct {
	Dest             netip.AddrPort
	Weight           uint16
	Active, Inactive uint64
}

func recordings(t *testing.T) map[string][]recording {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(goldenDir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no recordings in %s: %v", goldenDir, err)
	}
	out := make(map[string][]recording)
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var g struct{ Cases []recording }
		if err := json.Unmarshal(b, &g); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		out[strings.TrimSuffix(filepath.Base(file), ".json")] = g.Cases
	}
	return out
}

// replay is a case on its way. kernel says that the service has the options that
// make waggle do as the kernel does.
type replay struct {
	*rig
	rec     recording
	kernel  bool
	svc     *lb.Service // as it was applied
	sysctl  map[string]string
	conns   map[int]*goldenConn
	differs map[string]int // steps of each difference
	waited  bool           // for entries to end

	began         time.Time     // of the case, when the clock had been moved by before
	before, moved time.Duration // moved since
	passed        time.Duration // since, as the recording says
}

// goldenConn is a connection of a case.
type goldenConn struct {
	client, vip netip.AddrPort
	server      netip.AddrPort // that has it
	reset       bool           // by an answer of waggle
}

// Every pick and every count of every recording, by packets through the loaded
// programs: twice, with the options that switch waggle's differences off, and
// as waggle does by default, where each step that differs says so.
func TestPicksAndCountsOfTheKernel(t *testing.T) {
	differs, cases := make(map[string]int), 0
	for name, list := range recordings(t) {
		for _, kernel := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/as the kernel=%v", name, kernel), func(t *testing.T) {
				r := newRig(t, map[string]uint32{"flows": 1 << 15, "slots": 1 << 18})
				for _, c := range list {
					cases++
					t.Run(c.Name, func(t *testing.T) {
						r.t = t
						p := &replay{rig: r, rec: c, kernel: kernel, differs: differs}
						p.run()
					})
				}
				r.t = t
			})
		}
	}
	if want := 2 * 138; cases != want {
		t.Errorf("%d cases were replayed, want %d", cases, want)
	}
	want := map[string]int{"D1": 11, "D2": 6, "D3": 264}
	if d := cmp.Diff(want, differs); d != "" {
		t.Errorf("steps in which waggle differs (-want +got):\n%s", d)
	}
}

// timeouts are those that a case was recorded with, if not the usual ones.
func (p *replay) timeouts() info.Timeouts {
	to := Timeouts{}
	switch {
	case p.rec.Name == "set-timeouts":
		to = Timeouts{TCP: 100 * time.Second, TCPFin: 20 * time.Second}
	case p.expires():
		to = Timeouts{UDP: 10 * time.Second}
	}
	out, err := to.byState()
	p.do(err)
	return out
}

// setClocks tells readers and the sweeper what the case's time is.
func (p *replay) setClocks() {
	clocks, err := clocksOf(p.d.gen)
	p.do(err)
	p.do(p.d.gen.Hz.Get(&clocks.Hz))
	clocks.Timeouts = p.timeouts()
	p.do(clocks.Put(p.d.gen.Meta))
}

// Advance moves the clock and has the sweeper walk once. The time that the replay
// itself takes is part of it: the recordings' stands still between steps.
func (p *replay) Advance(by time.Duration) {
	p.passed += by
	p.rig.Advance(max(0, p.passed-time.Since(p.began)-p.moved))
	p.moved = p.offset - p.before
	p.setClocks()
}

// expires says that entries end while the case runs.
func (p *replay) expires() bool { return strings.Contains(p.rec.Name, "expiry") }

func (p *replay) run() {
	p.sysctl = map[string]string{"conn_reuse_mode": "1", "expire_nodest_conn": "0", "expire_quiescent_template": "0"}
	for k, v := range p.rec.Sysctl {
		p.sysctl[k] = v
	}
	p.conns = make(map[int]*goldenConn)
	p.began, p.before = time.Now(), p.offset
	p.svc = p.service()
	p.apply(p.svc)
	p.follow()
	p.setClocks()
	for i, s := range p.rec.Steps {
		p.step(i, s)
		if p.t.Failed() {
			return
		}
	}
	p.apply()
	for range 2 { // entries end in two steps
		p.Advance(20 * time.Minute)
	}
}

// service is the case's service before its first step.
func (p *replay) service() *lb.Service {
	family := lb.IPv4
	if p.rec.Family == "ipv6" {
		family = lb.IPv6
	}
	svc := &lb.Service{ID: lb.ServiceID{Name: p.rec.Name, Family: family}, Scheduler: p.rec.Sched}
	for _, at := range p.frontends() {
		svc.Frontends = append(svc.Frontends, lb.Frontend{Addr: at, Protocol: p.proto()})
	}
	p.setFlags(svc, p.rec.SchedFlags)
	p.setArgs(svc, p.rec.SvcArgs)
	p.setOptions(svc)
	return svc
}

func (p *replay) proto() lb.Protocol {
	if p.rec.Proto == "udp" {
		return lb.UDP
	}
	return lb.TCP
}

// frontends are one, but for a case by firewall mark: there each destination
// is one of the service's.
func (p *replay) frontends() (out []netip.AddrPort) {
	if p.rec.Vip != "fwmark" {
		return []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(p.rec.Vip), p.rec.Vport)}
	}
	for _, s := range p.rec.Steps {
		if s.Op == "conn" {
			at := netip.AddrPortFrom(netip.MustParseAddr(s.Dst), s.Dport)
			if !slices.Contains(out, at) {
				out = append(out, at)
			}
		}
	}
	return out
}

func (p *replay) setFlags(svc *lb.Service, flags string) {
	if flags == "" {
		return
	}
	var err error
	svc.SchedulerFlags, err = sched.ParseFlags(svc.Scheduler, strings.Split(flags, ","))
	p.do(err)
}

// setArgs takes what ipvsadm was told of the service.
func (p *replay) setArgs(svc *lb.Service, args string) {
	words := strings.Fields(args)
	for i := 0; i < len(words); i++ {
		value := func() string { i++; return words[i] }
		switch words[i] {
		case "-s":
			svc.Scheduler = value()
			svc.SchedulerFlags = 0
		case "-b":
			p.setFlags(svc, value())
		case "-o":
			svc.OnePacket = true
		case "-p":
			seconds, err := time.ParseDuration(value() + "s")
			p.do(err)
			svc.Affinity.Timeout = seconds
			svc.Affinity.Prefix = uint8(svc.ID.Family.Bits())
		case "-M":
			svc.Affinity.Prefix = p.prefix(value())
		default:
			p.t.Fatalf("argument %q", words[i])
		}
	}
}

// prefix reads "255.255.255.0" or "64".
func (p *replay) prefix(mask string) (bits uint8) {
	if a, err := netip.ParseAddr(mask); err == nil {
		for _, b := range a.As4() {
			for ; b&0x80 != 0; b <<= 1 {
				bits++
			}
		}
		return bits
	}
	_, err := fmt.Sscan(mask, &bits)
	p.do(err)
	return bits
}

// setOptions switches the differences off, as the sysctls of the case say what
// the kernel does.
func (p *replay) setOptions(svc *lb.Service) {
	if !p.kernel {
		return
	}
	svc.Reuse, svc.Lost = lb.ReuseFinished, lb.LostDrop
	if p.sysctl["conn_reuse_mode"] == "0" {
		svc.Reuse = lb.ReuseNever
	}
	if p.sysctl["expire_nodest_conn"] == "1" {
		svc.Lost = lb.LostReset
	}
	svc.Affinity.Quiesced = p.sysctl["expire_quiescent_template"] == "0"
}
