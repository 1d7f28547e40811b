package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestJournalPriorities writes to a file that JOURNAL_STREAM calls the journal's, or something else.
func TestJournalPriorities(t *testing.T) {
	const plain = "DEBUG - one\nINFO - two\nWARNING - three\nERROR - four of=five\n"
	const prefixed = "<7>DEBUG - one\n<6>INFO - two\n<4>WARNING - three\n<3>ERROR - four of=five\n"
	for name, test := range map[string]struct {
		stream func(device, inode uint64) string
		want   string
	}{
		"this stream":         {func(device, inode uint64) string { return fmt.Sprintf("%d:%d", device, inode) }, prefixed},
		"another inode":       {func(device, inode uint64) string { return fmt.Sprintf("%d:%d", device, inode+1) }, plain},
		"another device":      {func(device, inode uint64) string { return fmt.Sprintf("%d:%d", device+1, inode) }, plain},
		"no journal":          {func(uint64, uint64) string { return "" }, plain},
		"not device and node": {func(uint64, uint64) string { return "journal" }, plain},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "stderr")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var stat syscall.Stat_t
			if err := syscall.Fstat(int(f.Fd()), &stat); err != nil {
				t.Fatal(err)
			}
			t.Setenv("JOURNAL_STREAM", test.stream(uint64(stat.Dev), stat.Ino))
			log := newLogger(f, "text", slog.LevelDebug)
			log.Debug("one")
			log.Info("two")
			log.Warn("three")
			log.Error("four", "of", "five")
			got, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != test.want {
				t.Errorf("got\n%swant\n%s", got, test.want)
			}
		})
	}
}
