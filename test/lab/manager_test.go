// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package lab_test

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// serviceManager is the other end of sd_notify(3).
type serviceManager struct {
	t    *testing.T
	conn *net.UnixConn
	path string
}

func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &serviceManager{t, conn, path}
}

// hears waits for a message that begins so, past others.
func (m *serviceManager) hears(prefix string) {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(soon()); err != nil {
		m.t.Fatal(err)
	}
	var before []string
	for b := make([]byte, 1024); ; {
		n, err := m.conn.Read(b)
		if err != nil {
			m.t.Fatalf("waiting for %q: %v; there were %q", prefix, err, before)
		}
		if strings.HasPrefix(string(b[:n]), prefix) {
			return
		}
		before = append(before, string(b[:n]))
	}
}

func TestADaemonUnderAServiceManager(t *testing.T) {
	m := newServiceManager(t)
	s := newBounded(t, waggle, []string{"env", "NOTIFY_SOCKET=" + m.path, "WATCHDOG_USEC=200000"})
	s.start()
	m.hears("READY=1\nSTATUS=4 services")
	for range 3 {
		m.hears("WATCHDOG=1")
	}
	s.hangUp()
	m.hears("RELOADING=1\nMONOTONIC_USEC=")
	m.hears("READY=1")
	m.hears("WATCHDOG=1")
	if err := s.run.Stop(patience); err != nil {
		t.Error(err)
	}
	s.run = nil
	m.hears("STOPPING=1")
}
