package store

import (
	"slices"
	"testing"
)

// TestUnreadable: what the application's list of clients can't digest is named, and the statement that is given with it
// mends it, also where there are rows.
func TestUnreadable(t *testing.T) {
	for name, damage := range map[string]string{
		"nothing":      "",
		"rate":         `update client_organizations set markup_rate = null`,
		"timezone":     `update client_organizations set timezone = null`,
		"created":      `update client_organizations set created_at = '2026-03-01 12:00:00'`,
		"updated":      `update client_organizations set updated_at = '2026-03-01'`,
		"no timezone":  `alter table client_organizations drop column timezone`,
		"no hash":      `alter table client_organizations drop column openrouter_key_hash`,
		"no limit":     `alter table client_organizations drop column monthly_limit`,
		"no e-mail":    `alter table client_organizations drop column billing_email`,
		"never made":   `alter table client_organizations drop column created_at`,
		"never edited": `alter table client_organizations drop column updated_at`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newKeptBooks(t)
			execute(t, b.path, `update client_organizations set timezone = ''`)
			if damage != "" {
				execute(t, b.path, damage)
			}
			found, err := b.Unreadable(t.Context())
			if err != nil || (len(found) == 1) != (damage != "") {
				t.Fatalf("found %+v, %v", found, err)
			}
			for _, u := range found {
				execute(t, b.path, u.Statement)
			}
			if found, err := b.Unreadable(t.Context()); err != nil || len(found) > 0 {
				t.Errorf("after the statement: %+v, %v", found, err)
			}
			values := query[string](t, b.Store, `select timezone from client_organizations where markup_rate = 1.3 and is_active = 1`)
			if !slices.Equal(values, []string{""}) {
				t.Errorf("time zones are %q", values)
			}
		})
	}
}
