// SPDX-License-Identifier: Apache-2.0

// Package filewatch follows a file through edits, renames and symbolic links, those
// of ConfigMaps too.
package filewatch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
)

// A change is read settle after its last sign and when no process has the file
// open for writing, so that a file that is written in pieces is read whole; at
// the latest settleMax after its first sign.
const (
	settle    = 50 * time.Millisecond
	settleMax = 5 * time.Second
	unwatched = time.Second // between reads of a file that cannot be watched
)

// maxLinks is how many symbolic links a path may lead through, as in the
// kernel (path_resolution(7)).
const maxLinks = 40

// places returns the directory entries that decide which file path means: those
// of the file, of each symbolic link and of each directory on the way. Where
// something is missing the walk ends with the first entry that is. All are
// absolute paths below directories that exist and are no links. The value says
// whether it is more than a directory, which are seldom replaced.
func places(path string) (map[string]bool, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find the working directory: %w", err)
	}
	out := make(map[string]bool)
	dir, rest := "/", strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		at := filepath.Join(dir, name)
		if at == dir || name == ".." { // "", "." or ".."
			dir = at
			continue
		}
		info, err := os.Lstat(at)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			out[at] = true
			return out, nil
		case err != nil:
			return nil, err
		case info.Mode()&fs.ModeSymlink != 0:
			if links++; links > maxLinks {
				return nil, fmt.Errorf("resolve %s: more than %d symbolic links", path, maxLinks)
			}
			target, err := os.Readlink(at)
			if err != nil {
				return nil, err
			}
			out[at] = true
			rest = append(strings.Split(target, "/"), rest...)
			if filepath.IsAbs(target) {
				dir = "/"
			}
		case len(rest) == 0:
			out[at] = true
		case !info.IsDir(): // to be replaced by one, perhaps
			out[at] = true
			return out, nil
		default:
			if !out[at] { // unless the way led here before
				out[at] = false
			}
			dir = at
		}
	}
	return out, nil
}

// Watch follows one path. inotify watches a file's inode, which editors and
// ConfigMaps replace; so the directories are watched. For one goroutine.
type Watch struct {
	watcher *fsnotify.Watcher
	path    string
	places  map[string]bool
	// errors are the watcher's, the latest if they are not read.
	errors  chan error
	relayed chan struct{} // closed when nobody sends errors any more
}

// New makes a watch. Nothing is watched before Update.
func New(path string) (*Watch, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w (see sysctl fs.inotify.max_user_instances)", path, err)
	}
	out := &Watch{watcher: w, path: path, errors: make(chan error, 1), relayed: make(chan struct{})}
	go out.relay()
	return out, nil
}

// Close ends the watch.
func (w *Watch) Close() error {
	err := w.watcher.Close()
	<-w.relayed
	return err
}

// relay passes on errors until the watcher is closed. The watcher holds its
// lock while it waits for somebody to take one, and Update needs that lock.
func (w *Watch) relay() {
	defer close(w.relayed)
	for err := range w.watcher.Errors {
		select {
		case w.errors <- err:
		default: // one is waiting already, and will have everything looked at
		}
	}
}

// Turns are what Follow calls, from its own goroutine.
type Turns struct {
	// Changed is called when the file may have changed and nobody is writing it. It
	// calls Update, then reads. again has it called once more a second later, because
	// the file could not be watched; an error ends Follow.
	Changed func() (again bool, err error)
	// Asked, when one comes from this channel, does the same at once. May be nil.
	Asked <-chan struct{}
	// Answer is called instead of Changed for Asked.
	Answer func() (again bool)
	// Disturbed is told that changes may have been missed; Changed follows.
	Disturbed func(error)
}

// Follow calls t until ctx ends, or with an error. Update has been called.
func (w *Watch) Follow(ctx context.Context, t Turns) error {
	var settled <-chan time.Time // nil while nothing is to be read
	var latest time.Time
	for {
		again := false
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.watcher.Events:
			if !ok {
				return errors.New("the watch of the file ended")
			}
			if !w.concerns(e) {
				continue
			}
			if settled == nil {
				latest = time.Now().Add(settleMax)
			}
			settled = time.After(min(settle, time.Until(latest)))
			continue
		case err := <-w.errors: // events may be lost (fsnotify.ErrEventOverflow)
			t.Disturbed(err)
			latest = time.Now().Add(settleMax)
			settled = time.After(settle)
			continue
		case <-settled:
			if time.Now().Before(latest) && beingWritten(w.path) {
				settled = time.After(settle)
				continue
			}
			var err error
			if again, err = t.Changed(); err != nil {
				return err
			}
		case <-t.Asked:
			again = t.Answer()
		}
		settled = nil
		if again {
			settled = time.After(unwatched)
		}
	}
}

// Update makes the watched directories fit what the path means now. It is
// called before each read: what changes afterwards is an event. A directory
// that goes away meanwhile makes it look again.
func (w *Watch) Update() error {
	err := w.tryUpdate()
	for i := 0; i < 10 && errors.Is(err, fs.ErrNotExist); i++ {
		err = w.tryUpdate()
	}
	return err
}

func (w *Watch) tryUpdate() error {
	now, err := places(w.path)
	if err != nil {
		return fmt.Errorf("watch %s: %w", w.path, err)
	}
	w.places = now
	dirs := make(map[string]bool, len(now))
	for at, needed := range now {
		dir := filepath.Dir(at)
		dirs[dir] = dirs[dir] || needed
	}
	// All anew: the same path may be another directory now.
	for _, dir := range w.watcher.WatchList() {
		_ = w.watcher.Remove(dir) // fails if the directory is gone, and so is the watch
	}
	for dir, needed := range dirs {
		// Who may pass through a directory may not be allowed to read it.
		if err := w.watcher.Add(dir); err != nil && (needed || !errors.Is(err, fs.ErrPermission)) {
			return fmt.Errorf("watch %s: %w (see sysctl fs.inotify.max_user_watches)", dir, err)
		}
	}
	return nil
}

// concerns reports whether an event may have changed the file's content.
func (w *Watch) concerns(e fsnotify.Event) bool {
	_, ok := w.places[filepath.Clean(e.Name)]
	return ok
}

// beingWritten reports whether some process has the file open for writing: the
// kernel gives no read lease then (fcntl(2), F_SETLEASE). It says false where
// there are no leases: on network file systems, to users who do not own it.
func beingWritten(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd) // and with it the lease
	_, err = unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_RDLCK)
	return errors.Is(err, unix.EAGAIN)
}
