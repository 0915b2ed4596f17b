// SPDX-License-Identifier: Apache-2.0

//go:build !clsact

package loader

// forced replaces Auto; the build tag clsact makes it Clsact.
const forced = Auto
