package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// TableChange says how many rows of a table putting a backup back adds, removes and changes.
type TableChange struct {
	Table                   string
	Added, Removed, Changed int64
}

// DayChange is a day of an organisation whose totals in the database are others than in the backup.
type DayChange struct {
	OrganisationID, Organisation string
	Day                          Day
	Now, Backup                  DayTotals
}

// DayTotals are a day's totals as the dashboard adds them up. They serve for showing what a damaged table
// holds, too, and are no Money for that reason.
type DayTotals struct {
	Tokens, Requests int64
	RawCost, Cost    float64
}

// Restore is what putting a backup's usage tables back changes. Tables and days without a change are left out.
type Restore struct {
	Tables []TableChange
	Days   []DayChange
}

// Same tells that the usage tables are as in the backup already.
func (r Restore) Same() bool { return len(r.Tables) == 0 }

// CompareUsage returns what RestoreUsage would change, and writes nothing.
func (s *Store) CompareUsage(ctx context.Context, backup string) (r Restore, err error) {
	err = s.withBackup(ctx, backup, func() error {
		return s.read(ctx, func(q querier) (err error) {
			r, _, err = compareUsage(ctx, q)
			return err
		})
	})
	return r, err
}

// RestoreUsage makes the usage tables those of a backup, be it of the usage alone or of the whole database, in
// one transaction: rows that differ are replaced, rows that are not in the backup are removed, tables that are
// missing are made. The backup is checked first; a damaged one is ErrBackup. A column that only the backup has
// is a *SchemaError; one that only the database has keeps its value in every row that stays or is replaced. All
// other tables stay as they are.
func (s *Store) RestoreUsage(ctx context.Context, backup string) (r Restore, err error) {
	err = s.withBackup(ctx, backup, func() error {
		return s.write(ctx, func(q querier) error {
			var shapes []shape
			if r, shapes, err = compareUsage(ctx, q); err != nil {
				return err
			}
			for _, t := range shapes {
				if err := t.restore(ctx, q); err != nil {
					return fmt.Errorf("table %s: %w", t.name, err)
				}
			}
			left, _, err := compareUsage(ctx, q)
			if err == nil && !left.Same() {
				err = dataErrorf("the tables would not be those of the backup: %v", left.Tables)
			}
			return err
		})
	})
	return r, err
}

// withBackup checks a backup and attaches it as the schema "backup" while fn runs.
func (s *Store) withBackup(ctx context.Context, path string, fn func() error) (err error) {
	if err := checkBackup(ctx, path); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBackup, path, err)
	}
	uri, err := copyURI(path)
	if err != nil {
		return err
	}
	// The pool holds one connection, and keeps it.
	if _, err := s.db.ExecContext(ctx, "attach ? as backup", uri); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrBackup, path, err)
	}
	defer func() {
		_, detachErr := s.db.ExecContext(context.WithoutCancel(ctx), "detach backup")
		err = errors.Join(err, classify(detachErr))
	}()
	return fn()
}

// checkBackup looks for damage and for the usage tables.
func checkBackup(ctx context.Context, path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fs.ErrNotExist
	case err != nil:
		return &faultError{kind: ErrPermission, cause: err}
	case !info.Mode().IsRegular():
		return ErrNotFile
	}
	db, err := openCopy(path)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := checkIntegrity(ctx, db); err != nil {
		return classify(err)
	}
	if err := checkTables(ctx, db, guideTables, neededColumns); err != nil {
		return fmt.Errorf("it is no copy of the usage tables: %v", err)
	}
	return nil
}

// shape is how a table of the database and one of the backup fit together.
type shape struct {
	name     string
	missing  bool     // in the database
	dropped  bool     // in the backup: the table was made after it, and is emptied
	columns  []string // those of the backup, all of which the database has
	extras   []string // those that only the database has
	defaults []string // of the extras, as SQL
	key      []string // the primary key, where both have the same
}

func shapeOf(ctx context.Context, q querier, name string) (t shape, err error) {
	type described struct {
		name, fallback string
		key            int
	}
	describe := func(schema string) ([]described, error) {
		return collect(ctx, q, func(scan func(...any) error) (c described, err error) {
			return c, scan(&c.name, &c.fallback, &c.key)
		}, `select name, coalesce(dflt_value, 'null'), pk from pragma_table_info(?, ?) order by pk, cid`, name, schema)
	}
	t.name = name
	have, err := describe("main")
	if err != nil {
		return t, err
	}
	saved, err := describe("backup")
	if err != nil {
		return t, err
	}
	t.missing, t.dropped = len(have) == 0, len(saved) == 0
	var haveKey []string
	for _, c := range saved {
		t.columns = append(t.columns, c.name)
		if c.key > 0 {
			t.key = append(t.key, c.name)
		}
	}
	for _, c := range have {
		if c.key > 0 {
			haveKey = append(haveKey, c.name)
		}
		if !slices.Contains(t.columns, c.name) {
			t.extras, t.defaults = append(t.extras, c.name), append(t.defaults, c.fallback)
		}
	}
	if t.missing || t.dropped {
		return t, nil
	}
	if !slices.Equal(t.key, haveKey) {
		t.key = nil
	}
	lacking := slices.DeleteFunc(slices.Clone(t.columns), func(column string) bool {
		return slices.ContainsFunc(have, func(c described) bool { return c.name == column })
	})
	if len(lacking) > 0 {
		return t, &SchemaError{Lacking: map[string][]string{name: lacking}}
	}
	return t, nil
}

// same is the condition that a row m of the database and a row b of the backup are equal in some columns. "is"
// also holds between two nulls, and uses an index.
func same(columns []string) string {
	var terms []string
	for _, c := range columns {
		terms = append(terms, fmt.Sprintf("m.%[1]s is b.%[1]s", quoted(c)))
	}
	return strings.Join(terms, " and ")
}

// onlyGrows tells whether rows of the table are added and never removed or changed, whatever the backup holds.
func (t shape) onlyGrows() bool { return t.name == statementsTable }

// identity is by what a row is found again: the key, else the whole row.
func (t shape) identity() []string {
	if len(t.key) > 0 {
		return t.key
	}
	return t.columns
}

// compare counts the rows that differ.
func (t shape) compare(ctx context.Context, q querier) (TableChange, error) {
	c := TableChange{Table: t.name}
	count := func(query string, into *int64) error { return q.QueryRowContext(ctx, query).Scan(into) }
	name := quoted(t.name)
	switch {
	case t.missing:
		return c, count("select count(*) from backup."+name, &c.Added)
	case t.dropped:
		return c, count("select count(*) from main."+name, &c.Removed)
	}
	if len(t.key) == 0 {
		// Equal rows may differ in number alone.
		const surplus = "select max(0, (select count(*) from %s.%[3]s) - (select count(*) from %[2]s.%[3]s))"
		err := errors.Join(count(fmt.Sprintf(surplus, "backup", "main", name), &c.Added),
			count(fmt.Sprintf(surplus, "main", "backup", name), &c.Removed))
		if c.Added+c.Removed > 0 || err != nil {
			return c, err
		}
	}
	const without = "select count(*) from %[1]s.%[2]s as %[3]s where not exists (select 1 from %[4]s.%[2]s " +
		"as %[5]s where %[6]s)"
	return c, errors.Join(
		count(fmt.Sprintf(without, "backup", name, "b", "main", "m", same(t.identity())), &c.Added),
		count(fmt.Sprintf(without, "main", name, "m", "backup", "b", same(t.identity())), &c.Removed),
		count(fmt.Sprintf("select count(*) from main.%[1]s as m join backup.%[1]s as b on %s where not (%s)", name,
			same(t.identity()), same(t.columns)), &c.Changed))
}

// restore makes the table's rows those of the backup.
func (t shape) restore(ctx context.Context, q querier) error {
	name := quoted(t.name)
	if t.missing {
		statements, err := definition(ctx, q, "backup", t.name)
		if err != nil {
			return err
		}
		for _, statement := range statements {
			if _, err := q.ExecContext(ctx, statement); err != nil {
				return err
			}
		}
	}
	if t.dropped && t.onlyGrows() {
		return nil
	}
	if t.dropped {
		_, err := q.ExecContext(ctx, "delete from main."+name)
		return err
	}
	into, from, kept := quotedList("", t.columns), quotedList("b.", t.columns), ""
	statements := []string{"drop table if exists temp.kept"}
	unequal := "true" // without a key equal rows can't be told apart, so none stays
	if len(t.key) > 0 {
		unequal = fmt.Sprintf("not exists (select 1 from backup.%s as b where %s)", name, same(t.columns))
	}
	if t.onlyGrows() {
		unequal = "false"
	}
	if len(t.extras) > 0 && len(t.key) > 0 {
		statements = append(statements, fmt.Sprintf("create temp table kept as select %s from main.%s",
			quotedList("", slices.Concat(t.key, t.extras)), name))
		kept = " left join temp.kept as m on " + same(t.key)
		into += ", " + quotedList("", t.extras)
		for i, column := range t.extras {
			from += fmt.Sprintf(", coalesce(m.%s, %s)", quoted(column), t.defaults[i])
		}
	}
	statements = append(statements,
		fmt.Sprintf("delete from main.%s as m where %s", name, unequal),
		fmt.Sprintf("insert into main.%[1]s (%[2]s) select %[3]s from backup.%[1]s as b%[4]s where not "+
			"exists (select 1 from main.%[1]s as m where %[5]s)",
			name, into, from, kept, same(t.identity())),
		"drop table if exists temp.kept")
	if len(t.key) == 0 {
		statements[len(statements)-2] = fmt.Sprintf("insert into main.%[1]s (%[2]s) select %[3]s from "+
			"backup.%[1]s as b", name, into, from)
	}
	for _, statement := range statements {
		if _, err := q.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return nil
}

func compareUsage(ctx context.Context, q querier) (r Restore, shapes []shape, err error) {
	tables, err := usageTables(ctx, q, "backup")
	if err != nil {
		return r, nil, err
	}
	present, err := usageTables(ctx, q, "main")
	if err != nil {
		return r, nil, err
	}
	all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(tables, present))))
	for _, name := range all {
		t, err := shapeOf(ctx, q, name)
		if err != nil {
			return r, nil, err
		}
		change, err := t.compare(ctx, q)
		if err != nil {
			return r, nil, err
		}
		if t.onlyGrows() {
			change.Removed, change.Changed = 0, 0
		}
		shapes = append(shapes, t)
		if change.Added+change.Removed+change.Changed > 0 || t.missing {
			r.Tables = append(r.Tables, change)
		}
	}
	r.Days, err = changedDays(ctx, q, present)
	return r, shapes, err
}

// changedDays compares the daily rows and live counters of the database and the backup.
func changedDays(ctx context.Context, q querier, present []string) ([]DayChange, error) {
	sums := func(schema, side string) string {
		query := `select null as org, null as day, null as side, null as tokens, null as requests, null as raw, null as cost where false`
		if schema == "backup" || slices.Contains(present, "client_daily_usage") {
			query += fmt.Sprintf(` union all select client_org_id, substr(usage_date, 1, 10), '%s', total_tokens, total_requests, raw_cost,
				markup_cost from %s.client_daily_usage`, side, schema)
		}
		if schema == "backup" || slices.Contains(present, "client_live_counters") {
			query += fmt.Sprintf(` union all select client_org_id, substr("current_date", 1, 10), '%s', today_tokens, today_requests,
				today_raw_cost, today_markup_cost from %s.client_live_counters`, side, schema)
		}
		return query
	}
	name := `(select name from backup.client_organizations where id = org)`
	if slices.Contains(present, "client_organizations") {
		name = `coalesce(` + name + `, (select name from main.client_organizations where id = org))`
	}
	side := func(column, s string) string {
		return fmt.Sprintf("total(iif(side = '%s', %s, 0)) as %s_%s", s, column, s, column)
	}
	var columns []string
	for _, column := range []string{"tokens", "requests", "raw", "cost"} {
		columns = append(columns, side(column, "now"), side(column, "then"))
	}
	query := fmt.Sprintf(`
		with usage as (%s union all %s), days as (select org, day, %s from usage group by org, day)
		select org, coalesce(%s, ''), coalesce(day, ''), cast(now_tokens as integer), cast(now_requests as integer), now_raw, now_cost,
			cast(then_tokens as integer), cast(then_requests as integer), then_raw, then_cost
		from days where now_tokens <> then_tokens or now_requests <> then_requests
			or abs(now_raw - then_raw) > 1e-9 or abs(now_cost - then_cost) > 1e-9
		order by day, org`, sums("main", "now"), sums("backup", "then"), strings.Join(columns, ", "), name)
	return collect(ctx, q, func(scan func(...any) error) (c DayChange, err error) {
		var org sql.NullString
		err = scan(&org, &c.Organisation, &c.Day, &c.Now.Tokens, &c.Now.Requests, &c.Now.RawCost, &c.Now.Cost,
			&c.Backup.Tokens, &c.Backup.Requests, &c.Backup.RawCost, &c.Backup.Cost)
		c.OrganisationID = org.String
		return c, err
	}, query)
}
