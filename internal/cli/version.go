// SPDX-License-Identifier: Apache-2.0

package cli

// Version is the output of `waggle version`.
type Version struct {
	header
	Build
}

// Build is what a binary was built from, and where it runs.
type Build struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	// Modified says that the source differed from the commit.
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Kernel   string `json:"kernel"`
}

// NewVersion makes the document.
func NewVersion(b Build) *Version { return &Version{header{APIVersion, "Version"}, b} }

// commit is the commit for people.
func (b *Build) commit() string {
	if b.Modified {
		return b.Commit + " (modified)"
	}
	return b.Commit
}

func (v *Version) rows(w *rows, _ bool) {
	w.add("version", v.Version)
	w.add("commit", v.commit())
	w.add("go", v.Go)
	w.add("platform", v.Platform)
	w.add("kernel", v.Kernel)
}
