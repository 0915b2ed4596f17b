// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/waggle-lb/waggle/sync/kube/proxyconfig"
)

const kubeProxyHeader = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"

// kubeadmConfig is what kubeadm writes into the ConfigMap.
const kubeadmConfig = "../../sync/kube/proxyconfig/testdata/config.conf"

func writeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// parseRun does what `waggle run` does before it runs.
func parseRun(t *testing.T, args ...string) (*runFlags, *pflag.FlagSet, error) {
	t.Helper()
	return parseAs(t, "waggle run", args...)
}

// parseAs does it by another name.
func parseAs(t *testing.T, name string, args ...string) (*runFlags, *pflag.FlagSet, error) {
	t.Helper()
	flags := new(runFlags)
	e := newTestEnv(nil)
	e.commandLine([]string{name})
	cmd := runCommand(&e.env, flags)
	if err := cmd.ParseFlags(args); err != nil {
		return flags, cmd.Flags(), err
	}
	proxy := &flags.kube.proxy
	if err := proxy.read(cmd.Flags()); err != nil {
		return flags, cmd.Flags(), err
	}
	if err := proxy.follow(cmd.Flags()); err != nil {
		return flags, cmd.Flags(), err
	}
	return flags, cmd.Flags(), flags.validate()
}

func TestCommandLineOfKubeProxy(t *testing.T) {
	for _, c := range []struct{ argv, want string }{
		{"/usr/local/bin/kube-proxy --config=x", "run --config=x"},
		{"kube-proxy", "run"},
		{"/usr/local/bin/waggle services", "services"},
		{"waggle", ""},
		{"", ""},
	} {
		var e env
		if got := strings.Join(e.commandLine(strings.Fields(c.argv)), " "); got != c.want || e.kubeProxy != strings.HasPrefix(c.want, "run") {
			t.Errorf("%s: %q, %v", c.argv, got, e.kubeProxy)
		}
	}
}

func TestKubeadmsFileIsFollowed(t *testing.T) {
	t.Setenv("NODE_NAME", "")
	flags, set, err := parseRun(t, "--config="+kubeadmConfig, "--hostname-override=Node-1")
	if err != nil {
		t.Fatal(err)
	}
	tr := &flags.kube.translation
	got := words(strings.ToLower(tr.NodeName), tr.Scheduler, tr.NodePortAddresses, tr.DetectLocal, tr.MasqueradeAll, flags.timeouts.TCP, flags.kube.proxy.settings.MinSyncPeriod, flags.kube.proxy.settings.SyncPeriod,
		flags.kube.proxy.config.ClientConnection.Kubeconfig, set.Lookup("metrics-bind-address").Value)
	want := "node-1 rr [primary 127.0.0.0/8] {ClusterCIDR [10.244.0.0/16] } false 24h0m0s 0s 30s /var/lib/kube-proxy/kubeconfig.conf 127.0.0.1:10249"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestWhichNameOfTheNodeCounts(t *testing.T) {
	named, unnamed := writeFile(t, kubeProxyHeader+"hostnameOverride: file\n"), writeFile(t, kubeProxyHeader)
	for _, c := range []struct {
		env  string
		args []string
		want string
	}{
		{"env", []string{"--config", named, "--hostname-override", "flag"}, "flag"},
		{"env", []string{"--config", named}, "file"},
		{"env", []string{"--config", named, "--hostname-override="}, "file"},
		{"env", []string{"--config", unnamed}, "env"},
		{"", []string{"--config", unnamed}, ""}, // package kube takes the host name
		{"env", []string{"--kubeconfig", "k"}, "env"},
		{"env", []string{"--kubeconfig", "k", "--hostname-override", "flag"}, "flag"},
	} {
		t.Setenv("NODE_NAME", c.env)
		t.Setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
		flags, _, err := parseRun(t, c.args...)
		if err != nil || flags.kube.translation.NodeName != c.want {
			t.Errorf("%s %q: %q, want %q, %v", c.env, c.args, flags.kube.translation.NodeName, c.want, err)
		}
	}
}

// By kube-proxy's name its flags are the file's, but for those of logging and the API
// server; else what is on the command line counts. waggle's own flags count always.
func TestFlagsBesideTheFile(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
	file := writeFile(t, kubeProxyHeader+"mode: ipvs\nipvs: {scheduler: wlc, tcpTimeout: 10m}\nclusterCIDR: 10.1.0.0/16\nnodePortAddresses: [all]\nlogging: {verbosity: 1}\nmetricsBindAddress: 127.0.0.1:1\n")
	args := []string{"--config", file, "--cluster-cidr", "10.2.0.0/16", "--masquerade-all", "--ipvs-scheduler", "sh", "--ipvs-tcp-timeout", "1m", "--kubeconfig", "k", "--nodeport-addresses", "primary",
		"--metrics-bind-address", "127.0.0.1:2", "-v", "4", "--master", "https://192.0.2.9", "--socket-lb", "host", "--external-ips", "192.0.2.0/24"}
	for _, c := range []struct{ name, want string }{
		{"kube-proxy", "wlc 10m0s [10.1.0.0/16] false  [all] 127.0.0.1:1 4 https://192.0.2.9 host [192.0.2.0/24]"},
		{"waggle", "sh 1m0s [10.2.0.0/16] true k [primary] 127.0.0.1:2 4 https://192.0.2.9 host [192.0.2.0/24]"},
	} {
		flags, set, err := parseAs(t, c.name, args...)
		if err != nil {
			t.Fatal(err)
		}
		tr, config := &flags.kube.translation, flags.kube.proxy.config
		got := words(flags.scheduler, flags.timeouts.TCP, tr.DetectLocal.ClusterCIDRs, tr.MasqueradeAll, config.ClientConnection.Kubeconfig, tr.NodePortAddresses,
			set.Lookup("metrics-bind-address").Value, config.Logging.Verbosity, flags.kube.proxy.master, flags.sockets.lb, tr.ExternalIPs)
		if got != c.want {
			t.Errorf("%s: got  %s\nwant %s", c.name, got, c.want)
		}
		for _, flag := range []string{"cluster-cidr", "masquerade-all", "ipvs-scheduler", "ipvs-tcp-timeout", "kubeconfig", "nodeport-addresses", "metrics-bind-address"} {
			if warned(flags, "--"+flag+" has no effect beside --config, as in kube-proxy: write ") != (c.name == "kube-proxy") {
				t.Errorf("%s: --%s in %q", c.name, flag, flags.kube.proxy.warnings)
			}
		}
		for _, flag := range []string{"v", "master", "socket-lb", "external-ips"} {
			if warned(flags, "--"+flag+" ") {
				t.Errorf("%s: --%s counts, and has a warning in %q", c.name, flag, flags.kube.proxy.warnings)
			}
		}
		if flags, _, err = parseAs(t, c.name, "--config", file, "--scheduler", "rr"); err != nil || flags.scheduler != "rr" {
			t.Errorf("%s: waggle's own flag: scheduler %s, %v", c.name, flags.scheduler, err)
		}
	}
}

// A flag counts as if its field were written, whichever section that is in; and is refused
// as it would be without a file.
func TestFlagsOverTheFile(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
	nft := writeFile(t, kubeProxyHeader+"mode: nftables\nnftables: {minSyncPeriod: 1s}\niptables: {syncPeriod: 1m}\n")
	flags, _, err := parseRun(t, "--config", nft, "--iptables-min-sync-period", "2s", "--masquerade-all", "--ipvs-strict-arp")
	if s := flags.kube.proxy.settings; err != nil || s.MinSyncPeriod != 2*time.Second || s.SyncPeriod != 30*time.Second || !s.MasqueradeAll || !warned(flags, "--ipvs-strict-arp has no effect: mode nftables") {
		t.Errorf("%+v, %v, %q", s, err, flags.kube.proxy.warnings)
	}
	for _, c := range []struct{ args, want string }{
		{"--proxy-mode best", "--proxy-mode: \"best\": write one of"},
		{"--iptables-min-sync-period 1h", "nftables.minSyncPeriod: 1h0m0s: write no more than syncPeriod"},
		{"--pod-bridge-interface cni0", "--pod-bridge-interface is for --detect-local-mode BridgeInterface"},
	} {
		if _, _, err := parseRun(t, append([]string{"--config", nft}, strings.Fields(c.args)...)...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
	if _, _, err := parseAs(t, "kube-proxy", "--kubeconfig=k", "--detect-local-mode=NodeCIDR", "--cluster-cidr=10.1.0.0/16"); err != nil {
		t.Errorf("kube-proxy takes networks of pods in any mode: %v", err)
	}
}

func warned(flags *runFlags, part string) bool {
	return slices.ContainsFunc(flags.kube.proxy.warnings, func(w string) bool { return strings.Contains(w, part) })
}

// words has a space between all values.
func words(values ...any) string { return strings.TrimSuffix(fmt.Sprintln(values...), "\n") }

// kube-proxy's command line of before there was a file.
func TestFlagsOfKubeProxy(t *testing.T) {
	flags, _, err := parseRun(t, "--kubeconfig=k", "--proxy-mode=nftables", "--masquerade-all", "--iptables-min-sync-period=2s", "--cluster-cidr=10.1.0.0/16,fd00::/48", "--conntrack-max-per-core=0",
		"--nodeport-addresses=primary", "--nodeport-addresses=192.0.2.0/24", "--bind-address=192.0.2.7", "--oom-score-adj=-998", "--kube-api-qps=50", "--feature-gates=A=true", "--log-text-split-stream", "--metrics-port=1", "--v=2", "--ipvs-strict-arp", "--iptables-localhost-nodeports=false")
	if err != nil {
		t.Fatal(err)
	}
	tr, c := &flags.kube.translation, flags.kube.proxy.config
	got := words(tr.MasqueradeAll, flags.kube.proxy.settings.MinSyncPeriod, tr.DetectLocal.ClusterCIDRs, *c.Conntrack.MaxPerCore, tr.NodePortAddresses, tr.NoLocalhost, tr.Address, *c.OOMScoreAdj, c.ClientConnection.QPS, c.Logging.Verbosity)
	if want := "true 2s [10.1.0.0/16 fd00::/48] 0 [primary 192.0.2.0/24] false 192.0.2.7 -998 50 2"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, want := range []string{"--feature-gates has no effect: ", "--log-text-split-stream has no effect", "--metrics-port has no effect: write --metrics-bind-address",
		"--ipvs-strict-arp has no effect: mode nftables does not read it", "--iptables-localhost-nodeports has no effect: mode nftables"} {
		if !warned(flags, want) {
			t.Errorf("no %q in %q", want, flags.kube.proxy.warnings)
		}
	}
	if len(flags.kube.proxy.warnings) != 5 {
		t.Errorf("more warnings than 5: %q", flags.kube.proxy.warnings)
	}
}

func TestNodePortsOfFlagsHaveAWord(t *testing.T) {
	for _, c := range []struct{ name, args, want string }{
		{"kube-proxy", "", "--nodeport-addresses: none: node ports are served at the Node's primary addresses; kube-proxy's mode iptables"},
		{"kube-proxy", "--nodeport-addresses=primary", ""},
		{"waggle", "", ""},
		{"waggle", "--nodeport-addresses=192.0.2.0/24", "--nodeport-addresses: no network of IPv6"},
		{"waggle", "--nodeport-addresses=192.0.2.0/24,fd00::/8", ""},
	} {
		flags, _, err := parseAs(t, c.name, append([]string{"--kubeconfig=k"}, strings.Fields(c.args)...)...)
		if got := strings.Join(flags.kube.proxy.warnings, "\n"); err != nil || !strings.HasPrefix(got, c.want) || c.want == "" && got != "" {
			t.Errorf("%s %s: %v, %q", c.name, c.args, err, got)
		}
	}
}

func TestTimeoutsOfFlows(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"--kubeconfig k", "24h0m0s 0s 0s"},
		{"--kubeconfig k --conntrack-tcp-timeout-established 2h --conntrack-udp-timeout-stream 2m", "2h0m0s 0s 2m0s"},
		{"--kubeconfig k --conntrack-tcp-timeout-established 0", "24h0m0s 0s 0s"},
		{"--kubeconfig k --conntrack-tcp-timeout-established 2h --ipvs-tcp-timeout 1h --ipvs-tcpfin-timeout 1m --ipvs-udp-timeout 1s", "1h0m0s 1m0s 1s"},
		{"--services f", "0s 0s 0s"},
		{"--services f --ipvs-tcp-timeout 1h --ipvs-tcpfin-timeout 1m --ipvs-udp-timeout 1s", "1h0m0s 1m0s 1s"},
	} {
		flags, _, err := parseRun(t, strings.Fields(c.args)...)
		if got := fmt.Sprint(flags.timeouts.TCP, flags.timeouts.TCPFin, flags.timeouts.UDP); err != nil || got != c.want {
			t.Errorf("%s: %s, %v", c.args, got, err)
		}
	}
}

// As kube-proxy's IPVS mode has it, mh hashes ports; by waggle's own flag it does not.
func TestSchedulerOfIPVS(t *testing.T) {
	for _, c := range []struct{ args, want string }{
		{"", "rr 0"}, {"--ipvs-scheduler wlc", "wlc 0"}, {"--ipvs-scheduler mh", "mh 2"}, {"--ipvs-scheduler mh --scheduler mh", "mh 0"}, {"--ipvs-scheduler sh --scheduler rr", "rr 0"},
		{"--ipvs-scheduler sh --proxy-mode iptables", "rr 0"},
	} {
		flags, _, err := parseRun(t, strings.Fields("--kubeconfig k "+c.args)...)
		tr := &flags.kube.translation
		if got := fmt.Sprint(tr.Scheduler, " ", tr.SchedulerFlags); err != nil || got != c.want {
			t.Errorf("%s: %s, %v", c.args, got, err)
		}
	}
}

func TestWhatThisMachineIsSetTo(t *testing.T) {
	for _, c := range []struct{ lines, machine, oom string }{
		{"", "net.netfilter.nf_conntrack_max=131072 /sys/module/nf_conntrack/parameters/hashsize=32768 net.netfilter.nf_conntrack_tcp_timeout_established=86400 net.netfilter.nf_conntrack_tcp_timeout_close_wait=3600",
			"/proc/self/oom_score_adj=-999"},
		{"oomScoreAdj: 7\nmode: ipvs\nipvs: {strictARP: true}\nconntrack: {maxPerCore: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s, tcpBeLiberal: true, udpTimeout: 1s, udpStreamTimeout: 2s}",
			"net.netfilter.nf_conntrack_udp_timeout=1 net.netfilter.nf_conntrack_udp_timeout_stream=2 net.netfilter.nf_conntrack_tcp_be_liberal=1 net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2",
			"/proc/self/oom_score_adj=7"},
	} {
		f, err := proxyconfig.Parse("x", []byte(kubeProxyHeader+c.lines))
		if err != nil {
			t.Fatal(err)
		}
		s := proxyconfig.SettingsOf(f.Config)
		machine, oom := nodeSettings(f.Config, &s, 4)
		if got := strings.Trim(fmt.Sprint(machine), "[]"); got != c.machine {
			t.Errorf("%q: got %s", c.lines, got)
		}
		if got := strings.Trim(fmt.Sprint(oom), "[]"); got != c.oom {
			t.Errorf("%q: got %s", c.lines, got)
		}
	}
}

func TestConfigsThatAreRefused(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	const own = "apiVersion: waggle.dev/v1alpha1\nkind: Configuration\n"
	for _, c := range []struct {
		text, args, want string
		code             int
	}{
		{kubeProxyHeader + "ipvs:\n  scheduler: best\n", "", "config.conf:4: ipvs.scheduler: ", exitFailed},
		{kubeProxyHeader + "clientConnection: {kubeconfig: k}\n", "--services f", "is for an API server: write one of them", exitUsage},
		{kubeProxyHeader, "", "no services: write --services FILE, or --kubeconfig FILE", exitUsage},
		{"kind: Config\n", "", "write kubeproxy.config.k8s.io/v1alpha1 and KubeProxyConfiguration", exitFailed},
		{"apiVersion: waggle.dev/v1alpha1\nkind: ServiceList\n", "", "write waggle.dev/v1alpha1 and Configuration", exitFailed},
		{own + "sockets: host\n", "--services f", "config.conf:3: sockets: no setting has this name", exitFailed},
		{own + "socket-lb: host\nsocket-lb: off\n", "--services f", "config.conf:4: socket-lb: appears twice", exitFailed},
		{own + "config: x\n", "--services f", "config.conf:3: config: no setting has this name", exitFailed},
		{own + "flows-max: many\n", "--services f", "config.conf:3: flows-max: ", exitFailed},
		{own + "flows-max: {a: 1}\n", "--services f", "config.conf:3: flows-max: write a plain value", exitFailed},
		{own + "services:\n", "", "config.conf:3: services: empty", exitFailed},
		{own + "services: f\nmasquerade-all: true\n", "", "--masquerade-all is for an API server", exitUsage},
	} {
		e := newTestEnv(nil)
		code := execute(t.Context(), &e.env, append([]string{"run", "--config", writeFile(t, c.text)}, strings.Fields(c.args)...))
		if code != c.code || !strings.Contains(e.err.String(), c.want) {
			t.Errorf("%q %s: exit %d, %s, want %q", c.text, c.args, code, &e.err, c.want)
		}
	}
	e := newTestEnv(nil)
	if code := execute(t.Context(), &e.env, []string{"run", "--config", "none"}); code != exitFailed || !strings.Contains(e.err.String(), "--config: open none") {
		t.Errorf("a file that is missing: exit %d, %s", code, &e.err)
	}
}

func TestWagglesOwnFile(t *testing.T) {
	file := writeFile(t, "apiVersion: waggle.dev/v1alpha1\nkind: Configuration\nservices: /etc/rules\nsocket-lb: host\nexclude-devices: [docker*, virbr0]\nflows-max: 4096\nipvs-tcp-timeout: 1h\nscheduler: sh\n")
	flags, _, err := parseRun(t, "--config", file, "--scheduler", "wlc")
	if err != nil {
		t.Fatal(err)
	}
	got := words(flags.services, flags.sockets.lb, flags.excludeDevices, flags.sizes.FlowsMax, flags.timeouts.TCP, flags.scheduler)
	if want := "/etc/rules host [docker* virbr0] 4096 1h0m0s wlc"; got != want {
		t.Errorf("got %s", got)
	}
}

func TestConfigz(t *testing.T) {
	flags, _, err := parseRun(t, "--config="+kubeadmConfig, "--hostname-override=Node-1")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(flags.kube.proxy.configz())
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]struct {
		APIVersion, Kind, HostnameOverride, Mode, ClusterCIDR string
		NodePortAddresses                                     []string
		Conntrack                                             struct{ MaxPerCore int }
		IPVS                                                  struct{ Scheduler string }
	}
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	c, ok := got["kubeproxy.config.k8s.io"]
	if line := fmt.Sprint(c); !ok || len(got) != 1 || line != "{kubeproxy.config.k8s.io/v1alpha1 KubeProxyConfiguration node-1 iptables 10.244.0.0/16 [primary 127.0.0.0/8] {32768} {rr}}" {
		t.Errorf("got %s of %s", line, text)
	}
}

func TestFlagsThatRunNothing(t *testing.T) {
	e := newTestEnv(nil)
	if got := e.transcript(t, "run", "--version"); !strings.Contains(got, "\nwaggle v0.1.0\n") || !strings.Contains(got, "exit 0") {
		t.Errorf("--version: %s", got)
	}
	if got := e.transcript(t, "run", "--cleanup"); !strings.Contains(got, "removed "+defaultPinPath+"/flows\n") || !strings.Contains(got, "exit 0") {
		t.Errorf("--cleanup: %s", got)
	}
	if got := e.transcript(t, "run", "--cleanup", "--pin-path", "/other"); !strings.Contains(got, "nothing to remove at /other") {
		t.Errorf("--cleanup of another place: %s", got)
	}
	out := filepath.Join(t.TempDir(), "config.conf")
	if got := e.transcript(t, "run", "--proxy-mode", "ipvs", "--ipvs-scheduler", "sh", "--metrics-bind-address", "127.0.0.1:9", "--write-config-to", out); !strings.Contains(got, "exit 0") {
		t.Errorf("--write-config-to: %s", got)
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	f, err := proxyconfig.Parse(out, text)
	if err != nil || f.Config.IPVS.Scheduler != "sh" || f.Config.MetricsBindAddress != "127.0.0.1:9" {
		t.Errorf("%v of:\n%s", err, text)
	}
}

func TestVerbosityIsTheLevel(t *testing.T) {
	for v, most := range map[string]slog.Level{"0": slog.LevelInfo, "3": -3, "4": slog.LevelDebug, "4000000000": -100} {
		flags, _, err := parseRun(t, "--services", "f", "-v", v)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		log := flags.kube.proxy.log(&env{stderr: &out})
		if !log.Enabled(t.Context(), most) || log.Enabled(t.Context(), most-1) {
			t.Errorf("-v %s: not up to %d", v, most)
		}
	}
}

// By kube-proxy's name flags have its defaults; waggle's own leave the machine as it is.
func TestDefaultsOfFlags(t *testing.T) {
	for _, c := range []struct {
		kubeProxy bool
		want      string
	}{
		{true, "iptables [primary 127.0.0.0/8] 24h0m0s 4 1"},
		{false, "ebpf [] 24h0m0s 0 0"},
	} {
		e := newTestEnv(nil)
		e.kubeProxy = c.kubeProxy
		flags := new(runFlags)
		cmd := runCommand(&e.env, flags)
		if err := cmd.ParseFlags([]string{"--kubeconfig", "k"}); err != nil {
			t.Fatal(err)
		}
		proxy := &flags.kube.proxy
		if err := proxy.follow(cmd.Flags()); err != nil {
			t.Fatal(err)
		}
		if err := flags.validate(); err != nil {
			t.Fatal(err)
		}
		machine, oom := nodeSettings(proxy.config, &proxy.settings, 1)
		if got := words(proxy.config.Mode, proxy.settings.NodePortAddresses, flags.timeouts.TCP, len(machine), len(oom)); got != c.want {
			t.Errorf("%v: got %s, want %s", c.kubeProxy, got, c.want)
		}
	}
}

// Every flag that stands for a field is there, and takes the field's default.
func TestEveryFieldHasItsFlag(t *testing.T) {
	cmd := runCommand(&newTestEnv(nil).env, new(runFlags))
	for _, field := range proxyconfig.Fields {
		flag := cmd.Flags().Lookup(field.Flag)
		if field.Flag == "" || field.Elsewhere {
			continue
		}
		if flag == nil || flag.Hidden != (field.Use == proxyconfig.Ignored) {
			t.Errorf("--%s of %s: %+v", field.Flag, field.Path, flag)
		}
	}
}

func TestTheProcessEndsWithAnotherConfiguration(t *testing.T) {
	path := writeFile(t, kubeProxyHeader)
	var out bytes.Buffer
	f := proxyFlags{file: path, content: []byte(kubeProxyHeader)}
	task := f.tasks(slog.New(slog.NewTextHandler(&out, nil)))[0]
	ended := make(chan error, 1)
	go func() { ended <- task.Run(t.Context()) }()
	select {
	case <-task.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	// The same again, and gone for a while: no reason to end.
	for _, change := range []func() error{
		func() error { return os.WriteFile(path+".new", []byte(kubeProxyHeader), 0o600) },
		func() error { return os.Rename(path+".new", path) },
		func() error { return os.Remove(path) },
		func() error { return os.WriteFile(path, []byte(kubeProxyHeader), 0o600) },
	} {
		if err := change(); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		case <-time.After(200 * time.Millisecond):
		}
	}
	if err := os.WriteFile(path, []byte(kubeProxyHeader+"mode: ipvs\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if !reflect.DeepEqual(err, errConfigChanged) {
			t.Errorf("ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it goes on")
	}
	if tasks := new(proxyFlags).tasks(nil); tasks != nil {
		t.Errorf("without a file %v", tasks)
	}
}

// One that changed between being read and being watched is seen, too.
func TestAConfigurationThatChangedBeforeItIsWatched(t *testing.T) {
	f := proxyFlags{file: writeFile(t, kubeProxyHeader+"mode: ipvs\n"), content: []byte(kubeProxyHeader)}
	if err := f.tasks(slog.New(slog.DiscardHandler))[0].Run(t.Context()); !reflect.DeepEqual(err, errConfigChanged) {
		t.Errorf("ended with %v", err)
	}
}
