package openrouter_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
)

// wantAll fetches with a source and looks for rows that are not handed over, with whole pages and with a short first one.
func wantAll(t *testing.T, url string, since time.Time, all map[string]bool) {
	t.Helper()
	for _, known := range []openrouter.Known{{}, {Newest: since}, {Rows: 40, Newest: noon.Add(-time.Hour)}} {
		wantWindow(t, url, openrouter.Window{Since: since, Known: known}, all)
	}
}

func wantWindow(t *testing.T, url string, window openrouter.Window, all map[string]bool) {
	t.Helper()
	ids, _, err := fetchWindow(t, t.Context(), url, window)
	if err != nil {
		t.Fatal(err)
	}
	met := map[string]bool{}
	for _, id := range ids {
		met[id] = true
	}
	lost := 0
	for id := range all {
		if !met[id] {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d rows are lost, known %+v", lost, len(all), window.Known)
	}
}

// TestLongRunning: a list in the order of completion has generations that were created long before their neighbours, also
// where a page ends or begins.
func TestLongRunning(t *testing.T) {
	for name, long := range map[string]func(i int) bool{
		"last row of a page":  func(i int) bool { return i%100 == 99 },
		"first row of a page": func(i int) bool { return i%100 == 0 },
		"last rows":           func(i int) bool { return i%100 >= 97 },
		"any":                 func(int) bool { return rand.IntN(10) == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			s, url := serve(t, 0)
			all := map[string]bool{}
			since := noon.Add(-10 * time.Hour)
			for i := range 2500 {
				g := standin.Generation{ID: fmt.Sprintf("gen-%d", i), CreatedAt: noon.Add(-time.Duration(i) * 10 * time.Second),
					Model: "openai/gpt-4.1", Cost: "0.001"}
				if long(i) {
					g.Ended, g.CreatedAt = g.CreatedAt, g.CreatedAt.Add(-20*time.Hour)
				} else {
					all[g.ID] = true
				}
				s.Add(key, g)
			}
			wantAll(t, url, since, all)
		})
	}
}

// TestLooseTies: generations of one second come in another order with each page.
func TestLooseTies(t *testing.T) {
	s, url := serve(t, 0)
	s.Play(standin.Quirks{LooseTies: true})
	all := map[string]bool{}
	for i := range 3000 {
		g := standin.Generation{ID: fmt.Sprintf("gen-%d", i), CreatedAt: noon.Add(-time.Duration(i/7) * time.Second), Model: "m/m", Cost: "0.001"}
		all[g.ID] = true
		s.Add(key, g)
	}
	for range 5 {
		wantAll(t, url, noon.Add(-24*time.Hour), all)
	}
}

// TestPruned: rows are taken out of the list while it is paged.
func TestPruned(t *testing.T) {
	s, url := serve(t, 3000)
	all := map[string]bool{}
	for i := range 3000 {
		all[fmt.Sprintf("gen-%d", i)] = true
	}
	pages := 0
	s.OnPage(func(string, int) {
		if pages++; pages%4 == 0 && pages < 30 {
			id := fmt.Sprintf("gen-%d", pages*3)
			s.Remove(key, id)
			delete(all, id)
		}
	})
	wantAll(t, url, noon.Add(-100*time.Hour), all)
}

// TestArrivalsWhilePaging: new rows shift the list, also ties. Nothing is lost, and where nothing is doubtful nothing is read
// twice.
func TestArrivalsWhilePaging(t *testing.T) {
	s, url := serve(t, 1000)
	all := map[string]bool{}
	for i := range 1000 {
		all[fmt.Sprintf("gen-%d", i)] = true
	}
	n := 0
	s.OnPage(func(string, int) {
		n++
		s.Add(key, standin.Generation{ID: fmt.Sprintf("new-%d", n), CreatedAt: noon.Add(time.Duration(n) * time.Second), Model: "m/m", Cost: "0.001"})
	})
	wantWindow(t, url, openrouter.Window{Since: noon.Add(-100 * time.Hour)}, all)
	if requests := len(s.Requests()); requests > 12 {
		t.Errorf("%d requests for 1000 rows in pages of 100", requests)
	}
	wantAll(t, url, noon.Add(-100*time.Hour), all)
}

// TestListWithoutOrder: a list that is not the same twice can't be paged.
func TestListWithoutOrder(t *testing.T) {
	s, url := serve(t, 0)
	s.Play(standin.Quirks{LooseTies: true})
	for i := range 1500 {
		s.Add(key, standin.Generation{ID: fmt.Sprintf("gen-%d", i), CreatedAt: noon, Model: "m/m", Cost: "0.001"})
	}
	if _, _, err := fetch(t, t.Context(), url, noon.Add(-time.Hour)); !errors.Is(err, openrouter.ErrPaging) || !errors.Is(err, openrouter.ErrAnswer) {
		t.Errorf("got %v", err)
	}
}

// TestOldestFirst: a list in the wrong order is told, also where some rows are out of order.
func TestOldestFirst(t *testing.T) {
	s, url := serve(t, 0)
	for i := range 300 {
		at := noon.Add(-time.Duration(300-i) * time.Hour)
		s.Add(key, standin.Generation{ID: fmt.Sprintf("gen-%d", i), CreatedAt: at, Ended: noon.Add(-time.Duration(i) * time.Minute), Model: "m/m", Cost: "0.001"})
	}
	if _, _, err := fetch(t, t.Context(), url, noon.Add(-24*time.Hour)); !errors.Is(err, openrouter.ErrAnswer) {
		t.Errorf("got %v", err)
	}
}

// TestShortPage: where something is known, the first page is asked for that and a hundred rows more. It is the only one where
// it reaches behind the window and shows what is known; else whole pages follow it.
func TestShortPage(t *testing.T) {
	const second, minute = time.Second, time.Minute
	row := func(i int, at time.Time) standin.Generation {
		return standin.Generation{ID: fmt.Sprintf("gen-%d", i), CreatedAt: at, Model: "m/m", Cost: "0.001"}
	}
	every := func(step time.Duration) func(int) standin.Generation {
		return func(i int) standin.Generation { return row(i, noon.Add(-time.Duration(i)*step)) }
	}
	known := openrouter.Known{Rows: 60, Newest: noon.Add(-30 * minute)}
	for name, c := range map[string]struct {
		row    func(i int) standin.Generation
		known  openrouter.Known
		limits []string
	}{
		"nothing new":         {every(minute), known, []string{"160"}},
		"nothing is known":    {every(minute), openrouter.Known{}, []string{"1000"}},
		"very many are known": {every(minute), openrouter.Known{Rows: 5000, Newest: known.Newest}, []string{"1000"}},
		"many are new":        {every(20 * second), known, []string{"160", "1000"}},
		"a whole page is new": {every(2 * second), known, []string{"160", "1000", "1000", "1000"}},
		"a page of one second": {func(i int) standin.Generation {
			if i < 400 {
				return row(i, noon)
			}
			return row(i, noon.Add(-time.Duration(i-400)*10*second))
		}, known, []string{"160", "1000"}},
		"those that have run for long hide new ones": {func(i int) standin.Generation {
			g := row(i, noon.Add(-time.Duration(i)*10*second))
			if i < 200 {
				g.CreatedAt, g.Ended = g.CreatedAt.Add(-5*time.Hour), g.CreatedAt
			}
			return g
		}, known, []string{"160", "1000"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, url := serve(t, 0)
			s.PageLimit(1000)
			window := openrouter.Window{Since: noon.Add(-70 * minute), Known: c.known}
			all := map[string]bool{}
			for i := range 4000 {
				g := c.row(i)
				s.Add(key, g)
				if !g.CreatedAt.Before(window.Since) {
					all[g.ID] = true
				}
			}
			wantWindow(t, url, window, all)
			var limits []string
			for _, r := range s.Requests() {
				limits = append(limits, r.Query.Get("limit"))
			}
			if !slices.Equal(limits, c.limits) {
				t.Errorf("pages of %v, want %v", limits, c.limits)
			}
		})
	}
}
