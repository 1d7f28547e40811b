package openrouter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"usage-sync/store"
)

const (
	// mostReadings is how often a list is read that changes while it is paged, and mostRepeats how many pages
	// in a row may bring nothing new: so many whole pages of generations hardly arrive between two requests.
	mostReadings = 4
	mostRepeats  = 3
	// shortTail and longTail bound the end of a first page by which it is told that the page reaches beyond the
	// window: a twentieth of it. A single generation tells nothing, it may have run for hours and be listed
	// where it ended.
	shortTail, longTail = 1, 50
	// orderSlack is by how much the halves of a page may be in the wrong order, on the median.
	orderSlack = time.Hour
)

// paging reads a list by offset, newest first. It proves as it goes that no row was left out: each page is
// asked for with the last row of the one before, and has to show it. Rows of one second may change places at
// any time, so that all of the last second are asked for again. How many rows a page is asked for is no part of
// the proof.
type paging struct {
	client *Client
	org    store.Organisation
	since  time.Time
	known  Known
	page   func(Page) error

	seed    maphash.Seed
	earlier map[uint64]bool // rows of earlier readings
	unnamed map[string]bool // refused rows without an id that were handed over, by their place
}

// reading is one way through the list.
type reading struct {
	seen   map[uint64]bool
	doubts string // why a row may have been left out; empty where that can't be
	fresh  int    // rows older than the first that no earlier reading has seen
}

// listedRow is a row of a page. Its key is 0 where it has no id.
type listedRow struct {
	key uint64
	at  time.Time // zero where it is not known
}

// firstSize is how many rows the first page is asked for: as many as are known of the window, and some more.
// Where nothing is, as after a first pass, it is a whole page.
func (p *paging) firstSize() int {
	if p.known.Newest.IsZero() {
		return pageSize
	}
	return min(p.known.Rows+shortPage, pageSize)
}

// read reads the list from its first row to the end of the window. Its first page may be a short one: where
// that does not reach what is known, it goes on with whole pages.
func (p *paging) read(ctx context.Context, r *reading, short bool) error {
	var asked []listedRow // rows of the page before
	offset, longest, repeats, size, first := 0, 0, 0, pageSize, true
	if short {
		size = p.firstSize()
	}
	for {
		short = size < pageSize
		var answer Page
		get := request{method: http.MethodGet, key: p.org.Key, path: "generations",
			query: url.Values{"limit": {strconv.Itoa(size)}, "offset": {strconv.Itoa(offset)}},
			rows:  func() int { return len(answer.Generations) + len(answer.Refused) }}
		if err := p.client.send(ctx, get, func(header http.Header, body io.Reader) (err error) {
			answer, err = p.decode(header, body, offset)
			return err
		}); err != nil {
			return p.explain(err)
		}
		rows := p.rows(answer)
		if err := checkOrder(rows); err != nil {
			return err
		}
		if err := p.page(p.fresh(answer, asked)); err != nil {
			return err
		}
		if len(rows) == 0 {
			if len(asked) > 0 {
				r.doubts = "rows that it had are gone"
			}
			return nil
		}
		longest = max(longest, len(rows))
		met := r.join(p, rows, asked)
		switch {
		case met == ended && len(rows) < longest, p.isOver(rows, first) && (!short || p.meetsKnown(rows)):
			return nil
		case met == continued:
			repeats = 0
		default:
			repeats++
		}
		if repeats == mostRepeats {
			return fmt.Errorf("%w: the list of generations ignores offset: the page at %d repeats those before",
				ErrAnswer, offset)
		}
		size, first = pageSize, short
		next, told := overlap(rows)
		switch {
		case !told && short:
			continue // a whole page from the same row on may have rows of another second
		case !told:
			r.doubts = "more rows of one second than a page has"
		}
		asked = next
		offset += len(rows) - len(asked)
	}
}

// decode reads a page that begins at offset.
func (p *paging) decode(header http.Header, body io.Reader, offset int) (Page, error) {
	rows, err := decodePage(body)
	rows.ServerTime = date(header)
	for i, r := range rows.Refused {
		if r.ID == "" {
			r.ID, r.unnamed = fmt.Sprintf("without an id (row %d of the list)", offset+r.row+1), true
		}
		r.ID, r.Reason = plain(r.ID, p.org.Key), plain(r.Reason, p.org.Key)
		rows.Refused[i] = r
	}
	return rows, err
}

// explain returns the error of a server that has no list as ErrNoSource, and others as they are.
func (p *paging) explain(err error) error {
	if answer, ok := errors.AsType[*APIError](err); ok && answer.NotOffered() {
		return fmt.Errorf("%w: %s does not offer the list GET /generations: %w", ErrNoSource, p.client.base.Host, err)
	}
	return err
}

// fresh returns a page without what was handed over before: the rows that were asked for again, and what
// earlier readings have seen.
func (p *paging) fresh(page Page, asked []listedRow) Page {
	before := func(id string, unnamed bool) bool {
		if unnamed { // it is known by its place in the list
			met := p.unnamed[id]
			p.unnamed[id] = true
			return met
		}
		key := p.key(id, false)
		return key != 0 && (p.earlier[key] || slices.ContainsFunc(asked, func(row listedRow) bool { return row.key == key }))
	}
	page.Refused = slices.DeleteFunc(slices.Clone(page.Refused), func(r Refusal) bool { return before(r.ID, r.unnamed) })
	if len(p.earlier) == 0 && len(asked) == 0 {
		return page
	}
	page.Generations = slices.DeleteFunc(slices.Clone(page.Generations), func(g store.Generation) bool { return before(g.ID, false) })
	return page
}

// What a page brings.
type arrival int

const (
	continued arrival = iota
	repeated          // nothing but rows that were there before, and not the last of them
	ended             // nothing behind the last row before
)

// join looks how a page continues the rows before it, of which it has to show those that it was asked for
// again, and adds its rows.
func (r *reading) join(p *paging, rows, asked []listedRow) arrival {
	again := make(map[uint64]bool, len(asked))
	for _, row := range asked {
		again[row.key] = true
	}
	last, found, known := -1, 0, 0
	for i, row := range rows {
		if again[row.key] {
			last = i
			found++
		}
		if r.seen[row.key] {
			known++
		}
	}
	met := continued
	switch {
	case found < len(again) && known == len(rows):
		met = repeated
	case found > 0 && last == len(rows)-1:
		met = ended
	}
	switch {
	case len(asked) == 0 || met == repeated:
	case found < len(again):
		r.doubts = "a page does not continue the one before"
	case slices.ContainsFunc(rows[last+1:], func(row listedRow) bool { return r.seen[row.key] }):
		r.doubts = "rows come again behind those that followed them"
	}
	for _, row := range rows {
		if row.key == 0 || r.seen[row.key] {
			continue
		}
		r.seen[row.key] = true
		if !p.earlier[row.key] {
			r.fresh++
		}
	}
	return met
}

// overlap returns the rows of a page to ask for again: from its last one with an id on and, as rows of one
// second may come in any order, from before those of that second. It tells whether the page has rows of another
// second at all.
func overlap(rows []listedRow) (again []listedRow, told bool) {
	i := lastNamed(rows)
	if i <= 0 {
		return nil, true
	}
	first := i
	for first > 0 && rows[first-1].at.Unix() == rows[i].at.Unix() {
		first--
	}
	switch {
	case first == 0:
		return rows[i:], false
	case first < i:
		first--
	}
	return rows[max(first, 1):], true
}

// meetsKnown tells whether a page shows generations as late as the newest that is known. One that does not may
// be full of such as were made long ago and are listed where they ended, with new ones behind them.
func (p *paging) meetsKnown(rows []listedRow) bool {
	return slices.ContainsFunc(rows, func(row listedRow) bool { return !row.at.Before(p.known.Newest) })
}

// isOver tells whether a page lies behind the window: by all of its rows, and by the end of the first whole
// page, or of a short one before it, which then is the last one.
func (p *paging) isOver(rows []listedRow, first bool) bool {
	if first {
		tail := min(max(len(rows)/20, shortTail), longTail)
		rows = rows[len(rows)-tail:]
	}
	dated := 0
	for _, row := range rows {
		switch {
		case row.at.IsZero():
		case !row.at.Before(p.since):
			return false
		default:
			dated++
		}
	}
	return dated > 0
}

// key is what a row is known by; 0 where it has no id.
func (p *paging) key(id string, unnamed bool) uint64 {
	if unnamed {
		return 0
	}
	return cmp.Or(maphash.String(p.seed, id), 1)
}

// rows returns the rows of a page in the order of the list.
func (p *paging) rows(page Page) []listedRow {
	rows := make([]listedRow, 0, len(page.Generations)+len(page.Refused))
	next := func(g store.Generation) { rows = append(rows, listedRow{p.key(g.ID, false), g.CreatedAt}) }
	generations := page.Generations
	for _, refused := range page.Refused {
		for len(rows) < refused.row && len(generations) > 0 {
			next(generations[0])
			generations = generations[1:]
		}
		rows = append(rows, listedRow{p.key(refused.ID, refused.unnamed), refused.CreatedAt})
	}
	for _, g := range generations {
		next(g)
	}
	return rows
}

// lastNamed is the index of the last row with an id, or -1.
func lastNamed(rows []listedRow) int {
	for i, row := range slices.Backward(rows) {
		if row.key != 0 {
			return i
		}
	}
	return -1
}

// checkOrder returns an error where a page is oldest first: it would end the window too early. Single rows may
// be out of order, so its halves are compared by their medians.
func checkOrder(rows []listedRow) error {
	const few = 8
	if len(rows) < few {
		return nil
	}
	median := func(rows []listedRow) time.Time {
		rows = slices.Clone(rows)
		slices.SortFunc(rows, func(a, b listedRow) int { return a.at.Compare(b.at) })
		return rows[len(rows)/2].at
	}
	first, second := median(rows[:len(rows)/2]), median(rows[len(rows)/2:])
	if !first.IsZero() && second.Sub(first) > orderSlack {
		return fmt.Errorf("%w: the list of generations is not newest first: rows of %s come before rows of %s",
			ErrAnswer, first.Format(time.RFC3339), second.Format(time.RFC3339))
	}
	return nil
}
