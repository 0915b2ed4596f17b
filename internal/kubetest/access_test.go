// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"testing"
	"time"
)

// client is an HTTP client that knows of the server what a kubeconfig says.
type client struct {
	http  *http.Client
	token string
	url   string
}

func clientOf(t *testing.T, kubeconfig string) client {
	t.Helper()
	b, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		Clusters []struct {
			Cluster struct {
				Server string
				CA     []byte `json:"certificate-authority-data"`
			}
		}
		Users []struct{ User struct{ Token string } }
	}
	if err := json.Unmarshal(b, &c); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.Clusters[0].Cluster.CA)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}
	t.Cleanup(transport.CloseIdleConnections)
	return client{&http.Client{Transport: transport}, c.Users[0].User.Token, c.Clusters[0].Cluster.Server}
}

// code asks and returns the status.
func (c client) code(t *testing.T, method, path string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, c.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestKubeconfigsHaveTheirRights(t *testing.T) {
	api := cluster.Start(t)
	ns := api.Namespace(t)
	api.Apply(t, ns, fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: reader}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [services], verbs: [list]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{kind: ServiceAccount, name: reader, namespace: %s}]
`, ns))
	admin, reader := clientOf(t, api.Kubeconfig(t)), clientOf(t, api.AccountKubeconfig(t, ns, "reader"))
	services, secrets := "/api/v1/namespaces/"+ns+"/services", "/api/v1/namespaces/"+ns+"/secrets"
	// the server's RBAC learns of a binding by a watch that nobody else sees
	for deadline := time.Now().Add(awaitTimeout); reader.code(t, http.MethodGet, services) != http.StatusOK; {
		if time.Now().After(deadline) {
			t.Fatalf("the account may not list services %v after it was allowed to", awaitTimeout)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for _, c := range []struct {
		who  client
		path string
		want int
	}{
		{admin, secrets, http.StatusOK},
		{reader, secrets, http.StatusForbidden},
	} {
		if got := c.who.code(t, http.MethodGet, c.path); got != c.want {
			t.Errorf("GET %s: %d, want %d", c.path, got, c.want)
		}
	}
}

func TestForwardTakesConnectionsUntilCut(t *testing.T) {
	api := cluster.Start(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cut := api.Forward(t, l)
	c := clientOf(t, api.Kubeconfig(t))
	c.url = "https://" + l.Addr().String()
	if got := c.code(t, http.MethodGet, "/readyz"); got != http.StatusOK {
		t.Errorf("by way of the forwarder: %d, want 200", got)
	}
	held, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	cut()
	// the server sends nothing before the client has: only an end can come
	if b, err := bufio.NewReader(held).ReadByte(); err == nil {
		t.Errorf("read %d from a connection that is cut", b)
	}
	if again, err := net.Dial("tcp", l.Addr().String()); err == nil {
		again.Close()
		t.Error("it listens though it is cut")
	}
	if got := clientOf(t, api.Kubeconfig(t)).code(t, http.MethodGet, "/readyz"); got != http.StatusOK {
		t.Errorf("the server itself: %d, want 200", got)
	}
}
