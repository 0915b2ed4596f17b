// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

const formerPrefix = "former-"

// onceShared are maps that other layouts had beside sharedMaps.
var onceShared = []string{"service_info"}

// setAside moves all pins of another layout to a directory of their own. Its
// programs stay attached and go on with their connections; those that come now
// are put in front of them.
func (l *Loader) setAside(layout uint32) error {
	dir, err := l.newFormer()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(l.opts.PinPath)
	if err != nil {
		return fmt.Errorf("read the pin path: %w", err)
	}
	move := func(name string) error {
		if err := os.Rename(filepath.Join(l.opts.PinPath, name), filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("set the maps of layout %d aside: %w", layout, err)
		}
		return nil
	}
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, formerPrefix) || name == "meta" {
			continue
		}
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			continue // links: moved by a process that died, and made again
		}
		if err := move(name); err != nil {
			return err
		}
	}
	if err := keepQdiscs(filepath.Join(dir, linksDir), filepath.Join(l.opts.PinPath, linksDir)); err != nil {
		return err
	}
	// the last, as it says that there is another layout
	if err := move("meta"); err != nil {
		return err
	}
	l.opts.Log.Warn("the maps here have another layout: their connections go on through the programs that made them, new ones use this version's",
		"pin_path", l.opts.PinPath, "layout", layout, "set_aside", dir)
	return nil
}

// keepQdiscs makes the directory of links, and moves there the records of
// qdiscs: our filters will be the last in them.
func keepQdiscs(from, to string) error {
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("make the pin path: %w", err)
	}
	records, err := filepath.Glob(filepath.Join(from, "*-clsact"))
	if err != nil {
		return err
	}
	for _, r := range records {
		if err := os.Rename(r, filepath.Join(to, filepath.Base(r))); err != nil {
			return fmt.Errorf("keep the record of a qdisc: %w", err)
		}
	}
	return nil
}

// newFormer makes a directory, or takes that of a process which died while it
// moved pins: there the links are.
func (l *Loader) newFormer() (string, error) {
	for n := 1; ; n++ {
		dir := filepath.Join(l.opts.PinPath, formerPrefix+strconv.Itoa(n))
		err := os.Mkdir(dir, 0o700)
		if errors.Is(err, fs.ErrExist) {
			if _, err := os.Lstat(filepath.Join(dir, "meta")); err == nil {
				continue
			}
			return dir, nil
		}
		if err != nil {
			return "", fmt.Errorf("set the maps of another layout aside: %w", err)
		}
		return dir, nil
	}
}

func formers(pinPath string) ([]string, error) {
	return filepath.Glob(filepath.Join(pinPath, formerPrefix+"*"))
}

// HasFormer reports whether connections of another layout go on here.
func (l *Loader) HasFormer() bool {
	dirs, err := formers(l.opts.PinPath)
	return err == nil && len(dirs) > 0
}

// EndFormer detaches the programs of other layouts and removes their maps: what
// connections they still have end.
func (l *Loader) EndFormer() error {
	dirs, err := formers(l.opts.PinPath)
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if _, err := removeAll(dir, nil); err != nil {
			return fmt.Errorf("end the connections of another layout: %w", err)
		}
	}
	return nil
}
