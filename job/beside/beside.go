// Package beside keeps files of ours in a directory that somebody else controls: beside the database of a
// container, whose root may lay links, pipes and devices there, and exchange them at any moment. A directory is
// opened once. Names are looked up in the open directory and never followed, and what is changed is changed
// through the open file.
package beside

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrStrange is returned for what bears the name of a file of ours and is none: a link, a pipe, a device, a
// directory, or a file that has another name as well.
var ErrStrange = errors.New("it is not a file of ours")

// Dir is an open directory.
type Dir struct {
	file *os.File
	path string // for messages
}

// Open opens a directory, whatever links lead to it now. If one of them changes meanwhile, it is an error.
func Open(path string) (*Dir, error) {
	real, err := filepath.EvalSymlinks(path)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return nil, err
	}
	how := unix.OpenHow{Flags: unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(unix.AT_FDCWD, real, &how)
	// before Linux 5.6, or a sandbox that does not know it
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) {
		fd, err = unix.Open(real, unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	}
	return opened(fd, real, err)
}

func opened(fd int, path string, err error) (*Dir, error) {
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{os.NewFile(uintptr(fd), path), path}, nil
}

// Close closes the directory. Files that were opened in it stay open.
func (d *Dir) Close() error { return d.file.Close() }

// Sync makes the names in the directory safe on the disk.
func (d *Dir) Sync() error { return d.file.Sync() }

// Path names a file for a message.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// At is a path by which this process reaches a name in the open directory, as long as it is open. Who opens it must not
// follow a link (O_NOFOLLOW), nor wait for a pipe (O_NONBLOCK).
func (d *Dir) At(name string) string { return fmt.Sprintf("/proc/self/fd/%d/%s", d.file.Fd(), name) }

// never is what no file of ours is opened without.
const never = unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_CLOEXEC

// Open opens a file that is there. Anything but a regular file of one name is ErrStrange.
func (d *Dir) Open(name string, flags int) (*os.File, error) { return d.open(name, flags, 0) }

// Create makes a file that is not there.
func (d *Dir) Create(name string, mode fs.FileMode) (*os.File, error) {
	return d.open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, uint32(mode.Perm()))
}

// OpenOrCreate opens a file to read and write, and tells whether it has made it.
func (d *Dir) OpenOrCreate(name string, mode fs.FileMode) (f *os.File, made bool, err error) {
	for range 10 { // somebody may make or remove it meanwhile
		// Not O_CREAT at once: where fs.protected_regular is set, root could not open the file of another user
		// (https://www.kernel.org/doc/html/latest/admin-guide/sysctl/fs.html).
		f, err = d.Open(name, unix.O_RDWR)
		if !errors.Is(err, fs.ErrNotExist) {
			return f, false, err
		}
		f, err = d.Create(name, mode)
		if !errors.Is(err, fs.ErrExist) {
			return f, err == nil, err
		}
	}
	return nil, false, err
}

func (d *Dir) open(name string, flags int, mode uint32) (*os.File, error) {
	if !plain(name) {
		return nil, d.fault("open", name, fmt.Errorf("%w: the name has parts", ErrStrange))
	}
	if flags&unix.O_CREAT == 0 { // opening a device may already do something
		var before unix.Stat_t
		if err := unix.Fstatat(int(d.file.Fd()), name, &before, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, d.fault("open", name, err)
		}
		if err := ours(before); err != nil {
			return nil, d.fault("open", name, err)
		}
	}
	fd, err := unix.Openat(int(d.file.Fd()), name, flags|never, mode)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		err = fmt.Errorf("%w: %w", ErrStrange, err)
	}
	if err != nil {
		return nil, d.fault("open", name, err)
	}
	if err := d.check(fd, name); err != nil {
		return nil, d.fault("open", name, errors.Join(err, unix.Close(fd)))
	}
	return os.NewFile(uintptr(fd), d.Path(name)), nil
}

// check tells whether an open file is a regular one that has this name and no other. The number of names alone
// would not do: another name may have been taken away since the file was opened by it.
func (d *Dir) check(fd int, name string) error {
	var open, named unix.Stat_t
	if err := unix.Fstat(fd, &open); err != nil {
		return err
	}
	if err := ours(open); err != nil {
		return err
	}
	err := unix.Fstatat(int(d.file.Fd()), name, &named, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil && (named.Dev != open.Dev || named.Ino != open.Ino) || errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: somebody has exchanged it", ErrStrange)
	}
	if err == nil {
		err = ours(named)
	}
	return err
}

// plain tells that a name is one of the directory itself.
func plain(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsRune(name, '/')
}

// ours tells what is strange about a file.
func ours(info unix.Stat_t) error {
	kinds := map[uint32]string{unix.S_IFLNK: "a symbolic link", unix.S_IFIFO: "a pipe",
		unix.S_IFBLK: "a device", unix.S_IFCHR: "a device", unix.S_IFDIR: "a directory", unix.S_IFSOCK: "a socket"}
	switch kind := info.Mode & unix.S_IFMT; {
	case kind != unix.S_IFREG:
		return fmt.Errorf("%w: it is %s", ErrStrange, kinds[kind])
	case info.Nlink > 1:
		return fmt.Errorf("%w: it has %d names", ErrStrange, info.Nlink)
	}
	return nil
}

func (d *Dir) fault(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: d.Path(name), Err: err}
}

// Read reads a whole file of at most limit bytes. A longer one is ErrStrange.
func (d *Dir) Read(name string, limit int64) ([]byte, error) {
	f, err := d.Open(name, unix.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = d.fault("read", name, fmt.Errorf("%w: it is longer than %d bytes", ErrStrange, limit))
	}
	return text, err
}

// Put writes a file, in the place of one that is there: whole or not at all, and safe on the disk when it
// returns. A link that bears the name is replaced, and what it leads to is left alone.
func (d *Dir) Put(name string, text []byte, mode fs.FileMode, like fs.FileInfo) (err error) {
	if !plain(name) {
		return d.fault("create", name, ErrStrange)
	}
	temporary := ".new-" + rand.Text()
	f, err := d.Create(temporary, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Remove(temporary))
		}
	}()
	Own(f, like)
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := unix.Renameat(int(d.file.Fd()), temporary, int(d.file.Fd()), name); err != nil {
		return d.fault("rename", name, err)
	}
	return d.Sync()
}

// Own gives a file that we have just made the owner of another one, where we are root: what root has made must
// not keep out who runs as that owner.
func Own(f *os.File, like fs.FileInfo) {
	if like == nil || os.Geteuid() != 0 {
		return
	}
	if owner, ok := like.Sys().(*syscall.Stat_t); ok {
		_ = f.Chown(int(owner.Uid), int(owner.Gid))
	}
}

// Remove removes a name, and nothing that it leads to.
func (d *Dir) Remove(name string) error {
	if !plain(name) {
		return d.fault("remove", name, ErrStrange)
	}
	if err := unix.Unlinkat(int(d.file.Fd()), name, 0); err != nil {
		return d.fault("remove", name, err)
	}
	return nil
}

// Names returns the names in the directory, at most limit of them, in no order.
func (d *Dir) Names(limit int) ([]string, error) {
	if _, err := d.file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	names, err := d.file.Readdirnames(limit)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// Dir opens a directory within the directory, which is no link.
func (d *Dir) Dir(name string) (*Dir, error) {
	if !plain(name) {
		return nil, d.fault("open", name, ErrStrange)
	}
	fd, err := unix.Openat(int(d.file.Fd()), name, unix.O_DIRECTORY|never, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		err = fmt.Errorf("%w: it is no directory: %w", ErrStrange, err)
	}
	return opened(fd, d.Path(name), err)
}

// MakeDir opens a directory within the directory, and makes it where it is missing, with the owner of another file.
func (d *Dir) MakeDir(name string, mode fs.FileMode, like fs.FileInfo) (*Dir, error) {
	sub, err := d.Dir(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return sub, err
	}
	err = unix.Mkdirat(int(d.file.Fd()), name, uint32(mode.Perm()))
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, d.fault("mkdir", name, err)
	}
	if sub, err = d.Dir(name); err == nil && made {
		Own(sub.file, like)
		err = d.Sync()
	}
	return sub, err
}
