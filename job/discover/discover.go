package discover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"usage-sync/job"
	"usage-sync/store"
)

// Status is how a container and its instance file fit together.
type Status string

const (
	New        Status = "new"        // it has no instance file
	Configured Status = "configured" // its instance file names its database
	Moved      Status = "moved"      // its instance file names another database
	Renamed    Status = "renamed"    // the instance file of a container that is gone names its database
	Gone       Status = "gone"       // there is an instance file, but no such container
	Shared     Status = "shared"     // another instance stands for the same database
	Unusable   Status = "unusable"   // Problem says why
)

// Statuses are all of them, in the order in which people are told.
var Statuses = []Status{New, Configured, Moved, Renamed, Gone, Shared, Unusable}

// Instance is a container with a database, or an instance file without a container.
type Instance struct {
	Container string
	State     string // of the container; empty where it is gone
	Database  string // on the host, without symbolic links
	Volume    string // what the container mounts, without symbolic links; the database lies below it
	Status    Status
	Former    []string // names of instances of the same database whose containers are gone
	UID, GID  uint32   // of the database's owner
	Looked
	Problem string   // what keeps it from working, for people to read
	Edited  []string // files of the instance that were changed by hand
	Written []string // files that Write has made
	Removed []string // files of former names that Write has removed

	file         fileID
	configured   bool // its instance file names this database
	misread      bool // Problem is what somebody wrote into its instance file
	readOnly     bool // the container may not write to it
	neverStarted bool
}

// fileID identifies a file, whatever its path.
type fileID struct{ device, inode uint64 }

// Looked is what is in a database.
type Looked struct {
	Contents  store.Contents
	Takeovers []*job.TakeoverError // what has to be decided before the first pass
	KeyHash   string               // of the key of its only organisation, where it is proved
}

// Ready tells that a pass over it can work.
func (i Instance) Ready() bool {
	return slices.Contains([]Status{New, Configured, Moved, Renamed}, i.Status) &&
		i.Problem == "" && len(i.Contents.Missing) == 0 && len(i.Takeovers) == 0
}

// instanceName is what Docker and Podman allow as a container's name, up to a length that leaves room for the rest of a
// unit's. All of it may stand in a unit's name as it is.
var instanceName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`) })

const longestName = 200

// reserved are names in the directory of the instance files that stand for something else.
var reserved = []string{"alert", "discover"}

// KeyHash finds the proved hash of the key of a database's only organisation; empty is not known.
type KeyHash func(ctx context.Context, db *store.Store) (string, error)

// Look tells what is in a database that lies below a volume: whatever the container has laid there, it returns.
type Look func(database, volume string) (Looked, error)

// Find returns the containers that have a database, with where it lies on the host, and the names of those that
// have none. Where a container's own settings do not say where the database is, it is looked for at the path
// standard.
func Find(containers []Container, standard string, look Look) (found []Instance, without []string) {
	for _, c := range containers {
		if i, ok := find(c, standard, look); ok {
			found = append(found, i)
		} else {
			without = append(without, c.Name)
		}
	}
	return found, without
}

// find returns false for a container that is no Open WebUI, as far as can be told.
func find(c Container, standard string, look Look) (Instance, bool) {
	i := Instance{Container: c.Name, State: c.State, Status: New, neverStarted: c.NeverStarted}
	if c.broken != nil {
		i.Status, i.Problem = Unusable, c.broken.Error()
		return i, true
	}
	inside, problem := c.settings.database(standard)
	// Other programs have a DATABASE_URL too.
	known := c.isOpenWebUI() || slices.ContainsFunc(c.Mounts, func(m Mount) bool {
		return path.Clean(m.Destination) == path.Dir(standard)
	})
	if problem == "" {
		m, rest, ok := mountOf(c.Mounts, inside)
		if !ok {
			problem = fmt.Sprintf("%s is in the container itself and goes with it: mount a volume at %s",
				inside, path.Dir(inside))
		} else {
			known = known || path.Base(inside) == path.Base(standard) && exists(filepath.Join(m.Source, rest))
			problem = i.place(m, rest)
		}
	}
	if !known {
		return i, false
	}
	if problem == "" {
		problem = i.examine(look)
	}
	if problem != "" {
		i.Status, i.Problem = Unusable, problem
	}
	return i, true
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// mountOf returns the mount that holds a path of a container, the innermost one, and the rest of the path below it.
func mountOf(mounts []Mount, inside string) (holder Mount, rest string, ok bool) {
	longest := -1
	for _, m := range mounts {
		destination := path.Clean(m.Destination)
		below, is := strings.CutPrefix(inside, strings.TrimSuffix(destination, "/")+"/")
		if destination == inside {
			below, is = "", true
		}
		if is && len(destination) > longest {
			longest, holder, rest, ok = len(destination), m, below, true
		}
	}
	return holder, rest, ok
}

// place finds the database in its mount, and says why it can't be worked on.
func (i *Instance) place(m Mount, rest string) (problem string) {
	i.readOnly = !m.RW
	switch {
	case m.Type == "tmpfs":
		return "it is in memory (tmpfs) and goes with the container: mount a volume"
	case !filepath.IsAbs(m.Source):
		return fmt.Sprintf("its volume %s (driver %s) is not on this host", m.Name, m.Driver)
	}
	i.Database = filepath.Join(m.Source, rest)
	volume, real, owner, err := locate(m.Source, i.Database)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !exists(m.Source):
		return m.Source + " is not on this host: is the engine's socket that of another one?"
	case errors.Is(err, fs.ErrNotExist):
		return "there is no database yet"
	case err != nil:
		return err.Error()
	case rest == "":
		return "the database is mounted as a single file, without those that SQLite keeps beside it: mount its directory"
	}
	i.Database, i.Volume = real, volume
	i.UID, i.GID, i.file = owner.Uid, owner.Gid, fileID{uint64(owner.Dev), owner.Ino}
	return ""
}

// examine looks at a database that has been found.
func (i *Instance) examine(look Look) (problem string) {
	switch {
	case len(i.Container) > longestName || !instanceName().MatchString(i.Container) ||
		slices.Contains(reserved, i.Container):
		return fmt.Sprintf("%q can't be the name of an instance: rename the container", i.Container)
	case strings.ContainsFunc(i.Database, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return fmt.Sprintf("%q can't stand in a unit file", i.Database)
	}
	if problem := sandboxProblem(*i); problem != "" {
		return problem
	}
	var err error
	if i.Looked, err = look(i.Database, i.Volume); err != nil {
		return err.Error()
	}
	switch {
	case i.Contents.Awaited:
		i.Problem = "no usage tables yet: start the container, its own migration makes them"
	case len(i.Contents.Missing) > 0:
		i.Problem = "no usage tables: run the container's migration, or 'usage-sync migrate'"
	}
	return ""
}

// locate returns where a mount and its database really are, without symbolic links of the host, and who owns
// it. It must lie in its mount: what is in there belongs to the container, and a symbolic link of its making
// must not lead a pass of root's to another place of the host.
func locate(source, database string) (realSource, real string, owner *syscall.Stat_t, err error) {
	realSource, err = filepath.EvalSymlinks(source)
	if err != nil {
		return "", "", nil, err
	}
	rest, err := filepath.Rel(source, database)
	if err != nil {
		return "", "", nil, err
	}
	real, err = filepath.EvalSymlinks(database)
	if err != nil {
		return "", "", nil, err
	}
	if real != filepath.Join(realSource, rest) {
		return "", "", nil, fmt.Errorf("%s is a symbolic link", database)
	}
	info, err := os.Stat(real)
	if err != nil {
		return "", "", nil, err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return "", "", nil, fmt.Errorf("%s is not a file", database)
	}
	return realSource, real, owner, nil
}

// daysBack is the window of a pass that no setting changes.
const daysBack = 1

// LookInto reads what is in a database.
func LookInto(ctx context.Context, database string, hash KeyHash, now time.Time) (l Looked, err error) {
	db, err := store.Open(ctx, database, store.ReadOnly)
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if l.Contents, err = db.Contents(ctx); err != nil || len(l.Contents.Missing) > 0 ||
		len(l.Contents.Organisations) == 0 {
		return l, err
	}
	if l.KeyHash, err = hash(ctx, db); err != nil {
		return l, err
	}
	l.Takeovers, err = job.Undecided(ctx, db, now, daysBack)
	return l, err
}
