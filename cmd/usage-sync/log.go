package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"syscall"
)

var levelNames = map[slog.Level]string{
	slog.LevelDebug: "DEBUG", slog.LevelInfo: "INFO", slog.LevelWarn: "WARNING", slog.LevelError: "ERROR",
}

// priorities are those of syslog as sd-daemon(3) writes them: journald takes them off the line, and journalctl
// finds and colours it by them.
var priorities = map[slog.Level]string{
	slog.LevelDebug: "<7>", slog.LevelInfo: "<6>", slog.LevelWarn: "<4>", slog.LevelError: "<3>",
}

// newLogger writes "LEVEL - message" lines, which existing greps look for, or JSON. Text has no timestamp: the journal
// and cron's mail have their own. Lines that go straight to the journal begin with their priority.
func newLogger(w io.Writer, format string, level slog.Level) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: guideLevel}))
	}
	return slog.New(&lineHandler{mu: &sync.Mutex{}, w: w, level: level, journal: isJournal(w)})
}

// isJournal tells whether a file is the journal's. JOURNAL_STREAM alone does not say so: a child whose output was
// redirected inherits it, so it holds device and inode of the stream that it speaks of (systemd.exec(5)).
func isJournal(w io.Writer) bool {
	f, ok := fileOf(w)
	if !ok {
		return false
	}
	var device, inode uint64
	if _, err := fmt.Sscanf(os.Getenv("JOURNAL_STREAM"), "%d:%d", &device, &inode); err != nil {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && uint64(stat.Dev) == device && stat.Ino == inode
}

func guideLevel(_ []string, attr slog.Attr) slog.Attr {
	if level, ok := attr.Value.Any().(slog.Level); ok && attr.Key == slog.LevelKey {
		return slog.String(attr.Key, levelNames[level])
	}
	return attr
}

type lineHandler struct {
	mu      *sync.Mutex
	w       io.Writer
	level   slog.Level
	journal bool
	attrs   string
}

func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
	if h.journal {
		line.WriteString(priorities[r.Level])
	}
	fmt.Fprintf(&line, "%s - %s%s", levelNames[r.Level], strings.ReplaceAll(r.Message, "\n", " "), h.attrs)
	r.Attrs(func(attr slog.Attr) bool {
		fmt.Fprintf(&line, " %s", attr)
		return true
	})
	line.WriteByte('\n')
	h.mu.Lock()
	defer h.mu.Unlock()
	_, err := io.WriteString(h.w, line.String())
	return err
}

func (h *lineHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	for _, attr := range attrs {
		next.attrs += " " + attr.String()
	}
	return &next
}

// WithGroup keeps names as they are: nothing here logs in groups.
func (h *lineHandler) WithGroup(string) slog.Handler { return h }
