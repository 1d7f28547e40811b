package integration_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// TestValuesThatAreNoNumbers puts into each column of numbers what is none, and runs the commands that may read it. What can't be
// read is 65, with table, column and row in words; nothing is a bug (70).
func TestValuesThatAreNoNumbers(t *testing.T) {
	const (
		from = "2025-11-11"
		to   = "2025-11-12"
	)
	values := []string{"'abc'"}
	if *long {
		values = []string{"'abc'", "x'00ff'", "'1' || char(0) || '2'", "9e999", "1.5", "''"}
	}
	commands := [][]string{{"sync"}, {"usage"}, {"doctor"}}
	if *long {
		commands = append(commands, [][]string{
			{"report", "--from", from, "--to", to}, {"history"}, {"reconcile", "--from", from, "--to", to}, {"takeover"}, {"migrate"},
			{"record", "--org", organisation, "--model", "m", "--tokens", "1", "--cost", "0.1"},
		}...)
	}
	api := newGateway(t, 100, generations(20, 4))
	template := newDatabase(t, "DELETE")
	run(t, 0, template, api.url, "sync")
	db := mustOpen(t, template)
	exec1(t, db, "update client_organizations set monthly_limit = 100")
	exec1(t, db, "insert into global_settings values ('one', null, 1.3, 'USD', 0, 0)")
	rows, err := db.Query(`
		select m.name, c.name from sqlite_master m, pragma_table_info(m.name) c
		where m.type = 'table' and c.type in ('BIGINT', 'INTEGER', 'FLOAT', 'REAL') and not (c.pk and c.type = 'INTEGER')
		order by m.name, c.cid`)
	if err != nil {
		t.Fatal(err)
	}
	var columns [][2]string
	for rows.Next() {
		var c [2]string
		if err := rows.Scan(&c[0], &c[1]); err != nil {
			t.Fatal(err)
		}
		if value[int](t, mustOpen(t, template), "select count(*) from "+c[0]) > 0 {
			columns = append(columns, c)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if len(columns) < 40 {
		t.Fatalf("%d columns of numbers with rows", len(columns))
	}
	refused := 0
	for _, c := range columns {
		table, column := c[0], c[1]
		for _, v := range values {
			t.Run(fmt.Sprintf("%s.%s=%s", table, column, v), func(t *testing.T) {
				for _, args := range commands {
					path := copyOf(t, template)
					db := mustOpen(t, path)
					exec1(t, db, fmt.Sprintf(`update %s set "%s" = %s`, table, column, v))
					_ = db.Close()
					c := newChild(path, api.url, args...)
					_ = c.Run()
					code := c.ProcessState.ExitCode()
					said := c.stdout.String() + c.stderr.String()
					if code == 70 || code == 2 {
						t.Errorf("%v exits %d:\n%s", args, code, said)
					}
					named := regexp.MustCompile(`table ` + table + `, column ` + column + `, row ".+" holds .*no number`)
					if strings.Contains(said, "Scan error") {
						refused++
						if !named.MatchString(said) {
							t.Errorf("%v does not name table, column and row:\n%s", args, said)
						}
					}
				}
			})
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}
