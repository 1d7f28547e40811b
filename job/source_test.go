package job_test

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// asked returns the paths of the requests that met the server while fn ran, without what all have in common.
func (w *world) asked(fn func()) string {
	before := len(w.api.Requests())
	fn()
	var paths []string
	for _, r := range w.api.Requests()[before:] {
		paths = append(paths, strings.TrimPrefix(r.Path, "/api/v1/"))
	}
	return strings.Join(paths, " ")
}

// wantAsked makes a pass that must succeed, from some source and with some requests.
func (w *world) wantAsked(source, paths string, options ...option) job.Outcome {
	w.Helper()
	var o job.Outcome
	got := w.asked(func() { o = w.sync(options...) })
	if got != paths || o.Run.Source != source {
		w.Errorf("at %s: source %s asked for %q, want %s and %q", w.now().Format(time.RFC3339), o.Run.Source, got, source, paths)
	}
	if sent := len(strings.Fields(paths)); o.Run.Requests != int64(sent) {
		w.Errorf("the history has %d requests, want %d", o.Run.Requests, sent)
	}
	return o
}

const (
	listAlone      = "generations"
	analyticsAlone = "analytics/query analytics/query"
	squaring       = " analytics/query" // the totals of days that are over, once for each
)

// A hash that is not the SHA-256 of its key is proved by the key, once.
var (
	proved       = "key keys/" + hash + " " + analyticsAlone
	found        = "workspaces keys keys " + proved
	foundAnother = strings.ReplaceAll(found, hash, anotherHash)
	anotherHash  = strings.Repeat("b", 64)
)

// remembered is what is kept of the organisation's source.
func (w *world) remembered() string {
	return w.text(`select group_concat(coalesce(source, '-') || ' ' || coalesce(tried_at, '-') || ' ' ||
			coalesce(nullif(substr(usage_sync_keys.key_hash, 1, 4), ''), '-'))
		from usage_sync_keys left join usage_sync_sources using (client_org_id, key_mark)`)
}

// sourceWorld has one organisation with some usage, whose key goes by a hash that only GET /keys tells.
func sourceWorld(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, noon, client("acme", "")).manage()
	w.api.SetKey(keyOf("acme"), standin.Key{Name: "The acme", Label: "custom", Hash: hash})
	w.api.Add(keyOf("acme"), generations("g", 10, noon.Add(-time.Minute), time.Minute)...)
	w.api.Add(keyOf("acme"), generation("old", noon.Add(-72*time.Hour))) // where the list may stop
	return w
}

var hash = strings.Repeat("4a5e", 16)

func TestAutoTakesTheList(t *testing.T) {
	w := sourceWorld(t)
	w.wantAsked("generations", listAlone)
	w.wantTotal("acme", 1000, 10, 0.1)
	w.want("remembered", w.remembered(), "- - -")
}

// noList are the answers of servers that have no list.
var noList = map[string]standin.Fault{
	"400": standin.Status(400, ""), "401": standin.Status(401, ""), "403": standin.Status(403, ""),
	"404": standin.Status(404, ""), "405": standin.Status(405, ""),
	"HTML": standin.Body(200, "text/html", "<!DOCTYPE html><html><body>Please sign in</body></html>"),
}

func TestAutoTakesTheAnalyticsWhereThereIsNoList(t *testing.T) {
	for name, answer := range noList {
		t.Run(name, func(t *testing.T) {
			w := sourceWorld(t)
			w.api.AlwaysAt("/generations", &answer)
			w.wantAsked("analytics", listAlone+" "+found)
			w.wantTotal("acme", 1000, 10, 0.1)
			w.want("remembered", w.remembered(), fmt.Sprintf("analytics %d 4a5e", noon.Unix()))
			w.want("the application's column", w.text(`select openrouter_key_hash from client_organizations`), "")
			// The choice and the hash are known.
			w.later(15*time.Minute).wantAsked("analytics", analyticsAlone)
			w.at(noon.Add(24*time.Hour-time.Second)).wantAsked("analytics", analyticsAlone+squaring)
			// Once a day the list is asked for again.
			w.at(noon.Add(24*time.Hour)).wantAsked("analytics", listAlone+" "+analyticsAlone)
			w.later(15*time.Minute).wantAsked("analytics", analyticsAlone)
			// It is back.
			w.api.AlwaysAt("/generations", nil)
			w.at(noon.Add(48*time.Hour+time.Minute)).wantAsked("generations", listAlone)
			w.want("remembered", w.remembered(), "- - 4a5e")
			w.later(15*time.Minute).wantAsked("generations", listAlone)
			w.wantTotal("acme", 1000, 10, 0.1)
		})
	}
}

// Where the analytics are not configured, or fail as well, what the list answers is the error.
func TestNoListIsTheErrorWithoutAnalytics(t *testing.T) {
	for name, answer := range noList {
		for _, managed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, managed), func(t *testing.T) {
				w := sourceWorld(t)
				w.api.AlwaysAt("/generations", &answer)
				missing := standin.Status(404, "")
				w.api.AlwaysAt("/analytics/query", &missing)
				if !managed {
					w.managementKey = ""
				}
				o := w.pass()
				var status *openrouter.APIError
				switch name {
				case "404", "405":
					if !errors.Is(o.Err, openrouter.ErrNoSource) {
						t.Errorf("%v", o.Err)
					}
				case "HTML":
					if !errors.Is(o.Err, openrouter.ErrAnswer) || errors.Is(o.Err, openrouter.ErrNoSource) {
						t.Errorf("%v", o.Err)
					}
				default:
					if !errors.As(o.Err, &status) || fmt.Sprint(status.Status) != name || status.Management {
						t.Errorf("%v", o.Err)
					}
				}
				if !w.state("acme").CoveredTo.IsZero() {
					t.Error("the watermark has moved")
				}
			})
		}
	}
}

// OpenRouter itself publishes no list: with a management key it is never asked for one, and nothing is tried out.
func TestOpenRouterIsNeverAskedForAList(t *testing.T) {
	openRouter := func(p *job.Pass) { p.Sources.OpenRouter = true }
	t.Run("with a management key", func(t *testing.T) {
		w := sourceWorld(t)
		w.wantAsked("analytics", found, openRouter)
		w.wantTotal("acme", 1000, 10, 0.1)
		w.want("remembered", w.remembered(), "- - 4a5e")
		w.later(25*time.Hour).wantAsked("analytics", analyticsAlone+squaring, openRouter)
		for range 2 {
			w.later(25*time.Hour).wantAsked("analytics", analyticsAlone, openRouter)
		}
		missing := standin.Status(404, "")
		w.api.AlwaysAt("/analytics/query", &missing)
		var o job.Outcome
		if paths := w.asked(func() { o = w.pass(openRouter) }); paths != "analytics/query" || !errors.Is(o.Err, openrouter.ErrNoSource) {
			t.Errorf("asked for %s, %v", paths, o.Err)
		}
		w.api.AlwaysAt("/analytics/query", nil)
		w.wantAsked("generations", listAlone, openRouter, from(job.SourceGenerations))
		// At a gateway the list is asked for at once.
		w.wantAsked("generations", listAlone)
	})
	t.Run("remembered from a gateway", func(t *testing.T) {
		w := sourceWorld(t)
		w.api.NoList(404)
		w.wantAsked("analytics", listAlone+" "+found)
		w.later(25*time.Hour).wantAsked("analytics", analyticsAlone+squaring, openRouter)
	})
	t.Run("without one", func(t *testing.T) {
		w := sourceWorld(t)
		w.managementKey = ""
		w.api.NoList(404)
		if o := w.pass(openRouter); !errors.Is(o.Err, openrouter.ErrNoSource) || !strings.Contains(o.Err.Error(), "OPENROUTER_MANAGEMENT_KEY_FILE") {
			t.Errorf("%v", o.Err)
		}
	})
}

// Where the base URL has come to be a gateway's, the list is there and the analytics are not.
func TestAutoComesBackToTheList(t *testing.T) {
	w := sourceWorld(t)
	w.api.NoList(404)
	w.wantAsked("analytics", listAlone+" "+found)
	w.api.NoList(0)
	missing := standin.Status(404, "")
	w.api.AlwaysAt("/analytics/query", &missing)
	w.later(time.Minute).wantAsked("generations", "analytics/query generations")
	w.later(time.Minute).wantAsked("generations", listAlone)
}

// A server without the list of keys may still know a key by its SHA-256.
func TestNoListOfKeys(t *testing.T) {
	w := sourceWorld(t)
	w.api.SetKey(keyOf("acme"), standin.Key{Name: "The acme"})
	missing := standin.Status(404, "")
	w.api.AlwaysAt("/keys", &missing)
	w.wantAsked("analytics", "workspaces keys "+analyticsAlone, from(job.SourceAnalytics))
	w.wantTotal("acme", 1000, 10, 0.1)
}

func TestNoUsableSource(t *testing.T) {
	t.Run("no list and no management key", func(t *testing.T) {
		w := sourceWorld(t)
		w.managementKey = ""
		w.api.NoList(404)
		for range 2 { // no list is no reason to ask for it less often: there is nothing else
			var o job.Outcome
			if paths := w.asked(func() { o = w.pass() }); paths != listAlone {
				t.Errorf("asked for %s", paths)
			}
			if !errors.Is(o.Err, openrouter.ErrNoSource) || !strings.Contains(o.Err.Error(), "OPENROUTER_MANAGEMENT_KEY_FILE") ||
				!strings.Contains(o.Err.Error(), "GET /generations") {
				t.Errorf("%v", o.Err)
			}
			if !w.state("acme").CoveredTo.IsZero() {
				t.Error("the watermark has moved")
			}
		}
		w.managementKey = managementKey
		w.wantAsked("analytics", found)
	})
	t.Run("analytics without a management key", func(t *testing.T) {
		w := sourceWorld(t)
		w.managementKey = ""
		var o job.Outcome
		if paths := w.asked(func() { o = w.pass(from(job.SourceAnalytics)) }); paths != "" || !errors.Is(o.Err, openrouter.ErrNoSource) {
			t.Errorf("asked for %s, %v", paths, o.Err)
		}
	})
	t.Run("generations, whatever there is", func(t *testing.T) {
		w := sourceWorld(t)
		w.api.NoList(404)
		var o job.Outcome
		if paths := w.asked(func() { o = w.pass(from(job.SourceGenerations)) }); paths != listAlone || !errors.Is(o.Err, openrouter.ErrNoSource) {
			t.Errorf("asked for %s, %v", paths, o.Err)
		}
	})
	t.Run("neither", func(t *testing.T) {
		w := sourceWorld(t)
		missing := standin.Status(404, "")
		w.api.Always(&missing)
		if o := w.pass(); !errors.Is(o.Err, openrouter.ErrNoSource) {
			t.Errorf("%v", o.Err)
		}
	})
}

// A list that is there and fails is no reason to go elsewhere: not where the account is out of credit, and not once a page
// of it has come.
func TestAutoKeepsToAListThatFails(t *testing.T) {
	w := sourceWorld(t)
	w.api.ScriptAt("/generations", standin.Status(402, ""))
	if paths := w.asked(func() { w.pass() }); paths != listAlone {
		t.Errorf("asked for %s", paths)
	}
	w.want("remembered", w.remembered(), "")
	w.api.PageLimit(5)
	w.api.ScriptAt("/generations", standin.OK(), standin.Status(401, ""))
	var o job.Outcome
	if paths := w.asked(func() { o = w.pass() }); paths != listAlone+" "+listAlone || o.Err == nil {
		t.Errorf("asked for %s, %v", paths, o.Err)
	}
	w.want("remembered", w.remembered(), "")
}

func TestKeyHash(t *testing.T) {
	t.Run("of the column", func(t *testing.T) {
		w := sourceWorld(t)
		w.exec(`update client_organizations set openrouter_key_hash = ?`, hash)
		w.wantAsked("analytics", proved, from(job.SourceAnalytics))
		w.wantAsked("analytics", analyticsAlone, from(job.SourceAnalytics))
	})
	t.Run("found and remembered", func(t *testing.T) {
		w := sourceWorld(t)
		w.wantAsked("analytics", found, from(job.SourceAnalytics))
		w.wantAsked("analytics", analyticsAlone, from(job.SourceAnalytics))
	})
	t.Run("forgotten where it is not known", func(t *testing.T) {
		w := sourceWorld(t)
		w.wantAsked("analytics", found, from(job.SourceAnalytics))
		w.api.SetKey(keyOf("acme"), standin.Key{Name: "The acme", Label: "custom", Hash: strings.Repeat("b", 64)})
		covered := w.state("acme").CoveredTo
		o := w.later(time.Minute).pass(from(job.SourceAnalytics))
		if !errors.Is(o.Err, openrouter.ErrKeyHash) || !strings.Contains(o.Err.Error(), "openrouter_key_hash of client_organizations") {
			t.Errorf("%v", o.Err)
		}
		if after := w.state("acme").CoveredTo; !after.Equal(covered) {
			t.Errorf("the watermark has moved to %s", after)
		}
		w.later(time.Minute).wantAsked("analytics", foundAnother, from(job.SourceAnalytics))
	})
	t.Run("not remembered where the first pass fails", func(t *testing.T) {
		w := sourceWorld(t)
		w.api.ScriptAt("/analytics/query", standin.Status(403, ""))
		if o := w.pass(from(job.SourceAnalytics)); o.Err == nil {
			t.Error("no error")
		}
		w.wantAsked("analytics", found, from(job.SourceAnalytics))
	})
	t.Run("of another key", func(t *testing.T) {
		w := sourceWorld(t)
		w.api.NoList(404)
		w.wantAsked("analytics", listAlone+" "+found)
		const other = "sk-or-v1-0123456789abcdef-rotated"
		w.exec(`update client_organizations set openrouter_api_key = ?`, other)
		w.api.SetKey(keyOf("acme"), standin.Key{Name: "old", Label: "old", Hash: hash})
		w.api.SetKey(other, standin.Key{Name: "The acme", Label: "custom", Hash: strings.Repeat("b", 64)})
		w.api.Add(other, generation("new", noon))
		w.later(time.Minute).wantAsked("analytics", listAlone+" "+foundAnother)
		w.wantTotal("acme", 1100, 11, 0.11)
	})
	t.Run("ambiguous", func(t *testing.T) {
		w := sourceWorld(t)
		w.api.SetKey("sk-or-v1-another", standin.Key{Name: "The acme", Label: "custom"})
		if o := w.pass(from(job.SourceAnalytics)); !errors.Is(o.Err, store.ErrOrganisation) {
			t.Errorf("%v", o.Err)
		}
	})
}

func TestDryRunRemembersNothing(t *testing.T) {
	w := sourceWorld(t)
	w.api.NoList(404)
	for range 2 {
		if o := w.wantAsked("analytics", listAlone+" "+found, dryRun); o.Run.Recorded != 10 {
			t.Errorf("recorded %d", o.Run.Recorded)
		}
	}
	w.want("remembered", w.remembered(), "")
	w.wantTotal("acme", 0, 0, 0)
}

// The management key of one account, several organisations: each gets its own usage, whatever the order of the answers.
func TestEachOrganisationItsOwn(t *testing.T) {
	var orgs []store.NewOrganisation
	for i := range 6 {
		orgs = append(orgs, client(fmt.Sprint("org", i), ""))
	}
	w := newWorld(t, noon, orgs...).manage()
	for i, o := range orgs {
		w.api.Add(o.Key, generations(o.ID, i+1, noon.Add(-time.Minute), time.Minute)...)
	}
	report, err := w.run(t.Context(), from(job.SourceAnalytics))
	if err != nil || report.Synced() != len(orgs) {
		t.Fatalf("%d synced, %v", report.Synced(), err)
	}
	for i, o := range orgs {
		w.wantTotal(o.ID, 100*int64(i+1), int64(i+1), 0.01*float64(i+1))
	}
}

// allTables are everything that the dashboard reads, and the ledger with its places. Amounts are sums of floats in some order; the
// analytics know when to the hour.
func (w *world) allTables() map[string][][]any {
	w.Helper()
	tables := map[string][][]any{}
	for table, query := range map[string]string{
		"daily":  `select * from client_daily_usage`,
		"users":  `select * from client_user_daily_usage`,
		"models": `select * from client_model_daily_usage`,
		"live":   `select * from client_live_counters`,
		"ledger": `select * from processed_generations`,
		"places": `select client_org_id, cast(generation_date as text), id, model_name, user_id, openrouter_user_id, markup_rate from usage_sync_generations`,
		"state":  `select * from usage_sync_state`,
	} {
		rows, err := w.db.Query(query)
		if err != nil {
			w.Fatalf("%v", err)
		}
		columns, _ := rows.Columns()
		for rows.Next() {
			values, targets := make([]any, len(columns)), make([]any, len(columns))
			for i := range values {
				targets[i] = &values[i]
			}
			if err := rows.Scan(targets...); err != nil {
				w.Fatalf("%v", err)
			}
			tables[table] = append(tables[table], values)
		}
		if err := rows.Close(); err != nil {
			w.Fatalf("%v", err)
		}
		slices.SortFunc(tables[table], func(a, b []any) int { return cmp.Compare(fmt.Sprint(a...), fmt.Sprint(b...)) })
	}
	return tables
}

// The same usage read from the list, from the analytics, and from either in any order gives the same tables.
func TestSourcesGiveTheSameTables(t *testing.T) {
	orders := [][]string{
		{job.SourceGenerations, job.SourceGenerations, job.SourceGenerations, job.SourceGenerations},
		{job.SourceAnalytics, job.SourceAnalytics, job.SourceAnalytics, job.SourceAnalytics},
		{job.SourceGenerations, job.SourceAnalytics, job.SourceGenerations, job.SourceAnalytics},
		{job.SourceAnalytics, job.SourceGenerations, job.SourceAnalytics, job.SourceGenerations},
		{job.SourceAuto, job.SourceAuto, job.SourceAnalytics, job.SourceAuto},
	}
	zones := []string{"America/New_York", "Asia/Kathmandu"}
	if *long {
		zones = append(zones, "", "Europe/Warsaw", "Asia/Kolkata", "Australia/Lord_Howe")
	}
	for _, timezone := range zones {
		t.Run(cmp.Or(timezone, "UTC"), func(t *testing.T) {
			var first map[string][][]any
			for _, order := range orders {
				w := newWorld(t, noon, client("acme", timezone)).manage()
				w.exec(`insert into user_client_mapping values ('m1', 'webui-ann', 'acme', 'ann', 1, 0, 0)`)
				w.api.PageLimit(70)
				for i, source := range order {
					// Every 11 minutes of the last 40 hours, then of the last 6.
					n := []int{218, 32, 32, 32}[i]
					for j := range n {
						g := generation(fmt.Sprintf("gen-%d-%d", i, j), w.now().Add(-time.Duration(j)*11*time.Minute-time.Second))
						g.Model = []string{"openai/gpt-4o", "meta-llama/llama-3:free", "anthropic/claude-sonnet-4"}[j%3]
						g.ExternalUser = []string{"ann", "", "bob"}[j/2%3]
						g.PromptTokens, g.Cost = int64(j*j), fmt.Sprintf("%d.%de-5", j, i)
						w.api.Add(keyOf("acme"), g)
					}
					if i > 0 { // a settled price
						w.api.SetCost(fmt.Sprintf("gen-%d-3", i-1), "0.00321")
					}
					w.sync(from(source), func(p *job.Pass) { p.Full = i == 2 })
					w.check("acme")
					w.later(6 * time.Hour)
				}
				w.sync(full, from(order[0]))
				w.check("acme")
				got := w.allTables()
				if first == nil {
					first = got
					continue
				}
				if diff := gocmp.Diff(first, got, cmpopts.EquateApprox(0, 1e-9)); diff != "" {
					t.Errorf("%v (-list +this):\n%s", order, diff)
				}
			}
		})
	}
}

// A takeover whose cut lies inside an hour: the analytics count exactly what came later.
func TestAdoptUntilInsideAnHour(t *testing.T) {
	for name, step := range map[string]time.Duration{"few": 5 * time.Minute, "many": 20 * time.Second} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, noon, client("acme", "Asia/Kolkata")).manage()
			w.exec(`insert into client_daily_usage values ('acme_2026-05-14', 'acme', '2026-05-14', 100, 1, 0.01, 0.013, 'x', 1, 1, 1)`)
			cut := at("2026-05-14T10:20:30Z")
			later := 0
			for i := range 200 {
				g := generation(fmt.Sprint("g-", i), cut.Add(time.Duration(i-100)*step))
				if g.CreatedAt.After(noon) {
					break
				}
				if i > 100 {
					later++
				}
				w.api.Add(keyOf("acme"), g)
			}
			adoptUntil := func(p *job.Pass) { p.Answer, p.AdoptUntil = store.AnswerAdopt, cut }
			w.sync(from(job.SourceAnalytics), adoptUntil)
			w.sync(full, from(job.SourceGenerations))
			w.sync(full, from(job.SourceAnalytics))
			if got := w.books("acme").total(); got.requests != int64(1+later) {
				t.Errorf("%d requests are counted, want 1 and %d", got.requests, later)
			}
		})
	}
}

// What was used before the takeover and comes between the two answers of the pass that adopts is adopted by the next one.
func TestAdoptIsNotOverBeforeItsEnd(t *testing.T) {
	w := newWorld(t, noon.Add(17*time.Minute), client("acme", "")).manage()
	w.exec(`insert into client_daily_usage values ('acme_2026-05-14', 'acme', '2026-05-14', 400, 4, 0.04, 0.052, 'x', 1, 1, 1)`)
	w.api.Add(keyOf("acme"), generations("old", 3, w.now().Add(-time.Minute), time.Minute)...)
	queries := 0
	w.api.OnRequest(func(r standin.Request) {
		if r.Method != http.MethodPost {
			return
		}
		if queries++; queries == 2 {
			w.api.Add(keyOf("acme"), generation("between", w.now().Add(-time.Second)))
		}
	})
	w.sync(from(job.SourceAnalytics), adopt)
	w.later(15 * time.Minute)
	w.api.Add(keyOf("acme"), generation("new", w.now().Add(-time.Minute)))
	w.sync(from(job.SourceAnalytics))
	if got := w.books("acme").total(); got.requests != 5 {
		t.Errorf("%d requests are counted, want 4 and the new one", got.requests)
	}
	if n := w.text(`select count(*) from processed_generations`); n != "5" {
		t.Errorf("%s are in the ledger, want 5", n)
	}
	if st := w.state("acme"); st.Takeover != store.TakeoverNone {
		t.Errorf("the takeover is not over: %v", st)
	}
}
