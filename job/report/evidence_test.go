package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"usage-sync/store"
)

// evidenceOf returns the rows of the evidence as CSV, and their sums.
func evidenceOf(t *testing.T, b *books, r Request) (rows [][]string, cost store.Money, requests int) {
	t.Helper()
	text := b.evidence(CSV, r)
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(text, "\ufeff"))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows[1:] {
		amount, err := store.ParseMoney(row[slices.Index(rows[0], "cost")])
		if err != nil {
			t.Fatal(err)
		}
		cost += amount
		var n int
		_, _ = fmt.Sscan(row[slices.Index(rows[0], "requests")], &n)
		requests += n
	}
	return rows, cost, requests
}

func (b *books) evidence(format Format, r Request) string {
	b.Helper()
	db := b.open(store.ReadOnly)
	defer db.Close()
	var text bytes.Buffer
	if err := WriteEvidence(b.Context(), db, &text, format, b.statements(r)); err != nil {
		b.Fatalf("%v", err)
	}
	return text.String()
}

// TestEvidence: there is a row for each generation, and the rows add up to what is due, to the last digit, whatever else days
// hold, and whatever has changed since a statement was closed.
func TestEvidence(t *testing.T) {
	b := office(t)
	b.ids = 10_000 // those of the office are smaller
	agrees := func(what string, r Request) [][]string {
		t.Helper()
		s := b.statements(r)[0]
		rows, cost, requests := evidenceOf(t, b, r)
		due := s.Total.Requests
		for _, c := range s.Corrections {
			due += c.Total.Requests
		}
		if cost != s.Due() || int64(requests) != due {
			t.Errorf("%s: %d rows of %d requests and %s, stated are %d and %s", what, len(rows), requests, cost.Exact(), due,
				s.Due().Exact())
		}
		return rows
	}
	rows := agrees("all counted", Request{})
	if want := b.statements(Request{})[0].Total.Requests; int64(len(rows)-1) != want {
		t.Errorf("%d rows, %d requests", len(rows)-1, want)
	}
	// More of a day than a page, at prices whose markup is rounded.
	var many []store.Generation
	for i := range 2*store.EvidencePage + 1 {
		many = append(many, store.Generation{Day: "2026-10-06", Model: "x/y", User: "ben", Tokens: int64(i), Cost: store.Money(7*i + 3)})
	}
	b.record("acme", many...)
	if more := agrees("several pages", Request{For: Owner}); len(more) != len(rows)+len(many) {
		t.Errorf("%d rows, want %d", len(more), len(rows)+len(many))
	}
	b.recordedUntil("acme", time.Date(2026, 11, 9, 0, 0, 0, 0, time.UTC))
	db := b.open(store.ReadWrite)
	_, err := Close(t.Context(), db, CloseRequest{Request: Request{Organisations: []string{"acme"}, Zone: time.UTC, For: Client, Now: clock},
		By: "test", Unreconciled: true})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.record("acme", store.Generation{Day: "2026-10-20", Model: "x/y", User: "ben", Tokens: 5, Cost: store.Dollar / 3})
	agrees("closed, and changed since", Request{})
	agrees("with corrections", Request{Period: Asked{Month: "2026-11"}})

	b.sql(`delete from usage_sync_generations where client_org_id = 'acme' and generation_date = '2026-11-03'`)
	if held := agrees("dropped places", Request{Period: Asked{Month: "2026-11"}}); !slices.ContainsFunc(held, func(row []string) bool {
		return row[3] == "no longer held one by one" && row[5] == "2026-11-03"
	}) {
		t.Errorf("nothing tells of what is dropped")
	}

	var sum store.Money
	for line := range strings.Lines(b.evidence(JSON, Request{})) {
		var row struct{ Cost amount }
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			t.Fatal(err)
		}
		sum += store.Money(row.Cost)
	}
	if due := b.statements(Request{})[0].Due(); sum != due {
		t.Errorf("JSON: %s, stated is %s", sum.Exact(), due.Exact())
	}
	if text := b.evidence(Text, Request{}); strings.Contains(text, "RAW") || strings.Count(text, "\n") < len(many) {
		t.Errorf("text: %s", text[:500])
	}
}
