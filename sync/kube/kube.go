// SPDX-License-Identifier: Apache-2.0

// Package kube makes services of what a Kubernetes API server says: Services,
// EndpointSlices, this machine's Node and ServiceCIDRs.
//
// A Store is a function from objects to services that does only what a change
// makes necessary; a Source is the task that feeds one by watching the API server.
package kube

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/lb/sched"
)

// The annotations that waggle reads.
const (
	// SchedulerAnnotation on a Service names its scheduler.
	SchedulerAnnotation = "waggle.dev/scheduler"
	// ZoneWeightsAnnotation on a Service gives weights to the endpoints of zones:
	// "zone-a=5,zone-b=1".
	ZoneWeightsAnnotation = "waggle.dev/zone-weights"
	// WeightAnnotation on an EndpointSlice is the weight of all its endpoints, 0 to
	// 65535. It wins over that of their zone.
	WeightAnnotation = "waggle.dev/weight"
	// SocketAnnotation on a Service says whose sockets are led to its endpoints: all,
	// or of the host, that is this machine's own alone.
	SocketAnnotation = "waggle.dev/socket-lb"
)

// The reasons of Problems.
const (
	ReasonExternalIPNotAllowed = "ExternalIPNotAllowed"
	ReasonFrontendConflict     = "FrontendConflict"
	ReasonInvalidAddress       = "InvalidAddress"
	ReasonInvalidAnnotation    = "InvalidAnnotation"
	ReasonInvalidPort          = "InvalidPort"
	ReasonInvalidSourceRange   = "InvalidSourceRange"
)

// Translation says how objects become services, and what is said of this machine.
type Translation struct {
	// NodeName is the name of this machine's Node. "" is the machine's own name in
	// lower case.
	NodeName string
	// Scheduler is for services without SchedulerAnnotation; "" is rr.
	Scheduler string
	// SchedulerFlags go with Scheduler.
	SchedulerFlags lb.SchedulerFlags
	// MasqueradeAll masquerades all clients of cluster IPs.
	MasqueradeAll bool
	// ExternalIPs are from where spec.externalIPs may be; none are served if empty.
	ExternalIPs []netip.Prefix
	// ProxyName makes it serve only Services that the label
	// service.kubernetes.io/service-proxy-name gives to this proxy. "" serves those
	// without the label.
	ProxyName string
	// NodePortAddresses are where node ports are served: CIDRs, and the words
	// primary (the Node's first address of each family), localhost and all. Empty
	// is primary. A family that the list leaves out is served at all addresses, as
	// in kube-proxy, unless the list has primary.
	NodePortAddresses []string
	// NoLocalhost takes loopback addresses out of NodePortAddresses.
	NoLocalhost bool
	// Address replaces the Node's own of its family, if it is valid.
	Address     netip.Addr
	DetectLocal DetectLocal
}

// Mode is a way to tell the pods of this machine: kube-proxy's detectLocalMode.
type Mode string

// The modes.
const (
	ClusterCIDR         Mode = "ClusterCIDR"
	NodeCIDR            Mode = "NodeCIDR"
	BridgeInterface     Mode = "BridgeInterface"
	InterfaceNamePrefix Mode = "InterfaceNamePrefix"
)

// DetectLocal says how pods of this machine are told from others. Without it (the
// zero value) clients of cluster IPs are never masqueraded, and pods of this
// machine have no way around externalTrafficPolicy: Local.
type DetectLocal struct {
	// Mode "" is ClusterCIDR.
	Mode Mode
	// ClusterCIDRs are of mode ClusterCIDR. A family that has none has no detection.
	ClusterCIDRs []netip.Prefix
	// Device is the name of BridgeInterface's, or what names of
	// InterfaceNamePrefix's begin with.
	Device string
}

// Object names an object of the API.
type Object struct {
	APIVersion, Kind, Namespace, Name, UID string
}

// Problem is something in an object that is not served as it says.
type Problem struct {
	Object Object
	// Reason is one of the Reason words; Text says what, where and what to do.
	Reason, Text string
}

// newProblem makes one, with no more text than an Event takes.
func newProblem(o Object, reason, format string, args ...any) Problem {
	return Problem{o, reason, cut(fmt.Sprintf(format, args...))}
}

// Check says what cannot be.
func (t Translation) Check() error { return t.complete() }

// complete fills in defaults, and says what cannot be.
func (t *Translation) complete() error {
	if err := t.completeName(); err != nil {
		return err
	}
	t.Scheduler = cmp.Or(t.Scheduler, "rr")
	s, err := sched.Find(t.Scheduler)
	if err == nil {
		err = s.Takes(t.SchedulerFlags)
	}
	if err != nil {
		return fmt.Errorf("default scheduler: %w", err)
	}
	t.DetectLocal.Mode = cmp.Or(t.DetectLocal.Mode, ClusterCIDR)
	if err := t.DetectLocal.check(); err != nil {
		return err
	}
	t.ExternalIPs = masked(t.ExternalIPs)
	t.DetectLocal.ClusterCIDRs = masked(t.DetectLocal.ClusterCIDRs)
	if len(t.NodePortAddresses) == 0 {
		t.NodePortAddresses = []string{primaryWord}
	}
	return checkNodePortAddresses(t.NodePortAddresses)
}

func (t *Translation) completeName() error {
	if t.NodeName == "" {
		name, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("name of this machine's Node: %w: write --hostname-override", err)
		}
		t.NodeName = name
	}
	t.NodeName = strings.ToLower(strings.TrimSpace(t.NodeName))
	if t.NodeName == "" {
		return errors.New("name of this machine's Node is empty: write --hostname-override")
	}
	return nil
}

func (d *DetectLocal) check() error {
	switch d.Mode {
	case ClusterCIDR, NodeCIDR:
		return nil
	case BridgeInterface, InterfaceNamePrefix:
		if d.Device == "" || len(d.Device) > 15 || strings.ContainsAny(d.Device, "/ \t\n") {
			return fmt.Errorf("detectLocalMode %s with device %q: write the name of one, of 1 to 15 characters", d.Mode, d.Device)
		}
		return nil
	}
	return fmt.Errorf("detectLocalMode %q: write %s, %s, %s or %s", d.Mode, ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix)
}

// masked returns the networks themselves, each once, in order.
func masked(prefixes []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(prefixes))
	for _, p := range prefixes {
		out = append(out, p.Masked())
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}
