package store

import (
	"context"
	"database/sql"
	"errors"
	"time"
)

// The roles that Open WebUI gives its users. A user who waits to be let in has another one.
const (
	RoleAdmin = "admin"
	RoleUser  = "user"
)

// ErrNoUser: the application has no such user.
var ErrNoUser = errors.New("no such user")

// Role returns what a user may do, from the application's own table of users (Open WebUI, models/users.py).
func (s *Store) Role(ctx context.Context, userID string) (role string, err error) {
	err = s.read(ctx, func(q querier) error {
		columns, err := tableColumns(ctx, q, "user")
		if err != nil {
			return err
		}
		if len(columns) == 0 {
			return ErrNoUser
		}
		err = q.QueryRowContext(ctx, `select coalesce(role, '') from "user" where id = ?`, userID).Scan(&role)
		if errors.Is(err, sql.ErrNoRows) {
			return ErrNoUser
		}
		return err
	})
	return role, err
}

// UserName is how people know a user.
type UserName struct{ Name, Email string }

// UserNames returns the names of users by id, from the application's own table (Open WebUI, models/users.py):
// none where there is no such table.
func (s *Store) UserNames(ctx context.Context) (byID map[string]UserName, err error) {
	err = s.read(ctx, func(q querier) error {
		byID = map[string]UserName{}
		columns, err := tableColumns(ctx, q, "user")
		if err != nil || !hasColumn(columns, "id") || !hasColumn(columns, "name") || !hasColumn(columns, "email") {
			return err
		}
		type row struct {
			id string
			UserName
		}
		rows, err := collect(ctx, q, func(scan func(...any) error) (r row, err error) {
			return r, scan(&r.id, &r.Name, &r.Email)
		}, `select id, trim(coalesce(name, '')), trim(coalesce(email, '')) from "user" where id is not null`)
		for _, r := range rows {
			byID[r.id] = r.UserName
		}
		return err
	})
	return byID, err
}

// Member tells whether a user belongs to an organisation: by an active mapping, or because there is no other active
// organisation.
func (s *Store) Member(ctx context.Context, userID, orgID string) (member bool, err error) {
	err = s.read(ctx, func(q querier) error {
		const query = `
			select exists (select 1 from user_client_mapping where user_id = ?1 and client_org_id = ?2 and is_active = 1)
				or not exists (select 1 from client_organizations where id <> ?2 and is_active = 1)`
		return q.QueryRowContext(ctx, query, userID, orgID).Scan(&member)
	})
	return member, err
}

// KeyNames returns whose key is meant by a name that a key has at OpenRouter: organisation ids by name.
func (s *Store) KeyNames(ctx context.Context) (byName map[string]string, err error) {
	err = s.read(ctx, func(q querier) error {
		byName = map[string]string{}
		type pair struct{ name, organisation string }
		pairs, err := collect(ctx, q, func(scan func(...any) error) (p pair, err error) {
			return p, scan(&p.name, &p.organisation)
		}, `select key_name, client_org_id from usage_sync_key_names`)
		for _, p := range pairs {
			byName[p.name] = p.organisation
		}
		return err
	})
	return byName, err
}

// SetKeyName stores whose key a name means, in place of what was stored before.
func (s *Store) SetKeyName(ctx context.Context, name, orgID string, now time.Time) error {
	return s.write(ctx, func(q querier) error {
		const query = `insert or replace into usage_sync_key_names (key_name, client_org_id, updated_at) values (?, ?, ?)`
		_, err := q.ExecContext(ctx, query, name, orgID, now.Unix())
		return err
	})
}
