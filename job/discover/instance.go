package discover

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/google/renameio/v2"

	"usage-sync/job"
)

var (
	// ErrFile: an instance file can't be read or made.
	ErrFile = job.NewError(job.KindOutputFile, "instance file")
	// ErrSystemd: a command of systemd's can't be run, or fails.
	ErrSystemd = job.NewError(job.KindUnreachable, "systemd")
)

// template stands for usage-sync@, usage-sync-reconcile@, usage-sync-backup@ and usage-sync-close@ alike:
// systemd also looks for drop-ins under a unit's name cut at each dash (systemd.unit(5)). Their instances may
// write in the database's directory alone. Reading needs that, too: in WAL mode SQLite keeps files beside the
// database.
const template = "usage-@"

// Layout is where instance files lie.
type Layout struct {
	Config string // NAME.env of each instance, and what the operator puts beside them
	Units  string // systemd's own directory of the administrator
	// Sysusers declares users that nobody else has, for databases that do not belong to root: sysusers.d(5).
	Sysusers string
	Cron     string // tables that may name an instance file: cron.d
}

func (l Layout) envFile(name string) string { return filepath.Join(l.Config, name+".env") }

// files are those of an instance, with what belongs into them.
func (l Layout) files(i Instance) map[string]string {
	settings := "# Container " + i.Container + ". 'usage-sync sync --help' names more settings.\n" +
		"USAGE_SYNC_DB=" + quoteEnvironment(i.Database) + "\n" +
		"# Where the database may lie; a pass refuses any other place.\n" +
		"USAGE_SYNC_VOLUME=" + quoteEnvironment(i.Volume) + "\n"
	if i.KeyHash != "" {
		settings += "# The hash of the client's key, which a pass has proved. It follows the key when that is replaced.\n" +
			"USAGE_SYNC_KEY_HASH=" + i.KeyHash + "\n"
	}
	files := map[string]string{
		l.envFile(i.Container):    marked(settings),
		l.dropInFile(i.Container): marked(dropIn(i)),
	}
	if file, content := l.sysusers(i); file != "" {
		files[file] = content
	}
	return files
}

func (l Layout) dropInFile(name string) string {
	return filepath.Join(l.Units, template+name+".service.d", "database.conf")
}

// instanceFile is the settings file of an instance, as systemd reads it.
type instanceFile struct {
	name    string
	values  map[string]string
	ignored []string // what systemd does not take for variables
	ours    bool     // made by discover, whether or not it was edited since
}

func (f instanceFile) database() string { return f.values["USAGE_SYNC_DB"] }

// instanceFiles reads all of them, by name.
func (l Layout) instanceFiles() (map[string]instanceFile, error) {
	paths, err := filepath.Glob(filepath.Join(escapeGlob(l.Config), "*.env"))
	if err != nil {
		return nil, err
	}
	files := map[string]instanceFile{}
	for _, path := range paths {
		name := strings.TrimSuffix(filepath.Base(path), ".env")
		if slices.Contains(reserved, name) || isAlias(path) {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrFile, err)
		}
		f := instanceFile{name: name, ours: strings.HasPrefix(string(content), mark)}
		f.values, f.ignored = ReadEnvironment(string(content))
		files[name] = f
	}
	return files, nil
}

// Compare tells what is new, moved, renamed and gone, in the order of names.
func (l Layout) Compare(containers []Container, found []Instance) ([]Instance, error) {
	all := slices.Clone(found)
	files, err := l.instanceFiles()
	if err != nil {
		return nil, err
	}
	for n := range all {
		i := &all[n]
		i.keepKeyHash(files[i.Container])
		for _, file := range slices.Sorted(maps.Keys(l.files(*i))) {
			if edited, err := isEdited(file); err != nil {
				return nil, err
			} else if edited {
				i.Edited = append(i.Edited, file)
			}
		}
		f, there := files[i.Container]
		switch {
		case there && i.Status == Unusable:
			i.Problem += "; its instance goes on until 'systemctl disable --now " + timers(i.Container)[0] + "'"
		case there:
			l.compare(i, f)
		}
	}
	markShared(all)
	gone := maps.Clone(files)
	for _, c := range containers {
		delete(gone, c.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(gone)) {
		f := gone[name]
		holder := slices.IndexFunc(all, func(i Instance) bool {
			return i.Status != Shared && i.Status != Unusable && sameFile(f.database(), i.Database)
		})
		switch {
		case holder >= 0 && f.ours:
			all[holder].Former = append(all[holder].Former, name)
			if all[holder].Status == New {
				all[holder].Status = Renamed
			}
		case holder >= 0 && all[holder].Status == New:
			all[holder].Status, all[holder].Problem = Shared, "the instance "+name+", made by hand, has this database"
		case f.ours: // a file made by hand may be for a database without a container
			all = append(all, Instance{Container: name, Database: f.database(), Status: Gone,
				Problem: "there is no such container"})
		}
	}
	slices.SortFunc(all, func(a, b Instance) int { return cmp.Compare(a.Container, b.Container) })
	return all, nil
}

// keepKeyHash keeps what an instance file of the same database has, where nothing new is proved.
func (i *Instance) keepKeyHash(f instanceFile) {
	pinned := strings.ToLower(f.values["USAGE_SYNC_KEY_HASH"])
	if i.KeyHash == "" && keyHash().MatchString(pinned) && sameFile(f.database(), i.Database) {
		i.KeyHash = pinned
	}
}

var keyHash = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{64}$`) })

// compare holds an instance file against what was found.
func (l Layout) compare(i *Instance, f instanceFile) {
	path := l.envFile(i.Container)
	i.Status, i.configured = Configured, sameFile(f.database(), i.Database)
	if !i.configured {
		i.Status = Moved
	}
	if !slices.Contains(i.Edited, path) {
		return // Write puts it right
	}
	problem := ""
	switch volume := f.values["USAGE_SYNC_VOLUME"]; {
	case f.database() == "" && slices.Contains(f.ignored, "export USAGE_SYNC_DB"):
		problem = fmt.Sprintf("systemd passes over lines with export: take it out of %s", path)
	case f.database() == "":
		problem = fmt.Sprintf("%s was edited by hand and does not set USAGE_SYNC_DB", path)
	case !i.configured:
		problem = fmt.Sprintf("%s was edited by hand and names %s", path, f.database())
	case job.CheckVolume(i.Database, volume) != nil:
		problem = fmt.Sprintf("%s was edited by hand, and its USAGE_SYNC_VOLUME does not hold the database", path)
	}
	if i.Problem == "" && problem != "" {
		i.Problem, i.misread = problem, true
	}
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

// markShared leaves each database to one instance: that which has it already, else that of a container that
// works on it. What is left then must be more than a reader's or a left-over's.
func markShared(all []Instance) {
	rank := func(i Instance) (rank int) {
		for _, better := range []bool{!i.readOnly, i.configured, !i.neverStarted, i.State == "running"} {
			if rank *= 2; !better {
				rank++
			}
		}
		return rank
	}
	for n := range all {
		for m := range all {
			first, other := all[m], &all[n]
			if n == m || first.file != other.file || first.Status == Unusable ||
				first.Status == Shared || other.Status == Unusable {
				continue
			}
			if rank(first) < rank(*other) || rank(first) == rank(*other) && first.Container < other.Container {
				other.Status, other.Problem = Shared, "the same database as container "+first.Container
				break
			}
		}
	}
	for n := range all {
		switch i := &all[n]; {
		case i.Status != New && i.Status != Moved:
		case i.readOnly:
			i.Status, i.Problem = Unusable, "the container may only read it, and no other one has it"
		case i.neverStarted:
			i.Status, i.Problem = Unusable, "the container was never started"
		}
	}
}

// Write makes the files of every instance that is new, moved, renamed or lacks one. An edited file is left alone unless
// force is set. Files and timers of a renamed instance move to its new name; nothing else is ever removed.
func (l Layout) Write(ctx context.Context, instances []Instance, force bool) error {
	for n := range instances {
		i := &instances[n]
		if !slices.Contains([]Status{New, Configured, Moved, Renamed}, i.Status) {
			continue
		}
		for _, former := range i.Former {
			if err := l.inherit(i, former); err != nil {
				return err
			}
		}
		files := l.files(*i)
		for _, file := range slices.Sorted(maps.Keys(files)) {
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
			if file == l.envFile(i.Container) && i.misread {
				i.Problem, i.misread = "", false
			}
		}
		for _, former := range i.Former {
			if err := l.retire(ctx, i, former); err != nil {
				return err
			}
		}
	}
	return nil
}

// Enable makes the users that passes run as, makes systemd read the files again, and starts the timers of all
// instances on which a pass can work. It stops those of instances whose database has another instance's timer.
func (l Layout) Enable(ctx context.Context, instances []Instance) (enabled, disabled []string, err error) {
	var users []string
	ready := map[fileID]bool{}
	for _, i := range instances {
		if !i.Ready() {
			continue
		}
		ready[i.file] = true
		enabled = append(enabled, timers(i.Container)[0])
		if file, _ := l.sysusers(i); file != "" {
			users = append(users, file)
		}
	}
	for _, i := range instances {
		if i.Status == Shared && i.configured && ready[i.file] && isEnabled(ctx, timers(i.Container)[0]) {
			disabled = append(disabled, timers(i.Container)[0])
		}
	}
	slices.Sort(users)
	if users = slices.Compact(users); len(users) > 0 {
		if err := run(ctx, "systemd-sysusers", users...); err != nil {
			return nil, nil, err
		}
	}
	if err := run(ctx, "systemctl", "daemon-reload"); err != nil || len(enabled) == 0 {
		return nil, nil, err
	}
	if err := systemctl(ctx, "enable", enabled); err != nil {
		return nil, nil, err
	}
	return enabled, disabled, systemctl(ctx, "disable", disabled)
}

// timers are the units of an instance that can be enabled, that of the passes first.
func timers(name string) []string {
	return []string{"usage-sync@" + name + ".timer", "usage-sync-reconcile@" + name + ".timer",
		"usage-sync-backup@" + name + ".timer", "usage-sync-close@" + name + ".timer"}
}

func isEnabled(ctx context.Context, unit string) bool {
	return exec.CommandContext(ctx, "systemctl", "--quiet", "is-enabled", "--", unit).Run() == nil
}

// systemctl enables and starts units, or disables and stops them.
func systemctl(ctx context.Context, verb string, units []string) error {
	if len(units) == 0 {
		return nil
	}
	return run(ctx, "systemctl", append([]string{verb, "--now", "--"}, units...)...)
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

// isAlias tells whether an instance file is a link that leaveLinks has made: another name of the instance beside it.
func isAlias(file string) bool {
	target, err := os.Readlink(file)
	return err == nil && !strings.Contains(target, "/") && strings.HasSuffix(target, ".env")
}

// isEdited tells whether a file is there and not as we made it.
func isEdited(file string) (bool, error) {
	if isAlias(file) {
		return false, nil
	}
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
	// Its temporary name begins with a dot: neither systemd nor we take it for one of ours.
	f, err := renameio.NewPendingFile(file, renameio.WithStaticPermissions(mode))
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Cleanup()) }()
	if _, err := f.WriteString(content); err != nil {
		return false, err
	}
	return true, f.CloseAtomicallyReplace()
}

// quoteUnit writes a path as systemd.syntax(7) reads it in a list of paths: quoted, with specifiers switched off.
func quoteUnit(path string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`).Replace(path) + `"`
}

// QuoteShell writes a text as a shell reads it, for people who paste it.
func QuoteShell(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
