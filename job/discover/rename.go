package discover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/renameio/v2"
)

// dropInFolders are the directories of an instance's drop-ins, by the name of the instance: those of a new name
// stand where those of an old one do.
func dropInFolders(name string) (folders []string) {
	for _, unit := range []string{template, "usage-sync@", "usage-sync-reconcile@",
		"usage-sync-backup@", "usage-sync-close@"} {
		for _, kind := range []string{".service.d", ".timer.d"} {
			folders = append(folders, unit+name+kind)
		}
	}
	return folders
}

// inherit moves what was configured by hand under a former name to the present one: edited settings, and
// drop-ins such as that of another interval. What is there under the present name already stays.
func (l Layout) inherit(i *Instance, former string) error {
	if err := l.move(i, l.envFile(former), l.envFile(i.Container)); err != nil {
		return err
	}
	present := dropInFolders(i.Container)
	for n, folder := range dropInFolders(former) {
		entries, err := os.ReadDir(filepath.Join(l.Units, folder))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", ErrFile, err)
		}
		for _, entry := range entries {
			to := filepath.Join(l.Units, present[n], entry.Name())
			if err := l.move(i, filepath.Join(l.Units, folder, entry.Name()), to); err != nil {
				return err
			}
		}
	}
	return nil
}

// move moves a file that was edited or made by hand, unless there is one already.
func (l Layout) move(i *Instance, from, to string) error {
	edited, err := isEdited(from)
	if err != nil || !edited || exists(to) {
		return err
	}
	err = os.MkdirAll(filepath.Dir(to), 0o755)
	if err == nil {
		err = os.Rename(from, to)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	i.Written, i.Removed = append(i.Written, to), append(i.Removed, from)
	if _, ours := l.files(*i)[to]; ours {
		i.Edited = append(i.Edited, to)
	}
	return nil
}

// retire gives the timers of a former name to the present one, then removes the files that stand for the former. The
// present one's are started first: a pass too many is no harm, since each takes the lock and knows what is recorded.
func (l Layout) retire(ctx context.Context, i *Instance, former string) error {
	var on, off []string
	present := timers(i.Container)
	for n, timer := range timers(former) {
		if isEnabled(ctx, timer) {
			on, off = append(on, present[n]), append(off, timer)
		}
	}
	if len(off) > 0 {
		if err := run(ctx, "systemctl", "daemon-reload"); err != nil {
			return err
		}
		if err := errors.Join(systemctl(ctx, "enable", on), systemctl(ctx, "disable", off)); err != nil {
			return err
		}
	}
	for _, file := range []string{l.dropInFile(former), l.envFile(former)} {
		if edited, err := isEdited(file); err != nil {
			return err
		} else if edited { // there was another one under the present name
			if err := os.Rename(file, file+".replaced"); err != nil {
				return fmt.Errorf("%w: %w", ErrFile, err)
			}
		} else if err := os.Remove(file); errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return fmt.Errorf("%w: %w", ErrFile, err)
		}
		i.Removed = append(i.Removed, file)
	}
	if err := l.leaveLinks(i, former); err != nil {
		return err
	}
	for _, folder := range slices.Backward(dropInFolders(former)) {
		_ = os.Remove(filepath.Join(l.Units, folder)) // one that still holds something stays
	}
	return nil
}

// leaveLinks leaves a symbolic link in the place of a former name's settings where something that people have
// made refers to them: the units of the HTTP API, a line of cron's. Links of yet older names follow.
func (l Layout) leaveLinks(i *Instance, former string) error {
	var links []string
	entries, err := filepath.Glob(filepath.Join(escapeGlob(l.Config), "*.env"))
	for _, path := range entries {
		if target, err := os.Readlink(path); err == nil && target == filepath.Base(l.envFile(former)) {
			links = append(links, path)
		}
	}
	if l.isReferredTo(former) {
		links = append(links, l.envFile(former))
	}
	for _, path := range links {
		err = errors.Join(err, renameio.Symlink(i.Container+".env", path))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrFile, err)
	}
	return nil
}

// isReferredTo tells whether units of the HTTP API have an instance's name, or a table of cron's names its settings.
func (l Layout) isReferredTo(name string) bool {
	units, _ := filepath.Glob(filepath.Join(escapeGlob(l.Units), "usage-sync-http-"+escapeGlob(name)+"[.@]*"))
	if len(units) > 0 {
		return true
	}
	tables, _ := filepath.Glob(filepath.Join(escapeGlob(l.Cron), "*"))
	return slices.ContainsFunc(tables, func(table string) bool {
		text, err := os.ReadFile(table)
		return err == nil && strings.Contains(string(text), "/"+name+".env")
	})
}
