// Package reconcile compares what the tables say was used with what OpenRouter itself says, names the causes of
// differences, and records what is missing.
package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// DefaultTolerance is by how much a day and model may differ: a millionth of a dollar.
const DefaultTolerance = store.Dollar / 1_000_000

var (
	// ErrDiffers: the tables are not what OpenRouter itself says was used.
	ErrDiffers = job.NewError(job.KindUntrusted, "the tables differ from OpenRouter's own figures")
	// ErrBeyondReach: OpenRouter says nothing of any day that was asked for.
	ErrBeyondReach = job.NewError(job.KindUsage, "beyond OpenRouter's reach")
)

// Reconciliation compares what the tables say was used with what OpenRouter itself says: by day and model where
// there is a management key, else in all of this month. It writes nothing but with Fix, for which the caller
// holds the lock.
type Reconciliation struct {
	Store   *store.Store
	Sources job.Sources
	Client  *openrouter.Client
	Log     *slog.Logger
	Now     func() time.Time
	// ExitCode is what the history shows of a fix.
	ExitCode func(error) int

	Organisations []string       // ids or names; none is every active one
	Zone          *time.Location // of organisations that have none of their own
	Period        Period
	Tolerance     store.Money // of a day and model; tokens and requests must be the same
	Fix           bool        // record what is missing, settle what has changed, and compare again
	RemoveExtra   bool        // with Fix: take away what was delivered and belongs to none of the organisation's keys
}

// Period says which days to compare. The zero Period is the month of yesterday, up to yesterday: this month so far, and
// on the first of a month the last one.
type Period struct {
	Month    string    // YYYY-MM, as far as its days are over; excludes the others
	From, To store.Day // where only one is given: up to yesterday, or from the first of the month of To
}

// days returns the first and the last day. There is none where the last comes before the first.
func (p Period) days(today store.Day) (first, last store.Day) {
	yesterday := today.Add(-1)
	switch {
	case p.Month != "":
		first = store.Day(p.Month + "-01")
		return first, min(first.Add(31).FirstOfMonth().Add(-1), yesterday)
	case p.From == "" && p.To == "":
		return yesterday.FirstOfMonth(), yesterday
	case p.From == "":
		return p.To.FirstOfMonth(), p.To
	case p.To == "":
		return p.From, max(p.From, yesterday)
	}
	return p.From, p.To
}

// First returns the first day of the period, by days of UTC.
func (p Period) First(now time.Time) store.Day {
	first, _ := p.days(store.DayOf(now, time.UTC))
	return first
}

// negligible tells whether totals are zero, but for a tolerated raw cost. The marked-up cost is not compared:
// OpenRouter does not know it.
func negligible(t store.Totals, tolerance store.Money) bool {
	return t.Requests == 0 && t.Tokens == 0 && -tolerance <= t.Raw && t.Raw <= tolerance
}

// Comparison is what became of one organisation.
type Comparison struct {
	Organisation store.Organisation
	First, Last  store.Day
	Basis        []string    // what OpenRouter was asked: activity, analytics or key
	Rows         []Row       // by day and model
	Beyond       []store.Day // not compared: OpenRouter's figures do not reach there
	Month        *Month      // where only GET /key can be asked
	Remainder    Remainder
	Causes       []Cause             // why days differ, by day
	Extra        []store.LedgerEntry // was delivered, and belongs to none of the organisation's keys
	Unexplained  error               // why no causes were looked for
	Requests     int64               // to OpenRouter
	Books        store.Found         // what was found in the application's rows: put right with --fix
	Closed       []store.Day         // of --fix: disputed days that were closed, because OpenRouter's figures agree with ours
	Err          error

	Before *Comparison // of --fix: how it was
	Fixed  *Fixed      // of --fix
}

// Remainder is what days have beyond the rounded costs of their generations, so that they are what OpenRouter
// says of them in all. It is part of ours.
type Remainder struct {
	Days int
	Raw  store.Money
}

// Row is one day and model, or the whole of a day in a table that does not add up to the models.
type Row struct {
	Day          store.Day
	Model        string
	Table        string // client_daily_usage or client_user_daily_usage: then Model is empty
	Ours, Theirs store.Totals
	Differs      bool
}

// Difference is ours without theirs.
func (r Row) Difference() store.Totals { return r.Ours.Sub(r.Theirs) }

// Month is the total of this month in UTC, up to now.
type Month struct {
	Month  string      // YYYY-MM
	Theirs store.Money // usage_monthly of GET /key
	Ours   store.Money // the ledger, by when generations were made, with the remainders of its days
	Tables store.Money // client_daily_usage and the live counter, by the organisation's own calendar
	// OwnCalendar: the organisation's month is another stretch of time than that of UTC, so that Tables can't
	// be compared.
	OwnCalendar bool
	Differs     bool
}

// Differences counts what differs.
func (c Comparison) Differences() int {
	count := 0
	for _, row := range c.Rows {
		if row.Differs {
			count++
		}
	}
	if c.Month != nil && c.Month.Differs {
		count++
	}
	return count
}

// Run compares each organisation. An error means that it came to none; what became of each is in its Comparison.
func (r *Reconciliation) Run(ctx context.Context) ([]Comparison, error) {
	orgs, err := r.Store.Organisations(ctx, r.Organisations, r.Zone)
	if err != nil {
		return nil, err
	}
	all := make([]Comparison, len(orgs))
	for i, org := range orgs {
		w := &reconciling{Reconciliation: r, org: org, now: r.Now()}
		all[i] = w.reconcile(ctx)
		all[i].Requests = w.sent()
	}
	return all, nil
}

// reconciling is the work on one organisation.
type reconciling struct {
	*Reconciliation
	org      store.Organisation
	now      time.Time
	first    store.Day
	last     store.Day
	account  *openrouter.Management // nil without a management key
	requests int64                  // other than the account's
}

func (w *reconciling) sent() int64 {
	if w.account == nil {
		return w.requests
	}
	return w.requests + w.account.Traffic().Requests()
}

func (w *reconciling) reconcile(ctx context.Context) Comparison {
	books, err := w.keepBooks(ctx)
	if err != nil {
		return Comparison{Organisation: w.org, Err: err}
	}
	c, found := w.compare(ctx)
	c.Books = books
	if c.Err != nil || !w.Fix || c.Differences() == 0 {
		w.close(ctx, &c)
		return c
	}
	fixed, err := w.fix(ctx, found)
	if err != nil {
		c.Fixed, c.Err = fixed, err
		return c
	}
	after, _ := w.compare(ctx)
	after.Before, after.Fixed = &c, fixed
	w.close(ctx, &after)
	return after
}

func (w *reconciling) compare(ctx context.Context) (c Comparison, found *findings) {
	c = Comparison{Organisation: w.org}
	found, c.Err = w.fill(ctx, &c)
	return c, found
}

// fill makes a comparison, and looks for causes where something differs.
func (w *reconciling) fill(ctx context.Context, c *Comparison) (found *findings, err error) {
	if w.org.Problem != nil {
		return nil, w.org.Problem
	}
	if w.org.Key == "" {
		return nil, fmt.Errorf("%w: %s has no openrouter_api_key", store.ErrOrganisation, w.org.ID)
	}
	w.first, w.last = w.Period.days(store.DayOf(w.now, w.org.Zone))
	c.First, c.Last = w.first, w.last
	if w.last < w.first {
		return nil, fmt.Errorf("%w: no day from %s on is over", ErrBeyondReach, w.first)
	}
	suspects, err := w.compareDays(ctx, c)
	if errors.Is(err, openrouter.ErrNoSource) {
		suspects, err = w.compareMonth(ctx, c)
	}
	if err != nil || len(suspects) == 0 {
		return nil, err
	}
	found, err = w.investigate(ctx, suspects)
	switch {
	case errors.Is(err, openrouter.ErrNoSource) && !w.Fix:
		c.Unexplained = err
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("look for the causes: %w", err)
	}
	c.Causes, c.Extra = found.causes, found.extra()
	return found, nil
}

// compareDays compares by day and model, and returns the days that differ. Without an account it is ErrNoSource.
func (w *reconciling) compareDays(ctx context.Context, c *Comparison) (suspects []store.Day, err error) {
	if w.Sources.Account == nil {
		return nil, openrouter.ErrNoSource
	}
	if w.account == nil {
		w.account = w.Sources.Account.Counting()
	}
	today := store.DayOf(w.now, w.org.Zone)
	var days []store.Day
	for day := w.first; day <= w.last; day = day.Add(1) {
		if day > today || day < today.Add(-reach) {
			c.Beyond = append(c.Beyond, day)
		} else {
			days = append(days, day)
		}
	}
	if len(days) == 0 {
		return nil, fmt.Errorf("%w: none of the days from %s to %s is one of the last %d",
			ErrBeyondReach, w.first, w.last, reach)
	}
	books, err := w.Store.Books(ctx, w.org.ID, w.first, w.last)
	if err != nil {
		return nil, err
	}
	theirs, err := w.openRouterFigures(ctx, c, days, books)
	if err != nil {
		return nil, err
	}
	rows := map[store.Day][]Row{}
	var doubtful []store.Day
	for _, day := range days {
		rows[day] = compareDay(day, books[day], theirs[day], w.Tolerance)
		if theirs[day].shown && slices.ContainsFunc(rows[day], Row.isDoubtful) {
			doubtful = append(doubtful, day)
		}
		if remainder := books[day].Remainder.Raw; remainder != 0 {
			c.Remainder.Days++
			c.Remainder.Raw += remainder
		}
	}
	asked, err := w.analyticsFigures(ctx, c, doubtful, books)
	if err != nil && !errors.Is(err, openrouter.ErrNoSource) {
		return nil, err
	}
	for day, figures := range asked {
		rows[day] = compareDay(day, books[day], figures, w.Tolerance)
	}
	for _, day := range days {
		c.Rows = append(c.Rows, rows[day]...)
		if slices.ContainsFunc(rows[day], func(r Row) bool { return r.Differs }) {
			suspects = append(suspects, day)
		}
	}
	return suspects, nil
}

// isDoubtful tells whether a difference from the activity may be the activity's own. It has been seen to leave
// out models that the dashboard shows, so ours may be more. Whether it counts runs of tools as requests is not
// known, so the number of requests may be another while tokens and cost agree.
func (r Row) isDoubtful() bool {
	d := r.Difference()
	return r.Differs && (d.Requests > 0 || d.Tokens > 0 || d.Raw > 0 || (d.Requests != 0 && d.Tokens == 0))
}

// compareDay holds the tables of a day against what OpenRouter says of each model.
func compareDay(day store.Day, books store.Books, figures figures, tolerance store.Money) []Row {
	ours := map[string]store.Totals{}
	var rows []Row
	var oursInAll, theirsInAll store.Totals
	for model, totals := range books.Models {
		ours[model] = totals
	}
	// Each side may be off by what its amounts were rounded by.
	off := func(model string) store.Money { return tolerance + books.Resolution[model] + figures.resolution[model] }
	theirs := attribute(ours, figures.models, off)
	models := map[string]bool{}
	for _, side := range []map[string]store.Totals{ours, theirs} {
		for model := range side {
			models[model] = true
		}
	}
	for model := range models {
		row := Row{Day: day, Model: model, Ours: ours[model], Theirs: theirs[model]}
		row.Differs = !negligible(row.Difference(), off(model))
		rows = append(rows, row)
		oursInAll, theirsInAll = oursInAll.Add(row.Ours), theirsInAll.Add(row.Theirs)
	}
	slices.SortFunc(rows, func(a, b Row) int { return cmp.Compare(a.Model, b.Model) })
	excuseTools(rows, off)
	inAll := store.Money(0)
	for model := range models {
		inAll += off(model)
	}
	tolerance *= store.Money(max(1, len(models)))
	for _, table := range []struct {
		name string
		sum  store.Totals
	}{{"client_daily_usage", books.Day}, {"client_user_daily_usage", books.Users}} {
		sum := table.sum
		if !negligible(sum.Sub(oursInAll), tolerance) {
			row := Row{Day: day, Table: table.name, Ours: sum, Theirs: theirsInAll}
			row.Differs = !negligible(row.Difference(), max(tolerance, inAll))
			rows = append(rows, row)
		}
	}
	return rows
}

// excuseTools: OpenRouter has what a tool cost under the tool's model, where we have it with the generation
// that it was for. That is no difference where the models concerned agree in all, and in requests and tokens
// each by itself.
func excuseTools(rows []Row, off func(model string) store.Money) {
	var sum, most store.Money
	tool := false
	var concerned []*Row
	for i := range rows {
		r, d := &rows[i], rows[i].Difference()
		if !r.Differs || d.Requests != 0 || d.Tokens != 0 {
			continue
		}
		tool = tool || r.Theirs.Requests == 0
		sum += d.Raw
		most += off(r.Model)
		concerned = append(concerned, r)
	}
	if !tool || !negligible(store.Totals{Raw: sum}, most) {
		return
	}
	for _, r := range concerned {
		r.Differs = false
	}
}

// unknownModel is under which model the tables hold generations of which OpenRouter does not say it.
const unknownModel = "unknown"

// attribute finds the models of what OpenRouter names no model for. Where that makes good exactly what the others lack,
// it is theirs: the ledger knows the models of generations that the totals do not know. Else it stays unknown.
func attribute(ours, theirs map[string]store.Totals, off func(model string) store.Money) map[string]store.Totals {
	nameless, there := theirs[""]
	if !there {
		return theirs
	}
	named := map[string]store.Totals{}
	for model, amount := range theirs {
		if model != "" {
			named[model] = amount
		}
	}
	lack, inAll, most := map[string]store.Totals{}, store.Totals{}, off("")
	for model, amount := range ours {
		if rest := amount.Sub(named[model]); !negligible(rest, off(model)) {
			lack[model] = rest
			inAll = inAll.Add(rest)
			most += off(model)
		}
	}
	fits := negligible(nameless.Sub(inAll), most)
	for model, amount := range named {
		if _, met := ours[model]; !met && !negligible(amount, off(model)) {
			fits = false
		}
	}
	for model, rest := range lack {
		if rest.Requests < 0 || rest.Tokens < 0 || rest.Raw < -off(model) {
			fits = false
		}
	}
	if !fits {
		lack = map[string]store.Totals{unknownModel: nameless}
	}
	for model, rest := range lack {
		named[model] = named[model].Add(rest)
	}
	return named
}

// compareMonth compares the total of this month in UTC, which is all that an ordinary key tells. It returns the days of
// the organisation in that month where it differs.
func (w *reconciling) compareMonth(ctx context.Context, c *Comparison) (suspects []store.Day, err error) {
	now := w.now.UTC()
	start := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	month := store.DayOf(start, time.UTC)
	c.Basis, c.Rows, c.Beyond = []string{"key"}, nil, nil
	if w.first.Month() != month.Month() || w.last.Month() != month.Month() {
		return nil, fmt.Errorf("%w: with an ordinary key OpenRouter tells the total of this month in UTC, "+
			"%s, alone; set OPENROUTER_MANAGEMENT_KEY to compare the days of another",
			openrouter.ErrNoSource, month.Month())
	}
	client := w.Client.Counting()
	info, err := client.Key(ctx, w.org.Key)
	w.requests += client.Traffic().Requests()
	switch {
	case err != nil:
		return nil, err
	case info.UsageMonthly == nil:
		return nil, fmt.Errorf("%w: GET /key names no usage_monthly", openrouter.ErrAnswer)
	}
	today := store.DayOf(w.now, w.org.Zone)
	c.First, c.Last = min(month, today), today
	books, err := w.Store.Books(ctx, w.org.ID, c.First, c.Last)
	if err != nil {
		return nil, err
	}
	ledger, err := w.Store.LedgerBetween(ctx, w.org.ID, start, w.now.Add(time.Second))
	if err != nil {
		return nil, err
	}
	m := &Month{Month: month.Month(), Theirs: *info.UsageMonthly, Ours: ledger.Raw,
		OwnCalendar: !month.Start(w.org.Zone).Equal(start)}
	tolerance := w.Tolerance
	for _, day := range books {
		m.Tables += day.Day.Raw
		m.Ours += day.Remainder.Raw
		tolerance += w.Tolerance * store.Money(len(day.Models))
		for _, off := range day.Resolution {
			tolerance += off
		}
	}
	differs := func(ours store.Money) bool { return !negligible((store.Totals{Raw: ours - m.Theirs}), tolerance) }
	m.Differs = differs(m.Ours) || (!m.OwnCalendar && differs(m.Tables))
	c.Month = m
	if m.Differs {
		for day := min(c.First, store.DayOf(start, w.org.Zone)); day <= today; day = day.Add(1) {
			suspects = append(suspects, day)
		}
	}
	return suspects, nil
}
