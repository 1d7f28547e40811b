package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// NewOrganisation is a client of a made-up database.
type NewOrganisation struct {
	ID, Name, Key, Timezone string
	Rate                    float64
}

// CreateDemo makes a new database with all tables and some organisations. It refuses a file that exists.
func CreateDemo(ctx context.Context, path string, organisations []NewOrganisation, now time.Time) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	s, err := Open(ctx, path, ReadWrite)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if _, err := s.Migrate(ctx); err != nil {
		return err
	}
	return s.write(ctx, func(q querier) error {
		if _, err := q.ExecContext(ctx, `alter table client_organizations add column timezone VARCHAR`); err != nil {
			return err
		}
		for _, o := range organisations {
			const insert = `
				insert into client_organizations (id, name, openrouter_api_key, markup_rate, is_active, timezone, created_at, updated_at)
				values (?1, ?2, ?3, ?4, 1, ?5, ?6, ?6)`
			if _, err := q.ExecContext(ctx, insert, o.ID, o.Name, o.Key, o.Rate, o.Timezone, now.Unix()); err != nil {
				return fmt.Errorf("organisation %s: %w", o.ID, err)
			}
		}
		return nil
	})
}
