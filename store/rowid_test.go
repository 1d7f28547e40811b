package store

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestRowsOfOthersStayTheirs: the ids of rows are made of organisation, user or model, and day, so those of two organisations
// may be equal where these hold colons. Each keeps its own rows, in any order.
func TestRowsOfOthersStayTheirs(t *testing.T) {
	now := time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	dir := t.TempDir()
	files := 0
	rapid.Check(t, func(t *rapid.T) {
		part := rapid.StringMatching(`[ab:_]{1,3}`)
		ids := rapid.SliceOfNDistinct(part, 2, 4, rapid.ID[string]).Draw(t, "organisations")
		files++
		path := filepath.Join(dir, fmt.Sprint(files))
		var clients []NewOrganisation
		for i, id := range ids {
			clients = append(clients, NewOrganisation{ID: id, Name: id, Key: fmt.Sprint("sk-or-v1-", i), Rate: 1.3})
		}
		if err := CreateDemo(t.Context(), path, clients, now); err != nil {
			t.Fatal(err)
		}
		s, err := Open(t.Context(), path, ReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		type line struct{ org, name string }
		want := map[string]map[line]int64{"client_daily_usage": {}, "client_user_daily_usage": {}, "client_model_daily_usage": {}}
		for i := range rapid.IntRange(2, 20).Draw(t, "generations") {
			org := Organisation{ID: rapid.SampledFrom(ids).Draw(t, "organisation"), Zone: time.UTC, Rate: DefaultRate}
			g := Generation{ID: fmt.Sprint(i), CreatedAt: now.AddDate(0, 0, -1), Day: "2026-03-09", Model: part.Draw(t, "model"),
				User: part.Draw(t, "user"), Tokens: int64(1) << i, Cost: Dollar}
			if _, err := s.RecordGenerations(t.Context(), Batch{Organisation: org, Source: "test", Now: now,
				Generations: []Generation{g}}); err != nil {
				t.Fatal(err)
			}
			want["client_daily_usage"][line{org.ID, ""}] += g.Tokens
			want["client_user_daily_usage"][line{org.ID, g.User}] += g.Tokens
			want["client_model_daily_usage"][line{org.ID, ModelName(g.Model)}] += g.Tokens
			if rapid.Bool().Draw(t, "kept") {
				if found, err := s.KeepBooks(t.Context(), org, now, []Day{"2026-03-09"}); err != nil || !found.IsNone() {
					t.Fatalf("found %+v in the books of %q, %v", found, org.ID, err)
				}
			}
		}
		for table, name := range map[string]string{"client_daily_usage": "''", "client_user_daily_usage": "user_id",
			"client_model_daily_usage": "model_name"} {
			rows, err := s.db.Query(`select client_org_id, ` + name + `, total_tokens from ` + table)
			if err != nil {
				t.Fatal(err)
			}
			got := map[line]int64{}
			for rows.Next() {
				var l line
				var tokens int64
				if err := rows.Scan(&l.org, &l.name, &tokens); err != nil {
					t.Fatal(err)
				}
				got[l] += tokens
			}
			if err := rows.Close(); err != nil {
				t.Fatal(err)
			}
			if fmt.Sprint(got) != fmt.Sprint(want[table]) {
				t.Errorf("%s: got %v, want %v", table, got, want[table])
			}
		}
	})
}

// TestRowsArePutBackBesideOthers: a row that an answer has put aside does not come back in the place of another organisation's,
// which has got its id meanwhile.
func TestRowsArePutBackBesideOthers(t *testing.T) {
	path := newFile(t)
	s := open(t, path, ReadWrite)
	if _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	application(t, path, `insert into client_user_daily_usage values ('a:b:c:2026-03-09', 'a:b', 'c', 'c', '2026-03-09', 1, 1, 1, 1, 1, 1)`)
	const id = `'a:b:c:2026-03-09'`
	for org, same := range map[string]bool{"a:b": true, "a": false} {
		values := map[string]string{"id": id}
		err := s.write(t.Context(), func(q querier) error {
			return makeWayBack(t.Context(), q, org, "client_user_daily_usage", values)
		})
		if err != nil || (values["id"] == id) != same {
			t.Errorf("of %s: %s, %v", org, values["id"], err)
		}
	}
}
