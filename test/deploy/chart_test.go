// SPDX-License-Identifier: Apache-2.0

package deploy_test

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// everything is a value for each flag.
var everything = []string{
	"clusterCIDR={10.244.0.0/16,fd00::/48}", "detectLocal.mode=ClusterCIDR", "detectLocal.bridgeInterface=cni0", "detectLocal.interfaceNamePrefix=veth",
	"nodePortAddresses={primary,192.0.2.0/24}", "externalIPs={198.51.100.0/24}", "scheduler=wlc", "masqueradeAll=true", "proxyName=other",
	"excludeDevices={docker*}", "sockets.mode=host", "extraArgs={--drain-timeout=10m}", "maps.flowsMin=65536", "maps.halfOpenMax=4096",
	"maps.affinityMax=4096", "maps.directMax=4096", "maps.fragmentsMax=1024", "maps.heldFragmentsMax=256", "kubeProxy.leftovers=remove",
	"kubeProxy.config.configMap=kube-proxy",
}

func TestHelmLintsTheChart(t *testing.T) {
	for _, values := range [][]string{
		{reachable},
		{"apiServer.kubeconfig.configMap=kube-proxy"},
		{"cleanup=true"},
		append([]string{reachable}, everything...),
		{reachable, "metrics.bindAddress=0.0.0.0:10249", "metrics.serviceMonitor.enabled=true", "metrics.prometheusRule.enabled=true", "metrics.dashboard.enabled=true"},
	} {
		if out, err := helm(t, []string{"lint", "--strict", "--quiet"}, values...); err != nil || strings.Contains(out, "[WARNING]") {
			t.Errorf("values %v: %v\n%s", values, err, out)
		}
	}
}

func TestValuesThatCannotWorkAreRefused(t *testing.T) {
	for _, c := range []struct {
		values []string
		want   string
	}{
		{nil, "apiServer.host is not set"},
		{nil, "--set apiServer.host=ADDRESS"},
		{[]string{reachable, "apiServer.kubeconfig.configMap=kube-proxy"}, "write one of them"},
		{[]string{"apiServer.host=https://192.0.2.1"}, "apiServer/host"},
		{[]string{reachable, "metrics.serviceMonitor.enabled=true"}, "--set metrics.bindAddress=0.0.0.0:10249"},
		{[]string{reachable, "resources.limits.memory=256Mi"}, "take 506Mi"},
		{[]string{reachable, "maps.flowsMax=8388608"}, "Raise it, or lower maps.flowsMax"},
		{[]string{reachable, "resources.limits.memory=lots"}, "write a quantity such as 1Gi"},
		{[]string{reachable, "maps.flowsMax=100"}, "maps/flowsMax"},
		{[]string{reachable, "scheduler=fastest"}, "scheduler"},
		{[]string{reachable, "clusterCIDR={10.244.0.0}"}, "clusterCIDR"},
		{[]string{reachable, "clusterCidr={10.244.0.0/16}"}, "clusterCidr"},
		{[]string{reachable, "serviceAccount.create=false"}, "serviceAccount.name"},
		{[]string{reachable, "kubeProxy.leftovers=eat"}, "leftovers"},
	} {
		out, err := helm(t, []string{"template", "waggle", "--kube-version", "1.37.0"}, c.values...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("values %v: got error %v, want one with %q\n%s", c.values, err, c.want, out)
		}
	}
}

func TestValuesOfMemoryThatWork(t *testing.T) {
	for _, values := range [][]string{
		{"resources.limits.memory=512Mi"},
		{"resources.limits.memory=0.5Gi"},
		{"resources.limits.memory=600M"},
		{"resources.limits.memory=600000000"},
		{"resources.limits=null"},
		{"resources.limits.memory=4Gi", "maps.flowsMax=8388608"},
		{"resources.limits.memory=256Mi", "maps.flowsMax=0"},
	} {
		render(t, values...)
	}
}

func TestTheDaemonKnowsEachFlag(t *testing.T) {
	help := read(t, "cmd/waggle/testdata/help/waggle-run.txt")
	for _, values := range [][]string{
		append([]string{reachable}, everything...),
		append([]string{"apiServer.kubeconfig.configMap=kube-proxy"}, everything...),
	} {
		args := renderFor(t, "1.37.0", values...)["DaemonSet"].Spec.Template.Spec.Containers[0].Args
		if args[0] != "run" || len(args) < len(everything) {
			t.Fatalf("the arguments are %q", args)
		}
		for _, arg := range args[1:] {
			flag, _, ok := strings.Cut(strings.TrimPrefix(arg, "--"), "=")
			known := regexp.MustCompile(`(?m)^ +--` + regexp.QuoteMeta(flag) + ` `).MatchString(help)
			if !ok || !known {
				t.Errorf("waggle run has no flag of %s", arg)
			}
		}
	}
}

func TestWhatValuesBecome(t *testing.T) {
	for _, c := range []struct {
		values    []string
		want, not []string // arguments
	}{
		{nil, []string{"--hostname-override=$(NODE_NAME)", "--flows-max=1048576", "--metrics-bind-address=127.0.0.1:10249"}, []string{"--scheduler", "--cluster-cidr", "--flows-min"}},
		{[]string{"clusterCIDR={10.244.0.0/16,fd00::/48}"}, []string{"--cluster-cidr=10.244.0.0/16,fd00::/48"}, nil},
		{[]string{"maps.flowsMax=0"}, nil, []string{"--flows-max"}},
		{[]string{"dataplane=ipvs", "sockets.mode=all", "excludeDevices={x*}"}, []string{"--dataplane=ipvs"}, []string{"--flows-max", "--socket-lb", "--exclude-devices"}},
		{[]string{"masqueradeAll=true", "scheduler=mh"}, []string{"--masquerade-all=true", "--scheduler=mh"}, nil},
		{[]string{"extraArgs={--nodeport-bind=refuse}"}, []string{"--nodeport-bind=refuse"}, nil},
	} {
		args := render(t, c.values...)["DaemonSet"].Spec.Template.Spec.Containers[0].Args
		for _, want := range c.want {
			if !slices.Contains(args, want) {
				t.Errorf("values %v: no %s in %q", c.values, want, args)
			}
		}
		for _, not := range c.not {
			if slices.ContainsFunc(args, func(arg string) bool { return strings.HasPrefix(arg, not+"=") }) {
				t.Errorf("values %v: %s in %q", c.values, not, args)
			}
		}
	}
}

// IPVS needs sysctls that a container has read-only; of the machine's it has those of
// networks alone.
func TestSysctlsAreForIPVS(t *testing.T) {
	for values, want := range map[string]string{"": "/proc/sys/net", "dataplane=ipvs": "/proc/sys/net", "dataplane=ipvs,cleanup=true": "/proc/sys/net", "dataplane=ebpf": ""} {
		p := render(t, strings.Split("proxyName=,"+values, ",")...)["DaemonSet"].Spec.Template.Spec
		got, at := "", ""
		for _, v := range p.Volumes {
			if v.Name == "sysctls" {
				got = v.HostPath.Path
			}
		}
		for _, m := range p.Containers[0].VolumeMounts {
			if m.Name == "sysctls" {
				at = strings.TrimPrefix(m.MountPath, "/host")
			}
		}
		if got != want || at != want {
			t.Errorf("%q: %q is mounted at %q below /host, want %q", values, got, at, want)
		}
	}
}

// The API server's address is never the cluster IP that a pod has otherwise.
func TestHowTheAPIServerIsReached(t *testing.T) {
	byHost := render(t, "apiServer.port=16443")["DaemonSet"].Spec.Template.Spec.Containers[0]
	env := make(map[string]string)
	for _, e := range byHost.Env {
		env[e.Name] = e.Value
	}
	if env["KUBERNETES_SERVICE_HOST"] != "192.0.2.1" || env["KUBERNETES_SERVICE_PORT"] != "16443" {
		t.Errorf("the environment is %v", env)
	}
	p := renderFor(t, "1.37.0", "apiServer.kubeconfig.configMap=kube-proxy")["DaemonSet"].Spec.Template.Spec
	c, from := p.Containers[0], ""
	for _, v := range p.Volumes {
		if v.Name == "kubeconfig" {
			from = v.ConfigMap.Name
		}
	}
	at := ""
	for _, m := range c.VolumeMounts {
		if m.Name == "kubeconfig" {
			at = m.MountPath
		}
	}
	if from != "kube-proxy" || !slices.Contains(c.Args, "--kubeconfig="+at+"/kubeconfig.conf") {
		t.Errorf("the volume is ConfigMap %q at %q, the arguments are %q", from, at, c.Args)
	}
}

func TestProbesAskWhereHealthIsServed(t *testing.T) {
	for bind, want := range map[string]string{"0.0.0.0:10256": " 10256", "[::]:10256": " 10256", "127.0.0.1:20256": "127.0.0.1 20256", "[::1]:10256": "::1 10256"} {
		get := render(t, "healthz.bindAddress="+bind)["DaemonSet"].Spec.Template.Spec.Containers[0].LivenessProbe.HTTPGet
		if got := get.Host + " " + strconv.Itoa(get.Port); get.Path != "/livez" || got != want {
			t.Errorf("%s: the probe asks for %s at %q, want /livez at %q", bind, get.Path, got, want)
		}
	}
}

func TestThePodHasThePrivilegesThatItNeeds(t *testing.T) {
	p := render(t)["DaemonSet"].Spec.Template.Spec
	got, err := yaml.Marshal(p.Containers[0].SecurityContext)
	if err != nil {
		t.Fatal(err)
	}
	const want = `allowPrivilegeEscalation: false
appArmorProfile:
    type: Unconfined
capabilities:
    add:
        - BPF
        - NET_ADMIN
        - PERFMON
    drop:
        - ALL
privileged: false
readOnlyRootFilesystem: true
runAsUser: 0
seLinuxOptions:
    type: spc_t
seccompProfile:
    type: Unconfined
`
	if string(got) != want || !p.HostNetwork || p.HostPID {
		t.Errorf("hostNetwork %v, hostPID %v, securityContext\n%s\nwant\n%s", p.HostNetwork, p.HostPID, got, want)
	}
	old := renderFor(t, "1.29.0", reachable)["DaemonSet"].Spec.Template
	if a := old.Metadata.Annotations["container.apparmor.security.beta.kubernetes.io/waggle"]; a != "unconfined" || old.Spec.Containers[0].SecurityContext["appArmorProfile"] != nil {
		t.Errorf("before Kubernetes 1.30 AppArmor is by annotation: it is %q, and securityContext is %v", a, old.Spec.Containers[0].SecurityContext)
	}
}

func TestWhatIsOffByDefault(t *testing.T) {
	kinds := func(objects map[string]object) (out []string) {
		for kind := range objects {
			out = append(out, kind)
		}
		slices.Sort(out)
		return out
	}
	few := []string{"ClusterRoleBinding", "DaemonSet", "ServiceAccount"}
	if got := kinds(render(t)); !slices.Equal(got, few) {
		t.Errorf("by default there are %v, want %v", got, few)
	}
	all := render(t, "metrics.bindAddress=0.0.0.0:10249", "metrics.serviceMonitor.enabled=true", "metrics.prometheusRule.enabled=true", "metrics.dashboard.enabled=true", "metrics.backends=false")
	if got, want := kinds(all), []string{"ClusterRoleBinding", "ConfigMap", "DaemonSet", "PrometheusRule", "Service", "ServiceAccount", "ServiceMonitor"}; !slices.Equal(got, want) {
		t.Errorf("with everything there are %v, want %v", got, want)
	}
	var rules struct{ Groups []any }
	if err := yaml.Unmarshal([]byte(read(t, "deploy/chart/files/alerts.yaml")), &rules); err != nil {
		t.Fatal(err)
	}
	same(t, "the groups of the PrometheusRule", all["PrometheusRule"].Spec.Groups, rules.Groups)
	if all["ConfigMap"].Data["waggle.json"] != strings.TrimSpace(read(t, "deploy/chart/files/dashboard.json")) {
		t.Error("the ConfigMap's dashboard is not the file's")
	}
	same(t, "the endpoint's parameters", all["ServiceMonitor"].Spec.Endpoints[0]["params"], map[string]any{"backends": []any{"false"}})
}

func TestCleanupTakesTheDaemonsPlace(t *testing.T) {
	c := renderFor(t, "1.37.0", "cleanup=true", "nodeSelector.a=b")["DaemonSet"].Spec.Template.Spec
	if got := c.Containers[0]; !slices.Equal(got.Args, []string{"cleanup", "--stay"}) || got.LivenessProbe != nil || c.NodeSelector["a"] != "b" {
		t.Errorf("got %+v", c)
	}
	if !strings.Contains(read(t, "cmd/waggle/testdata/help/waggle-cleanup.txt"), " --stay ") {
		t.Error("waggle cleanup has no --stay")
	}
}

// TestEveryValueIsExplained: values.yaml is the reference. A comment is above a value
// or above what it is in.
func TestEveryValueIsExplained(t *testing.T) {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(read(t, "deploy/chart/values.yaml")), &doc); err != nil {
		t.Fatal(err)
	}
	n := 0
	var walk func(node *yaml.Node, path string, explained bool)
	walk = func(node *yaml.Node, path string, explained bool) {
		if node.Kind != yaml.MappingNode || len(node.Content) == 0 {
			if n++; !explained {
				t.Errorf("values.yaml says nothing of %s", path)
			}
			return
		}
		for i := 0; i < len(node.Content); i += 2 {
			key := node.Content[i]
			walk(node.Content[i+1], strings.TrimPrefix(path+"."+key.Value, "."), explained || key.HeadComment != "")
		}
	}
	walk(doc.Content[0], "", false)
	if n < 50 {
		t.Errorf("only %d values were seen", n)
	}
}
