package job_test

import (
	"flag"
	"fmt"
	"math"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// cases sets how often rapid tries, unless the command line does.
func cases(t *testing.T, short, many int) {
	t.Helper()
	if checksGiven() {
		return
	}
	n := short
	if *long {
		n = many
	}
	if err := flag.Set("rapid.checks", fmt.Sprint(n)); err != nil {
		t.Fatal(err)
	}
}

var checksGiven = sync.OnceValue(func() (given bool) {
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.checks" })
	return given
})

// scratch gives each case a copy of one empty database.
type scratch struct {
	dir, template string
	mu            sync.Mutex
	n             int
}

func newScratch(t *testing.T, orgs ...store.NewOrganisation) *scratch {
	t.Helper()
	dir := t.TempDir()
	s := &scratch{dir: dir, template: filepath.Join(dir, "template.db")}
	if err := store.CreateDemo(t.Context(), s.template, orgs, noon); err != nil {
		t.Fatal(err)
	}
	return s
}

// world is for one case; the caller closes it with discard.
func (s *scratch) world(t tester, now time.Time) *world {
	s.mu.Lock()
	s.n++
	path := filepath.Join(s.dir, fmt.Sprintf("%d.db", s.n))
	s.mu.Unlock()
	copyFile(t, s.template, path)
	return openWorld(t, path, now)
}

func discard(w *world) {
	w.close()
	_ = os.Remove(w.path)
	_ = os.Remove(w.path + ".usage-sync.lock")
}

// truth is what a generation was worth, kept apart from everything that the product computes.
type truth struct {
	standin.Generation
	rate, user string    // the rate of its use, and the user of when it was recorded; empty before
	noRequest  bool      // a run of a tool, as the analytics tell it
	shown      time.Time // when the server first showed it
}

// history is one random life of an organisation.
type history struct {
	*world
	t     *rapid.T
	zone  *time.Location
	org   string
	all   map[string]*truth
	order []string
	rate  string            // in the row
	rates []since           // as they are noted
	users map[string]string // the mapping
	next  int
	twins map[string]bool // listed twice; the server would change the cost of one of them
	// rolled are the days that the dashboard has rolled over: it knows no models and no users.
	rolled map[string]bool
	// tools run by themselves, too. A list does not say what is no request, so all is read from the analytics then.
	tools bool
}

// since is a rate from a time on.
type since struct {
	from time.Time
	rate string
}

// raise changes the rate at the next full hour, as the analytics know no more than the hour of a generation.
func (h *history) raise(rate string) {
	h.rate = rate
	h.at(h.now().Truncate(time.Hour).Add(time.Hour))
	h.exec(`update client_organizations set markup_rate = cast(? as real), updated_at = ?`, rate, h.now().Unix())
}

// seeRate is what a pass notes of the rate.
func (h *history) seeRate() {
	from := time.Time{}
	if len(h.rates) > 0 {
		if h.rates[len(h.rates)-1].rate == h.rate {
			return
		}
		from = time.Unix(mustInt(h.text(`select updated_at from client_organizations`)), 0)
	}
	h.rates = append(h.rates, since{from, h.rate})
}

// rateAt is the rate of a time.
func (h *history) rateAt(t time.Time) (rate string) {
	for i, one := range h.rates {
		if i == 0 || !one.from.After(t) {
			rate = one.rate
		}
	}
	return rate
}

func mustInt(text string) int64 {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(err)
	}
	return n
}

var modelNames = []string{"openai/gpt-4o", "anthropic/claude-sonnet-4", "meta-llama/llama-3:free", "noprovider", ""}

func (h *history) generation(created time.Time) standin.Generation {
	h.next++
	micro := time.Duration(rapid.IntRange(0, 999_999).Draw(h.t, "micro")) * time.Microsecond
	g := standin.Generation{
		ID: fmt.Sprintf("gen-%d", h.next), CreatedAt: created.Truncate(time.Second).Add(micro).UTC(),
		Model:            rapid.SampledFrom(modelNames).Draw(h.t, "model"),
		ExternalUser:     rapid.SampledFrom([]string{"", "ann", "bob", "carl", "dora"}).Draw(h.t, "user"),
		PromptTokens:     int64(rapid.IntRange(0, 200_000).Draw(h.t, "prompt")),
		CompletionTokens: int64(rapid.IntRange(0, 5_000).Draw(h.t, "completion")),
		Cost:             h.cost(),
	}
	switch rapid.IntRange(0, 7).Draw(h.t, "kind") {
	case 0:
		g.BYOK, g.UpstreamCost = true, h.cost()
	case 1:
		g.Tool = h.tools
	}
	if g.Tool {
		g.Model, g.NoTokens, g.PromptTokens, g.CompletionTokens = "openrouter/web-search", true, 0, 0
		g.Cost = h.toolCost()
	}
	return g
}

// toolCost is more than the analytics show: a row of neither a request nor a cost is none.
func (h *history) toolCost() string {
	return fmt.Sprintf("0.02%09d", rapid.IntRange(0, 999_999_999).Draw(h.t, "tool cost"))
}

func (h *history) cost() string {
	if rapid.IntRange(0, 2).Draw(h.t, "small") == 0 { // than what the analytics show
		return fmt.Sprintf("0.00000%07d", rapid.IntRange(0, 99_999).Draw(h.t, "small cost"))
	}
	return fmt.Sprintf("%d.%011d", rapid.IntRange(0, 3).Draw(h.t, "dollars"), rapid.Int64Range(0, 99_999_999_999).Draw(h.t, "cost"))
}

// list makes the server list a generation.
func (h *history) list(g standin.Generation) {
	h.mu.Lock()
	shown := h.clock
	if g.VisibleFrom.After(shown) {
		shown = g.VisibleFrom
	}
	h.all[g.ID] = &truth{Generation: g, shown: shown}
	h.order = append(h.order, g.ID)
	h.mu.Unlock()
	h.api.Add(keyOf(h.org), g)
}

// arrive lists some generations that were made within the last hours; some of them show late.
func (h *history) arrive(within time.Duration) {
	for range rapid.IntRange(1, 12).Draw(h.t, "arrivals") {
		ago := time.Duration(rapid.Int64Range(0, int64(within/time.Second)).Draw(h.t, "ago")) * time.Second
		created := h.now().Add(-ago)
		// Around midnight is where days are got wrong, above all by a source that knows the hour alone.
		if rapid.IntRange(0, 3).Draw(h.t, "around midnight") == 0 {
			midnight := store.DayOf(h.now(), h.zone).Start(h.zone)
			if near := midnight.Add(ago%(80*time.Minute) - 40*time.Minute); !near.After(h.now()) {
				created = near
			}
		}
		g := h.generation(created)
		// What no list has shown until now shows within the overlap behind the watermark at the latest.
		switch {
		case rapid.IntRange(0, 3).Draw(h.t, "late") == 0:
			g.VisibleFrom = g.CreatedAt.Add(time.Duration(rapid.IntRange(1, 3500).Draw(h.t, "delay")) * time.Second)
		}
		h.list(g)
		if rapid.IntRange(0, 9).Draw(h.t, "twin") == 0 {
			h.api.Add(keyOf(h.org), g)
			h.twins[g.ID] = true
		}
	}
}

// visible are the ids that a list shows, made in a time.
func (h *history) visible(from, to time.Time) []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ids []string
	for _, id := range h.order {
		g := h.all[id]
		if !g.CreatedAt.Before(from) && !g.CreatedAt.After(to) && !g.VisibleFrom.After(h.clock) {
			ids = append(ids, id)
		}
	}
	return ids
}

func (h *history) ledger() map[string]bool {
	rows, err := h.db.Query(`select id from processed_generations where client_org_id = ?`, h.org)
	if err != nil {
		h.Fatalf("%v", err)
	}
	defer rows.Close()
	ids := map[string]bool{}
	for rows.Next() {
		var id string
		if err := rows.Scan(&id); err != nil {
			h.Fatalf("%v", err)
		}
		ids[id] = true
	}
	return ids
}

// sweep makes a pass and holds it against the promises that hold after each.
func (h *history) sweep(options ...option) {
	start := h.now()
	faults := rapid.SampledFrom([]string{"", "", "", "", "", "cut", "refused key", "503 once", "garbage", "broken database"}).Draw(h.t, "fault")
	after := rapid.IntRange(0, 3).Draw(h.t, "after pages")
	if faults == "broken database" {
		h.exec(`create trigger broken before update on processed_generations begin select raise(abort, 'broken'); end`)
		h.exec(`create trigger broken2 before insert on client_daily_usage begin select raise(abort, 'broken'); end`)
	}
	fault, faulty := map[string]standin.Fault{"cut": standin.CutBody(), "refused key": standin.Status(401, ""),
		"503 once": standin.Status(503, ""), "garbage": standin.Body(200, "application/json", `{"data":[{"id":`)}[faults]
	if faulty {
		for range after {
			h.api.Script(standin.OK())
		}
		h.api.Script(fault)
	}
	// A few: one new row between any two requests, thrice in a row, looks like a server that ignores offset.
	few := 2
	if len(h.twins) > 0 {
		few = 1
	}
	arriving := h.arriving(rapid.IntRange(0, few).Draw(h.t, "arriving"))
	h.api.OnPage(func(string, int) { arriving() })
	h.api.OnRequest(func(r standin.Request) {
		if r.Method == http.MethodPost {
			arriving()
		}
	})
	dry := rapid.IntRange(0, 9).Draw(h.t, "dry") == 0
	if dry {
		options = append(options, dryRun)
	}
	before := h.ledger()
	visible := h.visible(time.Time{}, start)
	if !dry {
		h.seeRate()
	}
	o := h.pass(options...)
	h.api.OnPage(nil)
	h.api.OnRequest(nil)
	h.drain(faulty, after)
	if faults == "broken database" {
		h.exec(`drop trigger broken`)
		h.exec(`drop trigger broken2`)
	}
	recorded := h.ledger()
	if dry && len(recorded) != len(before) {
		h.Fatalf("a dry run has recorded %d generations", len(recorded)-len(before))
	}
	h.note(recorded, o)
	h.check(h.org)
	if o.Err != nil && (faults == "" || faults == "503 once") {
		h.Fatalf("%v", o.Err)
	}
	if o.Err == nil && !dry {
		state := h.state(h.org)
		for _, id := range visible {
			created := h.all[id].CreatedAt
			prompt := h.all[id].shown.Sub(created) < time.Hour
			if prompt && !recorded[id] && !created.Before(state.CoveredFrom) && created.Before(state.CoveredTo) {
				h.Fatalf("pass at %s from %s succeeded, covers %s to %s and has left out %s of %s, visible from %s", start,
					o.Run.Source, state.CoveredFrom, state.CoveredTo, id, created, h.all[id].VisibleFrom)
			}
		}
	}
}

// drain uses up what is left of a script.
func (h *history) drain(faulty bool, after int) {
	if !faulty {
		return
	}
	for range after + 1 {
		response, err := h.http.Client().Get(h.http.URL)
		if err == nil {
			_ = response.Body.Close()
		}
	}
}

// arriving returns a function that lists some more generations; they are drawn beforehand, because the server runs in
// goroutines of its own.
func (h *history) arriving(n int) func() {
	var ready []standin.Generation
	for range n {
		ago := time.Duration(rapid.IntRange(0, 3000).Draw(h.t, "arriving ago")) * time.Second
		ready = append(ready, h.generation(h.now().Add(-ago)))
	}
	var mu sync.Mutex
	return func() {
		mu.Lock()
		defer mu.Unlock()
		if len(ready) > 0 {
			h.list(ready[0])
			ready = ready[1:]
		}
	}
}

// note writes down for which user each generation was recorded, and the rate of its use.
func (h *history) note(recorded map[string]bool, o job.Outcome) {
	for id := range recorded {
		g := h.all[id]
		if g == nil {
			h.Fatalf("%s is in the ledger and was never listed", id)
		}
		if g.rate == "" {
			g.rate, g.noRequest = h.rateAt(g.CreatedAt), g.Tool && o.Run.Source == job.SourceAnalytics
			if g.noRequest {
				h.charges[g.CreatedAt.In(h.zone).Format(time.DateOnly)]++
			}
			switch mapped, there := h.users[g.ExternalUser]; {
			case g.ExternalUser == "":
				g.user = "background_sync"
			case there:
				g.user = mapped
			default:
				g.user = g.ExternalUser
			}
		}
	}
}

// exact sums in rational numbers.
type exact struct {
	tokens, requests int64
	raw, markup      big.Rat
	all              int // generations
}

func (e *exact) add(g *truth) {
	cost, ok := new(big.Rat).SetString(g.Cost)
	rate, ok2 := new(big.Rat).SetString(g.rate)
	if !ok || !ok2 {
		panic(g.Cost + " " + g.rate)
	}
	if g.BYOK {
		upstream, _ := new(big.Rat).SetString(g.UpstreamCost)
		cost.Add(cost, upstream)
	}
	e.tokens += g.PromptTokens + g.CompletionTokens
	if e.all++; !g.noRequest {
		e.requests++
	}
	e.raw.Add(&e.raw, cost)
	e.markup.Add(&e.markup, rate.Mul(rate, cost))
}

func (e *exact) sum() sum {
	raw, _ := e.raw.Float64()
	markup, _ := e.markup.Float64()
	return sum{e.tokens, e.requests, raw, markup}
}

func sums(all map[string]*truth, key func(*truth) string) map[string]*exact {
	byKey := map[string]*exact{}
	for _, g := range all {
		k := key(g)
		if byKey[k] == nil {
			byKey[k] = &exact{}
		}
		byKey[k].add(g)
	}
	return byKey
}

// verify holds the tables against the truth, when everything has been recorded: to the last digit, or to rounding, each
// generation being off by slack at the most.
func (h *history) verify(slack float64) {
	dayOf := func(g *truth) string { return g.CreatedAt.In(h.zone).Format("2006-01-02") }
	modelOf := func(g *truth) string {
		if g.Model == "" {
			return "unknown"
		}
		return g.Model
	}
	b := h.check(h.org)
	days := sums(h.all, dayOf)
	for day := range b.users {
		if days[day] == nil {
			h.Errorf("usage on %s, where there was none", day)
		}
	}
	today := h.now().In(h.zone).Format("2006-01-02")
	// It may be a day ahead, where the dashboard has rolled it over by UTC.
	if b.liveDay < today && b.liveDay != "" {
		h.Errorf("the live counter stands for %s on %s", b.liveDay, today)
	}
	for day, want := range days {
		if got := b.day(day); !got.near(want.sum(), slack*float64(want.all)) {
			h.Errorf("%s: got %s, want %s", day, got, want.sum())
		}
		if _, there := b.daily[day]; day < today && !there {
			h.Errorf("no daily row for %s", day)
		}
	}
	h.verifyRows(slack, "models", `select cast(usage_date as text) || ' ' || model_name, total_tokens, total_requests, raw_cost, markup_cost
		from client_model_daily_usage`, sums(h.all, func(g *truth) string { return dayOf(g) + " " + modelOf(g) }))
	// A remainder is of nobody.
	h.verifyRows(slack, "users", `select cast(u.usage_date as text) || ' ' || user_id, total_tokens, total_requests,
			raw_cost - coalesce(r.raw, 0) / 1e12, markup_cost - coalesce(r.markup, 0) / 1e12
		from client_user_daily_usage u left join usage_sync_days r on r.client_org_id = u.client_org_id
			and r.usage_date = u.usage_date and part = 'user' and name = user_id and kind = 'remainder'
		where user_id <> 'background_sync' or total_requests > 0 or total_tokens > 0
			or abs(raw_cost - coalesce(r.raw, 0) / 1e12) > 1e-9`, sums(h.all, func(g *truth) string { return dayOf(g) + " " + g.user }))
	h.verifyRows(slack, "ledger", `select id, total_tokens, 1, total_cost, 0 from processed_generations`,
		sums(h.all, func(g *truth) string { return g.ID }))
	for day := range days {
		if day >= today || h.rolled[day] {
			continue
		}
		tokens, users := map[string]int64{}, map[string]bool{}
		for _, g := range h.all {
			if dayOf(g) == day {
				tokens[modelOf(g)] += g.PromptTokens + g.CompletionTokens
				users[g.user] = true
			}
		}
		primary := ""
		for model := range tokens {
			if primary == "" || tokens[model] > tokens[primary] || (tokens[model] == tokens[primary] && model < primary) {
				primary = model
			}
		}
		h.want("primary_model and unique_users of "+day, h.text(`select primary_model || ' ' || unique_users from client_daily_usage
			where usage_date = ?`, day), fmt.Sprintf("%s %d", primary, len(users)))
	}
}

func (h *history) verifyRows(slack float64, what, query string, want map[string]*exact) {
	rows, err := h.db.Query(query)
	if err != nil {
		h.Fatalf("%v", err)
	}
	defer rows.Close()
	met := 0
	for rows.Next() {
		var key string
		var got sum
		if err := rows.Scan(&key, &got.tokens, &got.requests, &got.raw, &got.markup); err != nil {
			h.Fatalf("%v", err)
		}
		met++
		if want[key] == nil {
			h.Errorf("%s: %s should not be there: %s", what, key, got)
			continue
		}
		expected := want[key].sum()
		if what == "ledger" {
			expected.markup, expected.requests = 0, 1
		}
		if !got.near(expected, slack*float64(want[key].all)) {
			h.Errorf("%s: %s: got %s, want %s", what, key, got, expected)
		}
	}
	if met != len(want) {
		h.Errorf("%s: %d rows, want %d", what, met, len(want))
	}
}

// starts are hours before something that days are easily got wrong by.
var starts = []struct{ zone, at string }{
	{"Europe/Warsaw", "2026-03-28T20:00:00Z"},
	{"Europe/Warsaw", "2026-10-24T19:00:00Z"},
	{"America/New_York", "2026-03-07T22:00:00Z"},
	{"America/New_York", "2026-10-31T23:00:00Z"},
	{"Asia/Kolkata", "2026-05-31T16:00:00Z"},
	{"", "2026-12-31T21:00:00Z"},
}

// TestAnyHistoryGivesTheSameBooks: whatever the order, repetition, failure and timing of passes, at the end the tables
// hold what was used, once, from whichever source it was read.
func TestAnyHistoryGivesTheSameBooks(t *testing.T) {
	cases(t, 40, 3000)
	empty := newScratch(t, client("acme", ""))
	rapid.Check(t, func(t *rapid.T) {
		start := rapid.SampledFrom(starts).Draw(t, "start")
		h := &history{t: t, org: "acme", all: map[string]*truth{}, rate: "1.3", users: map[string]string{}, rolled: map[string]bool{}, twins: map[string]bool{}}
		h.zone, _ = time.LoadLocation(start.zone)
		h.world = empty.world(t, at(start.at))
		h.charges = map[string]int64{}
		defer discard(h.world)
		h.api.AddKey(keyOf(h.org), h.org)
		h.manage()
		h.exec(`update client_organizations set timezone = nullif(?, '')`, start.zone)
		h.exec(`insert into user_client_mapping values ('m1', 'webui-ann', 'acme', 'ann', 1, 0, 0)`)
		h.exec(`insert into user_client_mapping values ('m2', 'webui-bob', 'acme', 'bob', 0, 0, 0)`)
		h.users["ann"] = "webui-ann"
		h.tools = rapid.IntRange(0, 2).Draw(t, "tools") == 0
		source := func() string {
			if h.tools {
				return job.SourceAnalytics
			}
			return rapid.SampledFrom([]string{job.SourceGenerations, job.SourceAnalytics}).Draw(t, "source")
		}
		for range rapid.IntRange(2, 10).Draw(t, "steps") {
			h.api.PageLimit(rapid.IntRange(1, 9).Draw(t, "page"))
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0, 1, 2:
				h.arrive(rapid.SampledFrom([]time.Duration{time.Hour, 30 * time.Hour}).Draw(t, "within"))
			case 3:
				if len(h.order) > 0 {
					id := rapid.SampledFrom(h.order).Draw(t, "settled")
					if h.twins[id] {
						break
					}
					if h.all[id].Cost = h.cost(); h.all[id].Tool {
						h.all[id].Cost = h.toolCost()
					}
					h.api.SetCost(id, h.all[id].Cost)
				}
			case 4:
				h.raise(rapid.SampledFrom([]string{"1", "1.3", "1.55", "0.8", "2.0625"}).Draw(t, "rate"))
			case 5:
				mapped := rapid.Bool().Draw(t, "mapped")
				h.exec(`update user_client_mapping set is_active = ? where id = 'm2'`, mapped)
				delete(h.users, "bob")
				if mapped {
					h.users["bob"] = "webui-bob"
				}
			case 6:
				day := h.text(`select cast("current_date" as text) from client_live_counters`)
				calendar := h.zone
				if rapid.Bool().Draw(t, "by UTC") {
					calendar = time.UTC
				}
				today := h.now().In(calendar).Format("2006-01-02")
				if err := h.dashboard(h.org, today); err != nil {
					t.Fatalf("the dashboard's rollover fails: %v", err)
				}
				if day != "" && day < today {
					h.rolled[day] = true
				}
			default:
				all := rapid.IntRange(0, 4).Draw(t, "full") == 0
				h.sweep(from(source()), daysBack(rapid.SampledFrom([]int{0, 1, 1, 1, 5}).Draw(t, "back")), func(p *job.Pass) { p.Full = all })
			}
			h.later(time.Duration(rapid.SampledFrom([]int{1, 60, 900, 3600, 4 * 3600, 30 * 3600}).Draw(t, "wait")) * time.Second)
		}
		h.later(2 * time.Hour)
		h.api.PageLimit(rapid.IntRange(1, 9).Draw(t, "last page"))
		h.settle(job.SourceAnalytics, 1e-6)
		h.verifySquares()
		if !h.tools { // then all costs are known exactly, and there is no remainder
			h.settle(job.SourceGenerations, 0)
			h.want("remainders", h.text(`select count(*) from usage_sync_days where kind = 'remainder' and (raw <> 0 or markup <> 0)`), "0")
			h.settle(job.SourceAnalytics, 0)
		}
	})
}

// settle fetches everything from a source, twice, and reconciles.
func (h *history) settle(source string, slack float64) {
	h.seeRate()
	o := h.sync(full, daysBack(25), from(source))
	h.note(h.ledger(), o)
	h.verify(slack)
	if again := h.sync(full, daysBack(25), from(source)); again.Run.Recorded+again.Run.Updated != 0 || again.Run.Raw != 0 {
		h.Errorf("a second full pass from %s has recorded %d and updated %d, $%s", source, again.Run.Recorded, again.Run.Updated,
			again.Run.Raw)
	}
	h.verify(slack)
	compared, requests := int64(0), int64(0)
	for _, row := range h.wantEqual(reading(source)).Rows {
		compared += row.Theirs.Requests
	}
	for _, g := range h.all {
		if !g.Tool {
			requests++
		}
	}
	if compared != requests {
		h.Errorf("%d requests are reconciled, want %d", compared, requests)
	}
}

// verifySquares: each day that is over is what was used on it, but for the rounding of OpenRouter's own totals.
func (h *history) verifySquares() {
	days := sums(h.all, func(g *truth) string { return g.CreatedAt.In(h.zone).Format(time.DateOnly) })
	models := map[string]bool{}
	for _, g := range h.all {
		models[g.Model] = true
	}
	parts := 1
	if h.zone != time.UTC {
		parts = 26 // hours, of which one may be read by the minute
	}
	today, b := h.now().In(h.zone).Format(time.DateOnly), h.books(h.org)
	for day, want := range days {
		most := 0.5e-6 * float64(min(want.all, parts*len(models)))
		if got := b.day(day); day < today && math.Abs(got.raw-want.sum().raw) > most+tolerance {
			h.Errorf("%s is not squared: got %s, want %s, to %.7f", day, got, want.sum(), most)
		}
	}
}

// TestAdoptNeverChangesTotals: whatever others have counted stays as it is, also where the pass that adopts is killed,
// and what was used later is counted.
func TestAdoptNeverChangesTotals(t *testing.T) {
	cases(t, 15, 1000)
	empty := newScratch(t, client("acme", ""))
	rapid.Check(t, func(t *rapid.T) {
		now := at("2026-05-14T15:17:23Z")
		w := empty.world(t, now)
		defer discard(w)
		w.api.AddKey(keyOf("acme"), "acme")
		w.manage()
		source := func() option {
			return from(rapid.SampledFrom([]string{job.SourceGenerations, job.SourceAnalytics}).Draw(t, "source"))
		}
		n := rapid.IntRange(1, 30).Draw(t, "counted")
		old := generations("old", n, now.Add(-time.Second), time.Duration(rapid.IntRange(1, 90).Draw(t, "minutes"))*time.Minute)
		perDay := map[string]int{}
		for _, g := range old {
			perDay[g.CreatedAt.Format(time.DateOnly)]++
		}
		for day, n := range perDay {
			w.exec(`insert into client_daily_usage values (?, 'acme', ?, ?, ?, ?, ?, 'x', 1, 1, 1)`, "acme_"+day, day, 100*n, n, 0.01*float64(n), 0.013*float64(n))
			w.exec(`insert into client_user_daily_usage values (?, 'acme', 'background_sync', 'bg_sync_acme', ?, ?, ?, ?, ?, 1, 1)`,
				"acme:background_sync:"+day, day, 100*n, n, 0.01*float64(n), 0.013*float64(n))
		}
		w.api.Add(keyOf("acme"), old...)
		w.api.PageLimit(rapid.IntRange(1, 12).Draw(t, "page"))
		// --full counts nothing without a decision.
		total := sum{int64(100 * n), int64(n), 0.01 * float64(n), 0.013 * float64(n)}
		same := func(when string, want sum) {
			t.Helper()
			if got := w.books("acme").total(); !got.same(want) {
				t.Fatalf("%s: got %s, want %s", when, got, want)
			}
		}
		if o := w.pass(source(), daysBack(5)); o.Err == nil {
			t.Fatalf("no decision was asked for")
		}
		same("undecided", total)
		if killed := rapid.IntRange(0, 4).Draw(t, "killed after"); killed < 4 {
			for range killed {
				w.api.Script(standin.OK())
			}
			w.api.Script(standin.Status(401, ""))
			cut := w.pass(source(), daysBack(5), adopt)
			same("cut short", total)
			w.later(time.Minute)
			fresh := generations("between", 3, w.now().Add(-time.Second), time.Second)
			w.api.Add(keyOf("acme"), fresh...)
			if cut.Err != nil {
				total = total.plus(sum{300, 3, 0.03, 0.039})
				w.sync(source(), daysBack(5)) // continues as it began, without being told again
				same("continued", total)
			} else {
				// The list was over before the fault: spend what is left of the script.
				for range killed + 1 {
					if response, err := w.http.Client().Get(w.http.URL); err == nil {
						_ = response.Body.Close()
					}
				}
				total = total.plus(sum{300, 3, 0.03, 0.039})
				w.sync(source(), daysBack(5))
				same("after it", total)
			}
		} else {
			w.sync(source(), daysBack(5), adopt)
			same("adopted", total)
		}
		w.later(time.Duration(rapid.IntRange(1, 40).Draw(t, "later")) * time.Hour)
		w.api.Add(keyOf("acme"), generations("new", 4, w.now().Add(-time.Second), time.Second)...)
		w.sync(source(), full, daysBack(5))
		total = total.plus(sum{400, 4, 0.04, 0.052})
		same("new usage", total)
		for range 2 {
			w.sync(source(), full, daysBack(5))
		}
		same("again", total)
		b := w.books("acme")
		var entries int64
		for _, s := range b.ledger {
			entries += s.requests
		}
		if entries != total.requests {
			t.Fatalf("%d ledger rows, want %d", entries, total.requests)
		}
	})
}
