package store

import (
	"fmt"
	"testing"
	"time"
)

// TestClaimedFromAnotherDay: the Python sync files usage by its container's calendar, so what it has entered into the ledger may
// stand under another day than ours.
func TestClaimedFromAnotherDay(t *testing.T) {
	b := newKeptBooks(t)
	b.record("generations", b.on("one", Dollar, 0))
	execute(t, b.path, fmt.Sprintf(`insert into processed_generations values ('theirs', 'acme', '2026-03-09', %d, 1, 100)`,
		b.now.Add(time.Minute).Unix()))
	theirs := b.on("theirs", Dollar, 0)
	theirs.Day, theirs.CreatedAt = "2026-03-10", b.now.Add(-time.Hour)
	b.now = b.now.Add(time.Hour)
	if done := b.record("generations", theirs); done.Claimed != 1 {
		t.Errorf("%+v", done)
	}
	books, err := b.Books(t.Context(), "acme", "2026-03-09", "2026-03-10")
	if err != nil || books["2026-03-09"].Day.Raw != Dollar || books["2026-03-10"].Day.Raw != Dollar {
		t.Errorf("%+v, %v", books, err)
	}
}
