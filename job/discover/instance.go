package discover

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"usage-sync/job"
)

var (
	// ErrFile: an instance file can't be read or made.
	ErrFile = job.NewError(job.KindOutputFile, "instance file")
	// ErrSystemd: a command of systemd's can't be run, or fails.
	ErrSystemd = job.NewError(job.KindUnreachable, "systemd")
)

// template stands for usage-sync@, usage-sync-reconcile@ and usage-sync-backup@ alike: systemd also looks for drop-ins under
// a unit's name cut at each dash (systemd.unit(5)). Their instances may write in the database's directory alone. Reading needs
// that, too: in WAL mode SQLite keeps files beside the database.
const template = "usage-@"

// Layout is where instance files lie.
type Layout struct {
	Config string // NAME.env of each instance, and what the operator puts beside them
	Units  string // systemd's own directory of the administrator
	// Sysusers declares users that nobody else has, for databases that do not belong to root: sysusers.d(5).
	Sysusers string
}

func (l Layout) envFile(name string) string { return filepath.Join(l.Config, name+".env") }

// files are those of an instance, with what belongs into them.
func (l Layout) files(i Instance) map[string]string {
	files := map[string]string{l.envFile(i.Container): marked("# Container " + i.Container + ". 'usage-sync sync --help' names more settings.\n" +
		"USAGE_SYNC_DB=" + quoteEnvironment(i.Database) + "\n")}
	files[filepath.Join(l.Units, template+i.Container+".service.d", "database.conf")] = marked(dropIn(i))
	if file, content := l.sysusers(i); file != "" {
		files[file] = content
	}
	return files
}

// Compare tells what is new, moved and gone, in the order of names.
func (l Layout) Compare(containers []Container, found []Instance) ([]Instance, error) {
	all := slices.Clone(found)
	for n := range all {
		i := &all[n]
		configured, there, err := l.database(i.Container)
		if err != nil {
			return nil, err
		}
		switch {
		case i.Status == Unusable || !there:
		case sameFile(configured, i.Database):
			i.Status = Configured
		default:
			i.Status = Moved
		}
		for _, file := range sortedNames(l.files(*i)) {
			if edited, err := isEdited(file); err != nil {
				return nil, err
			} else if edited {
				i.Edited = append(i.Edited, file)
			}
		}
	}
	markShared(all)
	entries, err := filepath.Glob(filepath.Join(escapeGlob(l.Config), "*.env"))
	if err != nil {
		return nil, err
	}
	for _, file := range entries {
		name := strings.TrimSuffix(filepath.Base(file), ".env")
		if slices.ContainsFunc(containers, func(c Container) bool { return c.Name == name }) {
			continue
		}
		database, there, err := l.database(name)
		if err != nil {
			return nil, err
		}
		// A file without our mark was made by hand, perhaps for a database without a container.
		if content, err := os.ReadFile(file); err == nil && there && strings.HasPrefix(string(content), mark) {
			all = append(all, Instance{Container: name, Database: database, Status: Gone, Problem: "there is no such container"})
		}
	}
	slices.SortFunc(all, func(a, b Instance) int { return cmp.Compare(a.Container, b.Container) })
	return all, nil
}

// sameFile tells whether two paths lead to one file: an older file may name a path through a symbolic link.
func sameFile(a, b string) bool {
	if a == b {
		return true
	}
	first, err := os.Stat(a)
	if err != nil {
		return false
	}
	second, err := os.Stat(b)
	return err == nil && os.SameFile(first, second)
}

// markShared leaves each database to one instance: that which has it already, else a running container's.
func markShared(all []Instance) {
	rank := func(i Instance) int {
		switch {
		case i.Status == Configured:
			return 0
		case i.State == "running":
			return 1
		}
		return 2
	}
	for n := range all {
		for m := range all {
			first, other := all[m], &all[n]
			if n == m || first.Database != other.Database || first.Status == Unusable || first.Status == Shared || other.Status == Unusable {
				continue
			}
			if rank(first) < rank(*other) || rank(first) == rank(*other) && first.Container < other.Container {
				other.Status, other.Problem = Shared, "the same database as container "+first.Container
				break
			}
		}
	}
}

// database returns the database that an instance file names.
func (l Layout) database(name string) (database string, there bool, err error) {
	content, err := os.ReadFile(l.envFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("%w: %w", ErrFile, err)
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "USAGE_SYNC_DB="); ok {
			database, there = unquoteEnvironment(value), true
		}
	}
	return database, there, nil
}

// Write makes the files of every instance that is new, moved or lacks one. An edited file is left alone unless force is
// set, and nothing is ever removed.
func (l Layout) Write(instances []Instance, force bool) error {
	for n := range instances {
		i := &instances[n]
		if i.Status != New && i.Status != Configured && i.Status != Moved {
			continue
		}
		files := l.files(*i)
		for _, file := range sortedNames(files) {
			if slices.Contains(i.Edited, file) && !force {
				continue
			}
			mode := os.FileMode(0o644)
			if file == l.envFile(i.Container) {
				mode = 0o640 // people put keys into it
			}
			written, err := writeFile(file, files[file], mode)
			if err != nil {
				return fmt.Errorf("%w: %w", ErrFile, err)
			}
			if written {
				i.Written = append(i.Written, file)
			}
		}
	}
	return nil
}

// Enable makes the users that passes run as, makes systemd read the files again, and starts the timers of all instances on
// which a pass can work.
func (l Layout) Enable(ctx context.Context, instances []Instance) (enabled []string, err error) {
	var users []string
	for _, i := range instances {
		if !i.Ready() {
			continue
		}
		enabled = append(enabled, "usage-sync@"+i.Container+".timer")
		if file, _ := l.sysusers(i); file != "" {
			users = append(users, file)
		}
	}
	slices.Sort(users)
	if users = slices.Compact(users); len(users) > 0 {
		if err := run(ctx, "systemd-sysusers", users...); err != nil {
			return nil, err
		}
	}
	if err := run(ctx, "systemctl", "daemon-reload"); err != nil || len(enabled) == 0 {
		return nil, err
	}
	return enabled, run(ctx, "systemctl", append([]string{"enable", "--now", "--"}, enabled...)...)
}

// run runs a command of systemd's.
func run(ctx context.Context, command string, args ...string) error {
	output, err := exec.CommandContext(ctx, command, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s %s: %w: %s", ErrSystemd, command, args[0], err, strings.TrimSpace(string(output)))
	}
	return nil
}

// mark starts the first line of a file of ours. The digest of what follows it tells whether somebody has edited it.
const mark = "# Made by usage-sync discover, which leaves it alone once it is edited: "

func marked(content string) string {
	return fmt.Sprintf("%s%x\n%s", mark, digest(content), content)
}

func digest(content string) []byte {
	sum := sha256.Sum256([]byte(content))
	return sum[:8]
}

// isEdited tells whether a file is there and not as we made it.
func isEdited(file string) (bool, error) {
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrFile, err)
	}
	first, rest, _ := strings.Cut(string(content), "\n")
	return first != fmt.Sprintf("%s%x", mark, digest(rest)), nil
}

// writeFile makes or replaces a file at one go, unless it is right already.
func writeFile(file, content string, mode os.FileMode) (written bool, err error) {
	if present, err := os.ReadFile(file); err == nil && string(present) == content {
		return false, nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return false, err
	}
	// A name that neither systemd nor we take for one of ours.
	f, err := os.CreateTemp(filepath.Dir(file), ".usage-sync-*")
	if err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.WriteString(content)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return false, err
	}
	return true, os.Rename(f.Name(), file)
}

// quoteEnvironment writes a value as systemd.exec(5) reads it in an EnvironmentFile=, and a shell in a file that it sources.
func quoteEnvironment(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `$`, `\$`, "`", "\\`").Replace(value) + `"`
}

// unquoteEnvironment reads what quoteEnvironment or a hand has written.
func unquoteEnvironment(text string) string {
	text = strings.TrimSpace(text)
	if len(text) >= 2 && text[0] == '\'' && text[len(text)-1] == '\'' {
		return text[1 : len(text)-1]
	}
	if len(text) >= 2 && text[0] == '"' && text[len(text)-1] == '"' {
		text = text[1 : len(text)-1]
	}
	return strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\$`, `$`, "\\`", "`").Replace(text)
}

// quoteUnit writes a path as systemd.syntax(7) reads it in a list of paths: quoted, with specifiers switched off.
func quoteUnit(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(path) + `"`
}

// quoteShell writes a path as a shell reads it.
func quoteShell(path string) string { return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'" }

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

func sortedNames(files map[string]string) []string {
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
