// SPDX-License-Identifier: Apache-2.0

package kube_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/sync/kube"
)

func TestHowToReachTheAPIServer(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	text := `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}],
clusters: [{name: k, cluster: {server: "https://192.0.2.1:6443"}}], users: [{name: u, user: {token: t}}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := kube.Config(kube.Connection{Kubeconfig: file})
	if err != nil {
		t.Fatal(err)
	}
	if c.Host != "https://192.0.2.1:6443" || c.BearerToken != "t" || c.UserAgent != "waggle" || c.QPS <= 0 || c.Burst <= 0 {
		t.Errorf("got %v", c)
	}
	if _, err := kube.Config(kube.Connection{Kubeconfig: file + "x"}); err == nil || !strings.Contains(err.Error(), "write a kubeconfig file") {
		t.Errorf("a file that is missing: %v", err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := kube.Config(kube.Connection{}); err == nil || !strings.Contains(err.Error(), "--kubeconfig") {
		t.Errorf("neither file nor pod: %v", err)
	}
}

// What --master and the fields of clientConnection say counts; what they leave out is
// kube-proxy's.
func TestWhatIsSaidOfTheConnection(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config")
	text := `{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}],
clusters: [{name: k, cluster: {server: "https://192.0.2.1:6443"}}], users: [{name: u, user: {token: t}}]}`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := kube.Config(kube.Connection{Kubeconfig: file, Server: "https://192.0.2.2:6443", QPS: 50, Burst: 100, ContentType: "application/json", AcceptContentTypes: "application/json"})
	if err != nil || c.Host != "https://192.0.2.2:6443" || c.BearerToken != "t" || c.QPS != 50 || c.Burst != 100 || c.ContentType != "application/json" || c.AcceptContentTypes != "application/json" {
		t.Errorf("all of it: %v, %v", c, err)
	}
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	c, err = kube.Config(kube.Connection{Server: "http://192.0.2.2:8080"})
	if err != nil || c.Host != "http://192.0.2.2:8080" || c.QPS != 5 || c.Burst != 10 || c.ContentType != "application/vnd.kubernetes.protobuf" {
		t.Errorf("a server alone: %v, %v", c, err)
	}
}

// The ClusterIP that kubelet writes is refused; what somebody wrote over it is not. In
// this test a pod's token is missing, so what is not refused fails for that.
func TestTheAPIServersOwnClusterIPIsRefused(t *testing.T) {
	for _, c := range []struct {
		host, kubelets, master string
		refused                bool
	}{
		{"10.96.0.1", "10.96.0.1", "", true},
		{"fd00:10:96::1", "fd00:10:96::1", "", true},
		{"192.0.2.1", "10.96.0.1", "", false},
		{"api.example", "10.96.0.1", "", false},
		{"api.example", "api.example", "", false},
		{"10.96.0.1", "", "", false},
		{"10.96.0.1", "10.96.0.1", "https://192.0.2.1:6443", false},
	} {
		t.Setenv("KUBERNETES_SERVICE_HOST", c.host)
		t.Setenv("KUBERNETES_SERVICE_PORT", "443")
		t.Setenv("KUBERNETES_PORT_443_TCP_ADDR", c.kubelets)
		_, err := kube.Config(kube.Connection{Server: c.master})
		if err == nil {
			t.Fatal("this machine has a pod's token")
		}
		refused := true
		for _, part := range []string{"KUBERNETES_SERVICE_HOST=" + c.host + " is a ClusterIP", "--kubeconfig FILE", "--master https://ADDRESS:PORT", "in the pod's environment"} {
			refused = refused && strings.Contains(err.Error(), part)
		}
		if refused != c.refused {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// JSON is asked for where it is to be.
func TestContentTypesAreAskedFor(t *testing.T) {
	api := small(t)
	f := follow(t, api, func(o *kube.Options) {
		o.Config.ContentType, o.Config.AcceptContentTypes = "application/json", "application/json"
	})
	f.want(smallState)
	if !api.until(f.ctx, func() bool { return len(api.requests) > 0 }) {
		t.Fatal("nothing was asked")
	}
	for _, r := range api.requests {
		if r.accept != "application/json" && !strings.HasPrefix(r.accept, "application/json;") {
			t.Errorf("%s: asked for %q", r.resource, r.accept)
		}
	}
}

func TestWarningsOfTheFirstState(t *testing.T) {
	const server, pods = "the API server is reached by a Service's address", "no network of clusterCIDR is of a family"
	for _, c := range []struct {
		host, pods, want string
	}{
		{"http://10.96.0.1", "10.1.0.0/16", server},
		{"http://10.96.0.1:80", "10.1.0.0/16", server},
		{"http://10.96.0.1:8080", "10.1.0.0/16", ""},
		{"http://10.96.0.2", "10.1.0.0/16", ""},
		{"http://api.example", "10.1.0.0/16", ""},
		{"http://10.96.0.2", "fd00::/48", pods},
		{"http://10.96.0.2", "", ""},
	} {
		api := small(t)
		f := follow(t, api, func(o *kube.Options) {
			o.Config.Host = c.host
			o.Config.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, api.addr)
			}
			if c.pods != "" {
				o.DetectLocal.ClusterCIDRs = []netip.Prefix{netip.MustParsePrefix(c.pods)}
			}
		})
		f.wait("a delivery", func() bool { return len(f.snaps) > 0 })
		f.mu.Lock()
		for _, line := range []string{server, pods} {
			if n := f.logged(line); n > 1 || n == 1 != (line == c.want) {
				t.Errorf("%+v: %d times %q", c, n, line)
			}
		}
		f.mu.Unlock()
	}
}
