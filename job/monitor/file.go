package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/store"
)

// ErrMetricsFile: the metrics file can't be made.
var ErrMetricsFile = job.NewError(job.KindOutputFile, "metrics file")

// MetricsFile is a file for the textfile collector of Prometheus' node_exporter
// (https://github.com/prometheus/node_exporter#textfile-collector), which reads those that end in .prom.
type MetricsFile struct {
	Path     string
	Instance string        // label of every metric; empty is acme of usage-sync-acme.prom; with it, usage-sync.prom is shared
	Version  string        // of this program
	Interval time.Duration // between two passes; 0 where polling is switched off
	Models   bool          // with the cost of each model
	Database string        // path
	Zone     *time.Location
	Rule     alert.Rule // by which passes and usage are judged
}

// instanceOf names an instance by its metrics file, which no other instance on the host shares: acme of
// usage-sync-acme.prom.
func instanceOf(path string) string {
	name := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	if short := strings.TrimPrefix(name, "usage-sync-"); short != "" {
		return short
	}
	return name
}

// Write writes what is known after a run in the place of the file, which a reader sees either as it was or as
// it is. Db is nil where it can't be opened: then what the file has told before and still holds (times,
// counters) stays in it. ErrMetricsFile is a file that can't be written; whatever else is wrong is returned
// after it has been.
func (f MetricsFile) Write(ctx context.Context, db *store.Store, run Run) error {
	before := f.read()
	s := &snapshot{run: run, version: f.Version, interval: f.Interval}
	if run.Err != nil {
		s.failures = 1 + int64(before.value(failures))
	}
	if at := before.value(lastSuccess); at > 0 {
		s.lastSuccess = time.UnixMilli(int64(at * 1e3))
	}
	s.database = spaceOf(f.Database)
	var lookErr error
	if db != nil {
		lookErr = s.look(ctx, f, db)
	}
	now := s.page(f.instance())
	shared := isShared(f.Path, f.Instance)
	if shared && s.database != nil {
		now.add(isGauge, databaseInfo, 1, s.database.id)
	}
	if s.organisations == nil {
		now.keep(before)
	}
	if !shared {
		return errors.Join(now.write(f.Path), lookErr)
	}
	return errors.Join(now.writeShared(ctx, f.Path, func(name string) bool { return !ofReconciliation(name) }), lookErr)
}

// write writes a metrics file in one step. The temporary file lies beside it, as another file system could not give it
// its name; the collector reads *.prom alone.
func (p *page) write(path string) error {
	if p.err != nil {
		return p.err
	}
	removeLeftovers(path)
	beside := renameio.WithTempDir(filepath.Dir(path))
	if err := renameio.WriteFile(path, p.text(), 0o644, renameio.IgnoreUmask(), beside); err != nil {
		return fmt.Errorf("%w %s: %w", ErrMetricsFile, path, err)
	}
	return nil
}

// leftover is how old a temporary file is that nobody gives its name any more.
const leftover = 10 * time.Minute

// removeLeftovers removes the temporary files of runs that were killed while they wrote: each leaves one of its
// own, named by the file and a number. One that can't be removed is left to the next run.
func removeLeftovers(path string) {
	dir, name := filepath.Split(path)
	entries, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return
	}
	for _, entry := range entries {
		number, found := strings.CutPrefix(entry.Name(), "."+name)
		if _, err := strconv.ParseUint(number, 10, 64); !found || err != nil || !entry.Type().IsRegular() {
			continue
		}
		if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > leftover {
			_ = os.Remove(filepath.Join(dir, entry.Name()))
		}
	}
}

// look reads the database.
func (s *snapshot) look(ctx context.Context, f MetricsFile, db *store.Store) error {
	rows, err := db.LedgerRows(ctx)
	if err != nil {
		return err
	}
	s.ledger = &rows
	rule := f.Rule
	rule.Judged = s.run.verdicts()
	all, err := rule.Look(ctx, db, nil, f.Zone, s.run.EndedAt)
	if err != nil {
		return err
	}
	if s.models, err = f.monthModels(ctx, db, all, s.run.EndedAt); err != nil {
		return err
	}
	s.organisations = all
	var unjudged error
	for _, h := range s.organisations {
		if h.Unjudged != nil {
			unjudged = errors.Join(unjudged, fmt.Errorf("%s: %w", h.Organisation.ID, h.Unjudged))
		}
	}
	return unjudged
}

// monthModels returns what each model was used, where that is to be told.
func (f MetricsFile) monthModels(ctx context.Context, db *store.Store, all []alert.Health, now time.Time) (
	map[string][]store.ModelUsage, error) {
	if !f.Models {
		return nil, nil
	}
	byOrg := map[string][]store.ModelUsage{}
	for _, h := range all {
		if h.Skipped != "" {
			continue
		}
		models, err := db.MonthModels(ctx, h.Organisation, now)
		if err != nil {
			return nil, err
		}
		byOrg[h.Organisation.ID] = models
	}
	return byOrg, nil
}

// spaceOf returns nil where there is no database.
func spaceOf(path string) *disk {
	size, err := store.Size(path)
	if err != nil {
		return nil
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(path, &fs); err != nil {
		return nil
	}
	block := int64(fs.Bsize)
	var file syscall.Stat_t
	if err := syscall.Stat(path, &file); err != nil {
		return nil
	}
	return &disk{id: fmt.Sprintf("%d:%d", file.Dev, file.Ino), database: size, available: int64(fs.Bavail) * block,
		size: int64(fs.Blocks) * block}
}

func (f MetricsFile) instance() string {
	if f.Instance != "" {
		return f.Instance
	}
	return instanceOf(f.Path)
}

// read returns what the file says by now. One that is not there or not ours says nothing.
func (f MetricsFile) read() *page {
	text, _ := os.ReadFile(f.Path)
	return parsePage(f.instance(), text)
}

// keep adds what an earlier run has told and a failing one can't find out, as far as it still holds: points in time,
// counters and names. Today's usage does not.
func (p *page) keep(before *page) {
	for name, family := range before.families {
		lasts := strings.HasSuffix(name, "_timestamp_seconds") || strings.HasSuffix(name, "_total") ||
			strings.HasSuffix(name, "_info")
		if _, known := p.families[name]; lasts && !known {
			p.families[name] = family
		}
	}
}
