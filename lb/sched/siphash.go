// SPDX-License-Identifier: Apache-2.0

package sched

import "math/bits"

// siphash13 is the low half of SipHash-1-3 over the four bytes of word, the
// lowest first, with both halves of the key the same. Written from the paper:
// Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012, with one round
// for each word of the message and three to finish.
func siphash13(key uint64, word uint32) uint32 {
	s := [4]uint64{
		key ^ 0x736f6d6570736575, key ^ 0x646f72616e646f6d,
		key ^ 0x6c7967656e657261, key ^ 0x7465646279746573,
	}
	m := 4<<56 | uint64(word) // the only word: the message and its length
	s[3] ^= m
	sipRound(&s)
	s[0] ^= m
	s[2] ^= 0xff
	sipRound(&s)
	sipRound(&s)
	sipRound(&s)
	return uint32(s[0] ^ s[1] ^ s[2] ^ s[3])
}

func sipRound(s *[4]uint64) {
	s[0] += s[1]
	s[1] = bits.RotateLeft64(s[1], 13) ^ s[0]
	s[0] = bits.RotateLeft64(s[0], 32)
	s[2] += s[3]
	s[3] = bits.RotateLeft64(s[3], 16) ^ s[2]
	s[0] += s[3]
	s[3] = bits.RotateLeft64(s[3], 21) ^ s[0]
	s[2] += s[1]
	s[1] = bits.RotateLeft64(s[1], 17) ^ s[2]
	s[2] = bits.RotateLeft64(s[2], 32)
}
