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
	"syscall"

	"usage-sync/store"
)

// Status is how a container and its instance file fit together.
type Status string

const (
	New        Status = "new"        // it has no instance file
	Configured Status = "configured" // its instance file names its database
	Moved      Status = "moved"      // its instance file names another database
	Gone       Status = "gone"       // there is an instance file, but no such container
	Shared     Status = "shared"     // another container's instance stands for the same database
	Unusable   Status = "unusable"   // Problem says why
)

// Instance is a container with a database, or an instance file without a container.
type Instance struct {
	Container string
	State     string // of the container; empty where it is gone
	Database  string // on the host
	Status    Status
	UID, GID  uint32 // of the database's owner
	Contents  store.Contents
	Problem   string   // what keeps it from working, for people to read
	Edited    []string // files of the instance that were changed by hand
	Written   []string // files that Write has made
}

// Ready tells that a pass over it can work.
func (i Instance) Ready() bool {
	return (i.Status == New || i.Status == Configured || i.Status == Moved) && i.Problem == "" && len(i.Contents.Missing) == 0
}

// instanceName is what Docker and Podman allow as a container's name, up to a length that leaves room for the rest of a
// unit's. All of it may stand in a unit's name as it is.
var instanceName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

const longestName = 200

// reserved are names in the directory of the instance files that stand for something else.
var reserved = []string{"alert"}

// Find returns the containers that have a database at a path inside, with where it lies on the host.
func Find(ctx context.Context, containers []Container, inside string) (found []Instance) {
	for _, c := range containers {
		database, source, ok := onHost(c.Mounts, inside)
		if !ok {
			continue
		}
		i := Instance{Container: c.Name, State: c.State, Database: database, Status: New}
		real, owner, err := locate(source, database)
		if errors.Is(err, fs.ErrNotExist) && !slices.ContainsFunc(c.Mounts, func(m Mount) bool {
			return path.Clean(m.Destination) == path.Dir(inside)
		}) {
			continue // something else is mounted there
		}
		switch {
		case len(c.Name) > longestName || !instanceName.MatchString(c.Name) || slices.Contains(reserved, c.Name):
			err = fmt.Errorf("%q can't be the name of an instance: rename the container", c.Name)
		case strings.ContainsFunc(database, func(r rune) bool { return r < ' ' || r == 0x7f }):
			err = fmt.Errorf("%q can't stand in a unit file", database)
		case err == nil:
			i.Database, i.UID, i.GID = real, owner.Uid, owner.Gid
			if problem := sandboxProblem(i); problem != "" {
				err = errors.New(problem)
			} else {
				i.Contents, err = look(ctx, real)
			}
		case errors.Is(err, fs.ErrNotExist):
			err = errors.New("there is no database yet")
		}
		if err != nil {
			i.Status, i.Problem = Unusable, err.Error()
		} else if len(i.Contents.Missing) > 0 {
			i.Problem = "no usage tables: run the container's migration, or 'usage-sync migrate'"
		}
		found = append(found, i)
	}
	return found
}

// onHost returns where a path of a container lies on the host. The innermost mount holds it.
func onHost(mounts []Mount, inside string) (database, source string, ok bool) {
	longest := -1
	for _, m := range mounts {
		destination := path.Clean(m.Destination)
		rest, below := strings.CutPrefix(inside, strings.TrimSuffix(destination, "/")+"/")
		if destination == inside {
			rest, below = "", true
		}
		if !below || len(destination) <= longest {
			continue
		}
		longest = len(destination)
		// A tmpfs has no place on the host.
		database, source, ok = filepath.Join(m.Source, rest), m.Source, filepath.IsAbs(m.Source)
	}
	return database, source, ok
}

// locate returns where a database really is, without symbolic links of the host, and who owns it. It must lie in its
// mount: what is in there belongs to the container, and a symbolic link of its making must not lead a pass of root's to
// another place of the host.
func locate(source, database string) (real string, owner *syscall.Stat_t, err error) {
	realSource, err := filepath.EvalSymlinks(source)
	if err != nil {
		return "", nil, err
	}
	rest, err := filepath.Rel(source, database)
	if err != nil {
		return "", nil, err
	}
	real, err = filepath.EvalSymlinks(database)
	if err != nil {
		return "", nil, err
	}
	if real != filepath.Join(realSource, rest) {
		return "", nil, fmt.Errorf("%s is a symbolic link", database)
	}
	info, err := os.Stat(real)
	if err != nil {
		return "", nil, err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return "", nil, fmt.Errorf("%s is not a file", database)
	}
	return real, owner, nil
}

func look(ctx context.Context, database string) (c store.Contents, err error) {
	db, err := store.Open(ctx, database, store.ReadOnly)
	if err != nil {
		return c, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return db.Contents(ctx)
}
