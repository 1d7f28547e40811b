package report

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"html"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usage-sync/store"
)

// TestFigures: whatever is recorded and whatever others do to the tables, the parts of a statement add up to its totals,
// those are what the command usage shows, and CSV and JSON hold them exactly.
func TestFigures(t *testing.T) {
	empty, err := os.ReadFile(newBooks(t, t.TempDir(), acme).path)
	if err != nil {
		t.Fatal(err)
	}
	models := []string{"openai/gpt-4.1", "deepseek-ai/deepseek-v3", "", "no-provider"}
	users := []string{"anna", "ben", ""}
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "report-")
		if err != nil {
			t.Fatalf("%v", err)
		}
		defer os.RemoveAll(dir)
		b := copyBooks(t, dir, empty)
		today := store.DayOf(clock, time.UTC)
		for _, back := range slices.Backward(slices.Sorted(slices.Values(rapid.SliceOfN(rapid.IntRange(0, 50), 1, 12).Draw(t, "days back")))) {
			b.record("acme", store.Generation{
				Day: today.Add(-back), Model: rapid.SampledFrom(models).Draw(t, "model"), User: rapid.SampledFrom(users).Draw(t, "user"),
				Tokens: rapid.Int64Range(0, 1e6).Draw(t, "tokens"), Cost: store.Money(rapid.Int64Range(0, 5e12).Draw(t, "cost"))})
		}
		switch rapid.SampledFrom([]string{"nothing", "model", "user", "counter"}).Draw(t, "what others do") {
		case "model":
			b.sql(`delete from client_model_daily_usage where model_name = 'openai/gpt-4.1'`)
		case "user":
			b.sql(`update client_user_daily_usage set total_tokens = total_tokens + 7, markup_cost = 0 where user_id = 'anna'`)
		case "counter":
			b.sql(`update client_live_counters set "current_date" = ?`, string(today.Add(rapid.IntRange(-40, 2).Draw(t, "counter's day"))))
		}
		r := Request{For: Owner, Period: Asked{Month: "2026-11"}}
		s := b.statements(r)[0]
		addsUp(t, "days", s.Days, s.Total)
		addsUp(t, "models", s.Models, s.Total)
		addsUp(t, "users", s.Users, s.Total)
		sameAsUsage(t, b, s)
		inCSV(t, b.written(CSV, r), s)
		inJSON(t, b.written(JSON, r), s)

		from := today.Add(-rapid.IntRange(0, 60).Draw(t, "from"))
		r.Period = Asked{From: from, To: from.Add(rapid.IntRange(0, 60).Draw(t, "length"))}
		s = b.statements(r)[0]
		addsUp(t, "days", s.Days, s.Total)
		addsUp(t, "models", s.Models, s.Total)
		addsUp(t, "users", s.Users, s.Total)
		for _, format := range []Format{HTML, Text} {
			if text := html.UnescapeString(b.written(format, r)); !strings.Contains(text, s.billed().shown(s.Total.Cost)) {
				t.Fatalf("%s has no total", format)
			}
		}
	})
}

func addsUp(t *rapid.T, what string, parts []Part, total Figures) {
	t.Helper()
	sum, raw := Figures{}, store.Money(0)
	for _, p := range parts {
		sum.Tokens += p.Tokens
		sum.Requests += p.Requests
		sum.Cost += p.Cost
		raw += *p.Raw
	}
	if sum.Tokens != total.Tokens || sum.Requests != total.Requests || sum.Cost != total.Cost || raw != *total.Raw {
		t.Fatalf("%s add up to %+v raw %s, the total is %+v raw %s", what, sum, raw, total, *total.Raw)
	}
}

func sameAsUsage(t *rapid.T, b *books, s Statement) {
	t.Helper()
	db := b.open(store.ReadOnly)
	defer db.Close()
	orgs, err := db.Organisations(t.Context(), nil, time.UTC)
	if err != nil {
		t.Fatalf("%v", err)
	}
	u, err := db.Usage(t.Context(), orgs[0], clock, 30)
	if err != nil {
		t.Fatalf("%v", err)
	}
	if month := (store.Totals{Tokens: s.Total.Tokens, Requests: s.Total.Requests, Cost: s.Total.Cost, Raw: *s.Total.Raw}); month != u.Month || s.DaysActive != u.DaysActive {
		t.Fatalf("stated %+v on %d days, usage shows %+v on %d", month, s.DaysActive, u.Month, u.DaysActive)
	}
	for i, d := range s.Days {
		if shown := u.Days[len(s.Days)-1-i]; d.Name != string(shown.Day) || d.Cost != shown.Cost || *d.Raw != shown.Raw || d.Tokens != shown.Tokens {
			t.Fatalf("stated %+v, usage shows %+v", d, shown)
		}
	}
	for i, m := range u.Models {
		if got := s.Models[i]; got.Name != m.Model || got.Cost != m.Cost || got.Requests != m.Requests {
			t.Fatalf("stated %+v, usage shows %+v", got, m)
		}
	}
}

func inCSV(t *rapid.T, text string, s Statement) {
	t.Helper()
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(text, "\ufeff"))).ReadAll()
	if err != nil {
		t.Fatalf("%v", err)
	}
	column := func(name string) int { return slices.Index(rows[0], name) }
	sums := map[string]store.Money{}
	for _, row := range rows[1:] {
		cost, err := store.ParseMoney(row[column("cost")])
		if err != nil {
			t.Fatalf("%v: %v", row, err)
		}
		sums[row[column("section")]] += cost
	}
	for _, section := range []string{"total", "day", "model", "user"} {
		if sums[section] != s.Total.Cost {
			t.Fatalf("rows of %s: %s, total %s", section, sums[section].Exact(), s.Total.Cost.Exact())
		}
	}
}

func inJSON(t *rapid.T, text string, s Statement) {
	t.Helper()
	type figures struct{ Cost json.Number }
	var out struct {
		Total         figures
		Daily         []figures
		Models, Users []figures
		Unattributed  struct{ Models, Users *figures }
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	if err := decoder.Decode(&out); err != nil {
		t.Fatalf("%v", err)
	}
	sum := func(parts []figures, rest *figures) (sum store.Money) {
		if rest != nil {
			parts = append(parts, *rest)
		}
		for _, p := range parts {
			cost, err := store.ParseMoney(p.Cost.String())
			if err != nil {
				t.Fatalf("%v", err)
			}
			sum += cost
		}
		return sum
	}
	for what, got := range map[string]store.Money{"total": sum([]figures{out.Total}, nil), "days": sum(out.Daily, nil),
		"models": sum(out.Models, out.Unattributed.Models), "users": sum(out.Users, out.Unattributed.Users)} {
		if got != s.Total.Cost {
			t.Fatalf("%s: %s, total %s", what, got.Exact(), s.Total.Cost.Exact())
		}
	}
}

// TestClientLearnsNothingOfRawCost: a client's statement is the same to the byte whatever the raw costs and the markup are,
// and none of their figures or names stands in it.
func TestClientLearnsNothingOfRawCost(t *testing.T) {
	b := office(t)
	b.sql(`delete from client_model_daily_usage where usage_date = '2026-10-05'`) // so that there is a rest
	requests := []Request{{}, {Period: Asked{Month: "2026-11"}}, {Period: Asked{From: "2026-09-20", To: "2026-10-08"}}}
	written := func(audience Audience) (all []string) {
		for _, r := range requests {
			for _, format := range []Format{Text, HTML, CSV, JSON} {
				r.For = audience
				all = append(all, b.written(format, r))
			}
		}
		return all
	}
	client, owner := written(Client), written(Owner)

	figures := []string{"1.37", "raw", "Raw", "RAW", "arkup", "Margin", "owner", "Owner"}
	for _, r := range requests {
		r.For = Owner
		s := b.statements(r)[0]
		for _, parts := range [][]Part{{{Figures: s.Total}, {Figures: s.TotalBefore}}, s.Days, s.Models, s.Users} {
			for _, p := range parts {
				if *p.Raw != 0 {
					figures = append(figures, (*p.Raw).Exact(), p.Raw.String())
				}
			}
		}
	}
	everything := strings.Join(owner, "")
	for _, figure := range figures {
		for _, text := range client {
			if strings.Contains(text, figure) {
				t.Errorf("a client can read %s", figure)
			}
		}
	}
	for _, figure := range []string{"1.37", "Raw cost", "RAW COST", "raw_cost", "Margin", (*b.statements(Request{For: Owner})[0].Total.Raw).Exact()} {
		if !strings.Contains(everything, figure) {
			t.Errorf("the owner can't read %s", figure)
		}
	}

	for _, table := range []string{"client_daily_usage", "client_model_daily_usage", "client_user_daily_usage"} {
		b.sql(`update ` + table + ` set raw_cost = raw_cost * 0.7 + 0.001`)
	}
	b.sql(`update client_live_counters set today_raw_cost = today_raw_cost + 1`)
	b.sql(`update client_organizations set markup_rate = 1.9`)
	if !slices.Equal(client, written(Client)) {
		t.Error("a client's statement depends on raw costs")
	}
	if slices.Equal(owner, written(Owner)) {
		t.Error("the owner's does not")
	}
}

// TestOneDocumentOneClient: nobody's figures stand in another's document.
func TestOneDocumentOneClient(t *testing.T) {
	b := newBooks(t, t.TempDir(), acme, globex)
	statements := b.statements(Request{})
	var out bytes.Buffer
	if err := Write(&out, HTML, 80, statements); err == nil || out.Len() > 0 {
		t.Errorf("%d statements in a document: %v", len(statements), err)
	}
	for _, format := range []Format{Text, CSV, JSON} {
		out.Reset()
		if err := Write(&out, format, 80, statements); err != nil || !strings.Contains(out.String(), "acme") || !strings.Contains(out.String(), "globex") {
			t.Errorf("%s: %v", format, err)
		}
	}
}
