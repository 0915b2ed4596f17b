// SPDX-License-Identifier: Apache-2.0

package ipvs

import (
	"errors"
	"net/netip"
)

// element is one of the table's sets and maps. Which fields count is the set's
// matter.
type element struct {
	set    setName
	key    key          // of frontends, anyports, sources
	terms  terms        // of frontends, anyports
	note   string       // of frontends, anyports
	source netip.Prefix // of sources
	addr   netip.Addr   // of vips, servers
}

// setName is the name of a set without its family: "4" or "6".
type setName string

// The sets whose elements come and go with services.
const (
	setFrontends setName = "frontends"
	setAnyPorts  setName = "anyports" // frontends of any port
	setSources   setName = "sources"
	setVIPs      setName = "vips"
	setServers   setName = "servers"
)

// load is how many connections a server has, and its counters.
type load struct {
	dest
	active, inactive                uint64
	connections, inPackets, inBytes uint64
	outPackets, outBytes            uint64
}

// errForeign says that a virtual service is there and nothing of ours.
var errForeign = errors.New("the kernel has this virtual service already, and waggle did not make it: remove it with ipvsadm -D")

// kernel is what a plan is carried out on. What a delete does not find is no
// error, and an address that is there is added.
type kernel interface {
	addAddress(addr netip.Addr) error
	delAddress(addr netip.Addr) error
	newVirtual(k key, s settings) error // errForeign if there is one
	setVirtual(k key, s settings) error
	delVirtual(k key) error
	newDest(k key, d dest) error
	setDest(k key, d dest) error
	delDest(k key, d dest) error
	// loads lists the servers of a virtual service, in the order of its list.
	loads(k key) ([]load, error)
	// change deletes elements, then adds others, in one step.
	change(del, add []element) error
	// replace makes networks all that is in a set.
	replace(set setName, networks []netip.Prefix) error
	// tellPods says by the names of which devices pods send too.
	tellPods(devices []string) error
}
