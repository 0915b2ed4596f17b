// SPDX-License-Identifier: Apache-2.0

package conformance

// turn is a set of backends and where the next flows go.
type turn struct{ list, picks string }

// schedule is an order of picks as IPVS has it, written out, so that it stands on
// its own feet beside package sched. The flows stay.
type schedule struct {
	name, scheduler string
	turns           []turn
}

func (s schedule) plays(e *env) { s.playsAt(e, "web", 1) }

// playsAt applies one set of backends after the other.
func (s schedule) playsAt(e *env, name string, vip int) {
	for _, turn := range s.turns {
		e.apply(e.service(name, s.scheduler, turn.list, vip))
		e.wantPicksAt(e.vip(vip), turn.picks)
	}
}

func schedules() []schedule {
	return []schedule{
		{"rr takes one after another in list order", "rr", []turn{{"3 2 1", "3 2 1 3 2 1 3"}}},
		{"rr ignores weights but zero", "rr", []turn{{"4:9 3:0 2:1 1:5", "4 2 1 4 2 1"}}},
		{"rr serves a newcomer when the walk wraps", "rr", []turn{{"3 2 1", "3 2"}, {"4 3 2 1", "1 4 3 2 1"}}},
		{"rr goes on behind a deleted backend", "rr", []turn{{"3 2 1", "3 2"}, {"3 1", "1 3 1"}}},
		{"rr goes on when the first is deleted", "rr", []turn{{"3 2 1", "3"}, {"2 1", "2 1 2"}}},
		{"rr keeps its place when another is deleted", "rr", []turn{{"4 3 2 1", "4 3"}, {"4 3 2", "2 4 3"}}},
		{"rr skips a quiesced backend and takes it back", "rr", []turn{{"3 2 1", "3"}, {"3 2:0 1", "1 3 1 3"}, {"3 2 1", "2 1 3"}}},
		{"rr keeps its place through an edit", "rr", []turn{{"3 2 1", "3"}, {"3 2 1:7", "2 1 3"}}},
		{"rr moves a backend that is added again to the head", "rr", []turn{{"3 2 1", "3 2 1"}, {"3 2", ""}, {"1 3 2", "1 3 2"}}},
		{"rr from empty and back", "rr", []turn{{"", "-"}, {"2 1", "2"}, {"", "- -"}, {"2 1", "2 1 2"}}},
		{"rr with all quiesced has nobody", "rr", []turn{{"2:0 1:0", "- -"}, {"2:0 1", "1 1"}}},
		{"wrr starts with the bottom pass of a cycle", "wrr", []turn{{"3:2 2:3 1:4", "3 2 1 1 2 1 3 2 1 3 2 1 1"}}},
		{"wrr with one heavy backend", "wrr", []turn{{"3:1 2:1 1:5", "3 2 1 1 1 1 1 3 2 1"}}},
		{"wrr divides by the greatest common divisor", "wrr", []turn{{"2:20 1:10", "2 1 2 2 1 2"}}},
		{"wrr with equal weights is rr", "wrr", []turn{{"2:2 1:2", "2 1 2 1"}}},
		{"wrr leaves out weight zero", "wrr", []turn{{"3:0 2:1 1:2", "2 1 1 2 1 1"}}},
		{"wrr returns to the head and keeps its threshold on an edit", "wrr", []turn{
			{"3:2 2:3 1:4", "3 2 1 1"},
			{"3:3 2:3 1:4", "1 3 2 1 3 2 1 3 2 1 1"},
		}},
		{"wrr with all quiesced has nobody", "wrr", []turn{{"2:0 1:0", "-"}, {"2:0 1:3", "1 1"}}},
		{"an unhealthy backend is one of weight zero to rr", "rr", []turn{{"3 2 1", "3"}, {"3 2! 1", "1 3 1"}, {"3 2 1", "3 2 1"}}},
		{"an unhealthy backend is one of weight zero to wrr", "wrr", []turn{{"3:9! 2 1:2", "2 1 1 2 1"}, {"3:9! 2! 1:2!", "-"}}},
	}
}

func scheduleCases() []testCase {
	var out []testCase
	for _, s := range schedules() {
		out = append(out, testCase{s.name, 0, s.plays})
	}
	for _, name := range []string{"rr", "wrr"} {
		out = append(out, testCase{name + " keeps its place when frontends change", 0, func(e *env) {
			e.apply(e.service("web", name, "3:2 2:3 1:4", 1))
			e.wantPicks("3 2")
			e.apply(e.service("web", name, "3:2 2:3 1:4", 1, 2))
			e.wantPicks("1")
			e.apply(e.service("web", name, "3:2 2:3 1:4", 2))
			e.wantPicksAt(e.vip(2), map[string]string{"rr": "3 2", "wrr": "1 2"}[name])
		}})
	}
	return append(out,
		testCase{"a scheduler bound to a service with backends starts at its top", 0, func(e *env) {
			e.apply(e.service("web", "rr", "2 1:2", 1))
			e.wantPicks("2 1 2")
			e.apply(e.service("web", "wrr", "2 1:2", 1))
			e.wantPicks("1 2 1 1")
			e.apply(e.service("web", "rr", "2 1:2", 1))
			e.wantPicks("2 1 2")
		}},
		testCase{"frontends of a service share its place", 0, func(e *env) {
			e.apply(e.service("web", "rr", "3 2 1", 1, 2))
			e.wantPicksAt(e.vip(1), "3")
			e.wantPicksAt(e.vip(2), "2")
			e.wantPicksAt(e.vip(1), "1")
		}},
	)
}
