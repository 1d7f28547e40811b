package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
)

var levelNames = map[slog.Level]string{
	slog.LevelDebug: "DEBUG", slog.LevelInfo: "INFO", slog.LevelWarn: "WARNING", slog.LevelError: "ERROR",
}

// newLogger writes "LEVEL - message" lines, which existing greps look for, or JSON. Text has no timestamp: the journal
// and cron's mail have their own.
func newLogger(w io.Writer, format string, level slog.Level) *slog.Logger {
	if format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level, ReplaceAttr: guideLevel}))
	}
	return slog.New(&lineHandler{mu: &sync.Mutex{}, w: w, level: level})
}

func guideLevel(_ []string, attr slog.Attr) slog.Attr {
	if level, ok := attr.Value.Any().(slog.Level); ok && attr.Key == slog.LevelKey {
		return slog.String(attr.Key, levelNames[level])
	}
	return attr
}

type lineHandler struct {
	mu    *sync.Mutex
	w     io.Writer
	level slog.Level
	attrs string
}

func (h *lineHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= h.level }

func (h *lineHandler) Handle(_ context.Context, r slog.Record) error {
	var line strings.Builder
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
