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
)

// maxLinks is how many symbolic links a path may lead through, as in the
// kernel (path_resolution(7)).
const maxLinks = 40

// places returns the directory entries that decide which file path means: that
// of the file and that of each symbolic link on the way. Where something is
// missing the walk ends with the first entry that is. All are absolute paths
// below directories that exist and are no links.
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
}

func newWatch(path string) (*watch, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w (see sysctl fs.inotify.max_user_instances)", path, err)
	}
	return &watch{Watcher: w, path: path}, nil
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
	for at := range now {
		dirs[filepath.Dir(at)] = true
	}
	for _, dir := range w.WatchList() {
		if dirs[dir] {
			continue
		}
		if err := w.Remove(dir); err != nil && !errors.Is(err, fsnotify.ErrNonExistentWatch) {
			return fmt.Errorf("stop watching %s: %w", dir, err)
		}
	}
	for dir := range dirs {
		if err := w.Add(dir); err != nil {
			return fmt.Errorf("watch %s: %w (see sysctl fs.inotify.max_user_watches)", dir, err)
		}
	}
	return nil
}

// concerns reports whether an event may have changed the file's content: it is
// of one of the places, or a watched directory went away.
func (w *watch) concerns(e fsnotify.Event) bool {
	name := filepath.Clean(e.Name)
	if w.places[name] {
		return true
	}
	if !e.Has(fsnotify.Remove) && !e.Has(fsnotify.Rename) {
		return false
	}
	for at := range w.places {
		if filepath.Dir(at) == name {
			return true
		}
	}
	return false
}
