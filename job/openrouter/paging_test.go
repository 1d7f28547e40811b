package openrouter_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
)

// wantAll fetches with a source and looks for rows that are not handed over.
func wantAll(t *testing.T, url string, since time.Time, all map[string]bool) {
	t.Helper()
	ids, _, err := fetch(t, t.Context(), url, since)
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
		t.Errorf("%d of %d rows are lost", lost, len(all))
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
	wantAll(t, url, noon.Add(-100*time.Hour), all)
	if requests := len(s.Requests()); requests > 12 {
		t.Errorf("%d requests for 1000 rows in pages of 100", requests)
	}
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
