package openrouter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"usage-sync/store"
)

const (
	// planned is how many rows a part of a time range may have, by a count that is some seconds old.
	planned = 9_800
	// patience is how long a row may lack its model or user before GET /generation is asked for it.
	patience = time.Hour
	// fewLookups is up to how many rows of one bucket are looked up one by one, rather than by the minute all at once.
	fewLookups = 16
	// lookupsAtOnce bounds the requests under way.
	lookupsAtOnce = 4
)

// Unrecorded returns the ids of those generations that the ledger does not hold as they are.
type Unrecorded func(ctx context.Context, org store.Organisation, generations []store.Generation) (map[string]bool, error)

// Analytics lists an organisation's generations through the documented POST /analytics/query, with the management key.
//
// A query has two dimensions, so models and users come in two answers that are joined by generation. Times come as hours: a
// generation's CreatedAt is the start of its hour, but where that leaves its side of a midnight or of Window.Cut open.
type Analytics struct {
	management *Management
	client     *Client // for single generations, with the organisation's own key
	unrecorded Unrecorded
}

// NewAnalytics returns the source. Client and management talk to the same server.
func NewAnalytics(client *Client, management *Management, unrecorded Unrecorded) *Analytics {
	m := management.counting()
	own := *client
	own.requests = m.client.requests
	return &Analytics{management: m, client: &own, unrecorded: unrecorded}
}

// Name returns the source's name on the command line and in the history.
func (*Analytics) Name() string { return "analytics" }

// Requests returns how many requests the source has sent, retries included.
func (a *Analytics) Requests() int64 { return a.client.Requests() }

// FindKeyHash returns the hash by which OpenRouter knows an organisation's key.
func (a *Analytics) FindKeyHash(ctx context.Context, org store.Organisation) (string, error) {
	return a.management.FindKeyHash(ctx, org)
}

// Fetch hands over the window in parts that fit into one answer, newest first. The organisation has a KeyHash.
func (a *Analytics) Fetch(ctx context.Context, org store.Organisation, window Window, page func(Page) error) error {
	f := &fetching{Analytics: a, org: org, window: window, slugs: map[string]string{}}
	since := window.Since.UTC().Truncate(time.Hour) // whole hours: half of one may be left out by its start
	for end := window.Until.UTC(); end.After(since); {
		start := later(since, end.Add(time.Hour-MaxRange).Truncate(time.Hour))
		if err := f.fetch(ctx, timeRange{start, end}, page); err != nil {
			return err
		}
		end = start
	}
	return nil
}

// fetching is the work on one window.
type fetching struct {
	*Analytics
	org    store.Organisation
	window Window

	mu    sync.Mutex
	slugs map[string]string // by the name that the server shows in place of a model's slug
}

// fetch hands over a range, in parts where it has too many rows for one answer.
func (f *fetching) fetch(ctx context.Context, r timeRange, page func(Page) error) error {
	models, err := f.ask(ctx, r, "hour", []string{"tokens_total", "total_usage"}, "generation_id", "model")
	if err != nil {
		return err
	}
	var users table
	if !models.truncated {
		users, err = f.ask(ctx, r, "hour", []string{"request_count"}, "generation_id", "external_user")
		if err != nil {
			return err
		}
	}
	if !models.truncated && !users.truncated {
		joined, err := f.join(ctx, models, users)
		if err != nil {
			return err
		}
		return page(joined)
	}
	parts, err := f.split(ctx, r)
	if err != nil {
		return err
	}
	for _, part := range slices.Backward(parts) {
		if err := f.fetch(ctx, part, page); err != nil {
			return err
		}
	}
	return nil
}

func (f *fetching) ask(ctx context.Context, r timeRange, granularity string, metrics []string, dimensions ...string) (table, error) {
	return f.management.ask(ctx, f.org.KeyHash, query{Metrics: metrics, Dimensions: dimensions, Granularity: granularity, TimeRange: r})
}

// split cuts a range into parts that should fit into one answer: by the number of requests in each of its hours, or in each
// minute of an hour.
func (f *fetching) split(ctx context.Context, r timeRange) ([]timeRange, error) {
	granularity, unit := "hour", time.Hour
	switch {
	case r.length() <= time.Minute:
		return nil, fmt.Errorf("%w: more rows than one answer can hold in the minute from %s", ErrAnswer, r)
	case r.length() <= time.Hour:
		granularity, unit = "minute", time.Minute
	}
	counts, err := f.ask(ctx, r, granularity, []string{"request_count"})
	if err != nil {
		return nil, err
	}
	var parts []timeRange
	if !counts.truncated {
		parts = plan(r, counts.rows)
	}
	if len(parts) < 2 { // the count is no help
		half := later(r.Start.Add(unit), r.Start.Add(r.length()/2)).Truncate(unit)
		parts = []timeRange{{r.Start, half}, {half, r.End}}
	}
	return parts, nil
}

// plan cuts a range where buckets begin, so that each part has at most the planned rows or is a single bucket.
func plan(r timeRange, counts []tableRow) []timeRange {
	counts = slices.Clone(counts)
	slices.SortFunc(counts, func(a, b tableRow) int { return a.bucket.Compare(b.bucket) })
	var parts []timeRange
	part, rows := timeRange{r.Start, r.End}, int64(0)
	for _, count := range counts {
		if rows > 0 && rows+count.requests > planned && count.bucket.After(part.Start) && count.bucket.Before(r.End) {
			parts = append(parts, timeRange{part.Start, count.bucket})
			part.Start, rows = count.bucket, 0
		}
		rows += count.requests
	}
	return append(parts, part)
}

// candidate is a row that can't be recorded as it is, unless the ledger has it already.
type candidate struct {
	g       store.Generation
	bucket  time.Time
	lacking bool // its model or user is not known
	named   bool // its model is a name for people
	open    bool // its side of a midnight or of the cut is not known
}

// join makes generations of both answers. New rows may have come between the two: a row that is not in both is left to the
// next pass, and the page knows nothing from its hour on.
func (f *fetching) join(ctx context.Context, models, users table) (Page, error) {
	page := Page{ServerTime: models.server, AsOf: earliest(models.asOf, users.asOf)}
	byID := make(map[string]tableRow, len(users.rows))
	twice := map[string]bool{}
	for _, row := range users.rows {
		if before, met := byID[row.id]; met && (before.user != row.user || before.problem != row.problem) {
			twice[row.id] = true
		}
		byID[row.id] = row
	}
	page.Generations = make([]store.Generation, 0, len(models.rows))
	var candidates []candidate
	met := make(map[string]bool, len(models.rows))
	for _, row := range models.rows {
		user, complete := byID[row.id]
		refused := row.problem
		switch {
		case row.id == "" && row.problem == "" && row.cost == 0 && row.tokens == 0:
			continue // a request that came to nothing
		case row.id == "":
			refused, row.id = "no generation_id", "without an id"
		case met[row.id] || twice[row.id]:
			refused = "listed twice, with another hour, model or user"
		case !row.priced:
			refused = cmp.Or(row.problem, "no total_usage")
		case complete:
			refused = cmp.Or(refused, user.problem)
		}
		met[row.id] = true
		if refused != "" {
			page.Refused = append(page.Refused, Refusal{ID: plain(row.id, f.org.Key), CreatedAt: row.bucket, Reason: plain(refused, f.org.Key)})
			continue
		}
		c := candidate{
			// The window may start within the bucket, on the same day: then all of it belongs to the window.
			g: store.Generation{ID: row.id, CreatedAt: later(row.bucket, f.window.Since), Model: row.model, User: user.user,
				Tokens: row.tokens, Cost: row.cost},
			bucket:  row.bucket,
			lacking: !complete || row.model == "",
			named:   row.model != "" && !strings.Contains(row.model, "/"),
			open:    f.open(row.bucket, time.Hour, models.server),
		}
		if c.lacking || c.named || c.open {
			candidates = append(candidates, c)
		} else {
			page.Generations = append(page.Generations, c.g)
		}
	}
	for _, row := range users.rows {
		if !met[row.id] && row.id != "" {
			page.AsOf = earliest(page.AsOf, row.bucket)
		}
	}
	return page, f.complete(ctx, &page, candidates)
}

// earliest is the earlier of two times of which each may be unknown.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}

// open tells whether a midnight of the organisation or the cut lies inside a bucket. No row is younger than the server's
// clock.
func (f *fetching) open(start time.Time, length time.Duration, server time.Time) bool {
	end := start.Add(length)
	if now := later(f.window.Until, server); end.After(now) {
		end = later(start, now)
	}
	cut := f.window.Cut
	return store.DayOf(start, f.org.Zone) != store.DayOf(end.Add(-time.Nanosecond), f.org.Zone) ||
		(!cut.IsZero() && !start.After(cut) && end.After(cut.Add(time.Second)))
}

// complete finds out what is missing of those candidates that the ledger does not hold as they are.
func (f *fetching) complete(ctx context.Context, page *Page, candidates []candidate) error {
	if len(candidates) == 0 {
		return nil
	}
	generations := make([]store.Generation, len(candidates))
	for i, c := range candidates {
		generations[i] = c.g
	}
	unrecorded, err := f.unrecorded(ctx, f.org, generations)
	if err != nil {
		return err
	}
	var unknown []candidate
	for _, c := range candidates {
		if unrecorded[c.g.ID] {
			unknown = append(unknown, c)
		} else { // its day is in the ledger
			page.Generations = append(page.Generations, c.g)
		}
	}
	if err := f.byTheMinute(ctx, unknown, page.ServerTime); err != nil {
		return err
	}
	return f.lookUp(ctx, page, unknown)
}

// byTheMinute finds the minute of rows where there are many in a bucket: a midnight lies between two minutes.
func (f *fetching) byTheMinute(ctx context.Context, rows []candidate, server time.Time) error {
	open := map[time.Time][]int{}
	for i, c := range rows {
		if c.open {
			open[c.bucket] = append(open[c.bucket], i)
		}
	}
	for hour, indexes := range open {
		if len(indexes) <= fewLookups {
			continue
		}
		minutes, err := f.ask(ctx, timeRange{hour, hour.Add(time.Hour)}, "minute", []string{"request_count"}, "generation_id")
		if err != nil {
			return err
		}
		byID := make(map[string]time.Time, len(minutes.rows))
		for _, row := range minutes.rows {
			if row.problem == "" {
				byID[row.id] = row.bucket
			}
		}
		for _, i := range indexes {
			if minute, found := byID[rows[i].g.ID]; found && !f.open(minute, time.Minute, server) {
				rows[i].g.CreatedAt, rows[i].open = minute, false
			}
		}
	}
	return nil
}

// lookUp asks GET /generation for what is still missing. What it can't say now is left to the next pass; after a while it
// is refused, so that it is not forgotten.
func (f *fetching) lookUp(ctx context.Context, page *Page, rows []candidate) error {
	found := make([]*store.Generation, len(rows))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(lookupsAtOnce)
	for i, c := range rows {
		if young := page.AsOf.IsZero() || page.AsOf.Sub(c.bucket) < time.Hour+patience; c.lacking && young {
			continue
		}
		group.Go(func() (err error) {
			found[i], err = f.exactly(groupCtx, c)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, c := range rows {
		switch {
		case found[i] != nil:
			page.Generations = append(page.Generations, *found[i])
		case c.lacking && !page.AsOf.IsZero() && page.AsOf.Sub(c.bucket) >= time.Hour+patience:
			page.Refused = append(page.Refused, Refusal{ID: plain(c.g.ID, f.org.Key), CreatedAt: c.bucket,
				Reason: "its model or user is not in the analytics, and GET /generation does not know it"})
		default:
			page.AsOf = earliest(page.AsOf, c.bucket)
		}
	}
	return nil
}

// exactly returns a row with what GET /generation says of it, or nil where that does not know it yet.
func (f *fetching) exactly(ctx context.Context, c candidate) (*store.Generation, error) {
	g := c.g
	if c.named && !c.lacking && !c.open {
		if slug := f.slug(g.Model); slug != "" {
			g.Model = slug
			return &g, nil
		}
	}
	single, err := f.generation(ctx, g.ID)
	var apiErr *APIError
	switch {
	case errors.As(err, &apiErr) && apiErr.NotOffered():
		return nil, nil
	case err != nil:
		return nil, err
	}
	if c.named {
		f.mu.Lock()
		f.slugs[g.Model] = single.Model
		f.mu.Unlock()
	}
	if c.named || c.lacking {
		g.Model = single.Model
	}
	if c.lacking {
		g.User = single.User
	}
	g.CreatedAt = single.CreatedAt
	return &g, nil
}

func (f *fetching) slug(name string) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.slugs[name]
}

func (f *fetching) generation(ctx context.Context, id string) (g store.Generation, err error) {
	err = f.client.get(ctx, f.org.Key, "generation", url.Values{"id": {id}}, func(_ http.Header, body io.Reader) error {
		g, err = decodeGeneration(body)
		return err
	})
	if err == nil && g.ID != id {
		err = fmt.Errorf("%w: asked for generation %s, got %s", ErrAnswer, plain(id, f.org.Key), plain(g.ID, f.org.Key))
	}
	return g, err
}
