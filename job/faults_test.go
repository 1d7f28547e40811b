package job_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// Each test here shows that one fault of the sync that we replace, by its number in the list of measured faults, is none
// of ours.

var noon = at("2026-05-14T12:00:00Z")

func TestFault01NeverPages(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.api.PageLimit(50)
	w.api.Add(keyOf("acme"), generations("g", 120, noon.Add(-time.Minute), time.Minute)...)
	w.sync()
	w.wantTotal("acme", 12000, 120, 1.2)
}

func TestFault02MarksBeforeTotals(t *testing.T) {
	t.Run("failing transaction", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.api.Add(keyOf("acme"), generations("g", 30, noon.Add(-time.Hour), time.Hour)...)
		w.open().Close()
		w.exec(`create trigger broken before insert on client_daily_usage begin select raise(abort, 'no more'); end`)
		o := w.pass()
		if o.Err == nil || !strings.Contains(o.Err.Error(), "no more") {
			t.Fatalf("got %v", o.Err)
		}
		for _, table := range []string{"processed_generations", "usage_sync_generations", "client_daily_usage",
			"client_user_daily_usage", "client_model_daily_usage", "client_live_counters"} {
			w.want(table, w.text("select count(*) from "+table), "0")
		}
		w.exec(`drop trigger broken`)
		w.sync()
		w.wantTotal("acme", 3000, 30, 0.3)
	})
	t.Run("failing in the midst of the ledger", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.api.Add(keyOf("acme"), generations("g", 50, noon.Add(-time.Hour), time.Minute)...)
		w.open().Close()
		w.exec(`create trigger broken after insert on processed_generations when new.id = 'g-30' begin select raise(abort, 'stop'); end`)
		if o := w.pass(); o.Err == nil {
			t.Fatal("no error")
		}
		w.want("ledger", w.text("select count(*) from processed_generations"), "0")
		w.exec(`drop trigger broken`)
		w.sync()
		w.wantTotal("acme", 5000, 50, 0.5)
	})
	t.Run("database is locked", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.api.Add(keyOf("acme"), generations("g", 50, noon.Add(-time.Hour), time.Minute)...)
		conn, err := w.db.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.ExecContext(t.Context(), "begin immediate"); err != nil {
			t.Fatal(err)
		}
		free := make(chan error, 1)
		// The application holds the lock until some time after the list has been asked for.
		w.api.OnPage(func(string, int) {
			w.api.OnPage(nil)
			time.AfterFunc(600*time.Millisecond, func() {
				_, err := conn.ExecContext(context.Background(), "rollback")
				free <- errors.Join(err, conn.Close())
			})
		})
		w.sync()
		if err := <-free; err != nil {
			t.Fatal(err)
		}
		w.sync()
		w.wantTotal("acme", 5000, 50, 0.5)
	})
}

func TestFault03TwoPassesAtOnce(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.api.PageLimit(100)
	w.api.Add(keyOf("acme"), generations("g", 1000, noon.Add(-time.Minute), time.Minute)...)
	w.open().Close()
	var group sync.WaitGroup
	outcomes := make([]job.Outcome, 3)
	for i := range outcomes {
		group.Go(func() { outcomes[i] = w.pass() })
	}
	group.Wait()
	recorded := int64(0)
	for _, o := range outcomes {
		if o.Err != nil {
			t.Error(o.Err)
		}
		recorded += o.Run.Recorded
	}
	if recorded != 1000 {
		t.Errorf("%d recorded in all", recorded)
	}
	w.wantTotal("acme", 100_000, 1000, 10)
}

func TestFault04SameIDTwice(t *testing.T) {
	t.Run("in one answer", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		g := generation("twin", noon.Add(-time.Hour))
		w.api.Add(keyOf("acme"), g, g, generation("other", noon.Add(-time.Hour)), g)
		if o := w.sync(); o.Run.Recorded != 2 || o.Run.Duplicates != 2 {
			t.Errorf("recorded %d, duplicates %d", o.Run.Recorded, o.Run.Duplicates)
		}
		w.wantTotal("acme", 200, 2, 0.02)
	})
	t.Run("client created anew", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.api.Add(keyOf("acme"), generations("g", 5, noon.Add(-time.Hour), time.Minute)...)
		w.sync()
		w.exec(`update client_organizations set id = 'acme2'`)
		for range 3 {
			w.sync(full)
		}
		w.want("rows of the new id", w.text(`select count(*) from client_live_counters where client_org_id = 'acme2' and today_requests > 0`), "0")
		w.wantTotal("acme", 500, 5, 0.05)
		w.wantLog("under another organisation")
	})
}

func TestFault05TodayInTheDailyRow(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.api.Add(keyOf("acme"), generation("a", noon.Add(-time.Hour)))
	w.sync()
	b := w.wantTotal("acme", 100, 1, 0.01)
	if b.liveDay != "2026-05-14" || b.live.requests != 1 || len(b.daily) != 0 {
		t.Errorf("live %s %s, daily %v", b.liveDay, b.live, b.daily)
	}
	// The container's own rollover at midnight meets no row of the day.
	w.at(at("2026-05-15T00:10:00Z"))
	if err := w.dashboard("acme", "2026-05-15"); err != nil {
		t.Fatal(err)
	}
	w.api.Add(keyOf("acme"), generation("late", at("2026-05-14T23:59:59Z")), generation("b", at("2026-05-15T00:01:00Z")))
	w.sync()
	b = w.wantTotal("acme", 300, 3, 0.03)
	if b.daily["2026-05-14"].requests != 2 || b.live.requests != 1 {
		t.Errorf("daily %s, live %s", b.daily["2026-05-14"], b.live)
	}
}

func TestFault06FixedMarkup(t *testing.T) {
	org := client("acme", "")
	org.Rate = 1.5
	w := newWorld(t, noon, org)
	g := generation("a", noon.Add(-time.Hour))
	g.Cost = "0.01746"
	w.api.Add(keyOf("acme"), g)
	w.sync()
	w.want("marked-up cost", w.text(`select today_markup_cost from client_live_counters`), "0.02619")
}

func TestFault07NoModelsNoUsers(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	yesterday := noon.Add(-24 * time.Hour)
	for i, row := range []struct {
		model, user string
		tokens      int64
	}{{"openai/gpt-4o", "ann", 500}, {"anthropic/claude", "bob", 900}, {"openai/gpt-4o", "bob", 100}, {"openai/gpt-4o", "", 200}} {
		g := generation(fmt.Sprint(i), yesterday.Add(time.Duration(i)*time.Minute))
		g.Model, g.ExternalUser, g.PromptTokens, g.CompletionTokens = row.model, row.user, row.tokens, 0
		w.api.Add(keyOf("acme"), g)
	}
	w.sync()
	w.check("acme")
	w.want("primary model", w.text(`select primary_model from client_daily_usage`), "anthropic/claude")
	w.want("unique users", w.text(`select unique_users from client_daily_usage`), "3")
	w.want("models", w.text(`select group_concat(id || '=' || provider || '=' || total_tokens) from (select * from client_model_daily_usage order by id)`),
		"acme:anthropic/claude:2026-05-13=anthropic=900,acme:openai/gpt-4o:2026-05-13=openai=800")
	w.want("users", w.text(`select group_concat(user_id || '=' || openrouter_user_id || '=' || total_tokens) from (select * from client_user_daily_usage order by id)`),
		"ann=ann=500,background_sync=bg_sync_acme=200,bob=bob=1000")
}

func TestFault08DaysByTheServersClock(t *testing.T) {
	for _, test := range []struct{ name, zone, created, polled, day string }{
		{"just before midnight", "", "2026-05-13T23:53:00Z", "2026-05-14T00:00:30Z", "2026-05-13"},
		{"Warsaw after midnight", "Europe/Warsaw", "2026-05-13T23:25:00Z", "2026-05-13T23:40:00Z", "2026-05-14"},
		{"New York in the evening", "America/New_York", "2026-05-14T01:30:00Z", "2026-05-14T02:00:00Z", "2026-05-13"},
		{"Kolkata before UTC's midnight", "Asia/Kolkata", "2026-05-13T18:40:00Z", "2026-05-13T18:45:00Z", "2026-05-14"},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, at(test.polled), client("acme", test.zone))
			w.api.Add(keyOf("acme"), generation("a", at(test.created)))
			w.sync()
			b := w.wantTotal("acme", 100, 1, 0.01)
			if b.day(test.day).requests != 1 {
				t.Errorf("not on %s: daily %v, live %s %s", test.day, b.daily, b.liveDay, b.live)
			}
		})
	}
	t.Run("overnight outage", func(t *testing.T) {
		w := newWorld(t, at("2026-05-13T21:00:00Z"), client("acme", ""))
		w.api.Add(keyOf("acme"), generations("g", 48, at("2026-05-14T08:30:00Z"), 15*time.Minute)...)
		w.sync()
		w.at(at("2026-05-14T09:00:00Z")).sync(daysBack(0))
		w.wantTotal("acme", 4800, 48, 0.48)
	})
}

func TestFault09NoTokens(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	for i, fields := range []string{
		`"native_tokens_prompt":70,"native_tokens_completion":30,"tokens_prompt":1,"tokens_completion":1`,
		`"tokens_prompt":60,"tokens_completion":40`,
		`"total_tokens":100,"native_tokens_prompt":5,"native_tokens_completion":5`,
	} {
		w.api.Add(keyOf("acme"), standin.Generation{ID: fmt.Sprint(i), CreatedAt: noon.Add(-time.Hour),
			Raw: fmt.Sprintf(`{"id":"%d","created_at":"2026-05-14T11:00:00Z","model":"m/m","total_cost":0.01,%s}`, i, fields)})
	}
	w.sync()
	w.wantTotal("acme", 300, 3, 0.03)
}

func TestFault10CurrentDateUnquoted(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	for day := range 3 {
		now := noon.AddDate(0, 0, day)
		w.api.Add(keyOf("acme"), generations(fmt.Sprint("day", day), 2+day, now.Add(-time.Hour), time.Minute)...)
		w.at(now).sync()
		b := w.check("acme")
		if b.liveDay != now.Format(time.DateOnly) || b.live.requests != int64(2+day) {
			t.Errorf("day %d: live %s %s", day, b.liveDay, b.live)
		}
	}
	w.wantTotal("acme", 900, 9, 0.09)
}

func TestFault11MissingColumnAndLedger(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.exec(`alter table client_organizations drop column timezone`)
	w.exec(`drop table processed_generations`)
	w.api.Add(keyOf("acme"), generations("g", 3, noon.Add(-time.Hour), time.Minute)...)
	for range 3 {
		w.sync(full)
	}
	w.wantTotal("acme", 300, 3, 0.03)

	t.Run("missing table is an error", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", ""))
		w.exec(`alter table client_organizations drop column markup_rate`)
		s, err := store.Open(t.Context(), w.path, store.ReadWrite)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var schemaErr *store.SchemaError
		if err := s.CheckSchema(t.Context()); !errors.As(err, &schemaErr) {
			t.Errorf("got %v", err)
		}
	})
}

func TestFault12CreatedAtAsText(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	w.exec(`update client_organizations set created_at = '2025-08-24T10:00:00.123456', updated_at = '2025-08-24 10:00:00'`)
	w.api.Add(keyOf("acme"), generation("a", noon.Add(-time.Hour)))
	w.sync()
	w.wantTotal("acme", 100, 1, 0.01)
}

func TestFault13OneNull(t *testing.T) {
	const at11 = `"created_at":"2026-05-14T11:00:00Z"`
	for _, test := range []struct {
		name, row string
		refused   int64
		tokens    int64
		raw       float64
	}{
		{"cost", `{"id":"odd",` + at11 + `,"model":"m/m","total_cost":null,"tokens_prompt":7}`, 1, 4900, 0.49},
		{"tokens", `{"id":"odd",` + at11 + `,"model":"m/m","total_cost":0.01,"tokens_prompt":null,"tokens_completion":null}`, 0, 4900, 0.5},
		{"model", `{"id":"odd",` + at11 + `,"model":null,"total_cost":0.01,"tokens_prompt":100}`, 0, 5000, 0.5},
		{"id", `{"id":null,` + at11 + `,"model":"m/m","total_cost":0.01,"tokens_prompt":100}`, 1, 4900, 0.49},
		{"row", `null`, 1, 4900, 0.49},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t, noon, client("acme", ""))
			w.api.Add(keyOf("acme"), generations("g", 49, noon.Add(-time.Minute), time.Minute)...)
			w.api.Add(keyOf("acme"), standin.Generation{ID: "odd", CreatedAt: noon.Add(-30 * time.Minute), Raw: test.row})
			o := w.pass()
			if errors.Is(o.Err, job.ErrRefused) != (test.refused > 0) || o.Run.Refused != test.refused {
				t.Errorf("refused %d, %v", o.Run.Refused, o.Err)
			}
			w.wantTotal("acme", test.tokens, 50-test.refused, test.raw)
		})
	}
}

func TestFault14FailureIsSuccess(t *testing.T) {
	for _, status := range []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusInternalServerError} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			w := newWorld(t, noon, client("acme", ""))
			fault := standin.Status(status, "")
			w.api.Always(&fault)
			ctx := w.api.ExpireAt(t.Context(), 2)
			var report job.Report
			requests := w.requests(func() {
				var err error
				if report, err = w.run(ctx); err != nil {
					t.Fatal(err)
				}
			})
			var apiErr *openrouter.APIError
			if err := report.Organisations[0].Err; !errors.As(err, &apiErr) || apiErr.Status != status {
				t.Errorf("got %v", err)
			}
			if temporary := status == 429 || status >= 500; temporary != (requests > 1) {
				t.Errorf("%d requests", requests)
			}
			w.want("failed runs", w.text(`select count(*) from usage_sync_runs where exit_code <> 0 and error like '%HTTP `+fmt.Sprint(status)+`%'`), "1")
			w.wantLog(fmt.Sprintf("HTTP %d", status))
		})
	}
}

func TestFault15CleanUp(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""))
	ago := func(days int) (string, int64) {
		then := noon.AddDate(0, 0, -days)
		return then.Format(time.DateOnly), then.Unix()
	}
	for _, days := range []int{400, 46, 44} {
		day, unix := ago(days)
		id := fmt.Sprint("old-", days)
		w.exec(`insert into processed_generations values (?, 'acme', ?, ?, 0.5, 10)`, id, day, unix)
		w.exec(`insert into usage_sync_generations values ('acme', ?, ?, ?, 'm/m', 'u', 'u', 1.3, 'generations', 1, 0, 1, 10, 500000000000)`, day, id, unix)
	}
	for _, days := range []int{400, 93, 91} {
		_, unix := ago(days)
		w.exec(`insert into usage_sync_runs (started_at, ended_at, fetched, recorded, updated, duplicates, refused, tokens,
			raw_cost, markup_cost, api_requests, exit_code) values (?1, ?1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)`, unix)
	}
	w.api.Add(keyOf("acme"), generation("a", noon.Add(-time.Hour)))
	w.sync(daysBack(job.MaxDaysBack))
	w.want("ledger", w.text(`select count(*) from processed_generations`), "4")
	w.want("old places", w.text(`select group_concat(id) from usage_sync_generations where id like 'old%'`), "old-44")
	w.want("history", w.text(`select count(*) from usage_sync_runs`), "2")
	b := w.books("acme")
	if total := b.total(); total.requests != 1 || total.tokens != 100 {
		t.Errorf("total %s", total)
	}
}

func TestFault16SleepsAfterManyCalls(t *testing.T) {
	var orgs []store.NewOrganisation
	for i := range 120 {
		orgs = append(orgs, client(fmt.Sprintf("org%03d", i), ""))
	}
	w := newWorld(t, noon, orgs...)
	for _, o := range orgs {
		w.api.Add(o.Key, generation("g-"+o.ID, noon.Add(-time.Hour)))
	}
	start := time.Now()
	report, err := w.run(t.Context())
	if err != nil || report.Synced() != 120 {
		t.Fatalf("%d synced, %v", report.Synced(), err)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("took %s", took)
	}
	w.want("live counters", w.text(`select count(*) from client_live_counters where today_requests = 1`), "120")
}
