// SPDX-License-Identifier: Apache-2.0

package proxyconfig

import (
	"fmt"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const header = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A file that says nothing is kube-proxy's defaults; kubeadm's writes them as such.
func TestKubeadmsFileIsTheDefaults(t *testing.T) {
	got, err := Parse("config.conf", read(t, "config.conf"))
	if err != nil {
		t.Fatal(err)
	}
	c := got.Config
	if c.ClientConnection.Kubeconfig != "/var/lib/kube-proxy/kubeconfig.conf" || c.ClusterCIDR != "10.244.0.0/16" {
		t.Errorf("kubeconfig %q, clusterCIDR %q", c.ClientConnection.Kubeconfig, c.ClusterCIDR)
	}
	want := []string{"config.conf:58: nodePortAddresses: none: node ports are served at the Node's primary addresses; kube-proxy's mode iptables serves them at all: write all for that"}
	if diff := cmp.Diff(want, got.Warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
	empty, err := Parse("empty", []byte(header))
	if err != nil {
		t.Fatal(err)
	}
	c.ClientConnection.Kubeconfig, c.ClusterCIDR = "", ""
	if diff := cmp.Diff(text(t, empty.Config), text(t, c)); diff != "" {
		t.Errorf("kubeadm's file says more than nothing (-nothing +kubeadm):\n%s", diff)
	}
	for _, part := range []string{
		"mode: iptables", "healthzBindAddress: 0.0.0.0:10256", "metricsBindAddress: 127.0.0.1:10249", "oomScoreAdj: -999", "configSyncPeriod: 15m0s",
		"maxPerCore: 32768", "min: 131072", "tcpEstablishedTimeout: 24h0m0s", "tcpCloseWaitTimeout: 1h0m0s", "qps: 5", "burst: 10", "detectLocalMode: ClusterCIDR",
	} {
		if !strings.Contains(text(t, c), part+"\n") {
			t.Errorf("no %q in:\n%s", part, text(t, c))
		}
	}
}

func text(t *testing.T, c *Configuration) string {
	t.Helper()
	out, err := YAML(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// What --write-config-to writes is read again as it was, without a word.
func TestWhatIsWrittenReadsAsItWas(t *testing.T) {
	c := Default(true)
	c.Mode, c.IPVS.Scheduler, c.NodePortAddresses = ModeIPVS, "wlc", []string{"primary"}
	again, err := Parse("x", []byte(text(t, c)))
	if err != nil {
		t.Fatal(err)
	}
	complete(c)
	if diff := cmp.Diff(text(t, c), text(t, again.Config)); diff != "" || len(again.Warnings) > 0 {
		t.Errorf("warnings %q, (-want +got):\n%s", again.Warnings, diff)
	}
}

// served are settings in which each row differs in what its field is for.
var served = []struct {
	lines string // beside the header
	want  string // NAME=VALUE; NAME=VALUE, of Settings or of the configuration
}{
	{"", "Scheduler=; TCP=24h0m0s; TCPFin=0s; UDP=0s; MasqueradeAll=false; StrictARP=false; SyncPeriod=30s; MinSyncPeriod=0s; NodePortAddresses=[primary 127.0.0.0/8]; NoLocalhost=false; ClusterCIDRs=[]; Device=; Address=invalid IP"},
	{"iptables: {localhostNodePorts: false}", "NodePortAddresses=[]; NoLocalhost=true"},
	{"iptables: {localhostNodePorts: false}\nnodePortAddresses: [all]", "NodePortAddresses=[all]; NoLocalhost=true"},
	{"nodePortAddresses: [192.0.2.0/24, primary]", "NodePortAddresses=[192.0.2.0/24 primary]; NoLocalhost=false"},
	{"mode: nftables", "NodePortAddresses=[]; NoLocalhost=false"},
	{"mode: ipvs", "NodePortAddresses=[]; NoLocalhost=false; Scheduler=; SyncPeriod=30s; MinSyncPeriod=0s"},
	{"iptables: {masqueradeAll: true, syncPeriod: 1m, minSyncPeriod: 2s}", "MasqueradeAll=true; SyncPeriod=1m0s; MinSyncPeriod=2s"},
	{"mode: nftables\niptables: {masqueradeAll: true}", "MasqueradeAll=false"},
	{"mode: nftables\nnftables: {masqueradeAll: true, syncPeriod: 1m, minSyncPeriod: 2s}", "MasqueradeAll=true; SyncPeriod=1m0s; MinSyncPeriod=2s"},
	{"mode: ipvs\niptables: {masqueradeAll: true}\nipvs: {syncPeriod: 1m, minSyncPeriod: 2s, scheduler: wlc, strictARP: true, tcpTimeout: 15m, tcpFinTimeout: 2m, udpTimeout: 5m}",
		"MasqueradeAll=true; SyncPeriod=1m0s; MinSyncPeriod=2s; Scheduler=wlc; StrictARP=true; TCP=15m0s; TCPFin=2m0s; UDP=5m0s"},
	{"mode: ebpf\nipvs: {scheduler: sh, tcpTimeout: 15m}\niptables: {minSyncPeriod: 3s}", "Scheduler=sh; TCP=15m0s; MinSyncPeriod=3s; NodePortAddresses=[]"},
	{"ipvs: {scheduler: sh, tcpTimeout: 15m, strictARP: true}", "Scheduler=; TCP=24h0m0s; StrictARP=false"},
	{"conntrack: {tcpEstablishedTimeout: 2h, udpStreamTimeout: 90s500ms}", "TCP=2h0m0s; UDP=1m30s"},
	{"conntrack: {tcpEstablishedTimeout: 0s}", "TCP=0s"},
	{"conntrack: {tcpEstablishedTimeout: 9000h}", "TCP=744h0m0s"},
	{"clusterCIDR: '10.244.1.0/16, fd00:10:244::/56'", "ClusterCIDRs=[10.244.0.0/16 fd00:10:244::/56]"},
	{"detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0, interfaceNamePrefix: veth}", "Device=cni0"},
	{"detectLocalMode: InterfaceNamePrefix\ndetectLocal: {bridgeInterface: cni0, interfaceNamePrefix: veth}", "Device=veth"},
	{"detectLocalMode: NodeCIDR\ndetectLocal: {bridgeInterface: cni0}", "Device="},
	{"bindAddress: 192.0.2.9", "Address=192.0.2.9; healthzBindAddress=0.0.0.0:10256"},
	{"bindAddress: '2001:db8::9'", "Address=2001:db8::9; healthzBindAddress=[::]:10256; metricsBindAddress=[::1]:10249"},
	{"bindAddress: '::'", "Address=invalid IP; metricsBindAddress=[::1]:10249"},
	{"healthzBindAddress: 192.0.2.1\nmetricsBindAddress: '::'", "healthzBindAddress=192.0.2.1:10256; metricsBindAddress=[::]:10249"},
	{"bindAddressHardFail: true\nenableProfiling: true\nhostnameOverride: n1", "bindAddressHardFail=true; enableProfiling=true; hostnameOverride=n1"},
	{"clientConnection: {kubeconfig: k, acceptContentTypes: a, contentType: application/json, qps: 50, burst: 100}",
		"clientConnection.kubeconfig=k; clientConnection.acceptContentTypes=a; clientConnection.contentType=application/json; clientConnection.qps=50; clientConnection.burst=100"},
	{"oomScoreAdj: 5\nconntrack: {maxPerCore: 0, min: 7, tcpCloseWaitTimeout: 3m, tcpBeLiberal: true, udpTimeout: 30s}",
		"oomScoreAdj=5; conntrack.maxPerCore=0; conntrack.min=7; conntrack.tcpCloseWaitTimeout=3m0s; conntrack.tcpBeLiberal=true; conntrack.udpTimeout=30s"},
	{"logging: {verbosity: 4}", "logging.verbosity=4"},
	{"ipvs: {excludeCIDRs: [192.0.2.0/24]}", "ipvs.excludeCIDRs=192.0.2.0/24"},
}

func TestServedFields(t *testing.T) {
	for _, c := range served {
		f, err := Parse("config.conf", []byte(header+c.lines+"\n"))
		if err != nil {
			t.Errorf("%q: %v", c.lines, err)
			continue
		}
		s := reflect.ValueOf(SettingsOf(f.Config))
		for want := range strings.SplitSeq(c.want, "; ") {
			name, value, _ := strings.Cut(want, "=")
			got := ""
			if v := s.FieldByName(name); v.IsValid() {
				got = fmt.Sprint(v.Interface())
			} else {
				got = NewValue(f.Config, name).String()
			}
			if got != value {
				t.Errorf("%q: %s is %q, want %q", c.lines, name, got, value)
			}
		}
	}
}

// Each field that is served has a row above that sets it.
func TestEveryServedFieldHasARow(t *testing.T) {
	var rows strings.Builder
	for _, c := range served {
		var doc map[string]any
		if err := yaml.Unmarshal([]byte(c.lines), &doc); err != nil {
			t.Fatal(err)
		}
		for _, l := range leaves(doc) {
			rows.WriteString(l.path + "\n")
		}
	}
	for _, f := range Fields {
		if f.Use != Ignored && !strings.Contains(rows.String(), f.Path+"\n") {
			t.Errorf("no row sets %s", f.Path)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ lines, want string }{
		{"mode: kernelspace", `config.conf:3: mode: "kernelspace": write one of ebpf, iptables, ipvs, nftables`},
		{"bindAddress: eth0", `config.conf:3: bindAddress: "eth0": write an address`},
		{"healthzBindAddress: localhost:1", `config.conf:3: healthzBindAddress: "localhost:1" is not ADDRESS:PORT`},
		{"metricsBindAddress: 127.0.0.1:0", `config.conf:3: metricsBindAddress: "127.0.0.1:0" is not ADDRESS:PORT`},
		{"iptables: {masqueradeBit: 32}", "config.conf:3: iptables.masqueradeBit: 32: write 0 to 31"},
		{"nftables:\n  masqueradeBit: -1", "config.conf:4: nftables.masqueradeBit: -1: write 0 to 31"},
		{"oomScoreAdj: -1001", "config.conf:3: oomScoreAdj: -1001: write -1000 to 1000"},
		{"conntrack: {maxPerCore: -1}", "config.conf:3: conntrack.maxPerCore: -1: write 0 to"},
		{"conntrack: {min: -1}", "config.conf:3: conntrack.min: -1: write 0 to"},
		{"clientConnection: {burst: -1}", "config.conf:3: clientConnection.burst: -1: write 0 to"},
		{"clientConnection: {contentType: text/plain}", `config.conf:3: clientConnection.contentType: "text/plain": write application/vnd.kubernetes.protobuf or application/json`},
		{"iptables: {syncPeriod: -1s}", "config.conf:3: iptables.syncPeriod: -1s: write more than 0"},
		{"ipvs: {minSyncPeriod: 31s}", "config.conf:3: ipvs.minSyncPeriod: 31s: write no more than syncPeriod, 30s"},
		{"nftables: {minSyncPeriod: -1s}", "config.conf:3: nftables.minSyncPeriod: -1s: write 0 or more"},
		{"conntrack: {udpTimeout: -1s}", "config.conf:3: conntrack.udpTimeout: -1s: write 0 or more"},
		{"ipvs: {tcpTimeout: 1500ms}", "config.conf:3: ipvs.tcpTimeout: 1.5s: write whole seconds"},
		{"ipvs: {scheduler: lblc}", "config.conf:3: ipvs.scheduler: "},
		{"ipvs: {excludeCIDRs: [192.0.2.1]}", `config.conf:3: ipvs.excludeCIDRs: network "192.0.2.1": write one`},
		{"clusterCIDR: 10.244.0.0", `config.conf:3: clusterCIDR: network "10.244.0.0": write one`},
		{"nodePortAddresses: [primary, primary]", `config.conf:3: nodePortAddresses: "primary" appears twice`},
		{"nodePortAddresses: [eth0]", `config.conf:3: nodePortAddresses: "eth0": write primary, localhost, all or`},
		{"detectLocalMode: Guess", `config.conf:3: detectLocalMode: "Guess": write ClusterCIDR`},
		{"detectLocalMode: BridgeInterface\ndetectLocal: {interfaceNamePrefix: veth}", `config.conf:4: detectLocal.bridgeInterface: "": with detectLocalMode BridgeInterface`},
		{"conntrack: {min: many}\noomScoreAdj: low", "config.conf:3: conntrack.min: "},
		{"conntrack: {min: many}\noomScoreAdj: low", "config.conf:4: oomScoreAdj: "},
		{"ipvs:\n  udpTimeout: soon", "config.conf:4: ipvs.udpTimeout: "},
		{"mode: [", "config.conf: "},
	} {
		_, err := Parse("config.conf", []byte(header+c.lines+"\n"))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.lines, err, c.want)
		}
	}
	for _, c := range []struct{ text, want string }{
		{"", "no configuration: write apiVersion: kubeproxy.config.k8s.io/v1alpha1"},
		{"- a\n", "no configuration"},
		{"apiVersion: kubeproxy.config.k8s.io/v1\nkind: KubeProxyConfiguration\n", "config.conf:1: apiVersion: apiVersion kubeproxy.config.k8s.io/v1"},
	} {
		if _, err := Parse("config.conf", []byte(c.text)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.text, err, c.want)
		}
	}
}

// idle are values that have no effect, one for each field that is ignored, and those of
// modes that do not read them.
var idle = []struct{ lines, want string }{
	{"featureGates: {IPv6DualStack: true}", "config.conf:3: featureGates.IPv6DualStack: true has no effect: waggle has none of kube-proxy's feature gates"},
	{"logging: {format: json}", "config.conf:3: logging.format: json has no effect"},
	{"logging: {flushFrequency: 1s}", "config.conf:3: logging.flushFrequency: 1s has no effect"},
	{"logging: {vmodule: [{filePattern: a, verbosity: 1}]}", "config.conf:3: logging.vmodule: [map[filePattern:a verbosity:1]] has no effect"},
	{"logging: {options: {text: {splitStream: true}}}", "config.conf:3: logging.options.text.splitStream: true has no effect"},
	{"logging: {options: {text: {infoBufferSize: 1Ki}}}", "config.conf:3: logging.options.text.infoBufferSize: 1Ki has no effect"},
	{"logging: {options: {json: {splitStream: true}}}", "config.conf:3: logging.options.json.splitStream: true has no effect"},
	{"logging: {options: {json: {infoBufferSize: 1Ki}}}", "config.conf:3: logging.options.json.infoBufferSize: 1Ki has no effect"},
	{"showHiddenMetricsForVersion: '1.36'", "config.conf:3: showHiddenMetricsForVersion: 1.36 has no effect"},
	{"iptables: {masqueradeBit: 15}", "config.conf:3: iptables.masqueradeBit: 15 has no effect: waggle marks no packets"},
	{"nftables: {masqueradeBit: 15}", "config.conf:3: nftables.masqueradeBit: 15 has no effect: waggle marks no packets"},
	{"winkernel: {enableDSR: true}", "config.conf:3: winkernel.enableDSR: true has no effect: it is for Windows"},
	{"configSyncPeriod: 1m", "config.conf:3: configSyncPeriod: 1m has no effect"},
	{"portRange: 1-2", "config.conf:3: portRange: 1-2 has no effect"},
	{"windowsRunAsService: true", "config.conf:3: windowsRunAsService: true has no effect"},
	{"ipvs: {scheduler: wlc}", "config.conf:3: ipvs.scheduler: wlc has no effect: mode iptables does not read it: it is for ipvs, ebpf"},
	{"mode: ipvs\niptables: {localhostNodePorts: false, minSyncPeriod: 5s}", "config.conf:4: iptables.minSyncPeriod: 5s has no effect"},
	{"nftables: {masqueradeAll: true}", "config.conf:3: nftables.masqueradeAll: true has no effect"},
	{"typo: 1", `config.conf:3: typo: unknown field "typo": it is ignored`},
	{"iptables:\n  typo: 1", `config.conf:4: iptables.typo: unknown field "iptables.typo": it is ignored`},
	{"clusterCIDR: 10.0.0.0/8\nclusterCIDR: 10.0.0.0/16", "the last one counts"},
	{"nodePortAddresses: [192.0.2.0/24]", "config.conf:3: nodePortAddresses: no network of IPv6: node ports are served at all of its addresses"},
	{"nodePortAddresses: ['fd00::/8']", "config.conf:3: nodePortAddresses: no network of IPv4"},
	{"mode: ipvs", "nodePortAddresses: none: node ports are served at the Node's primary addresses; kube-proxy's mode ipvs serves them at all"},
}

func TestWarnings(t *testing.T) {
	for _, c := range idle {
		f, err := Parse("config.conf", []byte(header+c.lines+"\n"))
		if err != nil {
			t.Errorf("%q: %v", c.lines, err)
			continue
		}
		if !slices.ContainsFunc(f.Warnings, func(w string) bool { return strings.Contains(w, c.want) }) {
			t.Errorf("%q: got %q, want %q", c.lines, f.Warnings, c.want)
		}
	}
	for _, f := range Fields {
		if f.Use == Ignored && !slices.ContainsFunc(idle, func(c struct{ lines, want string }) bool { return strings.Contains(c.want, ": "+f.Path) }) {
			t.Errorf("no row writes %s", f.Path)
		}
	}
}

// What is written and is the default anyway, or for no family alone, is worth no word.
func TestNoWarnings(t *testing.T) {
	for _, lines := range []string{
		"mode: nftables", "mode: ebpf", "mode: nftables\nnodePortAddresses: [192.0.2.0/24, 'fd00::/8']", "mode: ipvs\nnodePortAddresses: [all]\nipvs: {scheduler: wlc}",
		"mode: nftables\niptables: {masqueradeBit: 14, syncPeriod: 30s, minSyncPeriod: 1s, localhostNodePorts: true}\nlogging: {format: text, flushFrequency: 5000000000}",
	} {
		f, err := Parse("config.conf", []byte(header+lines+"\n"))
		if err != nil || len(f.Warnings) > 0 {
			t.Errorf("%q: %v, %q", lines, err, f.Warnings)
		}
	}
}

// The list has every field of kube-proxy's type, once, and nothing else.
func TestFieldsAreTheType(t *testing.T) {
	var want []string
	fieldsOf(reflect.TypeFor[Configuration](), "", &want)
	var got []string
	flags := make(map[string]bool)
	for _, f := range Fields {
		got = append(got, f.Path)
		if f.Flag != "" && flags[f.Flag] {
			t.Errorf("--%s is there twice", f.Flag)
		}
		flags[f.Flag] = true
		if f.Text == "" && (f.Use == Ignored || f.Flag != "" && !f.Elsewhere) {
			t.Errorf("%s says nothing", f.Path)
		}
		if f.Use != Ignored {
			NewValue(new(Configuration), f.Path) // panics if it is none
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields (-type +list):\n%s", diff)
	}
}

// fieldsOf lists the paths of a type that the list has: what is for Windows is one.
func fieldsOf(of reflect.Type, path string, out *[]string) {
	for i := range of.NumField() {
		f := of.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		at := strings.TrimPrefix(path+"."+name, ".")
		switch {
		case name == "" && f.Name == "TypeMeta" || name == "-":
		case name == "":
			fieldsOf(f.Type, path, out)
		case at == "winkernel" || f.Type.Kind() != reflect.Struct || !strings.HasSuffix(f.Type.Name(), "Configuration") && !strings.HasSuffix(f.Type.Name(), "Options"):
			*out = append(*out, at)
		default:
			fieldsOf(f.Type, at, out)
		}
	}
}

func TestValuesOfFlags(t *testing.T) {
	for _, c := range []struct{ path, text, want string }{
		{"clusterCIDR", "10.0.0.0/8", "10.0.0.0/8"},
		{"iptables.masqueradeAll", "true", "true"},
		{"iptables.localhostNodePorts", "false", "false"},
		{"iptables.syncPeriod", "1m", "1m0s"},
		{"conntrack.min", "0x10", "16"},
		{"clientConnection.qps", "2.5", "2.5"},
		{"logging.verbosity", "4", "4"},
		{"nodePortAddresses", "all,localhost", "all,localhost"},
	} {
		v := NewValue(new(Configuration), c.path)
		if err := v.Set(c.text); err != nil || v.String() != c.want {
			t.Errorf("%s: %q became %q, %v", c.path, c.text, v, err)
		}
	}
	for _, path := range []string{"iptables.masqueradeAll", "iptables.localhostNodePorts", "iptables.syncPeriod", "conntrack.min", "clientConnection.qps", "logging.verbosity"} {
		c := Default(true)
		v := NewValue(c, path)
		before := v.String()
		if err := v.Set("soon"); err == nil || v.String() != before {
			t.Errorf("%s: took a word: %v, was %q, is %q", path, err, before, v)
		}
	}
	v := NewValue(new(Configuration), "nodePortAddresses")
	if err := v.Set("primary"); err != nil {
		t.Fatal(err)
	}
	if err := v.Set("192.0.2.0/24"); err != nil || v.String() != "primary,192.0.2.0/24" {
		t.Errorf("written twice a list became %q, %v", v, err)
	}
	if err := v.Replace("localhost"); err != nil || v.String() != "localhost" {
		t.Errorf("replaced a list became %q, %v", v, err)
	}
	n := NewValue(Default(true), "conntrack.min")
	if err := n.Replace("few"); err == nil || n.String() != "131072" {
		t.Errorf("replaced by a word a number became %q, %v", n, err)
	}
}

func TestFlagsOfNFTables(t *testing.T) {
	c := Default(true)
	c.Mode, c.IPTables.MasqueradeAll, c.IPTables.SyncPeriod.Duration = ModeNFTables, true, time.Minute
	FollowFlags(c)
	if s := SettingsOf(c); !s.MasqueradeAll || s.SyncPeriod != time.Minute || s.Address != (netip.Addr{}) {
		t.Errorf("got %+v", s)
	}
}
