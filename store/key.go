package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"fmt"
	"os"
	"syscall"
	"time"
)

// KeySpan is a key that an organisation has, or has had: a row of usage_sync_keys. Times are whole seconds.
type KeySpan struct {
	Mark   string // tells the key from others without holding it
	Hash   string // by which OpenRouter knows the key; empty where nobody has needed it yet
	Seal   string // whoever has proved that the hash is the key's; empty where nobody has
	Name   string // what the account calls the key; empty where it was not asked
	Client string // the organisation's name when it last had the key
	Place  string // the database in which it last had the key

	PlacedAt  time.Time // since when it has had the key in this place
	Since     time.Time // when a pass first met the key
	Until     time.Time // when a pass first met another key in its place; zero: it is the present one
	UsedUntil time.Time // a former key was not used later, as far as is known
	DroppedAt time.Time // since when nobody asks for a former key's usage any more
	// Covered: the watermark of the organisation is true of this key, too.
	Covered bool
}

// Present tells whether it is the key that the organisation has.
func (k KeySpan) Present() bool { return k.Until.IsZero() }

// Subject is what a gap calls the key.
func (k KeySpan) Subject() string {
	if k.Hash != "" {
		return k.Hash
	}
	return k.Mark
}

// KeyMark tells one key from another without holding it.
func KeyMark(key Key) string {
	sum := sha256.Sum256([]byte("usage-sync\x00" + key))
	return hex.EncodeToString(sum[:8])
}

// Place tells this database from copies of it: by its path, and by the file itself.
func (s *Store) Place() string {
	inode := uint64(0)
	if info, err := os.Stat(s.Path()); err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			inode = stat.Ino
		}
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", s.Path(), inode))
	return hex.EncodeToString(sum[:8])
}

// KeySpans returns the keys that organisations have and have had, by organisation, in the order in which they were met.
func (s *Store) KeySpans(ctx context.Context) (byOrg map[string][]KeySpan, err error) {
	err = s.read(ctx, func(q querier) error {
		byOrg = map[string][]KeySpan{}
		type row struct {
			orgID string
			KeySpan
		}
		rows, err := collect(ctx, q, func(scan func(...any) error) (r row, err error) {
			var placed, since, until, used, dropped sql.NullInt64
			err = scan(&r.orgID, &r.Mark, &r.Hash, &r.Seal, &r.Name, &r.Client, &r.Place, &placed,
				&since, &until, &used, &dropped, &r.Covered)
			r.PlacedAt, r.Since, r.Until = fromUnix(placed), fromUnix(since), fromUnix(until)
			r.UsedUntil, r.DroppedAt = fromUnix(used), fromUnix(dropped)
			return r, err
		}, `select client_org_id, key_mark, key_hash, seal, name, client, place, placed_at, since, until, used_until,
				dropped_at, covered
			from usage_sync_keys order by client_org_id, since, key_mark, key_hash`)
		for _, r := range rows {
			byOrg[r.orgID] = append(byOrg[r.orgID], r.KeySpan)
		}
		return err
	})
	return byOrg, err
}

// AccountKeyNames returns whose keys are called so by the account, as passes have proved: organisation ids by
// name. Names are not unique; one that keys of two organisations have is nobody's.
func (s *Store) AccountKeyNames(ctx context.Context) (byName map[string]string, err error) {
	byOrg, err := s.KeySpans(ctx)
	byName = map[string]string{}
	for id, spans := range byOrg {
		for _, k := range spans {
			if k.Name == "" || k.Seal == "" || !k.DroppedAt.IsZero() {
				continue
			}
			if other, met := byName[k.Name]; met && other != id {
				id = ""
			}
			byName[k.Name] = id
		}
	}
	return byName, err
}

// SetKeySpans stores the keys of an organisation in place of those that were stored.
func (s *Store) SetKeySpans(ctx context.Context, orgID string, spans []KeySpan) error {
	return s.write(ctx, func(q querier) error {
		if _, err := q.ExecContext(ctx, `delete from usage_sync_keys where client_org_id = ?`, orgID); err != nil {
			return err
		}
		const query = `
			insert into usage_sync_keys (client_org_id, key_mark, key_hash, seal, name, client, place, placed_at, since,
				until, used_until, dropped_at, covered)
			values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
		for _, k := range spans {
			_, err := q.ExecContext(ctx, query, orgID, k.Mark, k.Hash, k.Seal, k.Name, k.Client,
				k.Place, unix(k.PlacedAt), k.Since.Unix(), unix(k.Until), unix(k.UsedUntil),
				unix(k.DroppedAt), k.Covered)
			if err != nil {
				return err
			}
		}
		return nil
	})
}
