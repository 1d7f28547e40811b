package store

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// Scratch returns a copy of the usage tables to try things on: the database itself is read once, and nobody
// waits for what is tried. The returned function removes the copy. It is a file of its own in the directory for
// temporary files, and holds no keys: the rows of organisations and settings are left out, so that a process
// that is killed leaves none behind.
func (s *Store) Scratch(ctx context.Context) (scratch *Store, remove func() error, err error) {
	dir, err := os.MkdirTemp("", "usage-sync-trial-")
	if err != nil {
		return nil, nil, diskError(err)
	}
	remove = func() error { return os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			err = errors.Join(err, remove())
		}
	}()
	path := filepath.Join(dir, "usage.db")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return nil, nil, diskError(err)
	}
	if err := s.retry(ctx, func() error {
		if err := os.Truncate(path, 0); err != nil {
			return diskError(err)
		}
		_, err := s.copyUsage(ctx, path, "client_organizations", "global_settings")
		return err
	}); err != nil {
		return nil, nil, err
	}
	if scratch, err = Open(ctx, path, ReadWrite); err != nil {
		return nil, nil, err
	}
	remove = func() error { return errors.Join(scratch.Close(), os.RemoveAll(dir)) }
	if err := scratch.EnsureOwnTables(ctx); err != nil {
		return nil, nil, err
	}
	// The tables that tell where the application keeps today are not copied.
	err = s.read(ctx, func(q querier) (err error) {
		scratch.allowed = s.allowed
		scratch.today, err = s.todayIn(ctx, q)
		return err
	})
	return scratch, remove, err
}
