package report

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"usage-sync/store"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestSave(t *testing.T) {
	b := newBooks(t, t.TempDir(), acme, globex)
	one, both := b.statements(Request{Organisations: []string{"acme"}}), b.statements(Request{})

	t.Run("File", func(t *testing.T) {
		defer syscall.Umask(syscall.Umask(0))
		name := filepath.Join(t.TempDir(), "statement.csv")
		for _, before := range []string{"none", "of another mode"} {
			if names, err := Save(name, CSV, 80, one); err != nil || !slices.Equal(names, []string{name}) {
				t.Fatalf("%v, %v", names, err)
			}
			if info, err := os.Stat(name); err != nil || info.Mode() != 0o640 {
				t.Errorf("where there was %s: %v, %v", before, info.Mode(), err)
			}
			if err := os.Chmod(name, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if text := read(t, name); !strings.Contains(text, "acme,Acme GmbH,total") {
			t.Errorf("%s", text)
		}
		if entries, err := os.ReadDir(filepath.Dir(name)); err != nil || len(entries) != 1 {
			t.Errorf("%v, %v", entries, err)
		}
	})
	t.Run("Directory", func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "new")
		names, err := Save(dir+"/", HTML, 80, both)
		if want := []string{dir + "/acme-2026-10.html", dir + "/globex-2026-10.html"}; err != nil || !slices.Equal(names, want) {
			t.Fatalf("%v, %v", names, err)
		}
		for i, other := range []string{"Globex", "Acme"} {
			if text := read(t, names[i]); strings.Contains(text, other) {
				t.Errorf("%s knows of %s", names[i], other)
			}
		}
		if names, err = Save(dir, JSON, 80, one); err != nil || !slices.Equal(names, []string{dir + "/acme-2026-10.json"}) {
			t.Errorf("%v, %v", names, err)
		}
	})
	t.Run("ErrSeveral", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "statement.csv")
		if _, err := Save(name, CSV, 80, both); !errors.Is(err, ErrSeveral) {
			t.Errorf("%v", err)
		}
		if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("there is a file: %v", err)
		}
	})
	t.Run("ErrFile", func(t *testing.T) {
		dir := t.TempDir()
		for _, name := range []string{dir + "/missing/statement.csv", dir + "/missing/also/", "/dev/null", "/dev/null/x/"} {
			if _, err := Save(name, CSV, 80, one); !errors.Is(err, ErrFile) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// TestFileNames: no id leads out of the directory, and no two share a file.
func TestFileNames(t *testing.T) {
	seen := map[string]string{}
	for _, id := range []string{"acme", "ACME", "a/b", "a_b", "a.b", "../../etc/passwd", "..", ".", "", "a b", "a\x00b", "zażółć", strings.Repeat("x", 300), strings.Repeat("x", 301)} {
		s := Statement{ID: id, Span: store.Span{First: "2026-10-01", Last: "2026-10-31"}}
		name := s.fileName(HTML)
		if filepath.Base(name) != name || strings.HasPrefix(name, ".") || len(name) > 100 || !strings.HasSuffix(name, "-2026-10.html") {
			t.Errorf("%q: %q", id, name)
		}
		if other, taken := seen[name]; taken {
			t.Errorf("%q and %q share %q", id, other, name)
		}
		seen[name] = id
	}
	s := Statement{ID: "acme", Span: store.Span{First: "2026-10-01", Last: "2026-10-15"}}
	if name := s.fileName(CSV); name != "acme-2026-10-01_2026-10-15.csv" {
		t.Error(name)
	}
}
