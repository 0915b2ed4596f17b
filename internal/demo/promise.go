// SPDX-License-Identifier: Apache-2.0

package demo

// turns returns how many picks each server gets in one cycle of the scheduler.
// exact is true if every cycle is the same, which is so for rr (everybody in
// turn, weights do not count except 0) and wrr (as many turns as the weight
// says, divided by the weights' greatest common divisor). Others depend on the
// load or on the clients: for them the weights are only a direction.
func turns(scheduler string, weights []uint16) (cycle []int, exact bool) {
	cycle = make([]int, len(weights))
	if scheduler == "rr" {
		for i, w := range weights {
			cycle[i] = int(min(w, 1))
		}
		return cycle, true
	}
	var divisor uint16
	for _, w := range weights {
		divisor = gcd(divisor, w)
	}
	for i, w := range weights {
		cycle[i] = int(w / max(1, divisor))
	}
	return cycle, scheduler == "wrr"
}

func gcd(a, b uint16) uint16 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// span is the least and the most that a server can have got.
type span struct{ min, max int }

// promise says what each server gets of so many picks in a row, wherever in
// the cycle the first one is: whole cycles are exact, and of the rest of r
// picks a server with t turns in a cycle of c gets at least r-(c-t), at most t.
func promise(cycle []int, flows int) []span {
	total := 0
	for _, t := range cycle {
		total += t
	}
	out := make([]span, len(cycle))
	if total == 0 {
		return out
	}
	whole, rest := flows/total, flows%total
	for i, t := range cycle {
		out[i] = span{whole*t + max(0, rest-(total-t)), whole*t + min(t, rest)}
	}
	return out
}
