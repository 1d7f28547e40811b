package store

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/mattn/go-sqlite3"
)

// reading is the driver of connections that only read. A database that no pass of this version has met lacks
// some of our own tables or columns. On these connections empty temporary tables stand in for them, so that
// every query is the same constant text for every database. Temporary tables live in memory: nothing is written
// to the database.
var reading = sqlite3.SQLiteDriver{ConnectHook: standIn}

// standIn makes a temporary table for each of ownTables that is missing, and a temporary view for each that lacks a
// later column. Unqualified names find these before the database's own (https://www.sqlite.org/lang_naming.html).
func standIn(conn *sqlite3.SQLiteConn) error {
	if err := guard(conn); err != nil {
		return err
	}
	if _, err := conn.Exec("pragma temp_store = memory", nil); err != nil {
		return err
	}
	present, err := ownColumns(conn)
	if err != nil {
		return err
	}
	for _, t := range ownTables {
		statement := fmt.Sprintf("create temp table %s (%s)", t.name, t.ddl)
		if columns, there := present[t.name]; there {
			lacking := t.lackingLater(columns)
			if len(lacking) == 0 {
				continue
			}
			statement = fmt.Sprintf("create temp view %[1]s as select *, null as %[2]s from main.%[1]s", t.name,
				strings.Join(lacking, ", null as "))
		}
		if _, err := conn.Exec(statement, nil); err != nil {
			return err
		}
	}
	return nil
}

// ownColumns returns the columns of those of ownTables that the database has.
func ownColumns(conn *sqlite3.SQLiteConn) (columns map[string][]string, err error) {
	names := make([]string, len(ownTables))
	for i, t := range ownTables {
		names[i] = t.name
	}
	const query = `select n.value, c.name from json_each(?) n, pragma_table_info(n.value, 'main') c`
	rows, err := conn.Query(query, []driver.Value{jsonText(names)})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	columns = map[string][]string{}
	row := make([]driver.Value, 2)
	for {
		err := rows.Next(row)
		if err == io.EOF {
			return columns, nil
		}
		if err != nil {
			return nil, err
		}
		table, column := row[0].(string), row[1].(string)
		columns[table] = append(columns[table], column)
	}
}
