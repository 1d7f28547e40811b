package integration_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
)

// changeCounter is the file change counter of SQLite's header: in DELETE mode it counts the transactions that wrote
// (https://www.sqlite.org/fileformat2.html#file_change_counter).
func changeCounter(t testing.TB, path string) uint32 {
	t.Helper()
	return binary.BigEndian.Uint32(content(t, path)[24:28])
}

func content(t testing.TB, path string) []byte {
	t.Helper()
	all, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestSteadyState: a pass without anything new costs one request and one write transaction.
func TestSteadyState(t *testing.T) {
	all := generations(100, 5)
	api := newGateway(t, 100, all)
	path := newDatabase(t, "DELETE")
	run(t, 0, path, api.url, "sync")
	for range 3 {
		api.whenArriving(nil)
		before := changeCounter(t, path)
		run(t, 0, path, api.url, "sync")
		if n := api.count(); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		if grown := changeCounter(t, path) - before; grown != 1 {
			t.Errorf("the file change counter grows by %d, want 1", grown)
		}
	}
	checkTruth(t, path, truth(all))
}

// TestReadersWriteNothing: what only shows leaves every byte of the file, also with new usage to look at.
func TestReadersWriteNothing(t *testing.T) {
	all := generations(300, 6)
	api := newGateway(t, 100, all[:200])
	path := newDatabase(t, "DELETE")
	run(t, 0, path, api.url, "sync")
	api.Add(key, all[200:]...)
	for _, args := range [][]string{
		{"sync", "--dry-run", "--full"}, {"sync", "--dry-run", "--json"}, {"status"}, {"usage"}, {"usage", "--json"}, {"history"},
		{"history", "--json"},
	} {
		before := content(t, path)
		shown := run(t, 0, path, api.url, args...)
		if shown.stdout.Len() == 0 {
			t.Errorf("%v shows nothing", args)
		}
		if !bytes.Equal(before, content(t, path)) {
			t.Errorf("%v changes the database", args)
		}
	}
}
