package webhook

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/store"
)

var now = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

func newStore(t testing.TB, organisations ...store.NewOrganisation) (*store.Store, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "webui.db")
	if err := store.CreateDemo(context.Background(), path, organisations, now); err != nil {
		t.Fatal(err)
	}
	return openStore(t, path), path
}

func openStore(t testing.TB, path string) *store.Store {
	t.Helper()
	db, err := store.Open(context.Background(), path, store.ReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func newRecorder(db *store.Store) *Recorder {
	return &Recorder{Store: db, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return now }, Zone: time.UTC,
		AcceptUnnamed: true}
}

var acme = store.NewOrganisation{ID: "acme", Name: "Acme", Key: "sk-or-v1-acme", Rate: 1.3, Timezone: "Europe/Warsaw"}

// dump is what the dashboard sees, and the ledger.
func dump(t testing.TB, path string) string {
	t.Helper()
	db, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	var text strings.Builder
	for _, query := range []string{
		`select usage_date || ' ' || total_tokens || ' ' || total_requests || ' ' || raw_cost || ' ' || markup_cost from client_daily_usage order by 1`,
		`select "current_date" || ' ' || today_tokens || ' ' || today_requests || ' ' || today_raw_cost || ' ' || today_markup_cost from client_live_counters order by 1`,
		`select user_id || ' ' || usage_date || ' ' || total_tokens || ' ' || total_requests || ' ' || raw_cost from client_user_daily_usage order by 1`,
		`select model_name || ' ' || usage_date || ' ' || total_tokens || ' ' || total_requests || ' ' || raw_cost from client_model_daily_usage order by 1`,
		`select id || ' ' || generation_date || ' ' || total_tokens || ' ' || total_cost from processed_generations order by 1`,
	} {
		rows, err := db.Query(query)
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var line string
			if err := rows.Scan(&line); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(&text, line)
		}
		if err := errors.Join(rows.Err(), rows.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return text.String()
}

// TestEitherOrder: deliveries and listed generations, whose figures differ for some, give the same tables in any order,
// with any repetition, and at the same moment.
func TestEitherOrder(t *testing.T) {
	const count = 40
	var delivered []Usage
	var listed []store.Generation
	for i := range count {
		g := store.Generation{ID: fmt.Sprintf("gen-%02d", i), CreatedAt: now.Add(-time.Duration(i) * time.Hour), Model: []string{"a/x", "b/y"}[i%2],
			User: []string{"ann", ""}[i%2], Tokens: int64(100 + i), Cost: store.Money(i+1) * 1e9}
		delivered = append(delivered, Usage{Generation: g})
		if i%3 == 0 { // settled before it was listed
			g.Cost, g.Tokens = g.Cost*2, g.Tokens-7
		}
		listed = append(listed, g)
	}
	list := func(db *store.Store, part []store.Generation) error {
		orgs, err := db.Organisations(t.Context(), nil, time.UTC)
		if err != nil {
			return err
		}
		for i := range part {
			part[i].Day = store.DayOf(part[i].CreatedAt, orgs[0].Zone)
		}
		_, err = db.RecordGenerations(t.Context(), store.Batch{Organisation: orgs[0], Source: "generations", Now: now, Generations: part})
		return err
	}
	push := func(db *store.Store, part []Usage) error {
		result, err := newRecorder(db).Record(t.Context(), part)
		if len(result.Held) > 0 {
			return result.Held[0].Err
		}
		return err
	}
	db, path := newStore(t, acme)
	if err := list(db, listed); err != nil {
		t.Fatal(err)
	}
	want := dump(t, path)
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 7))
		db, path := newStore(t, acme)
		other := openStore(t, path)
		var steps []func(db *store.Store) error
		for start := 0; start < count; start += 5 {
			part := append([]store.Generation{}, listed[start:start+5]...)
			pushed := delivered[start : start+5]
			steps = append(steps, func(db *store.Store) error { return list(db, part) })
			for range 1 + random.IntN(3) {
				steps = append(steps, func(db *store.Store) error { return push(db, pushed) })
			}
		}
		random.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
		if seed%2 == 0 {
			for _, step := range steps {
				if err := step(db); err != nil {
					t.Fatal(err)
				}
			}
		} else {
			var both sync.WaitGroup
			for i, db := range []*store.Store{db, other} {
				both.Go(func() {
					for j := i; j < len(steps); j += 2 {
						if err := steps[j](db); err != nil {
							t.Error(err)
						}
					}
				})
			}
			both.Wait()
		}
		if got := dump(t, path); got != want {
			t.Fatalf("seed %d:\n%s\nwant\n%s", seed, got, want)
		}
	}
}

func TestWhose(t *testing.T) {
	globex := store.NewOrganisation{ID: "globex", Name: "Globex", Key: "sk-or-v1-globex", Rate: 1.5}
	db, path := newStore(t, acme, globex, store.NewOrganisation{ID: "bad", Name: "Bad", Key: "sk-or-v1-bad", Rate: 1.3, Timezone: "Nowhere/City"})
	raw, err := sql.Open("sqlite3", path)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	if _, err := raw.Exec(`insert into client_organizations (id, name, openrouter_api_key, markup_rate, is_active, created_at, updated_at)
		values ('off', 'Off', 'sk-or-v1-off', 1.3, 0, 0, 0)`); err != nil {
		t.Fatal(err)
	}
	if err := db.SetKeyName(t.Context(), "prod", "globex", now); err != nil {
		t.Fatal(err)
	}
	span := func(name string) store.KeySpan {
		return store.KeySpan{Mark: name, Hash: name, Seal: "proved", Name: name, Since: now}
	}
	dropped := span("long ago")
	dropped.DroppedAt = now
	if err := errors.Join(db.SetKeySpans(t.Context(), "acme", []store.KeySpan{span("Acme 2026"), span("both"), dropped, span("Globex")}),
		db.SetKeySpans(t.Context(), "globex", []store.KeySpan{span("both")})); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		usage Usage
		want  error
		org   string
	}{
		"the account's name": {Usage{KeyName: "Acme 2026"}, nil, "acme"},
		"of two keys":        {Usage{KeyName: "both"}, errUnmapped, ""},
		"of a dropped key":   {Usage{KeyName: "long ago"}, errUnmapped, ""},
		"beats a client's":   {Usage{KeyName: "Globex"}, nil, "acme"},
		"key":                {Usage{Key: "sk-or-v1-acme"}, nil, "acme"},
		"unknown key":        {Usage{Key: "sk-or-v1-none"}, ErrKey, ""},
		"key of an inactive": {Usage{Key: "sk-or-v1-off"}, ErrKey, ""},
		"name":               {Usage{KeyName: "Acme"}, nil, "acme"},
		"name, other case":   {Usage{KeyName: "gLoBeX"}, nil, "globex"},
		"stored name":        {Usage{KeyName: "prod"}, nil, "globex"},
		"unknown name":       {Usage{KeyName: "dev"}, errUnmapped, ""},
		"inactive":           {Usage{KeyName: "Off"}, nil, "off"},
		"no name":            {Usage{}, errUnmapped, ""},
		"known before":       {Usage{OrganisationID: "acme"}, nil, "acme"},
		"known, inactive":    {Usage{OrganisationID: "off"}, nil, "off"},
		"known, gone":        {Usage{OrganisationID: "gone"}, errUnmapped, ""},
		"bad time zone":      {Usage{KeyName: "Bad"}, store.ErrOrganisation, ""},
		"future":             {Usage{KeyName: "Acme", Generation: store.Generation{CreatedAt: now.Add(time.Hour)}}, errFuture, ""},
		"a fast clock":       {Usage{KeyName: "Acme", Generation: store.Generation{CreatedAt: now.Add(time.Minute)}}, nil, "acme"},
	} {
		t.Run(name, func(t *testing.T) {
			u := c.usage
			u.ID, u.Model = "gen "+name, "m"
			if u.CreatedAt.IsZero() {
				u.CreatedAt = now
			}
			result, err := newRecorder(db).Record(t.Context(), []Usage{u})
			if err != nil {
				t.Fatal(err)
			}
			if c.want != nil {
				if len(result.Held) != 1 || !errors.Is(result.Held[0].Err, c.want) || result.Recorded != 0 {
					t.Errorf("got %+v, want %v", result, c.want)
				}
				return
			}
			var org string
			if err := raw.QueryRow(`select client_org_id from processed_generations where id = ?`, u.ID).Scan(&org); err != nil || org != c.org {
				t.Errorf("recorded for %q (%v, %+v), want %q", org, err, result, c.org)
			}
		})
	}
}

// TestWhoseOfOne: nothing follows from an organisation's being the only one of its database.
func TestWhoseOfOne(t *testing.T) {
	db, _ := newStore(t, acme)
	deliver := func(accept bool, keyName string) Result {
		r := newRecorder(db)
		r.AcceptUnnamed = accept
		result, err := r.Record(t.Context(), []Usage{{KeyName: keyName,
			Generation: store.Generation{ID: fmt.Sprint("gen ", accept, keyName), Model: "m", CreatedAt: now}}})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	for _, accept := range []bool{false, true} {
		if result := deliver(accept, "Globex"); result.Recorded != 0 || !errors.Is(result.Held[0].Err, errUnmapped) {
			t.Errorf("another client's key, unnamed ones accepted %t: %+v", accept, result)
		}
	}
	if result := deliver(false, ""); result.Recorded != 0 || !errors.Is(result.Held[0].Err, errUnmapped) {
		t.Errorf("a key without a name: %+v", result)
	}
	if result := deliver(true, ""); result.Recorded != 1 {
		t.Errorf("a key without a name, accepted: %+v", result)
	}
}

// TestTakeover: what others have counted is neither counted again nor lost, and what is delivered hides nothing of theirs.
func TestTakeover(t *testing.T) {
	u := Usage{Generation: store.Generation{ID: "gen-1", CreatedAt: now.Add(-time.Hour), Model: "m", Tokens: 5, Cost: 1e9}}
	counted := func(t *testing.T, path string, requests int) {
		t.Helper()
		raw, err := sql.Open("sqlite3", path)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		if _, err := raw.Exec(`insert or replace into client_live_counters values ('acme', '2026-03-10', 100, ?, 0.1, 0.13, 0)`, requests); err != nil {
			t.Fatal(err)
		}
	}
	record := func(t *testing.T, db *store.Store) Result {
		t.Helper()
		result, err := newRecorder(db).Record(t.Context(), []Usage{u})
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
	var takeover *job.TakeoverError
	t.Run("Undecided", func(t *testing.T) {
		db, path := newStore(t, acme)
		counted(t, path, 3)
		if r := record(t, db); len(r.Held) != 1 || !errors.As(r.Held[0].Err, &takeover) {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("Adopted", func(t *testing.T) {
		db, path := newStore(t, acme)
		counted(t, path, 3)
		if err := db.SetState(t.Context(), "acme", store.State{Takeover: store.TakeoverAdopt, TakeoverUntil: now}, now); err != nil {
			t.Fatal(err)
		}
		before := dump(t, path)
		if r := record(t, db); r.Recorded != 1 || dump(t, path) != before+"gen-1 2026-03-10 5 0.001\n" {
			t.Errorf("got %+v\n%s", r, dump(t, path))
		}
	})
	t.Run("Covered", func(t *testing.T) {
		db, path := newStore(t, acme)
		counted(t, path, 3)
		if err := db.SetState(t.Context(), "acme", store.State{CoveredFrom: now.Add(-24 * time.Hour), CoveredTo: now}, now); err != nil {
			t.Fatal(err)
		}
		if r := record(t, db); r.Recorded != 1 {
			t.Errorf("got %+v", r)
		}
	})
	t.Run("DeliveredProvesNothing", func(t *testing.T) {
		db, path := newStore(t, acme)
		for range 2 { // the second time it is known
			record(t, db)
		}
		held, err := db.HeldDays(t.Context(), "acme", "2026-03-01", "2026-03-10")
		if err != nil || len(held) != 1 || held[0].ByOthers() {
			t.Errorf("our own delivery is held to be of others: %v, %v", held, err)
		}
		counted(t, path, 3)
		held, err = db.HeldDays(t.Context(), "acme", "2026-03-01", "2026-03-10")
		if err != nil || len(held) != 1 || !held[0].ByOthers() {
			t.Errorf("usage of others is hidden by a delivery: %v, %v", held, err)
		}
	})
}

// TestHourlyHistory: deliveries of an hour are one row.
func TestHourlyHistory(t *testing.T) {
	db, _ := newStore(t, acme)
	clock := now
	for i := range 6 {
		r := newRecorder(db)
		r.Now = func() time.Time { return clock }
		u := Usage{Generation: store.Generation{ID: fmt.Sprintf("gen-%d", i/2), CreatedAt: now, Model: "m", Tokens: 10, Cost: 1e9}}
		if i == 5 {
			u.Cost = 3e9
		}
		if _, err := r.Record(t.Context(), []Usage{u}); err != nil {
			t.Fatal(err)
		}
		clock = clock.Add(25 * time.Minute)
	}
	runs, err := db.Runs(t.Context(), store.RunFilter{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range runs {
		got = append(got, fmt.Sprintf("%s %s %d+%d %d %s", r.StartedAt.Format("15:04"), r.Source, r.Recorded, r.Updated, r.Tokens, r.Raw))
	}
	if want := "14:05 webhook 0+1 0 0.002000; 13:40 webhook 1+0 10 0.001000; 12:00 webhook 2+0 20 0.002000"; strings.Join(got, "; ") != want {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), want)
	}
	if passes, err := db.Runs(t.Context(), store.RunFilter{Synced: true, Limit: 10}); err != nil || len(passes) != 0 {
		t.Errorf("deliveries are taken for passes: %v, %v", passes, err)
	}
}

// TestKeyAsName: a key that is called by itself is not shown whole; a name that OpenRouter has cut short is, to be told apart.
func TestKeyAsName(t *testing.T) {
	key := "sk-or-v1-" + strings.Repeat("0123", 4)
	for name, want := range map[string]string{key: "sk-or-v1-012...", "sk-or-v1-012...789": "sk-or-v1-012...789", "Nobody": "Nobody"} {
		db, _ := newStore(t, acme, store.NewOrganisation{ID: "globex", Name: "Globex", Key: "sk-or-v1-globex", Rate: 1.3})
		u := Usage{Generation: store.Generation{ID: "gen-1", CreatedAt: now, Model: "m"}, KeyName: name}
		result, err := newRecorder(db).Record(t.Context(), []Usage{u})
		if err != nil || len(result.Held) != 1 {
			t.Fatalf("%+v, %v", result, err)
		}
		if text := result.Held[0].Err.Error(); !strings.Contains(text, fmt.Sprintf("%q", want)) || strings.Contains(text, key) {
			t.Errorf("%s: %s", name, text)
		}
	}
}
