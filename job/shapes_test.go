package job_test

import (
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"
	"time"
)

// shape is a kind of database met in the field.
type shape struct {
	tables   string // the migration's spelling, or the set-up tool's
	isoTimes bool
	timezone bool
	ledger   bool
	wal      bool
}

func (s shape) String() string {
	text := s.tables
	for _, part := range []struct {
		there bool
		name  string
	}{{s.isoTimes, "iso"}, {s.timezone, "timezone"}, {s.ledger, "ledger"}, {s.wal, "wal"}} {
		if part.there {
			text += "+" + part.name
		}
	}
	return text
}

const migrationDDL = `
	create table global_settings (id VARCHAR NOT NULL, openrouter_provisioning_key TEXT, default_markup_rate FLOAT,
		billing_currency VARCHAR, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, PRIMARY KEY (id));
	create table client_organizations (id VARCHAR NOT NULL, name VARCHAR NOT NULL, openrouter_api_key TEXT NOT NULL,
		openrouter_key_hash VARCHAR, markup_rate FLOAT, monthly_limit FLOAT, billing_email VARCHAR, is_active INTEGER,
		created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, PRIMARY KEY (id), UNIQUE (openrouter_api_key));
	create index idx_api_key on client_organizations (openrouter_api_key);
	create index idx_active on client_organizations (is_active);
	create table user_client_mapping (id VARCHAR NOT NULL, user_id VARCHAR NOT NULL, client_org_id VARCHAR NOT NULL,
		openrouter_user_id VARCHAR NOT NULL, is_active INTEGER, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, PRIMARY KEY (id));
	create table client_daily_usage (id VARCHAR NOT NULL, client_org_id VARCHAR NOT NULL, usage_date DATE NOT NULL, total_tokens BIGINT,
		total_requests INTEGER, raw_cost FLOAT, markup_cost FLOAT, primary_model VARCHAR, unique_users INTEGER,
		created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, PRIMARY KEY (id));
	create index idx_client_date on client_daily_usage (client_org_id, usage_date);
	create index idx_usage_date on client_daily_usage (usage_date);
	create table client_user_daily_usage (id VARCHAR NOT NULL, client_org_id VARCHAR NOT NULL, user_id VARCHAR NOT NULL,
		openrouter_user_id VARCHAR NOT NULL, usage_date DATE NOT NULL, total_tokens BIGINT, total_requests INTEGER, raw_cost FLOAT,
		markup_cost FLOAT, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, PRIMARY KEY (id));
	create index idx_client_user_date on client_user_daily_usage (client_org_id, user_id, usage_date);
	create table client_model_daily_usage (id VARCHAR NOT NULL, client_org_id VARCHAR NOT NULL, model_name VARCHAR NOT NULL,
		usage_date DATE NOT NULL, total_tokens BIGINT, total_requests INTEGER, raw_cost FLOAT, markup_cost FLOAT, provider VARCHAR,
		created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, PRIMARY KEY (id));
	create index idx_client_model_date on client_model_daily_usage (client_org_id, model_name, usage_date);
	create table client_live_counters (client_org_id VARCHAR NOT NULL, "current_date" DATE NOT NULL, today_tokens BIGINT,
		today_requests INTEGER, today_raw_cost FLOAT, today_markup_cost FLOAT, last_updated BIGINT NOT NULL, PRIMARY KEY (client_org_id));
	create index idx_client_live_date on client_live_counters (client_org_id, "current_date");`

const setupToolDDL = `
	create table if not exists global_settings (id TEXT PRIMARY KEY, openrouter_provisioning_key TEXT, default_markup_rate REAL DEFAULT 1.3,
		billing_currency TEXT DEFAULT 'USD', created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);
	create table if not exists client_organizations (id TEXT PRIMARY KEY, name TEXT NOT NULL, openrouter_api_key TEXT NOT NULL UNIQUE,
		openrouter_key_hash TEXT, markup_rate REAL DEFAULT 1.3, monthly_limit REAL, billing_email TEXT, is_active INTEGER DEFAULT 1,
		created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL);
	create table if not exists user_client_mapping (id TEXT PRIMARY KEY, user_id TEXT NOT NULL, client_org_id TEXT NOT NULL,
		openrouter_user_id TEXT NOT NULL, is_active INTEGER DEFAULT 1, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
		FOREIGN KEY (client_org_id) REFERENCES client_organizations (id));
	create table if not exists client_daily_usage (id TEXT PRIMARY KEY, client_org_id TEXT NOT NULL, usage_date TEXT NOT NULL,
		total_tokens INTEGER DEFAULT 0, total_requests INTEGER DEFAULT 0, raw_cost REAL DEFAULT 0.0, markup_cost REAL DEFAULT 0.0,
		primary_model TEXT, unique_users INTEGER DEFAULT 1, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
		FOREIGN KEY (client_org_id) REFERENCES client_organizations (id), UNIQUE (client_org_id, usage_date));
	create index if not exists idx_client_date on client_daily_usage (client_org_id, usage_date);
	create index if not exists idx_daily_usage_client on client_daily_usage (client_org_id);
	create table if not exists client_user_daily_usage (id TEXT PRIMARY KEY, client_org_id TEXT NOT NULL, user_id TEXT NOT NULL,
		openrouter_user_id TEXT NOT NULL, usage_date TEXT NOT NULL, total_tokens INTEGER DEFAULT 0, total_requests INTEGER DEFAULT 0,
		raw_cost REAL DEFAULT 0.0, markup_cost REAL DEFAULT 0.0, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
		FOREIGN KEY (client_org_id) REFERENCES client_organizations (id));
	create table if not exists client_model_daily_usage (id TEXT PRIMARY KEY, client_org_id TEXT NOT NULL, model_name TEXT NOT NULL,
		usage_date TEXT NOT NULL, total_tokens INTEGER DEFAULT 0, total_requests INTEGER DEFAULT 0, raw_cost REAL DEFAULT 0.0,
		markup_cost REAL DEFAULT 0.0, provider TEXT, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
		FOREIGN KEY (client_org_id) REFERENCES client_organizations (id));
	create table if not exists client_live_counters (client_org_id TEXT PRIMARY KEY, "current_date" TEXT NOT NULL,
		today_tokens INTEGER DEFAULT 0, today_requests INTEGER DEFAULT 0, today_raw_cost REAL DEFAULT 0.0,
		today_markup_cost REAL DEFAULT 0.0, last_updated INTEGER NOT NULL,
		FOREIGN KEY (client_org_id) REFERENCES client_organizations (id));`

// create makes a database of the shape, with other tables and usage of a week ago beside it.
func (s shape) create(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "webui.db")
	db, err := sql.Open("sqlite3", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	exec := func(query string, args ...any) {
		t.Helper()
		if _, err := db.Exec(query, args...); err != nil {
			t.Fatalf("%s: %v", query, err)
		}
	}
	if s.wal {
		exec(`pragma journal_mode = wal`)
	}
	exec(map[string]string{"migration": migrationDDL, "setup tool": setupToolDDL}[s.tables])
	exec(`create table chat (id VARCHAR PRIMARY KEY, chat JSON)`)
	exec(`insert into chat values ('c1', '{}')`)
	stamp := any(int64(1_750_000_000))
	if s.isoTimes {
		stamp = "2025-08-24T10:00:00.123456"
	}
	exec(`insert into client_organizations values ('acme', 'Acme', ?1, null, 1.3, null, null, 1, ?2, ?2)`, keyOf("acme"), stamp)
	exec(`insert into user_client_mapping values ('m', 'webui-ann', 'acme', 'ann', 1, ?1, ?1)`, stamp)
	exec(`insert into client_daily_usage values ('acme_2026-05-07', 'acme', '2026-05-07', 500, 5, 0.5, 0.65, 'x', 1, ?1, ?1)`, stamp)
	exec(`insert into client_live_counters values ('acme', '2026-05-07', 0, 0, 0, 0, ?)`, stamp)
	if s.timezone {
		exec(`alter table client_organizations add column timezone VARCHAR`)
		exec(`update client_organizations set timezone = 'Europe/Warsaw'`)
	}
	if s.ledger {
		exec(`create table processed_generations (id VARCHAR NOT NULL, client_org_id VARCHAR NOT NULL, generation_date DATE NOT NULL,
			processed_at BIGINT NOT NULL, total_cost FLOAT NOT NULL, total_tokens INTEGER NOT NULL, PRIMARY KEY (id));
			create index idx_processed_at on processed_generations (processed_at);
			insert into processed_generations values ('counted', 'acme', '2026-05-07', 1, 0.5, 100)`)
	}
	return path
}

func TestShapes(t *testing.T) {
	for _, tables := range []string{"migration", "setup tool"} {
		for bits := range 16 {
			s := shape{tables, bits&1 > 0, bits&2 > 0, bits&4 > 0, bits&8 > 0}
			t.Run(s.String(), func(t *testing.T) { testShape(t, s) })
		}
	}
}

func testShape(t *testing.T, s shape) {
	w := openWorld(t, s.create(t), noon)
	defer w.close()
	journal := w.text(`pragma journal_mode`)
	foreign := w.text(`select count(*) || ' ' || sum(length(sql)) from sqlite_master where name not like '%usage_sync%'
		and tbl_name not in ('processed_generations') and type = 'table'`)
	// The old day has no ledger and no users: leave it out of what is checked by the day.
	check := func(requests int64) {
		t.Helper()
		b := w.books("acme")
		for day, want := range b.models {
			if got := b.day(day); !got.same(want) || !b.users[day].same(want) || b.ledger[day].tokens != want.tokens {
				t.Errorf("%s: daily+live %s, models %s, users %s, ledger %s", day, got, want, b.users[day], b.ledger[day])
			}
		}
		if _, twice := b.daily[b.liveDay]; twice {
			t.Errorf("daily row for the live counter's date")
		}
		if got := b.total().requests - 5; got != requests {
			t.Errorf("%d requests, want %d", got, requests)
		}
		if got := b.daily["2026-05-07"]; got.requests != 5 {
			t.Errorf("the old day has become %s", got)
		}
	}
	w.api.AddKey(keyOf("acme"), "Acme")
	w.api.PageLimit(7)
	for i, g := range generations("g", 20, noon.Add(-time.Hour), 2*time.Hour) {
		g.ExternalUser = []string{"", "ann", "bob"}[i%3]
		w.api.Add(keyOf("acme"), g)
	}
	w.wantUndecided() // about the old day
	w.sync(adopt)
	recorded := int64(20) // everything since then
	check(recorded)
	if o := w.sync(full); o.Run.Recorded != 0 {
		t.Errorf("recorded %d again", o.Run.Recorded)
	}
	check(recorded)

	// Past midnight in every zone: yesterday's counter becomes a daily row.
	w.at(at("2026-05-15T00:30:00Z"))
	w.api.Add(keyOf("acme"), generation("after midnight", at("2026-05-15T00:10:00Z")))
	w.sync()
	check(recorded + 1)
	b := w.books("acme")
	if b.liveDay != "2026-05-15" || b.live.requests != 1 || b.daily["2026-05-14"].requests == 0 {
		t.Errorf("live %s %s, daily %v", b.liveDay, b.live, b.daily)
	}
	w.want("dates", w.text(`select count(*) from client_daily_usage where typeof(usage_date) <> 'text' or length(usage_date) <> 10`), "0")
	w.want("journal mode", w.text(`pragma journal_mode`), journal)
	w.want("tables of others", w.text(`select count(*) || ' ' || sum(length(sql)) from sqlite_master where name not like '%usage_sync%'
		and tbl_name not in ('processed_generations') and type = 'table'`), foreign)
	w.want("idx_client_date", w.text(`select tbl_name from sqlite_master where name = 'idx_client_date'`), "client_daily_usage")
	w.want("integrity", w.text(`pragma integrity_check`), "ok")
	w.want("foreign keys", w.text(`select count(*) from pragma_foreign_key_check`), "0")
	w.want("mapped", w.text(`select count(*) > 0 from client_user_daily_usage where user_id = 'webui-ann' and openrouter_user_id = 'ann'`), "1")
	if s.ledger {
		w.want("ledger of others", w.text(`select total_cost from processed_generations where id = 'counted'`), fmt.Sprint(0.5))
	}
}
