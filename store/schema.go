package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// table is one table of the guide's migration or of ours.
type table struct {
	name    string
	ddl     string   // the column definitions, in the order that operators rely on
	columns []string // those that a pass reads or writes: without them it can't work
	later   []string // the definitions of columns that were not there from the first: they are added where they are missing
	indexes []index
}

type index struct{ name, columns string }

// ledger is made by later builds of the container's migration, and by us where it is missing.
const ledger = "processed_generations"

// guideTables are the tables of the container's migration f1a2b3c4d5e6.
var guideTables = []table{
	{
		name: "global_settings",
		ddl: `id VARCHAR NOT NULL PRIMARY KEY, openrouter_provisioning_key TEXT, default_markup_rate FLOAT,
			billing_currency VARCHAR, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL`,
		columns: []string{"default_markup_rate"},
	},
	{
		name: "client_organizations",
		ddl: `id VARCHAR NOT NULL PRIMARY KEY, name VARCHAR NOT NULL, openrouter_api_key TEXT NOT NULL UNIQUE,
			openrouter_key_hash VARCHAR, markup_rate FLOAT, monthly_limit FLOAT, billing_email VARCHAR,
			is_active INTEGER, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL`,
		columns: []string{"id", "name", "openrouter_api_key", "markup_rate", "is_active"},
		indexes: []index{{"idx_api_key", "openrouter_api_key"}, {"idx_active", "is_active"}},
	},
	{
		name: "user_client_mapping",
		ddl: `id VARCHAR NOT NULL PRIMARY KEY, user_id VARCHAR NOT NULL, client_org_id VARCHAR NOT NULL,
			openrouter_user_id VARCHAR NOT NULL, is_active INTEGER, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL`,
		columns: []string{"user_id", "client_org_id", "openrouter_user_id", "is_active"},
		indexes: []index{{"idx_user_id", "user_id"}, {"idx_client_org_id", "client_org_id"},
			{"idx_openrouter_user_id", "openrouter_user_id"}},
	},
	{
		name: "client_daily_usage",
		ddl: `id VARCHAR NOT NULL PRIMARY KEY, client_org_id VARCHAR NOT NULL, usage_date DATE NOT NULL,
			total_tokens BIGINT, total_requests INTEGER, raw_cost FLOAT, markup_cost FLOAT, primary_model VARCHAR,
			unique_users INTEGER, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL`,
		columns: []string{"id", "client_org_id", "usage_date", "total_tokens", "total_requests",
			"raw_cost", "markup_cost",
			"primary_model", "unique_users", "created_at", "updated_at"},
		indexes: []index{{"idx_client_date", "client_org_id, usage_date"}, {"idx_usage_date", "usage_date"}},
	},
	{
		name: "client_user_daily_usage",
		ddl: `id VARCHAR NOT NULL PRIMARY KEY, client_org_id VARCHAR NOT NULL, user_id VARCHAR NOT NULL,
			openrouter_user_id VARCHAR NOT NULL, usage_date DATE NOT NULL, total_tokens BIGINT, total_requests INTEGER,
			raw_cost FLOAT, markup_cost FLOAT, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL`,
		columns: []string{"id", "client_org_id", "user_id", "openrouter_user_id", "usage_date", "total_tokens",
			"total_requests", "raw_cost", "markup_cost", "created_at", "updated_at"},
		indexes: []index{{"idx_client_user_date", "client_org_id, user_id, usage_date"},
			{"idx_user_date", "user_id, usage_date"}},
	},
	{
		name: "client_model_daily_usage",
		ddl: `id VARCHAR NOT NULL PRIMARY KEY, client_org_id VARCHAR NOT NULL, model_name VARCHAR NOT NULL,
			usage_date DATE NOT NULL, total_tokens BIGINT, total_requests INTEGER, raw_cost FLOAT, markup_cost FLOAT,
			provider VARCHAR, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL`,
		columns: []string{"id", "client_org_id", "model_name", "usage_date", "total_tokens",
			"total_requests", "raw_cost",
			"markup_cost", "provider", "created_at", "updated_at"},
		indexes: []index{{"idx_client_model_date", "client_org_id, model_name, usage_date"},
			{"idx_model_date", "model_name, usage_date"}},
	},
	{
		name: "client_live_counters",
		ddl: `client_org_id VARCHAR NOT NULL PRIMARY KEY, "current_date" DATE NOT NULL, today_tokens BIGINT,
			today_requests INTEGER, today_raw_cost FLOAT, today_markup_cost FLOAT, last_updated BIGINT NOT NULL`,
		columns: []string{"client_org_id", "current_date", "today_tokens", "today_requests", "today_raw_cost",
			"today_markup_cost", "last_updated"},
		indexes: []index{{"idx_client_live_date", `client_org_id, "current_date"`}},
	},
}

// ownTables are made silently where they are missing.
var ownTables = []table{
	{
		name: ledger,
		ddl: `id VARCHAR NOT NULL PRIMARY KEY, client_org_id VARCHAR NOT NULL, generation_date DATE NOT NULL,
			processed_at BIGINT NOT NULL, total_cost FLOAT NOT NULL, total_tokens INTEGER NOT NULL`,
		columns: []string{"id", "client_org_id", "generation_date", "processed_at", "total_cost", "total_tokens"},
		indexes: []index{{"idx_processed_generations_org_date", "client_org_id, generation_date"},
			{"idx_processed_generations_processed_at", "processed_at"}},
	},
	{
		// Where a ledger entry went, so that a later change of its cost goes into the same rows at the same
		// markup, whatever has become of the user's mapping and the organisation's rate. Clustered by day: new
		// entries land side by side, and old ones are dropped by day. The amounts are those of the ledger,
		// which may get lost; requests is how many the entry stands for, and -1 where a version without these
		// columns has written it: tokens and raw are not known then.
		name: "usage_sync_generations",
		ddl: `client_org_id TEXT NOT NULL, generation_date TEXT NOT NULL, id TEXT NOT NULL, created_at INTEGER NOT NULL,
			model_name TEXT NOT NULL, user_id TEXT NOT NULL, openrouter_user_id TEXT NOT NULL, markup_rate REAL NOT NULL,
			source TEXT NOT NULL, adopted INTEGER NOT NULL DEFAULT 0, resolution INTEGER NOT NULL DEFAULT -1,
			requests INTEGER NOT NULL DEFAULT -1, tokens INTEGER NOT NULL DEFAULT 0, raw INTEGER NOT NULL DEFAULT 0,
			PRIMARY KEY (client_org_id, generation_date, id)`,
		columns: []string{"client_org_id", "generation_date", "id", "created_at", "model_name", "user_id",
			"openrouter_user_id", "markup_rate", "source"},
		// resolution is what the cost is rounded to, in pico-dollars; -1 is not known, of a version without the column.
		later: []string{"adopted INTEGER NOT NULL DEFAULT 0", "resolution INTEGER NOT NULL DEFAULT -1",
			"requests INTEGER NOT NULL DEFAULT -1", "tokens INTEGER NOT NULL DEFAULT 0",
			"raw INTEGER NOT NULL DEFAULT 0"},
	},
	{
		// What each day holds, whatever becomes of the rows that the application reads; see record.go. Amounts
		// are whole pico-dollars. row_id and row_created are the application's row that was last set from a
		// line of kind counted.
		name: "usage_sync_days",
		ddl: `client_org_id TEXT NOT NULL, usage_date TEXT NOT NULL, part TEXT NOT NULL, name TEXT NOT NULL,
			kind TEXT NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL, raw INTEGER NOT NULL,
			markup INTEGER NOT NULL, openrouter_user_id TEXT NOT NULL, row_id TEXT NOT NULL, row_created TEXT NOT NULL,
			noticed_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
			PRIMARY KEY (client_org_id, usage_date, part, name, kind)`,
		columns: []string{"client_org_id", "usage_date", "part", "name", "kind", "requests", "tokens", "raw", "markup",
			"openrouter_user_id", "row_id", "row_created", "noticed_at", "updated_at"},
	},
	{
		// How the record of days is kept. It is not part of usage_sync_state: putting back a backup without a
		// record must forget since when there was one.
		name: "usage_sync_books",
		ddl: `client_org_id TEXT NOT NULL PRIMARY KEY, kept_from INTEGER NOT NULL, today TEXT NOT NULL,
			calendar_offset INTEGER`,
		columns: []string{"client_org_id", "kept_from", "today", "calendar_offset"},
	},
	{
		// What has to be decided about usage that others have counted, and what was. days and standing are JSON
		// arrays; a row without days only remembers when others last wrote. listed is what the source listed of
		// the days at listed_at.
		name: "usage_sync_takeovers",
		ddl: `id INTEGER PRIMARY KEY, client_org_id TEXT NOT NULL, asked_at INTEGER NOT NULL, days TEXT NOT NULL,
			standing TEXT NOT NULL, last_write INTEGER, listed_from INTEGER, answer TEXT NOT NULL, answered_at INTEGER,
			answered_by TEXT NOT NULL, calendar TEXT, listed TEXT, listed_at INTEGER, assumed INTEGER`,
		columns: []string{"id", "client_org_id", "asked_at", "days", "standing", "last_write", "listed_from", "answer",
			"answered_at", "answered_by"},
		later:   []string{"calendar TEXT", "listed TEXT", "listed_at INTEGER", "assumed INTEGER"},
		indexes: []index{{"usage_sync_takeovers_org", "client_org_id"}},
	},
	{
		// The rows that an answer has met, for it to be taken back: a JSON object of SQL literals each.
		name:    "usage_sync_put_aside",
		ddl:     `id INTEGER PRIMARY KEY, takeover INTEGER NOT NULL, source_table TEXT NOT NULL, body TEXT NOT NULL`,
		columns: []string{"id", "takeover", "source_table", "body"},
		indexes: []index{{"usage_sync_put_aside_takeover", "takeover"}},
	},
	{
		name: "usage_sync_state",
		ddl: `client_org_id TEXT NOT NULL PRIMARY KEY, covered_from INTEGER, covered_to INTEGER, full_day TEXT,
			takeover TEXT, takeover_until INTEGER, updated_at INTEGER NOT NULL, takeover_from INTEGER,
			first_attempt INTEGER, attempt_from INTEGER, clock INTEGER`,
		columns: []string{"client_org_id", "covered_from", "covered_to", "full_day", "takeover", "takeover_until",
			"updated_at"},
		later: []string{"takeover_from INTEGER", "first_attempt INTEGER", "attempt_from INTEGER", "clock INTEGER"},
	},
	{
		// What tells a database from an older copy of it; see Mark.
		name: "usage_sync_marks",
		ddl: `client_org_id TEXT NOT NULL, number INTEGER NOT NULL, mark TEXT NOT NULL,
			PRIMARY KEY (client_org_id, number)`,
		columns: []string{"client_org_id", "number", "mark"},
	},
	{
		// Markup rates and since when they hold; see price.go. rate is in billionths, valid_from null is from
		// the first.
		name: "usage_sync_rates",
		ddl: `id INTEGER PRIMARY KEY, client_org_id TEXT NOT NULL, valid_from INTEGER, rate INTEGER NOT NULL,
			noticed_at INTEGER NOT NULL, noted_by TEXT NOT NULL, note TEXT NOT NULL`,
		columns: []string{"id", "client_org_id", "valid_from", "rate", "noticed_at", "noted_by", "note"},
		indexes: []index{{"usage_sync_rates_org", "client_org_id, valid_from"}},
	},
	{
		// What passes have found out: key_mark tells of which key.
		name: "usage_sync_sources",
		ddl: `client_org_id TEXT NOT NULL PRIMARY KEY, key_mark TEXT NOT NULL, source TEXT, tried_at INTEGER,
			key_hash TEXT`, // earlier versions kept the hash here
		columns: []string{"client_org_id", "key_mark", "source", "tried_at", "key_hash"},
	},
	{
		// The organisations whose usage is over: see absence.go.
		name:    "usage_sync_absences",
		ddl:     `client_org_id TEXT NOT NULL PRIMARY KEY, ended_at INTEGER NOT NULL`,
		columns: []string{"client_org_id", "ended_at"},
	},
	{
		// The keys that organisations have and have had; see key.go. No key is in it.
		name: "usage_sync_keys",
		ddl: `client_org_id TEXT NOT NULL, key_mark TEXT NOT NULL, key_hash TEXT NOT NULL, seal TEXT NOT NULL,
			name TEXT NOT NULL, client TEXT NOT NULL, place TEXT NOT NULL, placed_at INTEGER, since INTEGER NOT NULL,
			until INTEGER, used_until INTEGER, dropped_at INTEGER, covered INTEGER NOT NULL,
			PRIMARY KEY (client_org_id, key_mark, key_hash)`,
		columns: []string{"client_org_id", "key_mark", "key_hash", "seal", "name", "client",
			"place", "placed_at", "since",
			"until", "used_until", "dropped_at", "covered"},
	},
	{
		name: "usage_sync_runs",
		ddl: `id INTEGER PRIMARY KEY, started_at INTEGER NOT NULL, ended_at INTEGER NOT NULL,
			client_org_id TEXT, organization TEXT, source TEXT, window_start INTEGER, window_end INTEGER,
			fetched INTEGER NOT NULL, recorded INTEGER NOT NULL, updated INTEGER NOT NULL, duplicates INTEGER NOT NULL,
			refused INTEGER NOT NULL, tokens INTEGER NOT NULL, raw_cost REAL NOT NULL, markup_cost REAL NOT NULL,
			api_requests INTEGER NOT NULL, exit_code INTEGER NOT NULL, error TEXT, note TEXT`,
		columns: []string{"id", "started_at", "ended_at", "client_org_id", "organization", "source", "window_start",
			"window_end", "fetched", "recorded", "updated", "duplicates", "refused", "tokens",
			"raw_cost", "markup_cost",
			"api_requests", "exit_code", "error", "note"},
		indexes: []index{{"usage_sync_runs_org", "client_org_id, started_at"},
			{"usage_sync_runs_started", "started_at"}},
	},
	{
		// Deliveries name a key by what it is called at OpenRouter. Where that is not what the client is called
		// here, this is whose key it is.
		name:    "usage_sync_key_names",
		ddl:     `key_name TEXT NOT NULL PRIMARY KEY, client_org_id TEXT NOT NULL, updated_at INTEGER NOT NULL`,
		columns: []string{"key_name", "client_org_id", "updated_at"},
	},
	{
		// What is counted of passes for good, while usage_sync_runs forgets: one row a counter and label.
		name: "usage_sync_totals",
		ddl: `client_org_id TEXT NOT NULL, counter TEXT NOT NULL, label TEXT NOT NULL, value INTEGER NOT NULL,
			PRIMARY KEY (client_org_id, counter, label)`,
		columns: []string{"client_org_id", "counter", "label", "value"},
	},
	{
		// What was used in each hour of UTC, as Unix seconds of its start and whole pico-dollars: judging an
		// hour by the weeks before would take half a million rows of the ledger in each pass.
		name: "usage_sync_hours",
		ddl: `client_org_id TEXT NOT NULL, hour INTEGER NOT NULL, requests INTEGER NOT NULL, raw_cost INTEGER NOT NULL,
			PRIMARY KEY (client_org_id, hour)`,
		columns: []string{"client_org_id", "hour", "requests", "raw_cost"},
	},
	{
		// What is out of the ordinary now, so that each change is told once.
		name: "usage_sync_alerts",
		ddl: `client_org_id TEXT NOT NULL, kind TEXT NOT NULL, level TEXT NOT NULL, since INTEGER NOT NULL,
			message TEXT NOT NULL, PRIMARY KEY (client_org_id, kind)`,
		columns: []string{"client_org_id", "kind", "level", "since", "message"},
	},
	{
		// What is known to be missing, and what became of it; see gap.go. Times are Unix seconds, gap_until is
		// not part of the gap. raw is in pico-dollars, null where it is not known. closed_at is null while the
		// gap is open.
		name: "usage_sync_gaps",
		ddl: `id INTEGER PRIMARY KEY, client_org_id TEXT NOT NULL, kind TEXT NOT NULL, subject TEXT NOT NULL,
			gap_from INTEGER NOT NULL, gap_until INTEGER NOT NULL, why TEXT NOT NULL, noticed_at INTEGER NOT NULL,
			raw INTEGER, closed_at INTEGER, accepted INTEGER NOT NULL, closed_by TEXT NOT NULL, note TEXT NOT NULL`,
		columns: []string{"id", "client_org_id", "kind", "subject", "gap_from", "gap_until", "why", "noticed_at", "raw",
			"closed_at", "accepted", "closed_by", "note"},
		indexes: []index{{"usage_sync_gaps_org", "client_org_id, gap_from"}},
	},
	{
		// Statements that were closed, and that are void; see statement.go. body is what the statement is
		// printed from, as JSON, and hash its SHA-256, together with whose it is, its number and its days. No
		// row is ever changed or removed.
		name: statementsTable,
		ddl: `client_org_id TEXT NOT NULL, number INTEGER NOT NULL, first_day TEXT NOT NULL, last_day TEXT NOT NULL,
			voids INTEGER, entered_at INTEGER NOT NULL, entered_by TEXT NOT NULL, note TEXT NOT NULL, hash TEXT NOT NULL,
			body TEXT NOT NULL, PRIMARY KEY (client_org_id, number)`,
		columns: []string{"client_org_id", "number", "first_day", "last_day", "voids",
			"entered_at", "entered_by", "note",
			"hash", "body"},
	},
	{
		// Days of which OpenRouter's own figures agree with ours, as a reconciliation has found.
		name: "usage_sync_reconciled",
		ddl: `client_org_id TEXT NOT NULL, usage_date TEXT NOT NULL, reconciled_at INTEGER NOT NULL,
			PRIMARY KEY (client_org_id, usage_date)`,
		columns: []string{"client_org_id", "usage_date", "reconciled_at"},
	},
}

// withoutRowID are those of ownTables that are stored in the order of their primary key.
var withoutRowID = []string{"usage_sync_generations", "usage_sync_days", "usage_sync_totals", "usage_sync_hours",
	"usage_sync_alerts", "usage_sync_marks"}

// SchemaError says which of the guide's tables are missing or of another shape.
type SchemaError struct {
	Missing []string            // tables
	Lacking map[string][]string // table: columns
	Foreign map[string][]string // table: columns of others that an insert would have to fill
	Others  map[string]string   // what is no plain table, and why: a view runs whatever its maker has put into it
	// Awaited: none of the guide's tables is there, and the application has a migration of its own that makes them.
	Awaited bool
}

// Error starts with SQLite's own words, which existing greps look for.
func (e *SchemaError) Error() string {
	var parts []string
	for _, name := range e.Missing {
		parts = append(parts, "no such table: "+name)
	}
	for _, name := range sortedKeys(e.Lacking) {
		parts = append(parts, fmt.Sprintf("table %s has no column %s", name, strings.Join(e.Lacking[name], ", ")))
	}
	for _, name := range sortedKeys(e.Foreign) {
		parts = append(parts, fmt.Sprintf("table %s needs a value in column %s, which this version does not know", name,
			strings.Join(e.Foreign[name], ", ")))
	}
	for _, name := range sortedKeys(e.Others) {
		parts = append(parts, name+" "+e.Others[name])
	}
	if e.Awaited {
		parts = append(parts, "the application's own migration has not made them yet (alembic_version is there)")
	}
	return strings.Join(parts, "; ")
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// CheckSchema returns a *SchemaError unless the guide's tables are there with the columns that a pass needs. A table
// is judged by its columns alone: set-up tools spell types, constraints and index names in their own way.
func (s *Store) CheckSchema(ctx context.Context) error {
	return s.read(ctx, func(q querier) error { return checkTables(ctx, q, guideTables, neededColumns) })
}

func neededColumns(t table) []string { return t.columns }

// allColumns lists every column of a table's definition.
func allColumns(t table) []string {
	var names []string
	depth, start := 0, true
	for i, c := range t.ddl {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			start = true
		case start && c > ' ':
			name, _, _ := strings.Cut(strings.TrimSpace(t.ddl[i:]), " ")
			if name = strings.Trim(name, `"`); name != "PRIMARY" {
				names = append(names, name)
			}
			start = false
		}
	}
	return names
}

// lackingLater returns those of the later columns that are not among the given ones.
func (t table) lackingLater(columns []string) (names []string) {
	for _, definition := range t.later {
		if name, _, _ := strings.Cut(definition, " "); !slices.Contains(columns, name) {
			names = append(names, name)
		}
	}
	return names
}

// firstColumns are those that a table has had from the first: others are added by the next pass.
func firstColumns(t table) []string {
	return slices.DeleteFunc(allColumns(t), func(name string) bool {
		return slices.ContainsFunc(t.later, func(definition string) bool { return strings.HasPrefix(definition, name+" ") })
	})
}

func checkTables(ctx context.Context, q querier, tables []table, wanted func(table) []string) error {
	schemaErr := &SchemaError{Lacking: map[string][]string{}, Foreign: map[string][]string{},
		Others: map[string]string{}}
	names := make([]string, len(tables))
	for i, t := range tables {
		names[i] = t.name
	}
	present, err := columnsOfTables(ctx, q, names)
	if err != nil {
		return err
	}
	others, err := noPlainTables(ctx, q)
	if err != nil {
		return err
	}
	for _, t := range tables {
		columns := present[t.name]
		if kind, found := others[strings.ToLower(t.name)]; found {
			schemaErr.Others[t.name] = "is no table but a " + kind
			continue
		}
		if len(columns) == 0 {
			schemaErr.Missing = append(schemaErr.Missing, t.name)
			continue
		}
		for _, name := range wanted(t) {
			if !hasColumn(columns, name) {
				schemaErr.Lacking[t.name] = append(schemaErr.Lacking[t.name], name)
			}
		}
		known := allColumns(t)
		for _, c := range columns {
			if c.mustBeGiven && !slices.Contains(known, c.name) {
				schemaErr.Foreign[t.name] = append(schemaErr.Foreign[t.name], c.name)
			}
			if c.generated {
				schemaErr.Others[t.name] = "computes its column " + c.name
			}
		}
	}
	if len(schemaErr.Missing)+len(schemaErr.Lacking)+len(schemaErr.Foreign)+len(schemaErr.Others) == 0 {
		return nil
	}
	if slices.Contains(schemaErr.Missing, guideTables[0].name) {
		schemaErr.Awaited, err = awaited(ctx, q)
	}
	return errors.Join(err, schemaErr)
}

// awaited tells whether none of the guide's tables is there in a database of an application that keeps its
// schema with alembic. Its migration makes them with a bare CREATE TABLE and fails where one exists, for good
// (public source of mAI, revision e7f8g9h0i1j2, read in November 2026).
func awaited(ctx context.Context, q querier) (yes bool, err error) {
	names := make([]string, len(guideTables))
	for i, t := range guideTables {
		names[i] = t.name
	}
	const query = `
		select exists (select 1 from main.sqlite_master where name = 'alembic_version' and type = 'table')
			and not exists (select 1 from main.sqlite_master where name in (select value from json_each(?)))`
	return yes, q.QueryRowContext(ctx, query, jsonText(names)).Scan(&yes)
}

// noPlainTables returns what else than a table has a table's name: views and virtual tables, by their names in
// lower case.
func noPlainTables(ctx context.Context, q querier) (map[string]string, error) {
	type named struct{ name, kind string }
	all, err := collect(ctx, q, func(scan func(...any) error) (n named, err error) { return n, scan(&n.name, &n.kind) },
		`select lower(name), iif(type = 'view', 'view', 'virtual table') from main.sqlite_master
		where type = 'view' or (type = 'table' and rootpage = 0)`)
	kinds := map[string]string{}
	for _, n := range all {
		kinds[n.name] = n.kind
	}
	return kinds, err
}

type column struct {
	name        string
	mustBeGiven bool // NOT NULL without a default
	generated   bool
}

func hasColumn(columns []column, name string) bool {
	return slices.ContainsFunc(columns, func(c column) bool { return c.name == name })
}

// columnsOfTables returns the columns of those tables that exist, in one query: every process looks at a dozen
// and more.
func columnsOfTables(ctx context.Context, q querier, names []string) (map[string][]column, error) {
	type row struct {
		table string
		column
	}
	rows, err := collect(ctx, q, func(scan func(...any) error) (r row, err error) {
		return r, scan(&r.table, &r.name, &r.mustBeGiven, &r.generated)
	}, `select n.value, c.name, c."notnull" and c.dflt_value is null, c.hidden > 1
		from json_each(?) n, pragma_table_xinfo(n.value, 'main') c`, jsonText(names))
	columns := map[string][]column{}
	for _, r := range rows {
		columns[r.table] = append(columns[r.table], r.column)
	}
	return columns, err
}

// tableColumns returns none where the table does not exist.
func tableColumns(ctx context.Context, q querier, table string) ([]column, error) {
	return collect(ctx, q, func(scan func(...any) error) (c column, err error) {
		return c, scan(&c.name, &c.mustBeGiven)
	}, `select name, "notnull" and dflt_value is null from pragma_table_info(?, 'main')`, table)
}

// collect runs a query and returns its rows.
func collect[T any](ctx context.Context, q querier, row func(scan func(...any) error) (T, error), query string,
	args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []T
	for rows.Next() {
		one, err := row(rows.Scan)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, rows.Err()
}

// EnsureOwnTables makes the ledger and our state tables where they are missing. It takes the write lock only then.
func (s *Store) EnsureOwnTables(ctx context.Context) error {
	err := s.read(ctx, func(q querier) error { return checkTables(ctx, q, ownTables, allColumns) })
	if _, incomplete := errors.AsType[*SchemaError](err); !incomplete {
		return err
	}
	return s.write(ctx, func(q querier) error { return createTables(ctx, q, ownTables) })
}

// Migrate makes whatever is missing of the guide's tables and ours, in one transaction. A table that exists with other
// columns is left alone and returned as a *SchemaError, and then nothing is made. So it is where the application's own
// migration is awaited. Created names the new tables.
func (s *Store) Migrate(ctx context.Context) (created []string, err error) {
	return s.migrate(ctx, false)
}

// MigrateStandalone is Migrate for an application without a migration of its own for these tables.
func (s *Store) MigrateStandalone(ctx context.Context) (created []string, err error) {
	return s.migrate(ctx, true)
}

func (s *Store) migrate(ctx context.Context, standalone bool) (created []string, err error) {
	tables := slices.Concat(guideTables, ownTables)
	err = s.write(ctx, func(q querier) error {
		created = nil
		if !standalone {
			var schema *SchemaError
			err := checkTables(ctx, q, guideTables, neededColumns)
			if errors.As(err, &schema) && schema.Awaited {
				return schema
			}
		}
		for _, t := range tables {
			columns, err := tableColumns(ctx, q, t.name)
			if err != nil {
				return err
			}
			if len(columns) == 0 {
				created = append(created, t.name)
			}
		}
		return createTables(ctx, q, tables)
	})
	return created, err
}

func createTables(ctx context.Context, q querier, tables []table) error {
	for _, t := range tables {
		options := ""
		if slices.Contains(withoutRowID, t.name) {
			options = " WITHOUT ROWID"
		}
		if _, err := q.ExecContext(ctx, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (%s)%s", t.name, t.ddl,
			options)); err != nil {
			return err
		}
	}
	for _, t := range tables {
		if err := addLaterColumns(ctx, q, t); err != nil {
			return err
		}
	}
	if err := checkTables(ctx, q, tables, allColumns); err != nil {
		return err
	}
	for _, t := range tables {
		for _, i := range t.indexes {
			if err := createIndex(ctx, q, t.name, i); err != nil {
				return err
			}
		}
	}
	return nil
}

func addLaterColumns(ctx context.Context, q querier, t table) error {
	if len(t.later) == 0 {
		return nil
	}
	present, err := tableColumns(ctx, q, t.name)
	if err != nil {
		return err
	}
	for _, definition := range t.later {
		if name, _, _ := strings.Cut(definition, " "); !hasColumn(present, name) {
			if _, err := q.ExecContext(ctx, fmt.Sprintf("ALTER TABLE %s ADD COLUMN %s", t.name,
				definition)); err != nil {
				return err
			}
		}
	}
	return nil
}

// createIndex makes an index unless one on the same columns is there under any name. Index names are global to the
// file, so the wanted name may belong to another table's index; ours then gets a prefix of its own.
func createIndex(ctx context.Context, q querier, table string, i index) error {
	var covered, taken bool
	const find = `
		select exists (select 1 from pragma_index_list(?1) l where (
			select group_concat(name) from (select name from pragma_index_info(l.name) order by seqno)) = ?2),
			exists (select 1 from sqlite_master where name = ?3)`
	columns := strings.NewReplacer(`"`, "", " ", "").Replace(i.columns)
	if err := q.QueryRowContext(ctx, find, table, columns, i.name).Scan(&covered, &taken); err != nil {
		return err
	}
	if covered {
		return nil
	}
	name := i.name
	if taken {
		name = "usage_sync_" + name
	}
	_, err := q.ExecContext(ctx, fmt.Sprintf("CREATE INDEX %s ON %s (%s)", name, table, i.columns))
	return err
}
