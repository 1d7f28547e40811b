package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func gapStore(t *testing.T) *Store {
	t.Helper()
	s := open(t, newFile(t), ReadWrite)
	if _, err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

var firstHour = time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)

func hour(n int) time.Time { return firstHour.Add(time.Duration(n) * time.Hour) }

func outage(from, until int) Gap {
	return Gap{OrganisationID: "acme", Kind: GapOutage, From: hour(from), Until: hour(until), Why: "no pass",
		NoticedAt: hour(900)}
}

// spans lists gaps as "3-7 open", "1-2 closed" or "4-5 accepted".
func spans(gaps []Gap) string {
	var texts []string
	for _, g := range gaps {
		state := "open"
		switch {
		case g.Accepted:
			state = "accepted"
		case !g.IsOpen():
			state = "closed"
		}
		texts = append(texts, fmt.Sprintf("%d-%d %s", int(g.From.Sub(firstHour).Hours()), int(g.Until.Sub(firstHour).Hours()),
			state))
	}
	return strings.Join(texts, ", ")
}

func TestGaps(t *testing.T) {
	mustOpen := func(t *testing.T, s *Store, g Gap) Gap {
		t.Helper()
		kept, err := s.OpenGap(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
		return kept
	}
	want := func(t *testing.T, s *Store, f GapFilter, text string) {
		t.Helper()
		gaps, err := s.Gaps(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		if got := spans(gaps); got != text {
			t.Errorf("gaps %q, want %q", got, text)
		}
	}
	t.Run("noticing the same again", func(t *testing.T) {
		s := gapStore(t)
		first := mustOpen(t, s, outage(10, 20))
		if again := mustOpen(t, s, outage(10, 20)); again.ID != first.ID {
			t.Errorf("gap %d, then %d", first.ID, again.ID)
		}
		want(t, s, GapFilter{}, "10-20 open")
		mustOpen(t, s, outage(20, 25)) // the next pass failed, too
		want(t, s, GapFilter{}, "10-25 open")
		mustOpen(t, s, outage(40, 50))
		want(t, s, GapFilter{}, "10-25 open, 40-50 open")
		mustOpen(t, s, outage(24, 41))
		want(t, s, GapFilter{Open: true}, "10-50 open")
		want(t, s, GapFilter{From: hour(50), Until: hour(60), Open: true}, "")
		want(t, s, GapFilter{From: hour(49), Until: hour(60), Open: true}, "10-50 open")
		want(t, s, GapFilter{Organisations: []string{"other"}}, "")
	})
	t.Run("a subject", func(t *testing.T) {
		s := gapStore(t)
		amount := 5 * Dollar
		row := Gap{OrganisationID: "acme", Kind: GapRefused, Subject: "gen-1", From: hour(3), Until: hour(4), Why: "negative",
			NoticedAt: hour(5), Raw: &amount}
		mustOpen(t, s, row)
		row.Subject = "gen-2"
		mustOpen(t, s, row)
		want(t, s, GapFilter{Open: true}, "3-4 open, 3-4 open")
		if err := s.CloseListed(t.Context(), "acme", hour(0), hour(9), []string{"gen-2"}, hour(9)); err != nil {
			t.Fatal(err)
		}
		want(t, s, GapFilter{}, "3-4 closed, 3-4 open")
		gaps, _ := s.Gaps(t.Context(), GapFilter{Open: true})
		if gaps[0].Subject != "gen-2" || gaps[0].Raw == nil || *gaps[0].Raw != amount {
			t.Errorf("open: %+v", gaps[0])
		}
		if n, err := s.CloseGaps(t.Context(), "acme", GapRefused, "gen-2", "recorded by hand", hour(10)); err != nil || n != 1 {
			t.Errorf("closed %d, %v", n, err)
		}
		want(t, s, GapFilter{Open: true}, "")
	})
	t.Run("a list of a part", func(t *testing.T) {
		s := gapStore(t)
		for _, step := range []struct {
			from, until int
			left        string
		}{{0, 12, "12-40 open"}, {20, 30, "12-20 open, 30-40 open"}, {35, 50, "12-20 open, 30-35 open"},
			{20, 30, "12-20 open, 30-35 open"}, {11, 21, "30-35 open"}, {30, 35, ""}} {
			if step.from == 0 {
				mustOpen(t, s, outage(10, 40))
			}
			if err := s.CloseListed(t.Context(), "acme", hour(step.from), hour(step.until), nil, hour(99)); err != nil {
				t.Fatal(err)
			}
			want(t, s, GapFilter{Open: true}, step.left)
		}
	})
	t.Run("accepting", func(t *testing.T) {
		s := gapStore(t)
		g := mustOpen(t, s, outage(10, 20))
		for _, id := range []int64{0, g.ID + 1, -1} {
			if _, err := s.AcceptGap(t.Context(), id, "ann", "none", hour(30)); !errors.Is(err, ErrGap) {
				t.Errorf("gap %d: %v", id, err)
			}
		}
		if _, err := s.AcceptGap(t.Context(), g.ID, "ann", "the key was new", hour(30)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.AcceptGap(t.Context(), g.ID, "ben", "again", hour(31)); !errors.Is(err, ErrGap) {
			t.Errorf("accepted twice: %v", err)
		}
		mustOpen(t, s, outage(12, 20))
		want(t, s, GapFilter{}, "10-20 accepted")
		mustOpen(t, s, outage(12, 21)) // more than what was accepted
		want(t, s, GapFilter{}, "10-20 accepted, 12-21 open")
		runs, err := s.Runs(t.Context(), RunFilter{Limit: 9})
		if err != nil || len(runs) != 1 || runs[0].Note != "ann has accepted gap 1 (no pass): the key was new" {
			t.Errorf("history %+v, %v", runs, err)
		}
		if runs, err := s.Runs(t.Context(), RunFilter{Synced: true, Limit: 9}); err != nil || len(runs) > 0 {
			t.Errorf("passes %+v, %v", runs, err)
		}
	})
}

// TestGapsProperty: after any sequence of noticing and listing, exactly the hours that were noticed and not
// listed since are open.
func TestGapsProperty(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	for range 20 {
		s := gapStore(t)
		missing := make([]bool, 60)
		for range 25 {
			from := random.IntN(55)
			until := from + 1 + random.IntN(len(missing)-from-1)
			open := random.IntN(2) == 0
			var err error
			if open {
				_, err = s.OpenGap(t.Context(), outage(from, until))
			} else {
				err = s.CloseListed(t.Context(), "acme", hour(from), hour(until), nil, hour(99))
			}
			if err != nil {
				t.Fatal(err)
			}
			for h := from; h < until; h++ {
				missing[h] = open
			}
			gaps, err := s.Gaps(t.Context(), GapFilter{Open: true})
			if err != nil {
				t.Fatal(err)
			}
			got := make([]bool, len(missing))
			for _, g := range gaps {
				for h := int(g.From.Sub(firstHour).Hours()); hour(h).Before(g.Until); h++ {
					got[h] = true
				}
			}
			if !slices.Equal(got, missing) {
				t.Fatalf("open %s, want %v", spans(gaps), missing)
			}
		}
	}
}

// countingReads counts queries for rows.
type countingReads struct {
	querier
	reads int
}

func (c *countingReads) QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	c.reads++
	return c.querier.QueryContext(ctx, query, args...)
}

// TestManyRefusedRows: a list that is refused row by row is written down without a look at all gaps for each of its rows. The
// write lock was held for half a minute for four thousand of them.
func TestManyRefusedRows(t *testing.T) {
	b := newKeptBooks(t)
	reads := func(rows int) (reads int) {
		l := Listing{From: b.now.Add(-time.Hour), Until: b.now}
		for i := range rows {
			id, at := fmt.Sprint("bad-", i), b.now.Add(-time.Duration(i)*time.Second)
			l.Refused = append(l.Refused, id)
			l.Missing = append(l.Missing, Gap{OrganisationID: "acme", Kind: GapRefused, Subject: id, From: at,
				Until: at.Add(time.Second), NoticedAt: b.now, Why: "no cost"})
		}
		err := b.write(t.Context(), func(q querier) error {
			c := &countingReads{querier: q}
			err := l.write(t.Context(), c, "acme", b.now)
			reads = c.reads
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return reads
	}
	if few, many := reads(1), reads(300); few != many {
		t.Errorf("%d reads for one row, %d for 300", few, many)
	}
	reads(300) // noticed again
	open, err := b.Gaps(t.Context(), GapFilter{Open: true})
	if err != nil || len(open) != 300 {
		t.Errorf("%d gaps are open, want 300; %v", len(open), err)
	}
}
