package report

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"usage-sync/job"
	"usage-sync/store"
)

// A statement that was sent does not change in silence. Closing freezes it: from then on it is printed from
// what was frozen. What changes on its days goes into the tables, and as corrections onto the statement that
// begins after the last closed day, row by row. What was closed and its corrections always add up to what the
// tables hold.

var (
	// errNotFinal: a statement can't be closed while its figures may still change.
	errNotFinal = job.NewError(job.KindConfiguration, "not final")
	// errUnreconciled: a statement can't be closed before OpenRouter's own figures were found to agree.
	errUnreconciled = job.NewError(job.KindConfiguration, "not reconciled")
	// errClosed: a statement can't be closed or voided because of another one.
	errClosed = job.NewError(job.KindUsage, "closed statements")
)

// Closing says how a statement was closed.
type Closing struct {
	Number int64 // of the organisation's statements: 1, 2, 3, …
	At     time.Time
	By     string
	Hash   string
}

// Correction is what has changed on the days of a statement since it was closed, beyond what earlier
// corrections say.
type Correction struct {
	Number int64 // of the statement
	Span   store.Span
	Total  Figures
	// The rows that have changed: days, models and users.
	Days, Models, Users []Part
}

// Period says in words what a correction is of.
func (c Correction) Period() string { return periodOf(c.Span) }

// periodOf writes a span for people: October 2026 where it is a month.
func periodOf(span store.Span) string {
	if span == monthOf(span.First) {
		return span.First.Start(time.UTC).Format("January 2006")
	}
	return fmt.Sprintf("%s to %s", span.First, span.Last)
}

// Due is what the client owes by a statement: the cost of its period, and that of corrections.
func (s Statement) Due() store.Money {
	due := s.Total.Cost
	for _, c := range s.Corrections {
		due += c.Total.Cost
	}
	return due
}

// ledger is what an organisation's entries come to.
type ledger struct {
	entries []store.StatementEntry
	closed  []Statement // those that are not void, for the owner
}

// readLedger reads the closed statements of an organisation. One that is not what it was when it was closed
// is store.ErrData.
func readLedger(ctx context.Context, db *store.Store, orgID string) (l ledger, err error) {
	if l.entries, err = db.Statements(ctx, orgID); err != nil {
		return l, err
	}
	for _, e := range l.entries {
		void := slices.ContainsFunc(l.entries, func(other store.StatementEntry) bool { return other.Voids == e.Number })
		if e.Voids != 0 || void {
			continue
		}
		s, err := thaw(e)
		if err != nil {
			return l, err
		}
		l.closed = append(l.closed, s)
	}
	return l, nil
}

// next is the number of the next entry.
func (l ledger) next() int64 { return int64(len(l.entries)) + 1 }

// of returns the closed statement of a period.
func (l ledger) of(span store.Span) (Statement, bool) {
	i := slices.IndexFunc(l.closed, func(s Statement) bool { return s.Span == span })
	if i < 0 {
		return Statement{}, false
	}
	return l.closed[i], true
}

// carrier is the first day of the statement that corrections go onto: the day after the last one that is
// closed.
func (l ledger) carrier() store.Day {
	var last store.Day
	for _, s := range l.closed {
		last = max(last, s.Span.Last)
	}
	if last == "" {
		return ""
	}
	return last.Add(1)
}

// corrections returns what the tables hold otherwise than the closed statements and their corrections say.
func (l ledger) corrections(ctx context.Context, db *store.Store, org store.Organisation,
	now time.Time) ([]Correction, error) {
	spans := make([]store.Span, len(l.closed))
	for i, s := range l.closed {
		spans[i] = s.Span
	}
	usage, err := db.SpanUsage(ctx, org, now, spans...)
	if err != nil {
		return nil, err
	}
	var all []Correction
	for i, s := range l.closed {
		today := Statement{For: Owner}
		today.fill(usage[i])
		c := Correction{Number: s.Closed.Number, Span: s.Span, Total: s.Total,
			Days: s.Days, Models: s.Models, Users: s.Users}
		for _, later := range l.closed {
			for _, earlier := range later.Corrections {
				if earlier.Number == c.Number {
					c = c.plus(earlier)
				}
			}
		}
		c.Total = minus(today.Total, c.Total)
		c.Days, c.Models = changed(today.Days, c.Days), changed(today.Models, c.Models)
		c.Users = changed(today.Users, c.Users)
		if len(c.Days)+len(c.Models)+len(c.Users) > 0 {
			all = append(all, c)
		}
	}
	return all, nil
}

// plus returns a correction with the rows of another one added.
func (c Correction) plus(other Correction) Correction {
	c.Total = minus(c.Total, minus(Figures{Raw: new(store.Money)}, other.Total))
	c.Days, c.Models, c.Users = sum(c.Days, other.Days), sum(c.Models, other.Models), sum(c.Users, other.Users)
	return c
}

func minus(a, b Figures) Figures {
	raw := *a.Raw - *b.Raw
	return Figures{Tokens: a.Tokens - b.Tokens, Requests: a.Requests - b.Requests, Cost: a.Cost - b.Cost, Raw: &raw}
}

// isZero tells whether there is nothing to show. In a client's statement a raw cost is nothing.
func (f Figures) isZero() bool {
	return f.Tokens == 0 && f.Requests == 0 && f.Cost == 0 && (f.Raw == nil || *f.Raw == 0)
}

// sum adds rows by name, in the order of the first.
func sum(a, b []Part) []Part {
	all := slices.Clone(a)
	for _, part := range b {
		i := slices.IndexFunc(all, part.same)
		if i < 0 {
			all = append(all, part)
			continue
		}
		all[i].Figures = minus(all[i].Figures, minus(Figures{Raw: new(store.Money)}, part.Figures))
	}
	return all
}

// same tells whether two rows are of the same day, model or user.
func (p Part) same(other Part) bool { return p.Name == other.Name && p.Rest == other.Rest }

// changed returns by how much rows differ from what was stated.
func changed(now, stated []Part) (parts []Part) {
	for _, part := range now {
		if i := slices.IndexFunc(stated, part.same); i >= 0 {
			part.Figures = minus(part.Figures, stated[i].Figures)
		}
		if !part.isZero() {
			parts = append(parts, part)
		}
	}
	for _, part := range stated {
		if !slices.ContainsFunc(now, part.same) && !part.isZero() {
			part.Figures = minus(Figures{Raw: new(store.Money)}, part.Figures)
			parts = append(parts, part)
		}
	}
	return parts
}

// frozen is what a closed statement is printed from. Its Zone takes the place of the statement's, which is no
// text.
type frozen struct {
	Zone string
	Statement
}

func freeze(s Statement) (string, error) {
	body, err := json.Marshal(frozen{Zone: s.Zone.String(), Statement: s})
	return string(body), err
}

func thaw(e store.StatementEntry) (Statement, error) {
	broken := func(err error) (Statement, error) {
		return Statement{}, fmt.Errorf("%w: statement %d of %s is not what was closed: %w", store.ErrData, e.Number,
			e.OrganisationID, err)
	}
	if hashOf(e) != e.Hash {
		return broken(errors.New("its hash differs"))
	}
	var f frozen
	if err := json.Unmarshal([]byte(e.Body), &f); err != nil {
		return broken(err)
	}
	zone, err := time.LoadLocation(f.Zone)
	if err != nil {
		return broken(err)
	}
	f.Statement.Zone = zone
	f.Statement.Closed = &Closing{Number: e.Number, At: e.At, By: e.By, Hash: e.Hash}
	return f.Statement, nil
}

// hashOf is the SHA-256 of what an entry says.
func hashOf(e store.StatementEntry) string {
	hash := sha256.New()
	fmt.Fprintf(hash, "%s\n%d\n%s\n%s\n%s", e.OrganisationID, e.Number, e.Span.First, e.Span.Last, e.Body)
	return hex.EncodeToString(hash.Sum(nil))
}

// forClient takes out of an owner's statement what is none of the client's business.
func (s Statement) forClient() Statement {
	s.For, s.Rate, s.Rates, s.Foreign = Client, 0, nil, store.Totals{}
	s.Total.Raw, s.TotalBefore.Raw = nil, nil
	s.Days, s.Models, s.Users = withoutRaw(s.Days, false), withoutRaw(s.Models, false), withoutRaw(s.Users, true)
	var corrections []Correction
	for _, c := range s.Corrections {
		c.Total.Raw = nil
		c.Days, c.Models, c.Users = nonZero(withoutRaw(c.Days, false)), nonZero(withoutRaw(c.Models, false)),
			nonZero(withoutRaw(c.Users, true))
		if len(c.Days)+len(c.Models)+len(c.Users) > 0 {
			corrections = append(corrections, c)
		}
	}
	s.Corrections = corrections
	return s
}

// withoutRaw also leaves out rows of a rest that is of raw costs alone.
func withoutRaw(parts []Part, users bool) (all []Part) {
	for _, part := range parts {
		if part.Raw = nil; users {
			part.Detail = ""
		}
		if !part.Rest || !part.isZero() {
			all = append(all, part)
		}
	}
	return all
}

func nonZero(parts []Part) []Part {
	return slices.DeleteFunc(parts, func(p Part) bool { return p.isZero() })
}

// CloseRequest says which statements to close.
type CloseRequest struct {
	Request
	By, Note     string
	Unreconciled bool // although nobody has found that OpenRouter's own figures agree
}

// Close closes the statement of a period of each organisation that is final and reconciled, and returns those
// that are closed, for the audience of the request. One that was closed before stays as it is. The error is
// that of the first organisation that can't be closed: errNotFinal, errUnreconciled or errClosed.
func Close(ctx context.Context, db *store.Store, r CloseRequest) (closed []Statement, err error) {
	audience := r.For
	r.For = Owner
	statements, err := Make(ctx, db, r.Request)
	if err != nil {
		return nil, err
	}
	var first error
	for _, s := range statements {
		if s.Closed == nil {
			if s, err = r.close(ctx, db, s); err != nil {
				if first == nil {
					first = fmt.Errorf("statement of %s, %s to %s: %w", s.ID, s.Span.First, s.Span.Last, err)
				}
				continue
			}
		}
		if audience == Client {
			s = s.forClient()
		}
		s.Naming = cmp.Or(r.Naming, ByName)
		closed = append(closed, s)
	}
	return closed, first
}

func (r CloseRequest) close(ctx context.Context, db *store.Store, s Statement) (Statement, error) {
	l, err := readLedger(ctx, db, s.ID)
	if err != nil {
		return s, err
	}
	for _, other := range l.closed {
		if s.Span.First <= other.Span.Last && other.Span.First <= s.Span.Last {
			return s, fmt.Errorf("%w: statement %d is of %s to %s", errClosed, other.Closed.Number,
				other.Span.First, other.Span.Last)
		}
	}
	if !s.Final {
		return s, fmt.Errorf("%w: %s", errNotFinal, strings.Join(append([]string{s.Provisional()}, s.Gaps()...), " "))
	}
	if !r.Unreconciled {
		orgs, err := db.Organisations(ctx, []string{s.ID}, r.Zone)
		if err != nil {
			return s, err
		}
		days, err := db.Unreconciled(ctx, orgs[0], r.Now, s.Span)
		if err != nil {
			return s, err
		}
		if len(days) > 0 {
			return s, fmt.Errorf("%w: of %s, the first is %s, nobody has found that OpenRouter's own figures agree. "+
				"usage-sync reconcile --fix --org %s --from %s --to %s finds out; --unreconciled closes it all the same",
				errUnreconciled, store.Counted(len(days), "day"), days[0], s.ID, days[0], days[len(days)-1])
		}
	}
	body, err := freeze(s)
	if err != nil {
		return s, err
	}
	e := store.StatementEntry{OrganisationID: s.ID, Number: l.next(), Span: s.Span,
		At: r.Now.UTC().Truncate(time.Second), By: r.By, Note: r.Note, Body: body}
	e.Hash = hashOf(e)
	if err := db.EnterStatement(ctx, e); err != nil {
		return s, err
	}
	return thaw(e)
}

// Void enters that the closed statement of a number is void, with who and why. Its period is open again.
// Where a later statement has corrections of it, that one must be void first.
func Void(ctx context.Context, db *store.Store, org store.Organisation, number int64, by, note string, now time.Time) (
	entry store.StatementEntry, err error) {
	l, err := readLedger(ctx, db, org.ID)
	if err != nil {
		return entry, err
	}
	i := slices.IndexFunc(l.closed, func(s Statement) bool { return s.Closed.Number == number })
	if i < 0 {
		return entry, fmt.Errorf("%w: %s has no statement %d that is not void", errClosed, org.ID, number)
	}
	for _, s := range l.closed {
		if slices.ContainsFunc(s.Corrections, func(c Correction) bool { return c.Number == number }) {
			return entry, fmt.Errorf("%w: statement %d has corrections of it, and must be void first", errClosed,
				s.Closed.Number)
		}
	}
	entry = store.StatementEntry{OrganisationID: org.ID, Number: l.next(), Span: l.closed[i].Span, Voids: number,
		At: now.UTC().Truncate(time.Second), By: by, Note: note}
	entry.Hash = hashOf(entry)
	return entry, db.EnterStatement(ctx, entry)
}

// ClosedLine says how a statement was closed, or nothing. The client's does not hold the hash, which is of
// raw costs, too.
func (s Statement) ClosedLine() string {
	switch {
	case s.Closed == nil:
		return ""
	case s.For == Client:
		return fmt.Sprintf("Statement %d, closed on %s.", s.Closed.Number, s.Closed.At.In(s.Zone).Format(time.DateOnly))
	}
	return fmt.Sprintf("Statement %d, closed at %s by %s, SHA-256 %s.", s.Closed.Number,
		s.Closed.At.In(s.Zone).Format("2006-01-02 15:04 MST"), s.Closed.By, s.Closed.Hash)
}

// correctionSections are the rows of a correction by what they are of.
func (s Statement) correctionSections(c Correction) iter.Seq2[string, []Part] {
	return func(yield func(string, []Part) bool) {
		_ = yield("day", c.Days) && yield("model", c.Models) && yield("user", s.users(c.Users))
	}
}

// Title says what a correction is of.
func (c Correction) Title() string {
	return fmt.Sprintf("Corrections of %s (statement %d)", c.Period(), c.Number)
}
