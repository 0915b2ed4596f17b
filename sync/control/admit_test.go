// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/dataplane/fake"
	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/control"
)

// wantRefused compares Status.Refused, one "NAME: why" a service.
func (r *rig) wantRefused(want ...string) {
	r.t.Helper()
	refused := r.loop.Status().Refused
	var got []string
	for _, id := range slices.SortedFunc(maps.Keys(refused), lb.ServiceID.Compare) {
		got = append(got, fmt.Sprintf("%s: %v", id.Name, refused[id]))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("refused (-want +got):\n%s", diff)
	}
}

// dice is what the dataplane says about unsupported("web", …).
const dice = "no dice for web/ipv4"

const diceLogged = `level=ERROR msg="service not served as desired" service=web/ipv4 error="no dice for web/ipv4"`

func TestAnUnsupportedServiceStaysAsItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		deliver := r.loop.Source("file")
		r.run()
		deliver(snapshot(t, service("web", 1, 1), service("dns", 2, 2)))
		settle(time.Second)
		r.log.take()

		deliver(snapshot(t, unsupported("web", 1, 1, 3), service("dns", 2, 2, 4), unsupported("new", 5, 5)))
		settle(time.Second)
		r.wantHeld("dns:2>2,4 web:1>1")
		r.wantRefused("new: no dice for new/ipv4", "web: "+dice)
		if s := r.loop.Status(); show(s.Desired) != "dns:2>2,4 new:5>5 web:1>1,3" || s.Retries != 0 || !r.ready() {
			t.Errorf("status %+v: want all desired, and nothing to retry", s)
		}

		// and stays so, as long as it is not supported
		deliver(snapshot(t, unsupported("web", 1, 6)))
		settle(time.Second)
		r.wantHeld("web:1>1")

		deliver(snapshot(t, service("web", 1, 7)))
		settle(time.Second)
		r.wantHeld("web:1>7")
		r.wantRefused()
	})
}

func TestAnUnsupportedServiceThatIsRemovedGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		deliver := r.loop.Source("file")
		r.run()
		deliver(snapshot(t, service("web", 1, 1)))
		settle(time.Second)
		deliver(snapshot(t, unsupported("web", 1, 1)))
		settle(time.Second)
		deliver(nil)
		settle(time.Second)
		r.wantHeld("")
		r.wantRefused()
	})
}

func TestAnUnsupportedServiceYieldsItsVIPs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		deliver := r.loop.Source("file")
		r.run()
		web := service("web", 1, 1)
		web.Frontends = append(web.Frontends, frontend(2))
		deliver(snapshot(t, web))
		settle(time.Second)

		// web moves to VIP 3, which is refused; another has one of its old ones
		deliver(snapshot(t, unsupported("web", 3, 1), service("other", 2, 2)))
		settle(time.Second)
		r.wantHeld("other:2>2")
		r.wantRefused("web: " + dice)
		if s := r.loop.Status(); s.Retries != 0 {
			t.Errorf("%d incomplete Applies: it was given a VIP twice", s.Retries)
		}
	})
}

func TestAnUnsupportedServiceDoesNotYieldToOneThatIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		deliver := r.loop.Source("file")
		r.run()
		deliver(snapshot(t, service("a", 1, 1), service("b", 2, 2)))
		settle(time.Second)
		deliver(snapshot(t, unsupported("a", 2, 1), unsupported("b", 1, 2))) // they swap VIPs
		settle(time.Second)
		r.wantHeld("a:1>1 b:2>2")
	})
}

// TestAnUnsupportedServiceStaysAcrossRestart: a version that cannot express
// what the one before could does not end it.
func TestAnUnsupportedServiceStaysAcrossRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		before := fake.New(fake.Options{})
		before.Apply(snapshot(t, service("web", 1, 1), service("gone", 2, 2)))
		r := newRig(t, control.Options{}, before.Kernel())
		deliver := r.loop.Source("file")
		r.run()
		r.fail("read ")
		deliver(snapshot(t, unsupported("web", 1, 1, 3)))
		settle(time.Second)
		if s := r.loop.Status(); !errors.Is(s.Report.Err, errFault) || s.Retries == 0 || r.ready() {
			t.Errorf("status %+v, ready %t, want the fault of Read, and retries", s, r.ready())
		}
		r.wantApplies()
		r.fail()
		settle(time.Minute)
		r.wantHeld("web:1>1")
		r.wantRefused("web: " + dice)
		deliver(snapshot(t, unsupported("web", 1, 4)))
		settle(time.Second)
		r.wantHeld("web:1>1")
	})
}

func TestRefusalsAreLoggedOnceUntilTheyChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		deliver := r.loop.Source("file")
		r.run()
		deliver(snapshot(t, unsupported("web", 1, 1)))
		settle(time.Second)
		r.wantLog(diceLogged)
		deliver(snapshot(t, unsupported("web", 1, 2)))
		settle(time.Second)
		r.wantLog()
		coin := service("web", 1, 1)
		coin.Scheduler = "coin"
		deliver(snapshot(t, coin))
		settle(time.Second)
		r.wantLog(`level=ERROR msg="service not served as desired" service=web/ipv4 error="no coin for web/ipv4"`)
		deliver(nil)
		settle(time.Second)
		deliver(snapshot(t, unsupported("web", 1, 1)))
		settle(time.Second)
		r.wantLog(diceLogged)
	})
}

func TestUnchangedServicesAreNotAskedForAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		deliver := r.loop.Source("file")
		r.run()
		a, b := service("a", 1, 1), unsupported("b", 2, 2)
		deliver(snapshot(t, a, b))
		settle(time.Second)
		r.wantCalls("supports a, supports b, read , add a")
		deliver(snapshot(t, a, b, service("c", 3, 3)))
		settle(time.Second)
		r.wantCalls("supports c, add c")
		deliver(snapshot(t, a, unsupported("b", 2, 4)))
		settle(time.Second)
		r.wantCalls("supports b, remove c") // what is served was read once
	})
}

func TestTheSourceRegisteredFirstWinsAName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		one, two := r.loop.Source("one"), r.loop.Source("two")
		r.run()
		two(snapshot(t, service("web", 2, 2), service("dns", 3, 3))) // first come is not first served
		one(snapshot(t, service("web", 1, 1)))
		settle(time.Second)
		r.wantHeld("dns:3>3 web:1>1")
		const why = "source two wants service web/ipv4, source one has it already: rename one of them"
		r.wantRefused("web: " + why)
		r.wantLog(`level=ERROR msg="service not served as desired" service=web/ipv4 error="`+why+`"`,
			`level=INFO msg=applied added=2 changed=0 removed=0 failed=0`)
		if got := show(r.loop.Status().Desired); got != "dns:3>3 web:1>1" {
			t.Errorf("desired %q holds the service that lost", got)
		}

		two(snapshot(t, service("web", 2, 4)))
		settle(time.Second)
		r.wantLog(`level=INFO msg=applied added=0 changed=0 removed=1 failed=0`) // not the conflict again

		one(nil)
		settle(time.Second)
		r.wantHeld("web:2>4")
		r.wantRefused()
	})
}

func TestTheSourceRegisteredFirstWinsAVIP(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		one, two, three := r.loop.Source("one"), r.loop.Source("two"), r.loop.Source("three")
		r.run()
		loser := service("loser", 1, 2)
		loser.Frontends = append(loser.Frontends, frontend(7))
		two(snapshot(t, loser))
		one(nil)
		three(nil)
		settle(time.Second)
		r.wantHeld("loser:1,7>2")
		r.wantRefused()

		one(snapshot(t, service("winner", 1, 1)))
		settle(time.Second)
		r.wantHeld("winner:1>1")
		r.wantRefused("loser: source two wants VIP 10.1.0.1:80/TCP, source one has it already: remove one of them")

		// who is left out as a whole holds no VIP against a third
		three(snapshot(t, service("third", 7, 3)))
		settle(time.Second)
		r.wantHeld("third:7>3 winner:1>1")
		r.wantRefused("loser: source two wants VIP 10.1.0.1:80/TCP, source one has it already: remove one of them")
	})
}

func TestFamiliesOfOneNameAreTwoServices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, control.Options{}, nil)
		one, two := r.loop.Source("one"), r.loop.Source("two")
		r.run()
		one(snapshot(t, service("web", 1, 1)))
		two(snapshot(t, &lb.Service{ID: lb.ServiceID{Name: "web", Family: lb.IPv6}, Scheduler: "rr"}))
		settle(time.Second)
		r.wantRefused()
		if n := r.loop.Status().Desired.Len(); n != 2 {
			t.Errorf("%d services, want 2", n)
		}
	})
}
