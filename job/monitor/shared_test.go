package monitor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"usage-sync/job/reconcile"
	"usage-sync/store"
)

// instancesIn are the instances of which a metrics file has a metric.
func instancesIn(t *testing.T, path, name string) (found []string) {
	t.Helper()
	family := parse(t, path)["usage_sync_"+name]
	for _, m := range family.GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "instance" {
				found = append(found, l.GetValue())
			}
		}
	}
	slices.Sort(found)
	return found
}

// TestShared has the instances of a host write one file at once, and some of them again: each keeps what the others say.
func TestShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "usage-sync.prom")
	var names []string
	var files []MetricsFile
	var stores []*store.Store
	for i := range 20 {
		db, file := newStore(t, "acme") // organisations of one id are others in others' databases
		file.Path, file.Instance = path, fmt.Sprintf("client-%02d", i)
		names, files, stores = append(names, file.Instance), append(files, file), append(stores, db)
	}
	var passes sync.WaitGroup
	for i := range files {
		passes.Go(func() {
			for n := range 5 {
				if err := files[i].Write(t.Context(), stores[i], runAt(noon.Add(time.Duration(n)*time.Minute), nil)); err != nil {
					t.Error(err)
				}
			}
			if err := WriteReconciliation(t.Context(), path, names[i], noon, []reconcile.Comparison{
				{Organisation: store.Organisation{ID: "acme"}, Rows: make([]reconcile.Row, 1)}}); err != nil {
				t.Error(err)
			}
		})
	}
	passes.Wait()
	for _, metric := range []string{"build_info", "org_info", "org_month_cost_dollars", "org_reconcile_timestamp_seconds", "database_info"} {
		if got := instancesIn(t, path, metric); !slices.Equal(got, names) {
			t.Errorf("%s is of %v", metric, got)
		}
	}

	// A later pass leaves its own reconciliation, and counts its own failures on.
	failing := files[3]
	for n := range 2 {
		if err := failing.Write(t.Context(), nil, runAt(noon.Add(time.Hour+time.Duration(n)*time.Minute), errors.New("x"))); err != nil {
			t.Fatal(err)
		}
	}
	if got := instancesIn(t, path, "org_reconcile_timestamp_seconds"); !slices.Equal(got, names) {
		t.Errorf("a pass takes reconciliations away: %v", got)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := parsePage("client-03", text).value(failures); got != 2 {
		t.Errorf("%v failures, want 2", got)
	}
	if got := parsePage("client-04", text).value(failures); got != 0 {
		t.Errorf("another's failures are %v", got)
	}

	// The container of a database is called otherwise now.
	files[7].Instance = "renamed"
	if err := files[7].Write(t.Context(), stores[7], runAt(noon, nil)); err != nil {
		t.Fatal(err)
	}
	want := append(slices.Delete(slices.Clone(names), 7, 8), "renamed")
	if got := instancesIn(t, path, "build_info"); !slices.Equal(got, want) {
		t.Errorf("after a rename the file is of %v", got)
	}
}
