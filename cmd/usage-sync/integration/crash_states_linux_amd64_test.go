package integration_test

import (
	"crypto/sha256"
	"database/sql"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// What a power cut leaves of a directory, as SQLite's own tests have it (https://www.sqlite.org/testing.html#crash_testing):
// what was done to its files and names is recorded, and replayed up to any moment. What was synced is there. Of the rest,
// each sector of a write and each change of a size may be there or not, and of the changes of a directory's names the first
// few.

// inode is a file or a directory, whatever its name.
type inode int

// operation is what a program has done to a directory.
type operation struct {
	kind     operationKind
	on       inode  // the file that is written, the directory whose names are changed, or either that is synced
	of       inode  // named: what gets the name
	name, to string // in the directory
	at       int64  // written: the offset. cut: the size
	data     []byte
}

type operationKind string

const (
	written      operationKind = "write"
	cut          operationKind = "truncate"
	named        operationKind = "create"
	renamed      operationKind = "rename"
	removed      operationKind = "remove"
	synced       operationKind = "sync"
	acknowledged operationKind = "acknowledge"
)

func (o operation) String() string {
	return fmt.Sprintf("%s %d %s%s at %d, %d bytes", o.kind, o.on, o.name, o.to, o.at, len(o.data))
}

// disk is a directory with all that is in it.
type disk struct {
	content map[inode][]byte
	names   map[inode]map[string]inode // of the directories
}

// root is the directory itself.
const root inode = 0

func newDisk() *disk {
	return &disk{content: map[inode][]byte{}, names: map[inode]map[string]inode{root: {}}}
}

func (d *disk) clone() *disk {
	c := newDisk()
	for i, text := range d.content {
		c.content[i] = slices.Clone(text)
	}
	for i, names := range d.names {
		c.names[i] = maps.Clone(names)
	}
	return c
}

// apply makes an operation. A write may be torn: keep says of each sector whether it is made.
func (d *disk) apply(o operation, keep func(sector int64) bool) {
	switch o.kind {
	case written:
		text := d.content[o.on]
		for from := int64(0); from < int64(len(o.data)); {
			sector := (o.at + from) / sectorSize
			to := min(int64(len(o.data)), (sector+1)*sectorSize-o.at)
			if keep(sector) {
				if grow := o.at + to - int64(len(text)); grow > 0 {
					text = append(text, make([]byte, grow)...)
				}
				copy(text[o.at+from:], o.data[from:to])
			}
			from = to
		}
		d.content[o.on] = text
	case cut:
		text := d.content[o.on]
		if grow := o.at - int64(len(text)); grow > 0 {
			text = append(text, make([]byte, grow)...)
		}
		d.content[o.on] = text[:o.at]
	case named:
		d.names[o.on][o.name] = o.of
	case renamed:
		if of, there := d.names[o.on][o.name]; there {
			d.names[o.on][o.to] = of
			delete(d.names[o.on], o.name)
		}
	case removed:
		delete(d.names[o.on], o.name)
	}
}

const sectorSize = 512

// write makes the directory on the real disk. What is left out is the index of a log, which SQLite makes anew.
func (d *disk) write(t *testing.T, dir string) {
	t.Helper()
	var lay func(at inode, dir string)
	lay = func(at inode, dir string) {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, of := range d.names[at] {
			if _, isDir := d.names[of]; isDir {
				lay(of, filepath.Join(dir, name))
			} else if err := os.WriteFile(filepath.Join(dir, name), d.content[of], 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	lay(root, dir)
}

// sum tells one directory from another.
func (d *disk) sum() [sha256.Size]byte {
	hash := sha256.New()
	var add func(at inode)
	add = func(at inode) {
		for _, name := range slices.Sorted(maps.Keys(d.names[at])) {
			of := d.names[at][name]
			fmt.Fprintf(hash, "%q %d ", name, len(d.content[of]))
			hash.Write(d.content[of])
			if _, isDir := d.names[of]; isDir {
				add(of)
			}
		}
		fmt.Fprint(hash, "end ")
	}
	add(root)
	return [sha256.Size]byte(hash.Sum(nil))
}

// recording is what a program does to a directory.
type recording struct {
	before     *disk
	operations []operation
	known      map[fileID]inode
	last       inode
	unknown    []string // calls that change files in a way that is not known here
}

// fileID is what the kernel calls a file by. It gives the number of a removed file to the next one.
type fileID struct{ device, number uint64 }

func idOf(path string) (fileID, bool) {
	var info syscall.Stat_t
	if err := syscall.Stat(path, &info); err != nil {
		return fileID{}, false
	}
	return fileID{uint64(info.Dev), info.Ino}, true
}

// record looks at a directory as it is. Other processes may have its files open, this one must not: to close one would give
// up its locks.
func record(t *testing.T, dir string) *recording {
	t.Helper()
	r := &recording{before: newDisk(), known: map[fileID]inode{}}
	read := filepath.Join(t.TempDir(), "read")
	if output, err := exec.Command("cp", "-a", dir, read).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, output)
	}
	r.last = root - 1
	err := filepath.WalkDir(read, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || strings.HasSuffix(path, "-shm") {
			return err
		}
		name, err := filepath.Rel(read, path)
		if err != nil {
			return err
		}
		r.last++
		id, _ := idOf(filepath.Join(dir, name))
		r.known[id] = r.last
		if name != "." {
			parent, _ := idOf(filepath.Dir(filepath.Join(dir, name)))
			r.before.names[r.known[parent]][filepath.Base(name)] = r.last
		}
		if entry.IsDir() {
			r.before.names[r.last] = map[string]inode{}
			return nil
		}
		r.before.content[r.last], err = os.ReadFile(path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *recording) add(o operation) { r.operations = append(r.operations, o) }

// open returns what a descriptor is open on, if that belongs to the directory.
func (r *recording) open(c *call, fd uint64) (inode, bool) {
	id, ok := idOf(c.link(fd))
	if !ok {
		return 0, false
	}
	of, ok := r.known[id]
	return of, ok
}

// directory returns the directory that a path names something in, if that belongs to the directory.
func (r *recording) directory(path string) (inode, bool) {
	id, ok := idOf(filepath.Dir(path))
	if !ok {
		return 0, false
	}
	of, ok := r.known[id]
	return of, ok
}

// lookup is what was known of a call before it was made.
type lookup struct {
	path     string
	was      bool  // it was there
	position int64 // for a write without one
}

func (r *recording) enter(c *call) {
	look := func(path string) {
		var info syscall.Stat_t
		c.note = lookup{path: path, was: syscall.Lstat(path, &info) == nil}
	}
	switch c.number {
	case syscall.SYS_OPENAT, syscall.SYS_MKDIRAT:
		look(c.path(c.args[0], c.args[1]))
	case syscall.SYS_OPEN, syscall.SYS_MKDIR:
		const here = ^uint64(99) // AT_FDCWD
		look(c.path(here, c.args[0]))
	case syscall.SYS_WRITE:
		if _, ok := r.open(c, c.args[0]); ok {
			var position int64
			text, _ := os.ReadFile(strings.Replace(c.link(c.args[0]), "/fd/", "/fdinfo/", 1))
			_, _ = fmt.Sscanf(string(text), "pos: %d", &position)
			c.note = lookup{position: position}
		} else if strings.HasPrefix(c.text(c.args[1]), "HTTP/1.1 ") {
			r.add(operation{kind: acknowledged})
		}
	case syscall.SYS_EXIT_GROUP:
		if c.args[0] == 0 {
			r.add(operation{kind: acknowledged})
		}
	}
}

func (r *recording) leave(c *call) {
	if c.result < 0 {
		return
	}
	const here = ^uint64(99) // AT_FDCWD
	switch c.number {
	case syscall.SYS_OPENAT:
		r.opened(c, int(c.args[2]))
	case syscall.SYS_OPEN:
		r.opened(c, int(c.args[1]))
	case syscall.SYS_MKDIRAT, syscall.SYS_MKDIR:
		r.made(c.note.(lookup).path, true)
	case syscall.SYS_WRITE:
		if on, ok := r.open(c, c.args[0]); ok {
			r.add(operation{kind: written, on: on, at: c.note.(lookup).position, data: c.bytes(c.args[1], uint64(c.result))})
		}
	case syscall.SYS_PWRITE64:
		if on, ok := r.open(c, c.args[0]); ok {
			r.add(operation{kind: written, on: on, at: int64(c.args[3]), data: c.bytes(c.args[1], uint64(c.result))})
		}
	case syscall.SYS_FTRUNCATE:
		if on, ok := r.open(c, c.args[0]); ok {
			r.add(operation{kind: cut, on: on, at: int64(c.args[1])})
		}
	case syscall.SYS_FSYNC, syscall.SYS_FDATASYNC:
		if on, ok := r.open(c, c.args[0]); ok {
			r.add(operation{kind: synced, on: on})
		}
	case syscall.SYS_UNLINK:
		r.removed(c.path(here, c.args[0]))
	case syscall.SYS_UNLINKAT:
		r.removed(c.path(c.args[0], c.args[1]))
	case syscall.SYS_RENAME:
		r.renamed(c.path(here, c.args[0]), c.path(here, c.args[1]))
	case syscall.SYS_RENAMEAT, unix.SYS_RENAMEAT2:
		r.renamed(c.path(c.args[0], c.args[1]), c.path(c.args[2], c.args[3]))
	case syscall.SYS_WRITEV, syscall.SYS_PWRITEV, syscall.SYS_FALLOCATE, syscall.SYS_SENDFILE:
		if _, ok := r.open(c, c.args[0]); ok {
			r.unknown = append(r.unknown, fmt.Sprintf("system call %d on %s", c.number, c.file(c.args[0])))
		}
	case unix.SYS_COPY_FILE_RANGE:
		if _, ok := r.open(c, c.args[2]); ok {
			r.unknown = append(r.unknown, "copy_file_range to "+c.file(c.args[2]))
		}
	case syscall.SYS_TRUNCATE, syscall.SYS_LINK, syscall.SYS_LINKAT, syscall.SYS_SYMLINK, syscall.SYS_SYMLINKAT, syscall.SYS_RMDIR:
		r.unknown = append(r.unknown, fmt.Sprintf("system call %d", c.number))
	}
}

func (r *recording) opened(c *call, flags int) {
	path, was := c.note.(lookup).path, c.note.(lookup).was
	switch {
	case flags&syscall.O_APPEND != 0:
		if _, ok := r.open(c, uint64(c.result)); ok {
			r.unknown = append(r.unknown, "O_APPEND: "+path)
		}
	case flags&syscall.O_CREAT != 0 && !was:
		r.made(path, false)
	case flags&syscall.O_TRUNC != 0:
		if on, ok := r.open(c, uint64(c.result)); ok {
			r.add(operation{kind: cut, on: on})
		}
	}
}

func (r *recording) made(path string, isDir bool) {
	dir, ok := r.directory(path)
	if !ok || strings.HasSuffix(path, "-shm") {
		return
	}
	r.last++
	id, _ := idOf(path)
	r.known[id] = r.last
	if isDir {
		r.before.names[r.last] = map[string]inode{} // it has no name yet
	}
	r.add(operation{kind: named, on: dir, of: r.last, name: filepath.Base(path)})
}

func (r *recording) removed(path string) {
	if dir, ok := r.directory(path); ok {
		r.add(operation{kind: removed, on: dir, name: filepath.Base(path)})
	}
}

func (r *recording) renamed(from, to string) {
	dir, ok := r.directory(from)
	other, too := r.directory(to)
	if ok != too || dir != other {
		r.unknown = append(r.unknown, "moved to another directory: "+to)
	} else if ok {
		r.add(operation{kind: renamed, on: dir, name: filepath.Base(from), to: filepath.Base(to)})
	}
}

// cutAt is the moment of a power cut and what it leaves of what was not synced.
type cutAt struct {
	operation int // how many were made
	left      int // everything, nothing, or a random part by this seed
}

const (
	leftEverything = iota // as a killed process does
	leftNothing
	leftSome
)

func (c cutAt) String() string {
	what := fmt.Sprintf("part %d", c.left-leftSome)
	switch c.left {
	case leftEverything:
		what = "everything"
	case leftNothing:
		what = "nothing"
	}
	return fmt.Sprintf("after operation %d, left %s", c.operation, what)
}

// after returns what a power cut leaves, and whether success had been told of before.
func (r *recording) after(c cutAt) (d *disk, told bool) {
	done := r.operations[:c.operation]
	safe := map[inode]int{} // by when the last was synced
	for i, o := range done {
		switch o.kind {
		case synced:
			safe[o.on] = i
		case acknowledged:
			told = true
		}
	}
	random := rand.New(rand.NewPCG(uint64(c.operation), uint64(c.left)))
	chance := map[inode]float64{}
	for _, o := range done { // in their order, or else the same seed would not give the same state
		if _, drawn := chance[o.on]; !drawn {
			chance[o.on] = []float64{0, 0.5, 0.9, 1}[random.IntN(4)]
		}
	}
	lost := map[inode]bool{} // directories of which a change is lost: so are all later ones
	d = r.before.clone()
	for i, o := range done {
		keep := func(int64) bool {
			switch {
			case i < safe[o.on] || c.left == leftEverything:
				return true
			case c.left == leftNothing:
				return false
			}
			return random.Float64() < chance[o.on]
		}
		switch o.kind {
		case written:
			d.apply(o, keep)
		case cut:
			if keep(0) {
				d.apply(o, nil)
			}
		case named, renamed, removed:
			if lost[o.on] = lost[o.on] || !keep(0); !lost[o.on] {
				d.apply(o, nil)
			}
		}
	}
	return d, told
}

// cuts are all moments of a recording, each with so many random parts, but for those that leave the same.
func (r *recording) cuts(parts int) (all []cutAt) {
	seen := map[string]bool{}
	for i := range r.operations {
		for left := range leftSome + parts {
			c := cutAt{i + 1, left}
			d, told := r.after(c)
			if key := fmt.Sprint(told, d.sum()); !seen[key] {
				seen[key] = true
				all = append(all, c)
			}
		}
	}
	return all
}

// TestPowerCut: whatever a power cut leaves of a command, what it has told of as done is there, and the next pass makes the
// books right. In its short form it tries a few moments of each command, with the application's connection open.
func TestPowerCut(t *testing.T) {
	needTracing(t)
	bothJournals(t, func(t *testing.T, journal string) {
		template := filepath.Dir(newDatabase(t, journal))
		for name, s := range scenes() {
			t.Run(name, func(t *testing.T) {
				if !*long {
					powerCuts(t, s, template, true, shortCuts)
					return
				}
				t.Run("alone", func(t *testing.T) { powerCuts(t, s, template, false, math.MaxInt) })
				t.Run("beside the application", func(t *testing.T) { powerCuts(t, s, template, true, math.MaxInt) })
			})
		}
	})
}

// shortCuts is how many power cuts the short form tries of a command.
const shortCuts = 6

func powerCuts(t *testing.T, s scene, template string, beside bool, most int) {
	st := s.stage(t, template)
	var application *sql.DB
	if beside {
		application = mustOpen(t, st.path)
		exec1(t, application, "insert into chat (text) values ('hello')")
		value[int](t, application, "select count(*) from chat")
	}
	r := record(t, st.dir)
	stdin := filepath.Join(t.TempDir(), "stdin")
	if err := os.WriteFile(stdin, []byte(s.stdin), 0o600); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(stdin)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	end, err := (&tracer{args: append([]string{command}, inDirectory(st.dir, s.args)...), env: st.env(st.dir), stdin: in,
		enter: r.enter, leave: r.leave}).run()
	if err != nil || end.ExitStatus() != 0 {
		t.Fatalf("%v ends with %d: %v", s.args, end.ExitStatus(), err)
	}
	if len(r.unknown) > 0 {
		t.Fatalf("not recorded: %q", r.unknown)
	}
	if application != nil {
		_ = application.Close()
	}
	last := len(r.operations) - 1
	if r.operations[last].kind != acknowledged {
		t.Fatalf("the last of %d operations is %v", len(r.operations), r.operations[last])
	}
	all := r.cuts(2)
	tried := all
	if len(all) > most { // evenly, with all that may be left, and the last: all is told, and what is not synced is lost
		tried = nil
		for i := range most {
			tried = append(tried, all[max(0, (i+1)*len(all)/most-1-(most-1-i)%4)])
		}
	}
	t.Logf("%d operations leave %d states, of which %d are tried", len(r.operations), len(all), len(tried))
	for _, c := range tried {
		t.Run(c.String(), func(t *testing.T) {
			d, told := r.after(c)
			t.Parallel()
			dir := filepath.Join(inMemory(t), "left")
			d.write(t, dir)
			st.check(t, dir, told)
			if t.Failed() {
				for _, o := range r.operations[max(0, c.operation-12):c.operation] {
					t.Log(o)
				}
			}
		})
	}
}
