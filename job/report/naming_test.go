package report

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"usage-sync/store"
)

// TestNaming: people are named as the application knows them, and as they were when a statement was closed.
func TestNaming(t *testing.T) {
	b := newBooks(t, t.TempDir(), acme)
	for _, user := range []string{"u-1", "u-2", "u-3", "u-4", ""} {
		b.record("acme", store.Generation{Day: "2026-10-05", Model: "openai/gpt-4.1", User: user, Tokens: 1000, Cost: store.Dollar})
	}
	if text := b.written(Text, Request{}); !strings.Contains(text, "\nu-1 ") {
		t.Errorf("without a table of users: %s", text)
	}
	b.sql(`create table "user" (id varchar primary key, name varchar, email varchar, role varchar)`)
	b.sql(`insert into "user" values ('u-1', 'Anna Kowalska', 'anna@example.com', 'user'), ('u-2', 'Ben', 'ben@example.com', 'user'),
		('u-3', 'Ben', null, 'user')`)
	for _, c := range []struct {
		naming      Naming
		shown, gone []string
	}{
		{ByName, []string{"Anna Kowalska", "Ben (u-2)", "Ben (u-3)", "u-4", "(no user named)"}, []string{"u-1", "@"}},
		{ByEmail, []string{"anna@example.com", "ben@example.com", "u-3", "u-4", "(no user named)"}, []string{"u-1", "Anna"}},
		{ByID, []string{"u-1", "u-2", "u-3", "u-4", "(no user named)"}, []string{"Anna", "Ben", "@"}},
		{Unnamed, nil, []string{"u-1", "u-4", "Anna", "Ben", "@", "USER", "no user named"}},
	} {
		text := b.written(Text, Request{Naming: c.naming})
		for _, want := range c.shown {
			if !strings.Contains(text, "\n"+want+" ") {
				t.Errorf("%s: %q is not in %s", c.naming, want, text)
			}
		}
		page, table := b.written(HTML, Request{Naming: c.naming}), b.written(CSV, Request{Naming: c.naming})
		for _, no := range c.gone {
			if strings.Contains(text, no) || no != "@" && strings.Contains(page, ">"+no) {
				t.Errorf("%s: %q is in %s or the page", c.naming, no, text)
			}
		}
		if got := strings.Contains(table, ",user,u-1,"); got != (c.naming != Unnamed) {
			t.Errorf("%s: a row of a user: %v, in %s", c.naming, got, table)
		}
	}
	var out struct {
		Users []struct {
			ID   string `json:"user_id"`
			Name string `json:"name"`
		} `json:"users"`
	}
	if err := json.Unmarshal([]byte(b.written(JSON, Request{})), &out); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{}
	for _, u := range out.Users {
		names[u.ID] = u.Name
	}
	if names["u-1"] != "Anna Kowalska" || names["u-4"] != "" || len(names) != 5 {
		t.Errorf("users: %v", names)
	}

	b.recordedUntil("acme", time.Date(2026, 11, 9, 0, 0, 0, 0, time.UTC))
	db := b.open(store.ReadWrite)
	defer db.Close()
	r := CloseRequest{Request: Request{Zone: time.UTC, For: Client, Now: clock}, By: "test", Unreconciled: true}
	closed, err := Close(t.Context(), db, r)
	if err != nil || closed[0].shown(closed[0].Users[1]) != "Anna Kowalska" {
		t.Fatalf("closed: %v, %+v", err, closed)
	}
	b.sql(`delete from "user"`)
	if text := b.written(Text, Request{}); !strings.Contains(text, "\nAnna Kowalska ") || strings.Contains(text, "u-1") {
		t.Errorf("closed: %s", text)
	}
}
