package store

import (
	"slices"
	"testing"
)

// Stand-ins are this connection's alone: the database is none the wiser, and a check of its tables sees through them.
func TestStandIn(t *testing.T) {
	path := newFile(t)
	if _, err := open(t, path, ReadWrite).Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, table := range ownTables {
		execute(t, path, `drop table `+table.name)
	}
	s := open(t, path, ReadOnly)
	for _, table := range ownTables {
		if got := query[int](t, s, `select count(*) from `+table.name); !slices.Equal(got, []int{0}) {
			t.Errorf("%s holds %v rows, want 0", table.name, got)
		}
	}
	missing, err := s.CheckOwnTables(t.Context())
	if err != nil || len(missing) != len(ownTables) {
		t.Errorf("missing %v, %v; want all", missing, err)
	}
	if got := query[string](t, s, `select name from main.sqlite_master where name like 'usage_sync%'`); len(got) > 0 {
		t.Errorf("the database has got %v", got)
	}
}
