// SPDX-License-Identifier: Apache-2.0

package cli

// Version is the output of `waggle version`.
type Version struct {
	header
	Version string `json:"version"`
	Commit  string `json:"commit"`
	// Modified says that the source differed from the commit.
	Modified bool   `json:"modified"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	Kernel   string `json:"kernel"`
}

// NewVersion makes the document. v's header is filled in.
func NewVersion(v Version) *Version {
	v.header = header{APIVersion, "Version"}
	return &v
}

func (v *Version) rows(w *rows, _ bool) {
	commit := v.Commit
	if v.Modified {
		commit += " (modified)"
	}
	w.add("version", v.Version)
	w.add("commit", commit)
	w.add("go", v.Go)
	w.add("platform", v.Platform)
	w.add("kernel", v.Kernel)
}
