package store

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"
)

// SourceChoice is what passes have found out about the ways to an organisation's usage. The zero SourceChoice
// knows nothing.
type SourceChoice struct {
	Source  string    // the one that worked, where the first choice did not
	TriedAt time.Time // when the first choice last failed
}

// SourceChoice returns what is remembered for an organisation's present key; another key knows nothing yet.
func (s *Store) SourceChoice(ctx context.Context, org Organisation) (choice SourceChoice, err error) {
	err = s.read(ctx, func(q querier) error {
		var tried sql.NullInt64
		const query = `
			select coalesce(source, ''), tried_at from usage_sync_sources where client_org_id = ? and key_mark = ?`
		err := q.QueryRowContext(ctx, query, org.ID, KeyMark(org.Key)).Scan(&choice.Source, &tried)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		choice.TriedAt = fromUnix(tried)
		return err
	})
	return choice, err
}

// SetSourceChoice remembers a choice for an organisation's present key.
func (s *Store) SetSourceChoice(ctx context.Context, org Organisation, choice SourceChoice) error {
	return s.write(ctx, func(q querier) error {
		const query = `
			insert or replace into usage_sync_sources (client_org_id, key_mark, source, tried_at)
			values (?, ?, nullif(?, ''), ?)`
		_, err := q.ExecContext(ctx, query, org.ID, KeyMark(org.Key), choice.Source, unix(choice.TriedAt))
		return err
	})
}

// ProvisioningKey returns the management key of global_settings, or none. Like the currency and the default
// markup it is that of the newest row.
func (s *Store) ProvisioningKey(ctx context.Context) (key Key, err error) {
	err = s.read(ctx, func(q querier) error {
		columns, err := tableColumns(ctx, q, "global_settings")
		if err != nil || !hasColumn(columns, "openrouter_provisioning_key") {
			return err
		}
		const query = `
			select coalesce(openrouter_provisioning_key, '')` + fromNewestSettings
		err = q.QueryRowContext(ctx, query).Scan(&key)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return Key(strings.TrimSpace(string(key))), err
}
