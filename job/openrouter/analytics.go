package openrouter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"usage-sync/store"
)

const (
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
	m := management.Counting()
	own := *client
	own.meter = m.client.meter
	return &Analytics{management: m, client: &own, unrecorded: unrecorded}
}

// Name returns the source's name on the command line and in the history.
func (*Analytics) Name() string { return "analytics" }

// Traffic returns what the source has sent and got so far.
func (a *Analytics) Traffic() Traffic { return a.client.Traffic() }

// FindKeyHash returns the hash by which OpenRouter knows an organisation's key.
func (a *Analytics) FindKeyHash(ctx context.Context, org store.Organisation) (string, error) {
	return a.management.FindKeyHash(ctx, org)
}

// Fetch hands over the window in parts that fit into one answer, newest first. The organisation has a KeyHash.
func (a *Analytics) Fetch(ctx context.Context, org store.Organisation, window Window, page func(Page) error) error {
	f := &fetching{Analytics: a, org: org, window: window, slugs: map[string]*slug{}}
	since := window.Since.UTC().Truncate(time.Hour) // whole hours: half of one may be left out by its start
	return inParts(timeRange{since, window.Until.UTC()}, func(r timeRange) (bool, error) { return f.fetch(ctx, r, page) },
		func(r timeRange) ([]timeRange, error) { return f.split(ctx, r) })
}

// fetching is the work on one window.
type fetching struct {
	*Analytics
	org    store.Organisation
	window Window

	mu    sync.Mutex
	slugs map[string]*slug // by the name that the server shows in its place
}

// slug is a model's, once it is found out. Whoever finds it out holds the lock.
type slug struct {
	mu   sync.Mutex
	text string
}

// fetch hands over a range, unless it has too many rows for one answer.
func (f *fetching) fetch(ctx context.Context, r timeRange, page func(Page) error) (whole bool, err error) {
	models, err := f.ask(ctx, r, "hour", []string{"tokens_total", "total_usage"}, "generation_id", "model")
	if err != nil || models.truncated {
		return false, err
	}
	users, err := f.ask(ctx, r, "hour", []string{"request_count"}, "generation_id", "external_user")
	if err != nil || users.truncated {
		return false, err
	}
	joined, joinErr := f.join(ctx, r, models, users)
	if err := page(joined); err != nil {
		return false, err
	}
	return true, joinErr
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
		parts = plan(r, counts.rows, unit, int64(f.management.limit-f.management.limit/50)) // the count is some seconds old
	}
	if len(parts) < 2 { // the count is no help
		parts = halves(r, unit)
	}
	return parts, nil
}

// plan cuts a range where buckets begin, so that each part has at most some number of rows or is a single bucket.
func plan(r timeRange, counts []tableRow, bucket time.Duration, most int64) []timeRange {
	counts = slices.Clone(counts)
	slices.SortFunc(counts, func(a, b tableRow) int { return a.bucket.Compare(b.bucket) })
	var parts []timeRange
	part, rows := timeRange{r.Start, r.End}, int64(0)
	cut := func(at time.Time) {
		if at.After(part.Start) && at.Before(r.End) {
			parts = append(parts, timeRange{part.Start, at})
			part.Start, rows = at, 0
		}
	}
	for _, count := range counts {
		if rows+count.requests > most {
			cut(count.bucket)
		}
		rows += count.requests
		if count.requests > most { // it is cut further, and what follows is not
			cut(count.bucket.Add(bucket))
		}
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
// next pass, and the page knows nothing from its hour on; after a while it is refused. Where a lookup fails, the page has what
// is sound.
func (f *fetching) join(ctx context.Context, r timeRange, models, users table) (Page, error) {
	page := Page{ServerTime: models.server, AsOf: earliest(models.asOf, users.asOf)}
	late := page.AsOf.Add(-time.Hour - patience)
	if page.AsOf.IsZero() {
		late = f.window.Until.Add(-time.Hour - patience)
	}
	refuse := func(id string, at time.Time, reason string) {
		page.Refused = append(page.Refused, Refusal{ID: f.plain(id), CreatedAt: at, Reason: f.plain(reason)})
	}
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
	met := make(map[string]int, len(models.rows))
	for _, row := range models.rows {
		met[row.id]++
	}
	for _, row := range models.rows {
		user, complete := byID[row.id]
		refused := row.problem
		switch {
		case row.id == "" && row.problem == "" && row.cost == 0 && row.tokens == 0:
			continue // a request that came to nothing
		case row.id == "":
			refused, row.id = "no generation_id", "without an id"
		case refused == "" && (row.bucket.Before(r.Start.Truncate(time.Hour)) || row.bucket.After(r.End)):
			// Whatever it is, it must not be taken for usage of this window.
			refused, row.bucket = "its time is outside the range that was asked for: "+row.bucket.Format(time.RFC3339), time.Time{}
		case met[row.id] > 1 || twice[row.id]:
			refused = "listed twice, with another hour, model or user"
		case !row.priced:
			refused = cmp.Or(row.problem, "no total_usage")
		case complete:
			refused = cmp.Or(refused, user.problem)
		}
		if refused != "" {
			refuse(row.id, row.bucket, refused)
			continue
		}
		c := candidate{
			// The window may start within the bucket, on the same day: then all of it belongs to the window.
			g: store.Generation{ID: row.id, CreatedAt: later(row.bucket, f.window.Since), Model: row.model, User: user.user,
				Tokens: row.tokens, Cost: row.cost},
			bucket:  row.bucket,
			lacking: !complete || row.model == "",
			named:   row.model != "" && !IsSlug(row.model),
			open:    f.open(row.bucket, time.Hour, models.server),
		}
		if c.lacking || c.named || c.open {
			candidates = append(candidates, c)
		} else {
			page.Generations = append(page.Generations, c.g)
		}
	}
	for _, row := range users.rows {
		switch {
		case met[row.id] > 0 || row.id == "":
		case row.bucket.After(late):
			page.AsOf = earliest(page.AsOf, row.bucket)
		default:
			refuse(row.id, row.bucket, "it is in the analytics with its user, and not with its cost")
		}
	}
	return page, f.complete(ctx, r, &page, candidates, late)
}

// plain makes a server's words fit for a log line. Neither key is in them.
func (f *fetching) plain(text string) string {
	return plain(strings.ReplaceAll(text, string(f.management.key), f.management.key.String()), f.org.Key)
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

// complete finds out what is missing of those candidates that the ledger does not hold as they are. Those from before late
// have had their time.
func (f *fetching) complete(ctx context.Context, r timeRange, page *Page, candidates []candidate, late time.Time) error {
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
	if err := f.byTheMinute(ctx, r, unknown, page.ServerTime); err != nil {
		return err
	}
	return f.lookUp(ctx, page, unknown, late)
}

// byTheMinute finds the minute of rows where there are many in a bucket: a midnight lies between two minutes. The range of
// which the rows are fits into one answer, a whole bucket might not.
func (f *fetching) byTheMinute(ctx context.Context, r timeRange, rows []candidate, server time.Time) error {
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
		part := timeRange{later(hour, r.Start), earliest(hour.Add(time.Hour), r.End)}
		minutes, err := f.ask(ctx, part, "minute", []string{"request_count"}, "generation_id")
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
func (f *fetching) lookUp(ctx context.Context, page *Page, rows []candidate, late time.Time) error {
	found, problems := make([]*store.Generation, len(rows)), make([]error, len(rows))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(lookupsAtOnce)
	for i, c := range rows {
		switch {
		case !c.lacking && !c.named && !c.open:
			found[i] = &rows[i].g
			continue
		case c.lacking && c.bucket.After(late):
			continue
		}
		group.Go(func() (err error) {
			found[i], err = f.exactly(groupCtx, c)
			if errors.Is(err, ErrAnswer) { // of this row; those around it are sound
				problems[i], err = err, nil
			}
			return err
		})
	}
	err := group.Wait()
	for i, c := range rows {
		reason := ""
		switch {
		case found[i] != nil:
			page.Generations = append(page.Generations, *found[i])
			continue
		case problems[i] != nil:
			reason = problems[i].Error()
		case err == nil && !c.bucket.After(late):
			reason = "its model, user or time is not in the analytics, and GET /generation does not know it"
		default:
			page.AsOf = earliest(page.AsOf, c.bucket)
			continue
		}
		page.Refused = append(page.Refused, Refusal{ID: f.plain(c.g.ID), CreatedAt: c.bucket, Reason: f.plain(reason)})
	}
	return err
}

// exactly returns a row with what GET /generation says of it, or nil where that does not know it yet.
func (f *fetching) exactly(ctx context.Context, c candidate) (*store.Generation, error) {
	g := c.g
	var known *slug
	if c.named {
		known = f.slug(g.Model)
		known.mu.Lock()
		defer known.mu.Unlock()
		if known.text != "" && !c.lacking && !c.open {
			g.Model = known.text
			return &g, nil
		}
	}
	single, err := f.client.generation(ctx, f.org.Key, g.ID)
	var apiErr *APIError
	switch {
	case errors.As(err, &apiErr) && apiErr.NotOffered():
		return nil, nil
	case err != nil:
		return nil, err
	}
	if c.named {
		known.text = single.Model
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

func (f *fetching) slug(name string) *slug {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.slugs[name] == nil {
		f.slugs[name] = &slug{}
	}
	return f.slugs[name]
}
