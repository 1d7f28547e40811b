package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestShells asks real shells, those of them that are installed.
func TestShells(t *testing.T) {
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The tests' own binary is the program where it is called so (TestMain).
	if err := os.Symlink(self, filepath.Join(dir, "usage-sync")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "afile.html"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	environment := append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "TERM=dumb",
		"USAGE_SYNC_CONFIG_DIR="+dir)
	lines := []struct{ typed, want, not string }{
		{"usage-sync st", "status", "sync"},
		{"usage-sync --days", "--days-back", ""},
		{"usage-sync sync --source ", "generations", ""},
		{"usage-sync --source=g", "generations", ""},
		{"usage-sync report --format=h", "html", "csv"},
		{"usage-sync --db a", "afile.html", ""},
		{"usage-sync ingest a", "afile.html", ""},
	}
	for _, shell := range []struct {
		name, script string
	}{
		{"bash", `eval "$(usage-sync completions bash)"; complete -p usage-sync | grep -q -e '-o default' || exit 1
			found=$(COMP_LINE="$1" usage-sync); [ -n "$found" ] || found=$(compgen -f -- "${1##*[ =]}"); echo "$found"`},
		{"fish", `usage-sync completions fish | source; complete -C "$argv[1]"`},
	} {
		t.Run(shell.name, func(t *testing.T) {
			if _, err := exec.LookPath(shell.name); err != nil {
				t.Skip(err)
			}
			for _, line := range lines {
				args := []string{"-c", shell.script, shell.name, line.typed}
				if shell.name == "fish" {
					args = []string{"-c", shell.script, line.typed}
				}
				command := exec.Command(shell.name, args...)
				command.Env, command.Dir = environment, dir
				output, err := command.CombinedOutput()
				if err != nil || !strings.Contains(string(output), line.want) || (line.not != "" && strings.Contains(string(output), line.not)) {
					t.Errorf("%q: %v: %q", line.typed, err, output)
				}
			}
		})
	}
}
