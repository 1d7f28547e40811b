package report

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"usage-sync/store"
)

// TestSummaryHasCorrections: what has changed of a closed statement is in the summary of the next month.
func TestSummaryHasCorrections(t *testing.T) {
	b := office(t)
	b.ids = 10_000
	b.recordedUntil("acme", time.Date(2026, 11, 9, 0, 0, 0, 0, time.UTC))
	db := b.open(store.ReadWrite)
	r := CloseRequest{Request: Request{Organisations: []string{"acme"}, Zone: time.UTC, For: Owner, Now: clock}, By: "test", Unreconciled: true}
	_, err := Close(t.Context(), db, r)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.record("acme", store.Generation{Day: "2026-10-20", Model: "x/y", User: "ben", Tokens: 5, Cost: store.Dollar})
	next := Request{Organisations: []string{"acme"}, For: Owner, Period: Asked{Month: "2026-11"}}
	s := b.statements(next)[0]
	clients, err := ReadStatements("one", []byte(b.written(JSON, next)))
	if err != nil {
		t.Fatal(err)
	}
	corrections := s.Due() - s.Total.Cost
	if corrections == 0 || clients[0].Corrections != corrections {
		t.Fatalf("corrections: %s, want %s", clients[0].Corrections.Exact(), corrections.Exact())
	}
	summary := Summary{For: Owner, Made: clock, Clients: clients}
	for format, want := range map[Format]string{
		Text: "corrections of earlier statements are USD " + s.Currency.shown(corrections),
		HTML: "due with them are USD " + s.Currency.shown(s.Due()),
		CSV:  "," + corrections.Fixed() + "," + s.Due().Fixed() + "\r\n",
		JSON: `"corrections":` + corrections.Exact() + `,"due":` + s.Due().Exact(),
	} {
		var text bytes.Buffer
		if err := summary.Write(&text, format, 200); err != nil || !strings.Contains(text.String(), want) {
			t.Errorf("%s: %v, %q is not in %s", format, err, want, text.String())
		}
	}
}
