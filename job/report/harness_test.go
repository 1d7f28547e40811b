package report

import (
	"bytes"
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/rogpeppe/go-internal/diff"

	"usage-sync/store"
)

var update = flag.Bool("update", false, "write what statements look like into the golden files")

// tester is what testing.T and rapid.T have in common.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
	Context() context.Context
}

// books are a database with the usage of organisations.
type books struct {
	tester
	path string
	ids  int
}

// clock is when statements are made, unless a test says otherwise: a Tuesday.
var clock = time.Date(2026, 11, 10, 12, 0, 0, 0, time.UTC)

func newBooks(t tester, dir string, orgs ...store.NewOrganisation) *books {
	t.Helper()
	b := &books{tester: t, path: filepath.Join(dir, "webui.db")}
	if err := store.CreateDemo(b.Context(), b.path, orgs, clock); err != nil {
		t.Fatalf("%v", err)
	}
	return b
}

// copyBooks starts with a database that was made before.
func copyBooks(t tester, dir string, file []byte) *books {
	t.Helper()
	b := &books{tester: t, path: filepath.Join(dir, "webui.db")}
	if err := os.WriteFile(b.path, file, 0o600); err != nil {
		t.Fatalf("%v", err)
	}
	return b
}

func (b *books) open(mode store.Mode) *store.Store {
	b.Helper()
	db, err := store.Open(b.Context(), b.path, mode)
	if err != nil {
		b.Fatalf("%v", err)
	}
	return db
}

// record records usage as passes do: each day's at its noon, the days in their order.
func (b *books) record(org string, generations ...store.Generation) {
	b.Helper()
	db := b.open(store.ReadWrite)
	defer db.Close()
	orgs, err := db.Organisations(b.Context(), []string{org}, time.UTC)
	if err != nil {
		b.Fatalf("%v", err)
	}
	for len(generations) > 0 {
		day := generations[0].Day
		batch := store.Batch{Organisation: orgs[0], Source: "test", Now: day.Start(orgs[0].Zone).Add(12 * time.Hour)}
		for len(generations) > 0 && generations[0].Day == day {
			g := generations[0]
			b.ids++
			g.ID, g.CreatedAt = fmt.Sprintf("gen-%d", b.ids), batch.Now
			batch.Generations, generations = append(batch.Generations, g), generations[1:]
		}
		if _, err := db.RecordGenerations(b.Context(), batch); err != nil {
			b.Fatalf("%v", err)
		}
	}
}

// recordedUntil sets the watermark.
func (b *books) recordedUntil(org string, until time.Time) {
	b.Helper()
	db := b.open(store.ReadWrite)
	defer db.Close()
	if err := db.SetState(b.Context(), org, store.State{CoveredFrom: until.AddDate(-1, 0, 0), CoveredTo: until}, until); err != nil {
		b.Fatalf("%v", err)
	}
}

// sql does what others do to the database.
func (b *books) sql(statement string, args ...any) {
	b.Helper()
	db, err := sql.Open("sqlite3", b.path)
	if err != nil {
		b.Fatalf("%v", err)
	}
	defer db.Close()
	if _, err := db.Exec(statement, args...); err != nil {
		b.Fatalf("%s: %v", statement, err)
	}
}

// statements are those of a request, made at the clock's time where it names none.
func (b *books) statements(r Request) []Statement {
	b.Helper()
	db := b.open(store.ReadOnly)
	defer db.Close()
	if r.Now.IsZero() {
		r.Now = clock
	}
	r.Zone = time.UTC
	if r.For == "" {
		r.For = Client
	}
	all, err := Make(b.Context(), db, r)
	if err != nil {
		b.Fatalf("%v", err)
	}
	return all
}

// written is what Write writes.
func (b *books) written(format Format, r Request) string {
	b.Helper()
	var out bytes.Buffer
	if err := Write(&out, format, 100, b.statements(r)); err != nil {
		b.Fatalf("%v", err)
	}
	return out.String()
}

// autumn is the usage of an office from September to the tenth of November: little at weekends, none on a holiday, more
// every week.
func autumn() []store.Generation {
	models := []struct {
		name   string
		tokens int64
		price  store.Money // of a token
	}{
		{"openai/gpt-4.1", 5200, store.Dollar / 212_345},
		{"anthropic/claude-sonnet-4", 3900, store.Dollar / 163_211},
		{"deepseek-ai/deepseek-v3", 14200, store.Dollar / 2_317_771},
		{"google/gemini-2.5-flash-lite-preview-with-a-name-that-goes-on-and-on", 800, store.Dollar / 9_117_313},
	}
	users := []string{"anna.kowalska@example.com", "ben", "7b1e7a3e-52a0-4a87-b9cc-3c9a3e0e6c11", ""}
	var all []store.Generation
	first := time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
	for at := first; at.Before(clock); at = at.AddDate(0, 0, 1) {
		n := int(at.Sub(first).Hours() / 24)
		requests := 4 + n%3 + n/7
		switch {
		case at.Weekday() == time.Sunday, at.Month() == 10 && at.Day() == 14:
			continue
		case at.Weekday() == time.Saturday:
			requests = 1
		}
		for i := range requests {
			m := models[(i+n)%len(models)]
			tokens := m.tokens * int64(40+(7*i+11*n)%23)
			all = append(all, store.Generation{Day: store.Day(at.Format(time.DateOnly)), Model: m.name,
				User: users[(i*i+n)%len(users)], Tokens: tokens, Cost: m.price * store.Money(tokens)})
		}
	}
	return all
}

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s", diff.Diff(path, want, "now", []byte(got)))
	}
}
