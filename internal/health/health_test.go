// SPDX-License-Identifier: Apache-2.0

package health

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
)

var bothFamilies = []lb.Family{lb.IPv4, lb.IPv6}

func ask(h http.Handler, method, path string) *httptest.ResponseRecorder {
	r := httptest.NewRecorder()
	h.ServeHTTP(r, httptest.NewRequest(method, path, nil))
	return r
}

func TestHealthzAndLivez(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var overdue, synced time.Time
		answers := make(map[string]int)
		p := NewProxy(Options{
			Families: bothFamilies, Progress: func() (time.Time, time.Time) { return overdue, synced },
			Answered: func(path string, code int) { answers[fmt.Sprint(path, " ", code)]++ },
		})
		began := time.Now()
		stamp := func(t time.Time) string { return t.Format(time.RFC3339Nano) }
		// want compares an answer: updated is when it was last, as it says, and the families' is when that was.
		want := func(path string, code int, eligible string, healthy bool, families time.Time) {
			t.Helper()
			updated := families
			if code == http.StatusOK {
				updated = time.Now()
			}
			family := fmt.Sprintf(`{"lastUpdated":"%s","healthy":%v}`, stamp(families), healthy)
			body := fmt.Sprintf(`{"lastUpdated":"%s","currentTime":"%s",%s"healthy":%v,"status":{"IPv4":%s,"IPv6":%[5]s}}`,
				stamp(updated), stamp(time.Now()), eligible, healthy, family)
			r := ask(p.Handler(), http.MethodGet, path)
			if r.Code != code {
				t.Errorf("%s: status %d, want %d", path, r.Code, code)
			}
			if diff := cmp.Diff(body, r.Body.String()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", path, diff)
			}
			head := http.Header{"Content-Type": {"application/json"}, "X-Content-Type-Options": {"nosniff"}}
			if diff := cmp.Diff(head, r.Result().Header); diff != "" {
				t.Errorf("%s: header (-want +got):\n%s", path, diff)
			}
		}
		const yes, no = `"nodeEligible":true,`, `"nodeEligible":false,`
		time.Sleep(time.Hour) // it waits for its sources
		want("/healthz", 503, no, true, began)
		want("/livez", 200, "", true, began)
		p.SetEligible(true)
		want("/healthz", 200, yes, true, began)

		overdue = time.Now()
		time.Sleep(59 * time.Second)
		want("/healthz", 200, yes, true, began)
		time.Sleep(time.Second)
		want("/healthz", 503, yes, false, began)
		want("/livez", 503, "", false, began)
		p.SetEligible(false)
		want("/healthz", 503, no, false, began)
		synced, overdue = time.Now(), time.Time{}
		time.Sleep(time.Hour)
		want("/healthz", 503, no, true, synced)
		want("/livez", 200, "", true, synced)
		wanted := map[string]int{"healthz 503": 4, "healthz 200": 2, "livez 200": 2, "livez 503": 1}
		if diff := cmp.Diff(wanted, answers); diff != "" {
			t.Errorf("answers (-want +got):\n%s", diff)
		}
	})
}

func TestAnyMethodAndNoOtherPath(t *testing.T) {
	p := NewProxy(Options{Progress: func() (a, b time.Time) { return a, b }})
	p.SetEligible(true)
	for _, method := range []string{"GET", "HEAD", "POST", "DELETE", "OPTIONS", "BREW"} {
		for _, path := range []string{"/healthz", "/livez", "/healthz?verbose"} {
			if r := ask(p.Handler(), method, path); r.Code != http.StatusOK {
				t.Errorf("%s %s: status %d", method, path, r.Code)
			}
		}
	}
	for _, path := range []string{"/", "/healthz/", "/readyz", "/metrics"} {
		if r := ask(p.Handler(), "GET", path); r.Code != http.StatusNotFound {
			t.Errorf("%s: status %d, want 404", path, r.Code)
		}
	}
}

func TestWhichFamiliesTheMachineHas(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  []lb.Family
	}{
		"no IPv6 in the kernel": {nil, []lb.Family{lb.IPv4}},
		"both":                  {map[string]string{"net/if_inet6": "", "sys/net/ipv6/conf/all/disable_ipv6": "0\n"}, bothFamilies},
		"turned off":            {map[string]string{"net/if_inet6": "", "sys/net/ipv6/conf/all/disable_ipv6": "1\n"}, []lb.Family{lb.IPv4}},
	} {
		proc := t.TempDir()
		for file, text := range tc.files {
			path := filepath.Join(proc, file)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(tc.want, familiesIn(proc)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := Families(); len(got) == 0 || got[0] != lb.IPv4 {
		t.Errorf("this machine has %v", got)
	}
}
