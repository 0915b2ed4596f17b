// SPDX-License-Identifier: Apache-2.0

package file_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/lb"
	"github.com/waggle-lb/waggle/sync/file"
)

func TestRunFailsIfTheFirstReadDoes(t *testing.T) {
	dir := t.TempDir()
	bad, loop := filepath.Join(dir, "bad"), filepath.Join(dir, "loop")
	writeFile(t, bad, rules("1")+"-a -t 203.0.113.1:80 -r 192.0.2.2:80 -m -w heavy\n")
	must(t, os.Symlink("loop", loop))
	for path, want := range map[string]string{
		bad:                                bad + `:3: -w: weight "heavy" is not a whole number: write 0 to 65535`,
		filepath.Join(dir, "missing"):      "read services: open " + dir + "/missing: no such file or directory",
		filepath.Join(dir, "no", "f.yaml"): "read services: open " + dir + "/no/f.yaml: no such file or directory",
		dir:                                "read services: read " + dir + ": is a directory",
		loop:                               "watch " + loop + ": resolve " + loop + ": more than 40 symbolic links",
	} {
		f := newFollower(t, path)
		err := f.src.Run(t.Context())
		if err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", path, err, want)
		}
		if n := len(f.delivered()); n > 0 {
			t.Errorf("%s: %d deliveries", path, n)
		}
		select {
		case <-f.src.Ready():
			t.Errorf("%s: ready", path)
		default:
		}
	}
}

func TestNewSourceRefusesHalfOptions(t *testing.T) {
	whole := file.SourceOptions{Path: "x", Logger: slog.New(slog.DiscardHandler), Out: func(*lb.Snapshot) {}}
	for name, spoil := range map[string]func(*file.SourceOptions){
		"no path":           func(o *file.SourceOptions) { o.Path = "" },
		"no logger":         func(o *file.SourceOptions) { o.Logger = nil },
		"no out":            func(o *file.SourceOptions) { o.Out = nil },
		"unknown scheduler": func(o *file.SourceOptions) { o.DefaultScheduler = "dice" },
	} {
		opts := whole
		spoil(&opts)
		if _, err := file.NewSource(opts); err == nil {
			t.Errorf("%s: a source was made", name)
		}
	}
	if src, err := file.NewSource(whole); err != nil || src.String() != "services file x" {
		t.Errorf("got %v, %v", src, err)
	}
}

// ways are the ways in which files are changed: how one is set up in a
// directory, and how its n-th version comes.
var ways = map[string]struct {
	setUp  func(t *testing.T, dir, text string) (path string)
	change func(t *testing.T, dir string, n int, text string)
}{
	"rename into place": {
		func(t *testing.T, dir, text string) string { return file1(t, dir, text) },
		func(t *testing.T, dir string, _ int, text string) { renameInto(t, dir+"/f", text) },
	},
	"write in place": {
		func(t *testing.T, dir, text string) string { return file1(t, dir, text) },
		func(t *testing.T, dir string, _ int, text string) { writeFile(t, dir+"/f", text) },
	},
	"remove and write": {
		func(t *testing.T, dir, text string) string { return file1(t, dir, text) },
		func(t *testing.T, dir string, _ int, text string) {
			must(t, os.Remove(dir+"/f"))
			writeFile(t, dir+"/f", text)
		},
	},
	"link to another file": {
		func(t *testing.T, dir, text string) string {
			writeFile(t, dir+"/v0", text)
			must(t, os.Symlink("v0", dir+"/f"))
			return dir + "/f"
		},
		func(t *testing.T, dir string, n int, text string) {
			writeFile(t, fmt.Sprintf("%s/v%d", dir, n), text)
			linkInto(t, dir+"/f", fmt.Sprintf("%s/v%d", dir, n))
		},
	},
	"write in place behind links": {
		func(t *testing.T, dir, text string) string {
			must(t, os.Mkdir(dir+"/a", 0o700))
			must(t, os.Mkdir(dir+"/b", 0o700))
			must(t, os.Symlink("../a/./real", dir+"/b/link"))
			writeFile(t, dir+"/a/real", text)
			must(t, os.Symlink(dir+"/b/link", dir+"/f"))
			return dir + "/f"
		},
		func(t *testing.T, dir string, _ int, text string) { writeFile(t, dir+"/a/real", text) },
	},
	"write in place behind a link to a directory": {
		func(t *testing.T, dir, text string) string {
			file1(t, dir+"/a/b", text)
			must(t, os.Symlink("a/b", dir+"/link"))
			return dir + "/link/f"
		},
		func(t *testing.T, dir string, _ int, text string) { writeFile(t, dir+"/a/b/f", text) },
	},
	"ConfigMap volume": {
		func(t *testing.T, dir, text string) string {
			must(t, os.Mkdir(dir+"/..0", 0o700))
			writeFile(t, dir+"/..0/f", text)
			must(t, os.Symlink("..0", dir+"/..data"))
			must(t, os.Symlink("..data/f", dir+"/f"))
			return dir + "/f"
		},
		func(t *testing.T, dir string, n int, text string) {
			must(t, os.Mkdir(fmt.Sprintf("%s/..%d", dir, n), 0o700))
			writeFile(t, fmt.Sprintf("%s/..%d/f", dir, n), text)
			linkInto(t, dir+"/..data", fmt.Sprintf("..%d", n))
			must(t, os.RemoveAll(fmt.Sprintf("%s/..%d", dir, n-1)))
		},
	},
	"its directory is replaced": {
		func(t *testing.T, dir, text string) string { return file1(t, dir+"/a/b", text) },
		func(t *testing.T, dir string, n int, text string) { replaceDir(t, dir, "a/b", n, text) },
	},
	"a directory further up is replaced": {
		func(t *testing.T, dir, text string) string { return file1(t, dir+"/a/b", text) },
		func(t *testing.T, dir string, n int, text string) { replaceDir(t, dir, "a", n, text) },
	},
	"directories are removed and made": {
		func(t *testing.T, dir, text string) string { return file1(t, dir+"/a/b", text) },
		func(t *testing.T, dir string, _ int, text string) {
			must(t, os.RemoveAll(dir+"/a"))
			file1(t, dir+"/a/b", text)
		},
	},
}

// file1 makes dir and the file f in it.
func file1(t *testing.T, dir, text string) string {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o700))
	writeFile(t, dir+"/f", text)
	return dir + "/f"
}

// replaceDir puts a directory that has a/b/f with this text in the place of the
// one at dir/which, which stays under another name.
func replaceDir(t *testing.T, dir, which string, n int, text string) {
	t.Helper()
	file1(t, dir+"/new/a/b", text)
	must(t, os.Rename(dir+"/"+which, fmt.Sprintf("%s/old%d", dir, n)))
	must(t, os.Rename(dir+"/new/"+which, dir+"/"+which))
	must(t, os.RemoveAll(dir+"/new"))
}

func TestSourceFollowsTheFile(t *testing.T) {
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			f := follow(t, way.setUp(t, dir, rules("1=9")))
			for n := 1; n < 5; n++ {
				state := fmt.Sprintf("1=%d", n+1)
				way.change(t, dir, n, rules(state))
				f.wantState(state)
			}
		})
	}
}

func TestAFileThatIsWrittenInPiecesIsReadWhole(t *testing.T) {
	t.Parallel()
	path := file1(t, t.TempDir(), rules("9"))
	f := follow(t, path)
	whole := rules("1 2 3 4 5")
	out, err := os.Create(path)
	must(t, err)
	for line := range strings.Lines(whole) { // each more makes a file that would be taken
		_, err := out.WriteString(line)
		must(t, err)
		chance()
	}
	must(t, out.Close())
	f.wantState("5 4 3 2 1")
	if diff := cmp.Diff([]string{"9", "5 4 3 2 1"}, f.states()); diff != "" {
		t.Errorf("deliveries (-want +got):\n%s", diff)
	}
	f.wantLog(`level=INFO msg="services read" path=` + path + ` format="ipvsadm -S -n" services=1 added=0 changed=1 removed=0`)
}

func TestAFileThatIsNeverClosedIsReadInTheEnd(t *testing.T) {
	t.Parallel()
	path := file1(t, t.TempDir(), rules("1"))
	f := follow(t, path)
	out, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	defer out.Close()
	_, err = out.WriteString("-a -t 203.0.113.1:80 -r 192.0.2.2:80 -m -w 1\n")
	must(t, err)
	f.wantState("2 1")
}

func TestABadEditChangesNothing(t *testing.T) {
	t.Parallel()
	path := file1(t, t.TempDir(), rules("1 2"))
	f := follow(t, path)
	bad := rules("1 2 3") + "-a -t 203.0.113.1:80 -r 192.0.2.4:80 -g -w 1\n-A -f 7 -s wrr\n-A -t 203.0.113.1:80 -s rr\n"
	complaints := []string{
		`level=ERROR msg="services file refused" error="` + path + `:5: -g: forwarding by route (-g) is not yet supported: write -m instead"`,
		`level=ERROR msg="services file refused" error="` + path + `:6: -f: services by firewall mark are not yet supported: write a service for each address, with -t or -u"`,
		`level=ERROR msg="services file refused" error="` + path + `:7: duplicate VIP 203.0.113.1:80/TCP, first in line 1: remove one of them"`,
		`level=ERROR msg="the last good services stay" path=` + path + ` services=1`,
	}
	renameInto(t, path, bad)
	f.wantLog(complaints...)

	renameInto(t, path, bad) // the same again: no news
	chance()
	select { // somebody asks
	case <-f.src.Reload():
	case <-time.After(20 * time.Second):
		t.Fatal("the reload has no end")
	}
	f.wantLog(complaints...)
	if diff := cmp.Diff([]string{"2 1"}, f.states()); diff != "" {
		t.Errorf("deliveries (-want +got):\n%s", diff)
	}

	// good as before: said, not delivered
	renameInto(t, path, rules("1 2"))
	f.wantLog(`level=INFO msg="services file is good again" path=` + path)
	renameInto(t, path, bad) // news again
	f.wantLog(complaints...)

	renameInto(t, path, rules("1"))
	f.wantLog(`level=INFO msg="services read" path=`+path+` format="ipvsadm -S -n" services=1 added=0 changed=1 removed=0`,
		`level=INFO msg="services file is good again" path=`+path)
	if diff := cmp.Diff([]string{"2 1", "1"}, f.states()); diff != "" {
		t.Errorf("deliveries (-want +got):\n%s", diff)
	}
}

func TestALongListOfErrorsIsCut(t *testing.T) {
	t.Parallel()
	path := file1(t, t.TempDir(), rules("1"))
	f := follow(t, path)
	renameInto(t, path, strings.Repeat("-E\n", 12))
	f.eventually("complaint", func() bool { return f.logged("the last good services stay") })
	log := f.take()
	if len(log) != 12 || log[10] != `level=ERROR msg="services file refused" error="`+path+`: and 2 more errors"` {
		t.Errorf("got %d lines, want ten errors and how many more:\n%s", len(log), strings.Join(log, "\n"))
	}
}

func TestAFileThatIsGoneChangesNothing(t *testing.T) {
	t.Parallel()
	path := file1(t, t.TempDir()+"/a/b", rules("1"))
	f := follow(t, path)
	stay := `level=ERROR msg="the last good services stay" path=` + path + ` services=1`
	must(t, os.Remove(path))
	f.wantLog(`level=ERROR msg="services file refused" error="read services: open `+path+`: no such file or directory"`, stay)
	must(t, os.RemoveAll(filepath.Dir(filepath.Dir(path)))) // no news
	chance()
	file1(t, filepath.Dir(path), rules("1"))
	f.wantLog(`level=INFO msg="services file is good again" path=` + path)
	writeFile(t, path, rules("2"))
	f.wantState("2")
	if diff := cmp.Diff([]string{"1", "2"}, f.states()); diff != "" {
		t.Errorf("deliveries (-want +got):\n%s", diff)
	}
}

func TestADirectoryThatIsAFileForAWhileIsFollowed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := follow(t, file1(t, dir+"/a/b", rules("1")))
	must(t, os.RemoveAll(dir+"/a/b"))
	writeFile(t, dir+"/a/b", rules("3"))
	f.eventually("complaint", func() bool { return f.logged("not a directory") })
	must(t, os.Remove(dir+"/a/b"))
	file1(t, dir+"/a/b", rules("2"))
	f.wantState("2")
}

// TestAPathThatCannotBeWatchedIsTriedAgain: nothing tells when a loop of links
// is mended in a directory that is not watched.
func TestAPathThatCannotBeWatchedIsTriedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := file1(t, dir, rules("1"))
	f := follow(t, path)
	must(t, os.Mkdir(dir+"/x", 0o700))
	must(t, os.Symlink("loop", dir+"/x/loop"))
	linkInto(t, path, "x/loop")
	f.wantLog(`level=ERROR msg="services file refused" error="watch `+path+`: resolve `+path+`: more than 40 symbolic links"`,
		`level=ERROR msg="the last good services stay" path=`+path+` services=1`)
	renameInto(t, dir+"/x/loop", rules("2"))
	f.wantState("2")
	renameInto(t, dir+"/x/loop", rules("3"))
	f.wantState("3")
}

// TestManySmallWritesAreReadTogether: there may be pauses between them on a busy
// machine, but not twenty.
func TestManySmallWritesAreReadTogether(t *testing.T) {
	path := file1(t, t.TempDir(), rules("1"))
	f := follow(t, path)
	text := "1"
	for n := 2; n < 250; n++ {
		text += fmt.Sprintf(" %d", n)
		writeFile(t, path, rules(text))
	}
	f.eventually("delivery of 249 backends", func() bool {
		all := f.states()
		return strings.HasPrefix(all[len(all)-1], "249 ")
	})
	if n := len(f.delivered()); n > 20 {
		t.Errorf("%d deliveries of 248 writes", n)
	}
}

func TestReplacedDirectoriesAreNotWatchedAnyLonger(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := follow(t, file1(t, dir+"/a/b", rules("1")))
	f.eventually("watch of the directory", func() bool { return watched(t, dir+"/a/b") })
	replaceDir(t, dir, "a", 1, rules("2"))
	f.wantState("2")
	f.eventually("only the new directory is watched", func() bool {
		return watched(t, dir+"/a/b") && !watched(t, dir+"/old1/b")
	})
}

// watched reports whether the process has an inotify watch of a directory.
func watched(t *testing.T, dir string) bool {
	t.Helper()
	info, err := os.Stat(dir)
	must(t, err)
	mark := fmt.Sprintf(" ino:%x ", info.Sys().(*syscall.Stat_t).Ino)
	fds, err := filepath.Glob("/proc/self/fdinfo/*")
	must(t, err)
	return slices.ContainsFunc(fds, func(fd string) bool {
		text, err := os.ReadFile(fd) // some are closed by now
		return err == nil && strings.Contains(string(text), mark)
	})
}

func TestWhatSaysTheSameDeliversNothing(t *testing.T) {
	t.Parallel()
	path := file1(t, t.TempDir(), rules("1 2"))
	f := follow(t, path)
	for _, same := range []string{rules("1 2"), "# a comment\n" + rules("1 2"), rules("2 1")} {
		renameInto(t, path, same)
		chance()
		f.src.Reload()
		chance()
	}
	renameInto(t, path, rules("3"))
	f.wantState("3")
	if diff := cmp.Diff([]string{"2 1", "3"}, f.states()); diff != "" {
		t.Errorf("deliveries (-want +got):\n%s", diff)
	}
}

func TestUnchangedServicesKeepTheirPointers(t *testing.T) {
	t.Parallel()
	const other = "-A -u 203.0.113.9:53 -s rr\n-a -u 203.0.113.9:53 -r 192.0.2.9:53 -m -w 1\n"
	path := file1(t, t.TempDir(), rules("1")+other)
	f := follow(t, path)
	renameInto(t, path, other+rules("1 2"))
	f.eventually("delivery", func() bool { return len(f.delivered()) == 2 })
	snaps := f.delivered()
	diff := snaps[0].Compare(snaps[1])
	if len(diff.Changed) != 1 || diff.Changed[0].New.ID.Name != "203.0.113.1:80/TCP" || len(diff.Added)+len(diff.Removed) > 0 {
		t.Errorf("diff %+v, want one changed", diff)
	}
}

func TestBackendsStandAsInTheKernelsListOverEdits(t *testing.T) {
	t.Parallel()
	path := file1(t, t.TempDir(), rules("1 2 3"))
	f := follow(t, path)
	f.wantState("3 2 1")
	for _, edit := range []struct{ lines, want string }{
		{"1 4 2 3", "4 3 2 1"},     // a line in between is an addition at the head
		{"1 4 2=5 3", "4 3 2=5 1"}, // an edit stays in place
		{"4 2=5 3", "4 3 2=5"},
		{"1 4 2=5 3", "1 4 3 2=5"}, // removed and back is the newest
	} {
		renameInto(t, path, rules(edit.lines))
		f.wantState(edit.want)
	}
	renameInto(t, path, "oops")
	f.eventually("complaint", func() bool { return f.logged("the last good services stay") })
	renameInto(t, path, rules("5 1 4 2=5 3")) // a bad edit in between forgets no order
	f.wantState("5 1 4 3 2=5")
}

func TestReloadReadsWithoutBeingTold(t *testing.T) {
	t.Parallel()
	f := newFollower(t, file1(t, t.TempDir(), rules("1")))
	var asked []<-chan struct{}
	for range 3 {
		asked = append(asked, f.src.Reload()) // before Run, and more often than anybody reads: it never waits
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { f.ended <- f.src.Run(ctx) }()
	f.wantState("1")
	for i, done := range asked {
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Fatalf("reload %d has no end", i)
		}
	}
	cancel()
	select {
	case err := <-f.ended:
		if err != nil {
			t.Errorf("run: %v, want nil", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("run goes on after its context ended")
	}
}
