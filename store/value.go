package store

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
)

// A column of SQLite holds whatever was written to it: its type is a preference
// (https://www.sqlite.org/datatype3.html#type_affinity). Queries read numbers on the word of the schema, dozens
// of columns of them; where that goes wrong, this file finds the value.

// badColumn begins the error of a value that does not fit where it is read into (database/sql, convertAssign).
const badColumn = "sql: Scan error on column index"

// nameValue adds to the error of a value that is no number where it is: table, column and row. Where it is not
// found, or the error is about something else, the error stays as it is.
func (s *Store) nameValue(ctx context.Context, err error) error {
	if !errors.Is(err, ErrData) && !errors.Is(err, ErrMoney) {
		return err
	}
	if schema, ok := errors.AsType[*SchemaError](err); ok {
		return schema
	}
	var found []string
	conn, connErr := s.db.Conn(ctx)
	if connErr != nil {
		return err
	}
	defer conn.Close()
	for _, t := range slices.Concat(guideTables, ownTables) {
		one, findErr := findNoNumber(ctx, conn, t)
		if findErr != nil {
			return err
		}
		found = append(found, one...)
	}
	if len(found) == 0 {
		return err
	}
	return dataErrorf("%s: %w", strings.Join(found, "; "), err)
}

var (
	wholeNumber  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`"?(\w+)"? (?:BIGINT|INTEGER)\b`) })
	brokenNumber = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`"?(\w+)"? (?:FLOAT|REAL)\b`) })
	// lenient are the application's times, which may be ISO text: nothing is computed from them.
	lenient = []string{"created_at", "updated_at", "last_updated"}
)

// findNoNumber returns the first value of a table, of each column of numbers, that is none.
func findNoNumber(ctx context.Context, q querier, t table) (found []string, err error) {
	present, err := tableColumns(ctx, q, t.name)
	if err != nil || len(present) == 0 {
		return nil, err
	}
	keys, err := collect(ctx, q, func(scan func(...any) error) (k string, err error) { return k, scan(&k) },
		"select name from pragma_table_info(?, 'main') where pk > 0 order by pk", t.name)
	if err != nil {
		return nil, err
	}
	key := "rowid"
	if len(keys) > 0 {
		for i, k := range keys {
			keys[i] = "cast(" + quoted(k) + " as text)"
		}
		key = strings.Join(keys, " || ' ' || ")
	}
	look := func(column, wrong string) error {
		if !hasColumn(present, column) || (slices.Contains(lenient, column) &&
			!strings.HasPrefix(t.name, "usage_sync_")) {
			return nil
		}
		query := fmt.Sprintf(`select %s, substr(quote(%[2]s), 1, 40) from main.%[3]s
			where %[2]s is not null and (%[4]s) limit 1`, key, quoted(column), quoted(t.name), fmt.Sprintf(wrong, quoted(column)))
		one, err := collect(ctx, q, func(scan func(...any) error) (string, error) {
			var row, value string
			err := scan(&row, &value)
			return fmt.Sprintf("table %s, column %s, row %.60q holds %s, which is no number", t.name,
				column, row, value), err
		}, query)
		found = append(found, one...)
		return err
	}
	for _, match := range wholeNumber().FindAllStringSubmatch(t.ddl, -1) {
		if err := look(match[1], "typeof(%[1]s) <> 'integer' and (typeof(%[1]s) <> 'real' or %[1]s <> "+
			"cast(%[1]s as integer))"); err != nil {
			return found, err
		}
	}
	for _, match := range brokenNumber().FindAllStringSubmatch(t.ddl, -1) {
		// What is beyond this range is infinite.
		if err := look(match[1], "typeof(%[1]s) in ('text', 'blob') or abs(%[1]s) > 1.7976931348623157e308"); err != nil {
			return found, err
		}
	}
	return found, nil
}
