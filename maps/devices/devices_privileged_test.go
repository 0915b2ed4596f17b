// SPDX-License-Identifier: Apache-2.0

//go:build privileged

package devices

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps/batch"
	"github.com/waggle-lb/waggle/maps/maptest"
)

var (
	v4 = netip.MustParseAddr("192.0.2.1")
	v6 = netip.MustParseAddr("2001:db8::1")
)

func held(t *testing.T, table Table) map[uint32]bpf.LBDevice {
	t.Helper()
	got := make(map[uint32]bpf.LBDevice)
	err := batch.Each(table.Map, func(index uint32, d *bpf.LBDevice) error {
		got[index] = *d
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestSyncHoldsExactlyTheseDevices(t *testing.T) {
	table := Table{maptest.New(t, "devices", 8)}
	port := [6]byte{2, 0, 0, 0, 0, 1}
	for i, step := range []struct {
		devices map[uint32]Device
		want    map[uint32]bpf.LBDevice
	}{
		{map[uint32]Device{2: {Addr4: v4, Addr6: v6}, 3: {Addr4: v4}, 4: {}},
			map[uint32]bpf.LBDevice{2: {Addr4: v4.As16(), Addr6: v6.As16()}, 3: {Addr4: v4.As16()}, 4: {}}},
		{map[uint32]Device{2: {Addr6: v6}, 3: {Addr4: v4}, 70000: {Addr4: v4.Next()}},
			map[uint32]bpf.LBDevice{2: {Addr6: v6.As16()}, 3: {Addr4: v4.As16()}, 70000: {Addr4: v4.Next().As16()}}},
		{map[uint32]Device{2: {Bridge: true}, 3: {PortOf: port}},
			map[uint32]bpf.LBDevice{
				2: {Flags: uint8(bpf.LBDeviceFlagsDEVICE_BRIDGE)},
				3: {Flags: uint8(bpf.LBDeviceFlagsDEVICE_PORT), Mac: port},
			}},
		{map[uint32]Device{2: {XDP: port, Generic: true}, 3: {XDP: port, Native: true, Pieces: true}, 4: {XDP: port}},
			map[uint32]bpf.LBDevice{
				2: {Flags: uint8(bpf.LBDeviceFlagsDEVICE_XDP | bpf.LBDeviceFlagsDEVICE_GENERIC), Mac: port},
				3: {Flags: uint8(bpf.LBDeviceFlagsDEVICE_XDP | bpf.LBDeviceFlagsDEVICE_NATIVE | bpf.LBDeviceFlagsDEVICE_FRAGS), Mac: port},
				4: {Flags: uint8(bpf.LBDeviceFlagsDEVICE_XDP), Mac: port},
			}},
		{nil, map[uint32]bpf.LBDevice{}},
	} {
		if err := table.Sync(step.devices); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		if diff := cmp.Diff(step.want, held(t, table)); diff != "" {
			t.Errorf("step %d (-want +got):\n%s", i, diff)
		}
	}
}

func TestSyncMakesRoomBeforeItAdds(t *testing.T) {
	table := Table{maptest.New(t, "devices", 2)}
	for _, pair := range [][2]uint32{{1, 2}, {3, 4}, {4, 5}} {
		if err := table.Sync(map[uint32]Device{pair[0]: {Addr4: v4}, pair[1]: {Addr4: v4}}); err != nil {
			t.Fatalf("devices %v: %v", pair, err)
		}
	}
	err := table.Sync(map[uint32]Device{4: {Addr4: v4}, 5: {Addr4: v4}, 6: {Addr4: v4}})
	if err == nil || !strings.Contains(err.Error(), "write device 6 to map ") {
		t.Errorf("error %v, want one that names the device", err)
	}
	if got := held(t, table); len(got) != 2 {
		t.Errorf("%d devices, want the two that were there", len(got))
	}
}
