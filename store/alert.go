package store

import (
	"context"
	"database/sql"
	"strings"
	"time"
)

// Alert is something out of the ordinary that people have been told of.
type Alert struct {
	Kind    string // what it is about: one alert of a kind at a time
	Level   string // what it has come to; a higher one is told anew
	Since   time.Time
	Message string
}

func (a Alert) String() string { return a.Kind + ": " + a.Message }

// News is what has changed among an organisation's alerts.
type News struct {
	Raised []Alert // what people have not been told of, or not at this level
	Over   []Alert // what they have been told and is so no longer
}

// None tells whether nothing has changed.
func (n News) None() bool { return len(n.Raised)+len(n.Over) == 0 }

// String says what has changed, for the history; empty where nothing has.
func (n News) String() string {
	var news []string
	for _, a := range n.Raised {
		news = append(news, a.String())
	}
	for _, a := range n.Over {
		news = append(news, a.Kind+" over")
	}
	return strings.Join(news, "; ")
}

// Alerts returns an organisation's alerts, by kind.
func (s *Store) Alerts(ctx context.Context, orgID string) (alerts map[string]Alert, err error) {
	err = s.read(ctx, func(q querier) error {
		alerts = map[string]Alert{}
		all, err := collect(ctx, q, func(scan func(...any) error) (a Alert, err error) {
			var since sql.NullInt64
			err = scan(&a.Kind, &a.Level, &since, &a.Message)
			a.Since = fromUnix(since)
			return a, err
		}, `select kind, level, since, message from usage_sync_alerts where client_org_id = ?`, orgID)
		for _, a := range all {
			alerts[a.Kind] = a
		}
		return err
	})
	return alerts, err
}

// SetAlerts replaces an organisation's alerts.
func (s *Store) SetAlerts(ctx context.Context, orgID string, alerts []Alert) error {
	return s.write(ctx, func(q querier) error {
		if _, err := q.ExecContext(ctx, `delete from usage_sync_alerts where client_org_id = ?`, orgID); err != nil {
			return err
		}
		for _, a := range alerts {
			const query = `insert into usage_sync_alerts (client_org_id, kind, level, since, message) values (?, ?, ?, ?, ?)`
			if _, err := q.ExecContext(ctx, query, orgID, a.Kind, a.Level, unix(a.Since), a.Message); err != nil {
				return err
			}
		}
		return nil
	})
}
