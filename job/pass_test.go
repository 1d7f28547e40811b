package job_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

func TestWatermark(t *testing.T) {
	t.Run("steady state is one request", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.api.PageLimit(50)
		w.api.Add(keyOf("acme"), generations("g", 1000, noon.Add(-time.Minute), time.Minute)...)
		if n := w.requests(func() { w.sync() }); n < 20 {
			t.Errorf("first pass: %d requests", n)
		}
		w.api.PageLimit(100)
		for range 3 {
			w.later(15 * time.Minute)
			w.api.Add(keyOf("acme"), generations(fmt.Sprint("at", w.now().Unix()), 5, w.now(), time.Minute)...)
			if n := w.requests(func() { w.sync() }); n != 1 {
				t.Errorf("%d requests", n)
			}
		}
		w.wantTotal("acme", 101_500, 1015, 10.15)
	})
	t.Run("one short page shows what is new, and all corrections of the last hour", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.api.PageLimit(1000)
		w.api.Add(keyOf("acme"), generations("g", 2000, noon.Add(-time.Minute), 15*time.Second)...)
		w.sync()
		w.later(10 * time.Minute)
		w.api.Add(keyOf("acme"), generations("new", 30, w.now(), 15*time.Second)...)
		w.api.SetCost("g-0", "0.02")
		w.api.SetCost("g-230", "0.02") // 58 minutes and a half before the last pass
		before := len(w.api.Requests())
		if o := w.sync(); o.Run.Recorded != 30 || o.Run.Updated != 2 || o.Run.Fetched > 480 {
			t.Errorf("%+v", o.Run)
		}
		if asked := w.api.Requests()[before:]; len(asked) != 1 || asked[0].Query.Get("limit") != "337" { // the last hour's 237 and 100
			t.Errorf("%d requests, the first asks for %s", len(asked), asked[0].Query.Get("limit"))
		}
	})
	t.Run("a wider window is fetched in full", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.api.Add(keyOf("acme"), generations("g", 10, noon.Add(-time.Minute), 24*time.Hour)...)
		w.sync(daysBack(0))
		w.wantTotal("acme", 100, 1, 0.01)
		w.later(time.Minute).sync(daysBack(5))
		w.wantTotal("acme", 600, 6, 0.06)
		w.later(time.Minute).sync(daysBack(1))
		if from := w.state("acme").CoveredFrom; !from.Equal(at("2026-05-09T00:00:00Z")) {
			t.Errorf("covered from %s", from)
		}
	})
	t.Run("a new local day fetches the whole window", func(t *testing.T) {
		w := newWorld(t, at("2026-05-13T21:50:00Z"), client("acme", "Europe/Warsaw"))
		w.api.PageLimit(1)
		w.api.Add(keyOf("acme"), generation("g", at("2026-05-13T08:00:00Z")), generation("newer", at("2026-05-13T12:00:00Z")))
		w.sync()
		w.api.SetCost("g", "0.02") // behind the overlap
		w.at(at("2026-05-13T21:59:00Z"))
		if o := w.sync(); o.Run.Updated != 0 {
			t.Errorf("before midnight: updated %d", o.Run.Updated)
		}
		w.at(at("2026-05-13T22:01:00Z"))
		if o := w.sync(); o.Run.Updated != 1 {
			t.Errorf("after midnight: updated %d", o.Run.Updated)
		}
		w.wantTotal("acme", 200, 2, 0.03)
	})
	t.Run("an outage of three days leaves no hole", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.sync()
		w.at(noon.AddDate(0, 0, 3))
		w.api.Add(keyOf("acme"), generations("g", 72, w.now().Add(-time.Minute), time.Hour)...)
		w.sync(daysBack(1))
		b := w.wantTotal("acme", 7200, 72, 0.72)
		if len(b.daily) != 3 {
			t.Errorf("days %v", b.daily)
		}
	})
	t.Run("an outage beyond any window is told", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.sync()
		w.at(noon.AddDate(0, 0, 40)).sync()
		w.wantLog("is not fetched")
	})
	t.Run("nothing before the first window is counted", func(t *testing.T) {
		// Others counted yesterday; we were told to begin with today. That is asked about, too.
		w := newWorld(t, at("2026-05-14T00:10:00Z"), client("acme", ""))
		w.exec(`insert into client_daily_usage values ('acme_2026-05-13', 'acme', '2026-05-13', 100, 1, 0.01, 0.013, 'x', 1, 1, 1)`)
		w.api.Add(keyOf("acme"), generation("counted", at("2026-05-13T23:50:00Z")))
		w.wantUndecided(daysBack(0))
		w.sync(adopt, daysBack(0))
		w.wantRequests("adopted", 1)
		w.later(10 * time.Minute)
		if o := w.pass(daysBack(0)); o.Err != nil || o.Run.Recorded != 0 {
			t.Errorf("recorded %d, %v", o.Run.Recorded, o.Err)
		}
	})
	t.Run("a failure does not move it", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.sync()
		before := w.state("acme")
		w.later(2 * time.Hour)
		w.api.PageLimit(5)
		w.api.Add(keyOf("acme"), generations("g", 30, w.now(), time.Minute)...)
		w.api.Script(standin.OK(), standin.OK(), standin.Status(401, ""))
		var apiErr *openrouter.APIError
		if o := w.pass(); !errors.As(o.Err, &apiErr) {
			t.Fatalf("got %v", o.Err)
		}
		if after := w.state("acme"); after != before {
			t.Errorf("moved from %v to %v", before, after)
		}
		if b := w.check("acme"); b.live.requests != 9 { // the second page repeats a row
			t.Errorf("what came before the failure is not there: %s", b.live)
		}
		w.sync()
		w.wantTotal("acme", 3000, 30, 0.3)
	})
	t.Run("a cancellation does not move it", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.sync()
		before := w.state("acme")
		w.later(2 * time.Hour)
		w.api.PageLimit(5)
		w.api.Add(keyOf("acme"), generations("g", 30, w.now(), time.Minute)...)
		ctx, cancel := context.WithCancelCause(t.Context())
		told := errors.New("told to end")
		w.api.OnPage(func(_ string, offset int) {
			if offset == 8 {
				cancel(told)
			}
		})
		report, err := w.run(ctx)
		if err != nil || !errors.Is(report.Organisations[0].Err, told) {
			t.Fatalf("got %v, %v", report.Organisations[0].Err, err)
		}
		if after := w.state("acme"); after != before {
			t.Errorf("moved from %v to %v", before, after)
		}
		w.want("last run", w.text(`select exit_code || ' ' || error from usage_sync_runs order by id desc limit 1`), "70 told to end")
		w.check("acme")
		w.api.OnPage(nil)
		w.sync()
		w.wantTotal("acme", 3000, 30, 0.3)
	})
	t.Run("one in the future is not believed", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.open().Close()
		future := noon.AddDate(0, 0, 3)
		w.exec(`insert into usage_sync_state values ('acme', ?, ?, ?, null, null, 0, null, null, null, null)`, noon.AddDate(0, 0, -9).Unix(), future.Unix(),
			future.Format(time.DateOnly))
		w.api.Add(keyOf("acme"), generations("g", 20, noon.Add(-time.Minute), time.Hour)...)
		w.sync()
		w.wantTotal("acme", 2000, 20, 0.2)
		if to := w.state("acme").CoveredTo; !to.Equal(noon) {
			t.Errorf("covered to %s", to)
		}
	})
	t.Run("server's clock behind", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		ahead := func() time.Time { return w.now().Add(3 * time.Hour) }
		w.sync(clock(ahead))
		if to := w.state("acme").CoveredTo; !to.Equal(noon) {
			t.Errorf("covered to %s, the server's clock is at %s", to, noon)
		}
		w.wantLog("clock is 3 h ahead of the server's, which counts in this pass")
		// Made an hour later by the server's clock: an hour and more behind our watermark, were it by our clock.
		w.later(time.Hour)
		w.api.Add(keyOf("acme"), generation("g", w.now().Add(-time.Minute)))
		w.sync(clock(ahead))
		w.wantTotal("acme", 100, 1, 0.01)
	})
}

func TestRefusedRow(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.api.Add(keyOf("acme"), generations("before", 10, noon.Add(-5*time.Hour), time.Minute)...)
	w.api.Add(keyOf("acme"), generations("after", 10, noon.Add(-time.Minute), time.Minute)...)
	broken := noon.Add(-4 * time.Hour)
	w.api.Add(keyOf("acme"), standin.Generation{ID: "odd", CreatedAt: broken, Cost: "-1", Model: "m/m", PromptTokens: 100})
	for range 2 {
		o := w.pass()
		if !errors.Is(o.Err, job.ErrRefused) || o.Run.Refused != 1 || o.Run.ExitCode != 65 {
			t.Fatalf("refused %d, exit code %d, %v", o.Run.Refused, o.Run.ExitCode, o.Err)
		}
		w.wantTotal("acme", 2000, 20, 0.2)
		w.wantGaps("refused odd, 1h0m0s from 2026-05-14T08:00:00Z")
		w.later(15 * time.Minute)
	}
	w.wantLog("is negative")
	w.api.SetCost("odd", "0.01")
	w.later(10 * time.Hour).sync()
	w.wantTotal("acme", 2100, 21, 0.21)
	w.wantGaps("")
}

func TestForeignGeneration(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""), client("beta", ""))
	w.api.Add(keyOf("acme"), generation("shared", noon.Add(-time.Hour)))
	w.sync(only("acme"))
	w.api.Add(keyOf("beta"), generation("shared", noon.Add(-time.Hour)), generation("own", noon.Add(-time.Hour)))
	for range 2 {
		w.sync(only("beta"))
	}
	w.wantTotal("acme", 100, 1, 0.01)
	w.wantTotal("beta", 100, 1, 0.01)
	w.wantLog("The beta: not counted again: 1 generation in the ledger under another organisation")
}

func TestMarkupRate(t *testing.T) {
	for _, test := range []struct {
		name, own, global string
		want              string
	}{
		{"own", "1.5", "1.2", "0.015"},
		{"global", "null", "1.2", "0.012"},
		{"default", "null", "null", "0.013"},
		{"no settings", "null", "", "0.013"},
		{"free of markup", "1", "1.2", "0.01"},
		{"zero", "0", "1.2", "error"},
		{"negative", "-1.3", "1.2", "error"},
		{"text", "'plenty'", "1.2", "error"},
		{"infinite", "9e999", "1.2", "error"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, noon, client("acme", ""))
			w.exec(`update client_organizations set markup_rate = ` + test.own)
			if test.global != "" {
				w.exec(`insert into global_settings values ('s', null, ` + test.global + `, 'USD', 0, 0)`)
			}
			w.api.Add(keyOf("acme"), generation("g", noon.Add(-time.Hour)))
			o := w.pass()
			if test.want == "error" {
				if !errors.Is(o.Err, store.ErrRate) {
					t.Errorf("got %v", o.Err)
				}
				w.want("recorded", w.text(`select count(*) from processed_generations`), "0")
				return
			}
			if o.Err != nil {
				t.Fatal(o.Err)
			}
			w.want("marked-up cost", w.text(`select today_markup_cost from client_live_counters`), test.want)
		})
	}
}

func TestUsers(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""), client("beta", ""))
	for _, row := range []string{`'1', 'webui-ann', 'acme', 'ann', 1`, `'2', 'webui-bob', 'acme', 'bob', 0`, `'3', 'webui-carl', 'beta', 'carl', 1`} {
		w.exec(`insert into user_client_mapping values (` + row + `, 0, 0)`)
	}
	for _, user := range []string{"", "ann", "bob", "carl"} {
		g := generation("g-"+user, noon.Add(-time.Hour))
		g.ExternalUser = user
		w.api.Add(keyOf("acme"), g)
	}
	w.sync(only("acme"))
	w.want("users", w.text(`select group_concat(id || '=' || openrouter_user_id, ' ') from (select * from client_user_daily_usage order by id)`),
		"acme:background_sync:2026-05-14=bg_sync_acme acme:bob:2026-05-14=bob acme:carl:2026-05-14=carl acme:webui-ann:2026-05-14=ann")
	w.wantTotal("acme", 400, 4, 0.04)
}

func TestTodaysDailyRowIsFolded(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.exec(`insert into client_daily_usage values ('acme_2026-05-14', 'acme', '2026-05-14', 700, 7, 0.07, 0.091, 'x', 1, 1, 1)`)
	w.exec(`insert into client_live_counters values ('acme', '2026-05-12', 200, 2, 0.02, 0.026, 1)`)
	for i := range 9 {
		day := map[bool]string{true: "2026-05-14", false: "2026-05-12"}[i < 7]
		w.exec(`insert into processed_generations values (?, 'acme', ?, 1, 0.01, 100)`, fmt.Sprint("old", i), day)
	}
	w.api.Add(keyOf("acme"), generation("g", noon.Add(-time.Hour)))
	w.sync()
	w.sync(full)
	b := w.books("acme")
	if b.liveDay != "2026-05-14" || b.live.requests != 8 || b.daily["2026-05-12"].requests != 2 || len(b.daily) != 1 {
		t.Errorf("live %s %s, daily %v", b.liveDay, b.live, b.daily)
	}
}

func TestCounterOfTomorrow(t *testing.T) {
	// 22:00 in New York; the dashboard goes by UTC and has rolled over already.
	w := newWorld(t, at("2026-05-15T01:00:00Z"), client("acme", "America/New_York"))
	w.api.Add(keyOf("acme"), generation("a", at("2026-05-15T00:30:00Z")))
	w.sync()
	if err := w.dashboard("acme", "2026-05-15"); err != nil {
		t.Fatal(err)
	}
	w.at(at("2026-05-15T02:00:00Z"))
	w.api.Add(keyOf("acme"), generation("b", at("2026-05-15T01:30:00Z")))
	w.sync()
	b := w.wantTotal("acme", 200, 2, 0.02)
	if b.liveDay != "2026-05-15" || b.live.requests != 0 || b.daily["2026-05-14"].requests != 2 {
		t.Errorf("live %s %s, daily %v", b.liveDay, b.live, b.daily)
	}
	w.at(at("2026-05-15T05:00:00Z")) // 01:00 in New York
	w.api.Add(keyOf("acme"), generation("c", at("2026-05-15T03:59:00Z")), generation("d", at("2026-05-15T04:30:00Z")))
	w.sync()
	b = w.wantTotal("acme", 400, 4, 0.04)
	if b.liveDay != "2026-05-15" || b.live.requests != 1 || b.daily["2026-05-14"].requests != 3 {
		t.Errorf("live %s %s, daily %v", b.liveDay, b.live, b.daily)
	}
}

func TestDryRun(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.api.Add(keyOf("acme"), generations("g", 10, noon.Add(-time.Minute), time.Minute)...)
	w.sync()
	w.later(time.Minute)
	w.api.PageLimit(3)
	w.api.Add(keyOf("acme"), generations("new", 10, noon.Add(-time.Hour), 2*time.Hour)...)
	w.api.SetCost("g-3", "0.05")
	// One new row between two requests shifts the list: pages repeat rows.
	arrivals := 0
	w.api.OnPage(func(string, int) {
		if arrivals++; arrivals <= 2 {
			w.api.Add(keyOf("acme"), generation(fmt.Sprint("arrival", arrivals), noon))
		}
	})
	before := w.dump()
	o := w.sync(dryRun, full)
	w.api.OnPage(nil)
	if after := w.dump(); after != before {
		t.Errorf("a dry run has changed\n%s\nto\n%s", before, after)
	}
	if o.Run.Recorded < 10 || o.Run.Updated != 1 {
		t.Errorf("recorded %d, updated %d", o.Run.Recorded, o.Run.Updated)
	}
	var requests, settled int64
	for _, c := range o.Changes {
		requests += c.Requests
		settled += c.Settled
	}
	if requests != o.Run.Recorded || settled != 1 {
		t.Errorf("%d requests and %d settled in the changes", requests, settled)
	}
	done := w.sync(full)
	if late := done.Run.Recorded - o.Run.Recorded; late < 0 || late > 2 || done.Run.Updated != 1 {
		t.Errorf("the dry run told of %d, %d came", o.Run.Recorded, done.Run.Recorded)
	}
	w.wantTotal("acme", 2200, 22, 0.26)
}

// dump is every row of every table.
func (w *world) dump() string {
	w.Helper()
	var text strings.Builder
	for _, table := range []string{"client_daily_usage", "client_user_daily_usage", "client_model_daily_usage", "client_live_counters",
		"processed_generations", "usage_sync_generations", "usage_sync_state", "usage_sync_runs"} {
		rows, err := w.db.Query("select * from " + table + " order by 1, 2, 3")
		if err != nil {
			w.Fatalf("%v", err)
		}
		columns, _ := rows.Columns()
		for rows.Next() {
			values := make([]any, len(columns))
			for i := range values {
				values[i] = new(any)
			}
			if err := rows.Scan(values...); err != nil {
				w.Fatalf("%v", err)
			}
			fmt.Fprint(&text, table)
			for _, v := range values {
				fmt.Fprintf(&text, " %v", *v.(*any))
			}
			fmt.Fprintln(&text)
		}
		_ = rows.Close()
	}
	return text.String()
}

func TestOneFailureDoesNotStopTheOthers(t *testing.T) {
	var orgs []store.NewOrganisation
	for i := range 9 {
		orgs = append(orgs, client(fmt.Sprint("org", i), ""))
	}
	w := newWorld(t, noon, orgs...)
	w.exec(`update client_organizations set openrouter_api_key = 'sk-or-v1-revoked-and-gone' where id = 'org3'`)
	w.exec(`update client_organizations set markup_rate = 0 where id = 'org5'`)
	w.exec(`update client_organizations set timezone = 'Europe/Atlantis' where id = 'org7'`)
	for _, o := range orgs {
		w.api.Add(o.Key, generations(o.ID, 20, noon.Add(-time.Minute), time.Minute)...)
	}
	report, err := w.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if report.Synced() != 6 {
		t.Errorf("%d synced", report.Synced())
	}
	for _, o := range report.Organisations {
		if bad := strings.Contains("org3 org5 org7", o.Organisation.ID); bad != (o.Err != nil) {
			t.Errorf("%s: %v", o.Organisation.ID, o.Err)
		} else if !bad {
			w.wantTotal(o.Organisation.ID, 2000, 20, 0.2)
		}
		want := fmt.Sprint(exitCode(o.Err))
		w.want("exit code of "+o.Organisation.ID, w.text(`select exit_code from usage_sync_runs where client_org_id = ?`, o.Organisation.ID), want)
	}
	w.wantLog("Background sync completed: 6/9 organizations synced")
	if strings.Contains(w.logs.String(), "revoked-and-gone") {
		t.Error("a key is in the log")
	}
}

// TestRowsArriveAtTheEndOfAList: a list that is read to its end shows its last row again with each row that arrives.
func TestRowsArriveAtTheEndOfAList(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.api.PageLimit(50)
	w.api.Add(keyOf("acme"), generations("g", 120, noon.Add(-time.Minute), time.Minute)...)
	arrivals := 0
	w.api.OnPage(func(string, int) {
		if arrivals++; arrivals <= 6 {
			w.api.Add(keyOf("acme"), generation(fmt.Sprint("arrival", arrivals), noon))
		}
	})
	if o := w.pass(); o.Err != nil {
		t.Fatal(o.Err)
	}
	for range 2 { // the last ones may arrive behind the pages of the next pass
		w.later(time.Minute).sync()
	}
	w.wantTotal("acme", 12600, 126, 1.26)
}

// TestTwinsOfTwoCosts: one id twice in an answer, at two costs, is one generation, and does not change with each pass.
func TestTwinsOfTwoCosts(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	twin := generation("twin", noon.Add(-time.Minute))
	other := twin
	other.Cost = "0.05"
	w.api.Add(keyOf("acme"), twin, other)
	for range 4 {
		if o := w.sync(); o.Run.Updated != 0 {
			t.Errorf("updated %d", o.Run.Updated)
		}
		w.wantTotal("acme", 100, 1, 0.01)
	}
}

func TestRuns(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.api.Add(keyOf("acme"), generations("g", 3, noon.Add(-time.Minute), time.Minute)...)
	w.sync()
	const run = `select concat_ws(' ', client_org_id, organization, source, fetched, recorded, updated, duplicates, refused, tokens,
		raw_cost, api_requests, exit_code, error) from usage_sync_runs order by id desc limit 1`
	w.want("first", w.text(run), "acme The acme generations 3 3 0 0 0 300 0.03 2 0")
	w.api.SetCost("g-1", "0.02")
	w.later(time.Minute).sync()
	w.want("second", w.text(run), "acme The acme generations 3 0 1 2 0 0 0.01 2 0")

	t.Run("no such organisation", func(t *testing.T) {
		if _, err := w.run(t.Context(), only("nobody")); !errors.Is(err, store.ErrOrganisation) {
			t.Fatalf("got %v", err)
		}
		w.want("run", w.text(`select exit_code || ' ' || coalesce(client_org_id, 'none') from usage_sync_runs order by id desc limit 1`), "70 none")
	})
}

func TestTakeover(t *testing.T) {
	counted := func(t *testing.T) *world {
		w := newWorld(t, noon, client("acme", ""))
		w.exec(`insert into client_daily_usage values ('acme_2026-05-13', 'acme', '2026-05-13', 1000, 10, 0.1, 0.13, 'x', 1, ?1, ?1)`,
			at("2026-05-13T20:00:00Z").Unix())
		w.api.Add(keyOf("acme"), generations("old", 10, at("2026-05-13T19:00:00Z"), time.Minute)...)
		w.api.Add(keyOf("acme"), generations("new", 5, at("2026-05-13T22:00:00Z"), time.Minute)...)
		return w
	}
	t.Run("undecided", func(t *testing.T) {
		w := counted(t)
		var takeover *job.TakeoverError
		if o := w.pass(); !errors.As(o.Err, &takeover) || len(takeover.Days) != 1 || !takeover.LastWrite.Equal(at("2026-05-13T20:00:00Z")) {
			t.Fatalf("got %v", o.Err)
		}
		w.want("recorded", w.text(`select count(*) from processed_generations`), "0")
	})
	t.Run("adopt until", func(t *testing.T) {
		w := counted(t)
		w.sync(adopt, func(p *job.Pass) { p.AdoptUntil = at("2026-05-13T20:00:00Z") })
		if got := w.books("acme").total(); got.requests != 15 {
			t.Errorf("total %s", got)
		}
		if st := w.state("acme"); st.Takeover != store.TakeoverNone {
			t.Errorf("the decision outlives its pass: %v", st)
		}
	})
	t.Run("count", func(t *testing.T) {
		w := counted(t)
		w.sync(func(p *job.Pass) { p.Answer = store.AnswerNone })
		w.sync(full)
		if got := w.books("acme").total(); got.requests != 25 {
			t.Errorf("total %s", got)
		}
	})
}

// TestTakeoverUnderWay: a decision holds for the days on which it was taken, and for no others.
func TestTakeoverUnderWay(t *testing.T) {
	count := func(p *job.Pass) { p.Answer = store.AnswerNone }
	failed := func(t *testing.T, decision option) *world {
		w := newWorld(t, noon, client("acme", ""))
		for _, day := range []string{"2026-05-10", "2026-05-13"} {
			w.exec(`insert into client_daily_usage values (?1, 'acme', ?2, 1000, 10, 0.1, 0.13, 'x', 1, 1, 1)`, "acme_"+day, day)
			w.api.Add(keyOf("acme"), generations("old-"+day, 10, at(day+"T19:00:00Z"), time.Minute)...)
		}
		w.api.Script(standin.Status(401, ""))
		if o := w.pass(decision); o.Err == nil || w.text(`select answer from usage_sync_takeovers`) == "" {
			t.Fatalf("no decision under way: %v", o.Err)
		}
		return w
	}
	for name, decision := range map[string]option{"count": count, "adopt": adopt} {
		t.Run("further back/"+name, func(t *testing.T) {
			w := failed(t, decision)
			var takeover *job.TakeoverError
			if o := w.pass(daysBack(10)); !errors.As(o.Err, &takeover) || len(takeover.Days) != 2 || takeover.Days[0] != "2026-05-10" {
				t.Fatalf("got %v", o.Err)
			}
			w.want("recorded", w.text(`select count(*) from processed_generations`), "0")
			w.sync(daysBack(10), decision)
			want := map[string]int64{"count": 40, "adopt": 20}[name]
			if got := w.books("acme").total(); got.requests != want {
				t.Errorf("total %s, want %d requests", got, want)
			}
		})
		t.Run("goes on/"+name, func(t *testing.T) {
			w := failed(t, decision)
			w.later(24 * time.Hour)
			w.sync()
			want := map[string]int64{"count": 30, "adopt": 20}[name]
			if got := w.books("acme").total(); got.requests != want {
				t.Errorf("total %s, want %d requests", got, want)
			}
		})
	}
	t.Run("another decision", func(t *testing.T) {
		w := failed(t, count)
		w.want("recorded", w.text(`select count(*) from processed_generations`), "0")
		w.sync(adopt) // nothing was recorded yet
		if got := w.books("acme").day("2026-05-13"); got.requests != 10 {
			t.Errorf("total %s", got)
		}
	})
}

// TestAdoptSettlesWhatWeCounted: what was delivered to us and counted is settled in the totals too, also by a pass that adopts.
func TestAdoptSettlesWhatWeCounted(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.api.Add(keyOf("acme"), generation("delivered", at("2026-05-14T10:00:00Z")))
	w.exec(`insert into client_daily_usage values ('acme_2026-05-13', 'acme', '2026-05-13', 1000, 10, 0.1, 0.13, 'x', 1, 1, 1)`)
	s := w.open()
	orgs, err := s.Organisations(t.Context(), nil, time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.RecordGenerations(t.Context(), store.Batch{Organisation: orgs[0], Source: store.SourceWebhook, Now: noon, Delivered: true,
		Generations: []store.Generation{{ID: "delivered", CreatedAt: at("2026-05-14T10:00:00Z"), Model: "openai/gpt-4o", Tokens: 100,
			Cost: store.Dollar / 200, Day: "2026-05-14"}}})
	_ = s.Close()
	if err != nil {
		t.Fatal(err)
	}
	w.api.Add(keyOf("acme"), generations("old", 10, at("2026-05-13T19:00:00Z"), time.Minute)...)
	o := w.sync(adopt)
	if got := w.books("acme").day("2026-05-14"); !got.same(sum{100, 1, 0.01, 0.013}) {
		t.Errorf("got %s of 2026-05-14", got)
	}
	if o.Run.Raw != store.Dollar/200 {
		t.Errorf("the run says %s", o.Run.Raw)
	}
	w.want("adopted", w.books("acme").day("2026-05-13").String(), sum{1000, 10, 0.1, 0.13}.String())
}
