package discover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// dropInFolders are the directories of an instance's drop-ins, by the name of the instance: those of a new name stand where
// those of an old one do.
func dropInFolders(name string) (folders []string) {
	for _, unit := range []string{template, "usage-sync@", "usage-sync-reconcile@", "usage-sync-backup@"} {
		for _, kind := range []string{".service.d", ".timer.d"} {
			folders = append(folders, unit+name+kind)
		}
	}
	return folders
}

// inherit moves what was configured by hand under a former name to the present one: edited settings, and drop-ins such as
// that of another interval. What is there under the present name already stays.
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
	for _, folder := range slices.Backward(dropInFolders(former)) {
		_ = os.Remove(filepath.Join(l.Units, folder)) // one that still holds something stays
	}
	return nil
}
