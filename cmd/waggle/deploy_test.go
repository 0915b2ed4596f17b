// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"slices"
	"strings"
	"testing"
)

const deployed = "../../deploy/systemd/"

// unit reads the service file: the words of each setting, in order.
func unit(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile(deployed + "waggle.service")
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]string)
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(line, "#") {
			out[name] = append(out[name], strings.Fields(value)...)
		}
	}
	return out
}

func TestTheUnitGivesWhatTheDaemonNeeds(t *testing.T) {
	u := unit(t)
	var want []string
	for _, c := range needed {
		want = append(want, c.name)
	}
	for name, want := range map[string][]string{
		"Type": {"notify"}, "Restart": {"always"}, "ExecReload": {"/bin/kill", "-HUP", "$MAINPID"},
		"CapabilityBoundingSet": want, "AmbientCapabilities": want,
		"ReadWritePaths":   {strings.TrimSuffix(defaultPinPath, "/waggle")},
		"RuntimeDirectory": {"waggle"}, "RuntimeDirectoryMode": {"0700"},
		"SystemCallFilter": {"@system-service", "~@privileged", "@resources", "bpf"},
	} {
		if !slices.Equal(u[name], want) {
			t.Errorf("%s=%v, want %v", name, u[name], want)
		}
	}
	for _, families := range []string{"AF_NETLINK", "AF_UNIX", "AF_INET", "AF_INET6"} {
		if !slices.Contains(u["RestrictAddressFamilies"], families) {
			t.Errorf("RestrictAddressFamilies has no %s", families)
		}
	}
	// each would take the network or its settings away
	for _, name := range []string{"PrivateNetwork", "ProcSubset", "User", "DynamicUser", "PrivateUsers"} {
		if u[name] != nil {
			t.Errorf("%s is set", name)
		}
	}
	if u["WatchdogSec"] == nil || u["ProtectSystem"] == nil {
		t.Error("no WatchdogSec, or no ProtectSystem")
	}

	// the command line is one that this waggle takes
	line := u["ExecStart"]
	e := newTestEnv(nil)
	cmd, args, err := newRootCommand(&e.env).Find(line[1:])
	if err != nil || cmd.Name() != "run" || !strings.HasSuffix(line[0], "/waggle") {
		t.Fatalf("ExecStart=%v: %v", line, err)
	}
	if err := cmd.ParseFlags(args); err != nil {
		t.Errorf("ExecStart=%v: %v", line, err)
	}
}

func TestTheExampleOfServicesIsGood(t *testing.T) {
	e := newTestEnv(nil)
	if code := execute(t.Context(), &e.env, []string{"run", "--check", deployed + "services.yaml"}); code != exitOK {
		t.Errorf("exit %d:\n%s", code, &e.err)
	}
}

func TestTheDocsSayWhatEachCapabilityIsFor(t *testing.T) {
	b, err := os.ReadFile("../../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range needed {
		if !strings.Contains(string(b), "\n| "+c.name+" |") {
			t.Errorf("docs/security.md has no row for %s", c.name)
		}
	}
}
