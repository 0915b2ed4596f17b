// SPDX-License-Identifier: Apache-2.0

package sysctl

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSetWritesWhatDiffers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "number")
	for _, c := range []struct {
		before  string
		setting Setting
		changed bool
		after   string
	}{
		{"7\n", Setting{Value: 8}, true, "8\n"},
		{"7\n", Setting{Value: 7}, false, "7\n"},
		{"7\n", Setting{Value: 6}, true, "6\n"},
		{"7\n", Setting{Value: 6, AtLeast: true}, false, "7\n"},
		{"7\n", Setting{Value: 8, AtLeast: true}, true, "8\n"},
		{"00\n", Setting{Value: -9}, true, "-9\n"},
	} {
		if err := os.WriteFile(file, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		c.setting.Path = file
		changed, err := c.setting.Set()
		after, err2 := os.ReadFile(file)
		if err != nil || err2 != nil || changed != c.changed || string(after) != c.after {
			t.Errorf("%q, %+v: changed %v, %q after, %v", c.before, c.setting, changed, after, errors.Join(err, err2))
		}
	}
}

func TestSetSaysWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	words := filepath.Join(dir, "words")
	if err := os.WriteFile(words, []byte("many\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		setting Setting
		is      error
		want    string
	}{
		{Setting{Path: filepath.Join(dir, "none"), Value: 1}, fs.ErrNotExist, "this kernel does not have it"},
		{Sysctl("net/netfilter/nf_conntrack_none", 1), fs.ErrNotExist, "set net.netfilter.nf_conntrack_none=1: no such file or directory: this kernel has it once the module nf_conntrack is loaded"},
		{Setting{Path: words, Value: 1}, nil, "not a number"},
	} {
		changed, err := c.setting.Set()
		if err == nil || changed || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: changed %v, %v: want %q", c.setting, changed, err, c.want)
		}
	}
}

func TestConntrackLimit(t *testing.T) {
	for _, c := range []struct{ perCore, least, cpus, want int }{
		{0, 131072, 8, 0},
		{32768, 131072, 1, 131072},
		{32768, 131072, 4, 131072},
		{32768, 131072, 8, 262144},
		{32768, 131072, 512, 1048576},
		{32768, 0, 2, 65536},
		{32768, 2000000, 8, 2000000}, // kube-proxy: the bound is for what CPUs make of it
	} {
		if got := (Conntrack{MaxPerCore: c.perCore, Min: c.least}).limit(c.cpus); got != c.want {
			t.Errorf("%+v: got %d", c, got)
		}
	}
}

func TestConntrackSettings(t *testing.T) {
	text := func(settings []Setting) string {
		var words []string
		for _, s := range settings {
			words = append(words, s.String())
		}
		return strings.Join(words, " ")
	}
	if got := text(Conntrack{}.Settings(4)); got != "" {
		t.Errorf("of nothing %s", got)
	}
	all := Conntrack{MaxPerCore: 32768, Min: 131072, Established: 24 * time.Hour, CloseWait: time.Hour, UDP: 30*time.Second + time.Millisecond, UDPStream: 2 * time.Minute, Liberal: true}
	want := "net.netfilter.nf_conntrack_max=131072 /sys/module/nf_conntrack/parameters/hashsize=32768 net.netfilter.nf_conntrack_tcp_timeout_established=86400 " +
		"net.netfilter.nf_conntrack_tcp_timeout_close_wait=3600 net.netfilter.nf_conntrack_udp_timeout=30 net.netfilter.nf_conntrack_udp_timeout_stream=120 net.netfilter.nf_conntrack_tcp_be_liberal=1"
	if got := text(all.Settings(4)); got != want {
		t.Errorf("got %s", got)
	}
}

func TestCountCPUs(t *testing.T) {
	for set, want := range map[string]int{"0": 1, "0-3": 4, "0-1,4,6-7": 5} {
		if n, err := countCPUs(set); err != nil || n != want {
			t.Errorf("%s: %d, %v", set, n, err)
		}
	}
	for _, set := range []string{"", "a", "3-1", "0-"} {
		if n, err := countCPUs(set); err == nil {
			t.Errorf("%q: %d", set, n)
		}
	}
	if n, err := CPUs(); err != nil || n < 1 {
		t.Errorf("this machine: %d, %v", n, err)
	}
}
