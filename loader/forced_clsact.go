// SPDX-License-Identifier: Apache-2.0

//go:build clsact

package loader

// forced replaces Auto in binaries for tests, so that a newer kernel serves as
// one before 6.6 does.
const forced = Clsact
