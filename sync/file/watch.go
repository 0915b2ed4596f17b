// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
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

// watch follows one path through renames and links. inotify watches a file's
// inode, which editors and ConfigMaps replace; so the directories are watched.
// For one goroutine.
type watch struct {
	*fsnotify.Watcher
	path   string
	places map[string]bool
	// errors are the Watcher's, the latest if they are not read.
	errors chan error
}

func newWatch(path string) (*watch, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w (see sysctl fs.inotify.max_user_instances)", path, err)
	}
	return &watch{Watcher: w, path: path, errors: make(chan error, 1)}, nil
}

// relay passes on errors until the Watcher is closed. The Watcher holds its
// lock while it waits for somebody to take one, and update needs that lock.
func (w *watch) relay() {
	for err := range w.Errors {
		select {
		case w.errors <- err:
		default: // one is waiting already, and will have everything looked at
		}
	}
}

// update makes the watched directories fit what the path means now. It is
// called before each read: what changes afterwards is an event. A directory
// that goes away meanwhile makes it look again.
func (w *watch) update() error {
	err := w.tryUpdate()
	for i := 0; i < 10 && errors.Is(err, fs.ErrNotExist); i++ {
		err = w.tryUpdate()
	}
	return err
}

func (w *watch) tryUpdate() error {
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
	for _, dir := range w.WatchList() {
		_ = w.Remove(dir) // fails if the directory is gone, and so is the watch
	}
	for dir, needed := range dirs {
		// Who may pass through a directory may not be allowed to read it.
		if err := w.Add(dir); err != nil && (needed || !errors.Is(err, fs.ErrPermission)) {
			return fmt.Errorf("watch %s: %w (see sysctl fs.inotify.max_user_watches)", dir, err)
		}
	}
	return nil
}

// concerns reports whether an event may have changed the file's content.
func (w *watch) concerns(e fsnotify.Event) bool {
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
