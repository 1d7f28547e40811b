package openrouter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"usage-sync/store"
)

const (
	// patience is how long a row may lack its model or user before GET /generation is asked for it, and
	// longPatience how long it is left for later where that fails.
	patience     = time.Hour
	longPatience = 24 * time.Hour
	// overhang is what is read before a window: of a generation that lies in it the run of a tool may lie
	// before, and then half of its cost would be taken for all of it.
	overhang = time.Hour
	// fewLookups is up to how many rows of one bucket are looked up one by one, rather than by the minute all at once.
	fewLookups = 16
	// lookupsAtOnce bounds the requests under way, lookupTries how often each is sent, and mostFailures how
	// many may fail in a row before the rest is left for later.
	lookupsAtOnce = 4
	lookupTries   = 3
	mostFailures  = 32
	// analyticsResolution is what the analytics round costs to: total_usage is 0.06859 where GET /generation
	// has 0.0685905 (seen live on 2 Sep 2026).
	analyticsResolution = store.Dollar / 1_000_000
)

// Unrecorded returns the ids of those generations that the ledger does not hold as they are.
type Unrecorded func(ctx context.Context, org store.Organisation,
	generations []store.Generation) (map[string]bool, error)

// Analytics lists an organisation's generations through the documented POST /analytics/query, with the management key.
//
// A query has two dimensions, so models and users come in two answers that are joined by generation. Times come
// as hours: a generation's CreatedAt is the second that its id tells, or the start of its hour, but where that
// leaves its side of a midnight or of Window.Cut open.
type Analytics struct {
	management *Management
	client     *Client // for single generations, with the organisation's own key where the management key is refused
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

// FindKeyHash is Management.FindKeyHash.
func (a *Analytics) FindKeyHash(ctx context.Context, org store.Organisation) (AccountKey, error) {
	return a.management.FindKeyHash(ctx, org)
}

// OwnKey is Management.OwnKey.
func (a *Analytics) OwnKey(ctx context.Context, key store.Key) (KeyInfo, error) {
	return a.management.OwnKey(ctx, key)
}

// KeyOf is Management.KeyOf.
func (a *Analytics) KeyOf(ctx context.Context, hash string) (KeyInfo, error) {
	return a.management.KeyOf(ctx, hash)
}

// Seal is Management.Seal.
func (a *Analytics) Seal(texts ...string) string { return a.management.Seal(texts...) }

// LastUse returns the end of the last hour before now in which a key was used; zero where it was not within MaxRange.
func (a *Analytics) LastUse(ctx context.Context, hash string, now time.Time) (last time.Time, err error) {
	r := timeRange{now.UTC().Add(time.Hour - MaxRange).Truncate(time.Hour), now.UTC()}
	t, err := a.management.ask(ctx, []string{hash}, query{Metrics: []string{"request_count", "total_usage"},
		Granularity: "hour", TimeRange: r})
	if err == nil && t.truncated {
		err = fmt.Errorf("%w: more rows than one answer can hold for the hours from %s", ErrAnswer, r)
	}
	for _, row := range t.rows {
		last = later(last, row.bucket.Add(time.Hour))
	}
	return last, err
}

// Fetch hands over the window in parts that fit into one answer, newest first. The organisation has a KeyHash.
func (a *Analytics) Fetch(ctx context.Context, org store.Organisation, window Window, page func(Page) error) error {
	f := &fetching{Analytics: a, org: org, window: window, slugs: map[string]*slug{}}
	if !window.LookBack.IsZero() {
		f.window.Since = window.LookBack
	}
	f.since = f.window.Since.UTC().Truncate(time.Hour) // whole hours: half of one may be left out by its start
	r := timeRange{f.since, window.Until.UTC()}
	if r.length()+overhang+time.Hour <= MaxRange { // else it would take one query more
		r.Start = r.Start.Add(-overhang)
	}
	return inParts(r, func(r timeRange) (bool, error) { return f.fetch(ctx, r, page) },
		func(r timeRange) ([]timeRange, error) { return f.split(ctx, r) })
}

// fetching is the work on one window.
type fetching struct {
	*Analytics
	org    store.Organisation
	window Window
	since  time.Time // the hour in which the window begins

	mu    sync.Mutex
	slugs map[string]*slug // by the name that the server shows in its place

	failures   atomic.Int64 // single lookups in a row that failed
	withOwnKey atomic.Bool  // the management key is refused for single lookups
}

// slug is a model's, once it is found out. Whoever finds it out holds the lock.
type slug struct {
	mu   sync.Mutex
	text string
}

// fetch hands over a range, unless it has too many rows for one answer.
func (f *fetching) fetch(ctx context.Context, r timeRange, page func(Page) error) (whole bool, err error) {
	models, err := f.ask(ctx, r, "hour", []string{"request_count", "tokens_total", "total_usage"},
		"generation_id", "model")
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

func (f *fetching) ask(ctx context.Context, r timeRange, granularity string, metrics []string,
	dimensions ...string) (table, error) {
	return f.management.ask(ctx, f.org.Hashes(), query{Metrics: metrics, Dimensions: dimensions,
		Granularity: granularity, TimeRange: r})
}

// split cuts a range into parts that should fit into one answer: by the number of requests in each of its
// hours, or in each minute of an hour.
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
		// the count is some seconds old
		parts = plan(r, counts.rows, unit, int64(f.management.limit-f.management.limit/50))
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
	g        store.Generation
	bucket   time.Time
	lacking  bool // its model or user is not known
	named    bool // its model is a name for people
	open     bool // its side of a midnight or of the cut is not known
	unpriced bool // its cost is not known
}

// cost is nil where it is not known.
func (c candidate) cost() *store.Money {
	if c.unpriced {
		return nil
	}
	return &c.g.Cost
}

// certain holds for a row of which nothing is missing any more.
func (c candidate) certain() bool { return !c.lacking && !c.named && !c.open && !c.unpriced }

// charge is what the rows of one generation say together.
type charge struct {
	tableRow
	rows int
}

// merge makes one charge of the rows of one generation, in the order in which they come. The run of a server
// tool, such as a web search, may be a row of its own, with another model and no request (vendor, 4 Nov 2026):
// costs and tokens are added, and the model and time are those of the row that has requests, or else tokens.
func merge(rows []tableRow) []charge {
	charges := make([]charge, 0, len(rows))
	index := make(map[string]int, len(rows))
	for _, row := range rows {
		i, met := index[row.id]
		if !met || row.id == "" {
			index[row.id] = len(charges)
			charges = append(charges, charge{row, 1})
			continue
		}
		charges[i].add(row)
	}
	return charges
}

func (c *charge) add(row tableRow) {
	sum, name := c.tableRow, &c.tableRow
	if row.before(c.tableRow) {
		name = &row
	}
	sum.bucket, sum.model, sum.dated = name.bucket, name.model, name.dated
	sum.cost += row.cost
	sum.tokens += row.tokens
	sum.requests += row.requests
	sum.priced = sum.priced && row.priced
	sum.counted = sum.counted && row.counted
	sum.problem = cmp.Or(sum.problem, row.problem)
	// no sum of the next row leaves the range unseen
	if sum.cost > maxCost || sum.tokens > maxNumber || sum.requests > maxNumber {
		sum.problem = cmp.Or(sum.problem, "its rows add up to something absurd")
		sum.cost, sum.tokens, sum.requests = 0, 0, 0
	}
	c.tableRow, c.rows = sum, c.rows+1
}

// before tells whether a row, rather than another of the same generation, says what it was.
func (r tableRow) before(other tableRow) bool {
	return cmp.Or(cmp.Compare(min(other.requests, 1), min(r.requests, 1)),
		cmp.Compare(min(other.tokens, 1), min(r.tokens, 1)), cmp.Compare(other.cost, r.cost),
		cmp.Compare(r.dated, other.dated)) < 0
}

// users returns who each generation is of: of several rows the one with a user and most requests says it.
func users(rows []tableRow) map[string]tableRow {
	byID := make(map[string]tableRow, len(rows))
	for _, row := range rows {
		other, met := byID[row.id]
		switch {
		case !met, other.user == "" && row.user != "",
			(other.user == "") == (row.user == "") && cmp.Or(cmp.Compare(other.requests, row.requests),
				cmp.Compare(row.user, other.user)) < 0:
			byID[row.id] = row
		}
	}
	return byID
}

// join makes generations of both answers. New rows may have come between the two: a row that is not in both is
// left to the next pass, and the page knows nothing from its hour on; after a while it is looked up.
func (f *fetching) join(ctx context.Context, r timeRange, models, usersTable table) (Page, error) {
	page := Page{ServerTime: models.server, Reach: f.window.LookBack, AsOf: earliest(models.asOf, usersTable.asOf)}
	late := page.AsOf.Add(-time.Hour - patience)
	if page.AsOf.IsZero() {
		late = f.window.Until.Add(-time.Hour - patience)
	}
	refuse := func(row tableRow, reason string) {
		r := Refusal{ID: cmp.Or(f.plain(row.id), "without an id"), CreatedAt: row.bucket,
			Reason: f.plain(reason), unnamed: row.id == ""}
		if row.priced && row.cost != 0 {
			r.Cost = &row.cost
		}
		page.Refused = append(page.Refused, r)
	}
	byID := users(usersTable.rows)
	page.Generations = make([]store.Generation, 0, len(models.rows))
	var candidates []candidate
	met := make(map[string]bool, len(models.rows))
	for i, row := range models.rows {
		if row.problem == "" && (row.bucket.Before(r.Start.Truncate(time.Hour)) || row.bucket.After(r.End)) {
			// Whatever it is, it must not be taken for usage of this window.
			models.rows[i].problem = "its time is outside the range that was asked for: " +
				row.bucket.Format(time.RFC3339)
			models.rows[i].bucket = time.Time{}
		}
	}
	for _, row := range merge(models.rows) {
		met[row.id] = true
		refused := row.problem
		switch {
		case f.before(row.bucket):
			continue
		case row.id == "" && row.problem == "" && row.cost == 0 && row.tokens == 0:
			continue // a request that came to nothing
		case row.id == "":
			refused = cmp.Or(refused, "no generation_id")
		case !row.priced && row.rows > 1:
			refused = cmp.Or(refused, "no total_usage in one of its rows")
		}
		if refused != "" {
			refuse(row.tableRow, refused)
			continue
		}
		user, complete := byID[row.id]
		c := f.candidate(row.tableRow, user.user, complete, models.server)
		c.g.Resolution *= store.Money(row.rows) // each row is rounded by itself
		if c.certain() {
			page.Generations = append(page.Generations, c.g)
		} else {
			candidates = append(candidates, c)
		}
	}
	for _, row := range usersTable.rows {
		if row.id == "" || met[row.id] || f.before(byID[row.id].bucket) {
			continue
		}
		met[row.id] = true
		switch row = byID[row.id]; {
		case row.bucket.After(late):
			page.AsOf = earliest(page.AsOf, row.bucket)
		case row.problem != "":
			refuse(row, "it is in the analytics with its user, and not with its cost: "+row.problem)
		default:
			candidates = append(candidates, f.candidate(row, row.user, false, models.server))
		}
	}
	return page, f.complete(ctx, r, &page, candidates, late)
}

// before tells whether a row lies before the window.
func (f *fetching) before(bucket time.Time) bool { return !bucket.IsZero() && bucket.Before(f.since) }

// candidate makes a generation of a row, and notes what is missing of it.
func (f *fetching) candidate(row tableRow, user string, complete bool, server time.Time) candidate {
	// A charge without a request and without a model needs none: it is of a tool, and there may be many.
	noRequest := row.counted && row.requests == 0
	c := candidate{
		// The window may start within the bucket, on the same day: then all of it belongs to the window.
		g: store.Generation{ID: row.id, CreatedAt: later(row.bucket, f.window.Since), Model: row.model, User: user,
			Tokens: row.tokens, Cost: row.cost, Resolution: analyticsResolution, NoRequest: noRequest},
		bucket:   row.bucket,
		lacking:  !complete || (row.model == "" && !noRequest),
		named:    row.model != "" && !IsSlug(row.model),
		open:     f.open(row.bucket, row.bucket.Add(time.Hour), server),
		unpriced: !row.priced,
	}
	if at, ok := f.idTime(row, server); ok {
		c.g.CreatedAt, c.open = at, false
	}
	return c
}

// idTime returns the second that a row's id tells, where that lies in the row's bucket and is not so close to a
// midnight or the cut that created_at may lie on the other side.
func (f *fetching) idTime(row tableRow, server time.Time) (at time.Time, ok bool) {
	at, ok = IDTime(row.id)
	end := row.bucket.Add(time.Hour)
	if !ok || at.Before(row.bucket) || !at.Before(end) {
		return time.Time{}, false
	}
	return at, !f.open(later(row.bucket, at.Add(-idSlack)), earliest(end, at.Add(idSlack)), server)
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

// open tells whether a midnight of the organisation or the cut lies inside a stretch of time. No row is younger
// than the server's clock.
func (f *fetching) open(start, end, server time.Time) bool {
	if now := later(f.window.Until, server); end.After(now) {
		end = later(start, now)
	}
	cut := f.window.Cut
	return store.DayOf(start, f.org.Zone) != store.DayOf(end.Add(-time.Nanosecond), f.org.Zone) ||
		(!cut.IsZero() && !start.After(cut) && end.After(cut.Add(time.Second)))
}

// complete finds out what is missing of those candidates that the ledger does not hold as they are. Those from
// before late have had their time.
func (f *fetching) complete(ctx context.Context, r timeRange, page *Page,
	candidates []candidate, late time.Time) error {
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
		if unrecorded[c.g.ID] || f.window.Anew {
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

// byTheMinute finds the minute of rows where there are many in a bucket: a midnight lies between two minutes.
// The range of which the rows are fits into one answer, a whole bucket might not.
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
			if minute, found := byID[rows[i].g.ID]; found && !f.open(minute, minute.Add(time.Minute), server) {
				rows[i].g.CreatedAt, rows[i].open = minute, false
			}
		}
	}
	return nil
}

// lookUp asks GET /generation for what is still missing. One that fails stops nothing else. What it can't say
// now is left to the next pass. After a while a row is recorded under the labels that it has, or none; one
// whose cost or day is not known is refused, so that it is not forgotten.
func (f *fetching) lookUp(ctx context.Context, page *Page, rows []candidate, late time.Time) error {
	found, problems := make([]*store.Generation, len(rows)), make([]error, len(rows))
	var group errgroup.Group
	group.SetLimit(lookupsAtOnce)
	for i, c := range rows {
		switch {
		case c.certain():
			found[i] = &rows[i].g
		case c.lacking && !c.unpriced && c.bucket.After(late): // it may still come
		default:
			group.Go(func() error {
				found[i], problems[i] = f.exactly(ctx, c)
				return nil
			})
		}
	}
	_ = group.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, c := range rows {
		forLabels := !c.open && !c.unpriced
		switch {
		case found[i] != nil:
			page.Generations = append(page.Generations, *found[i])
		case c.bucket.After(late),
			forLabels && problems[i] != nil && c.bucket.After(late.Add(-longPatience)):
			page.AsOf = earliest(page.AsOf, c.bucket)
		case forLabels:
			page.Generations = append(page.Generations, c.g)
		default:
			page.Refused = append(page.Refused, Refusal{ID: f.plain(c.g.ID), CreatedAt: c.bucket,
				Reason: f.plain(c.reason(problems[i])), Cost: c.cost()})
		}
	}
	return nil
}

// reason says why a row is refused.
func (c candidate) reason(problem error) string {
	what := "on which side of a midnight or of the cut it lies is not in the analytics"
	if c.unpriced {
		what = "no total_usage"
	}
	if problem == nil {
		return what + ", and GET /generation does not know it"
	}
	return what + ", and GET /generation fails: " + problem.Error()
}

// exactly returns a row with what GET /generation says of it, or nil where that does not know it yet.
func (f *fetching) exactly(ctx context.Context, c candidate) (*store.Generation, error) {
	g := c.g
	var known *slug
	if c.named {
		known = f.slug(g.Model)
		known.mu.Lock()
		defer known.mu.Unlock()
		if known.text != "" && !c.lacking && !c.open && !c.unpriced {
			g.Model = known.text
			return &g, nil
		}
	}
	single, err := f.single(ctx, g.ID)
	var apiErr *APIError
	switch {
	case errors.As(err, &apiErr) && apiErr.NotOffered():
		return nil, nil
	case err != nil:
		return nil, err
	}
	if c.named {
		known.text = single.Model
		g.Model = cmp.Or(single.Model, g.Model)
	}
	g.Model, g.User = cmp.Or(g.Model, single.Model), cmp.Or(g.User, single.User)
	if c.unpriced {
		g.Cost, g.Resolution, g.Tokens = single.Cost, single.Resolution, cmp.Or(g.Tokens, single.Tokens)
	}
	g.CreatedAt = single.CreatedAt
	return &g, nil
}

// errLeft: too many lookups in a row have failed.
var errLeft = errors.New("left for later, because other lookups fail")

// single asks for one generation with the management key, and where that is refused with the organisation's
// own: a disabled, exhausted or rotated key is refused although the generation exists (vendor, 22 Aug 2026).
func (f *fetching) single(ctx context.Context, id string) (g store.Generation, err error) {
	if f.failures.Load() >= mostFailures {
		return g, errLeft
	}
	var apiErr *APIError
	if !f.withOwnKey.Load() {
		g, err = f.management.generation(ctx, id)
	}
	if f.withOwnKey.Load() || (errors.As(err, &apiErr) && apiErr.Refused() && f.org.Key != "") {
		own, ownErr := f.client.generation(ctx, f.org.Key, id, false)
		if ownErr == nil {
			f.withOwnKey.Store(true)
		}
		if ownErr == nil || err == nil {
			g, err = own, ownErr
		}
	}
	if err == nil || (errors.As(err, &apiErr) && apiErr.NotOffered()) {
		f.failures.Store(0)
	} else {
		f.failures.Add(1)
	}
	return g, err
}

func (f *fetching) slug(name string) *slug {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.slugs[name] == nil {
		f.slugs[name] = &slug{}
	}
	return f.slugs[name]
}
