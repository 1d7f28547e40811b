package discover

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// access is how a pass reaches a directory from within the units.
type access int

const (
	writing access = iota // it sees the directory, and ReadWritePaths= opens it for writing
	binding               // BindPaths= puts it into the empty directory that hides it
	closed                // nothing opens it
)

// hiddenPlaces are the directories of the host that the shipped units hide, by which of their settings, and
// what opens a directory below them. A database anywhere else is seen. Sources: systemd.exec(5) of systemd 252
// and 257, and the test of the units that tries each of them.
var hiddenPlaces = []struct {
	dir, setting string
	access       access
}{
	{"/home", "ProtectHome=", binding},
	{"/root", "ProtectHome=", binding},
	{"/run/user", "ProtectHome=", binding},
	{"/tmp", "PrivateTmp=", binding},
	{"/var/tmp", "PrivateTmp=", binding},
	{"/boot", "InaccessiblePaths=", closed},
	{"/etc/ssh", "InaccessiblePaths=", closed},
	{"/etc/sudoers.d", "InaccessiblePaths=", closed},
	{"/etc/usage-sync", "InaccessiblePaths=", closed},
	{"/run/containerd", "InaccessiblePaths=", closed},
	{"/run/dbus", "InaccessiblePaths=", closed},
	{"/run/podman", "InaccessiblePaths=", closed},
	{"/dev", "PrivateDevices=", closed},
	{"/proc", "ProtectProc=", closed},
	{"/sys", "ProtectKernelTunables=", closed},
}

// placeOf returns how a directory without symbolic links is reached, and which setting hides it.
func placeOf(dir string) (how access, setting string) {
	for _, p := range hiddenPlaces {
		// Where a hidden directory is a symbolic link, systemd hides what it points to.
		real, err := filepath.EvalSymlinks(p.dir)
		if err != nil {
			real = p.dir
		}
		if isBelow(dir, p.dir) || isBelow(dir, real) {
			return p.access, p.setting
		}
	}
	return writing, ""
}

func isBelow(dir, parent string) bool {
	return strings.HasPrefix(dir+"/", strings.TrimSuffix(parent, "/")+"/")
}

// sandboxProblem says why no drop-in can open the directory of a database to the units; it is empty where one can.
func sandboxProblem(i Instance) string {
	dir := filepath.Dir(i.Database)
	how, setting := placeOf(dir)
	switch {
	case how == closed:
		return fmt.Sprintf("the units hide %s by %s: move the volume to another place of the host", dir, setting)
	case strings.Contains(closedParent(dir, i.UID, i.GID), ":"):
		return fmt.Sprintf("%s can't stand in a unit file: move the volume to a path without a colon", dir)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return err.Error()
	}
	if !may(info, i.UID, i.GID, 3) {
		owner := info.Sys().(*syscall.Stat_t)
		return fmt.Sprintf("the database belongs to uid %d, who may not write in its directory (uid %d, mode "+
			"%o), as SQLite must: "+
			"chown %d:%d %s", i.UID, owner.Uid, info.Mode().Perm(), i.UID, i.GID, QuoteShell(dir))
	}
	return ""
}

// dropIn opens the container's volume to units that may write nowhere else. It is opened where the engine has
// it, which the container can't change; a directory within could become a link to another client's.
func dropIn(i Instance) string {
	dir := filepath.Dir(i.Database)
	if i.Volume != "" && isBelow(dir, i.Volume) {
		dir = i.Volume
	}
	// With the dash a missing directory is no fault of the unit's: the pass itself says that the database is not there.
	open := quoteUnit("-" + dir)
	var conf strings.Builder
	fmt.Fprintf(&conf, "[Service]\nReadWritePaths=%s\n", open)
	if i.UID != 0 {
		// Without capabilities root may not write to another user's file. What a pass makes beside it is then that
		// user's, too.
		fmt.Fprintf(&conf, "User=%d\nGroup=%d\n", i.UID, i.GID)
	}
	how, setting := placeOf(dir)
	if setting == "ProtectHome=" {
		conf.WriteString("ProtectHome=tmpfs\n") // the homes stay out of sight
	} else if parent := hiddenParent(dir, i.UID, i.GID); parent != "" {
		// The volumes of other clients lie there, and Docker keeps all but root out of its directory: show an
		// empty one in its place, with this volume in it.
		fmt.Fprintf(&conf, "TemporaryFileSystem=%s\n", quoteUnit(parent+":ro"))
		how = binding
	}
	if how == binding {
		fmt.Fprintf(&conf, "BindPaths=%s\n", open)
	}
	return conf.String()
}

// systemPlaces hold more than clients' volumes.
var systemPlaces = []string{"/", "/bin", "/dev", "/etc", "/lib", "/lib64", "/opt", "/proc", "/run", "/sbin",
	"/snap", "/sys", "/usr", "/usr/lib",
	"/usr/local", "/usr/share", "/var", "/var/lib", "/var/local", "/var/opt", "/var/snap"}

// hiddenParent returns the directory above a volume of which the units shall see nothing else; empty is none.
func hiddenParent(dir string, uid, gid uint32) string {
	if !filepath.IsAbs(dir) { // of a database that was not found: nothing is above it
		return ""
	}
	closed := closedParent(dir, uid, gid)
	// What can't stand in BindPaths=: systemd 257 takes quotes off twice there.
	if strings.ContainsAny(dir, `:'"\`) || !filepath.IsAbs(dir) {
		return closed
	}
	top := ""
	for parent := filepath.Dir(dir); !slices.Contains(systemPlaces, parent); parent = filepath.Dir(parent) {
		top = parent
	}
	if top == "" || closed != "" && isBelow(top, closed) {
		return closed
	}
	return top
}

// closedParent returns the topmost directory above another that a user may not pass through without capabilities.
func closedParent(dir string, uid, gid uint32) (topmost string) {
	if _, setting := placeOf(dir); setting == "ProtectHome=" {
		return "" // an empty one takes its place
	}
	for parent := filepath.Dir(dir); parent != "/" && parent != "."; parent = filepath.Dir(parent) {
		if info, err := os.Stat(parent); err == nil && !may(info, uid, gid, 1) {
			topmost = parent
		}
	}
	return topmost
}

// may tells whether a user without capabilities and further groups has all of the rights: 4 to read, 2 to write, 1 to
// search.
func may(info os.FileInfo, uid, gid uint32, rights os.FileMode) bool {
	mode := info.Mode().Perm()
	switch owner := info.Sys().(*syscall.Stat_t); {
	case owner.Uid == uid:
		mode >>= 6
	case owner.Gid == gid:
		mode >>= 3
	}
	return mode&rights == rights
}
