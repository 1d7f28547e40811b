package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"time"
)

// GapKind says why usage is missing.
type GapKind string

const (
	// GapHistory is usage from before the first pass, which that pass left alone.
	GapHistory GapKind = "history"
	// GapOutage is usage of a time without passes that no source reaches any more.
	GapOutage GapKind = "outage"
	// GapRefused is a row that can't be billed as it is. Its subject is the row's id.
	GapRefused GapKind = "refused"
	// GapKey is usage of a former key that its source does not show. Its subject is the key's hash.
	GapKey GapKind = "key"
	// GapDelivery is a delivered generation that no complete pass has listed. Its subject is the generation's
	// id.
	GapDelivery GapKind = "delivery"
	// GapLost is recorded usage that a table has lost. Its subject is the table.
	GapLost GapKind = "lost"
	// GapList is usage that a list which can't be paged soundly may have left out.
	GapList GapKind = "list"
)

// listed are the kinds that a complete list of their time closes.
var listed = []GapKind{GapHistory, GapOutage, GapList, GapRefused}

// Gap is usage of an organisation that is known to be missing, or may be: a row of usage_sync_gaps. The row
// stays after the gap is closed, so that no number ever means another gap.
type Gap struct {
	ID             int64
	OrganisationID string
	Kind           GapKind
	Subject        string // what tells gaps of one kind apart, such as the id of a generation; empty where time does
	// The missing usage was created from From until Until, which is not part of it.
	From, Until time.Time
	Why         string // a sentence without a full stop
	NoticedAt   time.Time
	// Raw is the missing raw cost as far as it is known; nil is not known.
	Raw *Money

	ClosedAt time.Time // zero while it is open
	Accepted bool      // closed by a person, and not because the usage has been recorded
	ClosedBy string    // who has accepted it
	Note     string    // why it was closed
}

// IsOpen tells whether the usage is still missing and nobody has accepted that.
func (g Gap) IsOpen() bool { return g.ClosedAt.IsZero() }

// Period says in words when the missing usage was created, in a calendar.
func (g Gap) Period(zone *time.Location) string {
	const layout = "2006-01-02 15:04"
	from, until := g.From.In(zone), g.Until.In(zone)
	first, last := DayOf(from, zone), DayOf(until, zone).Add(-1)
	wholeDays := from.Equal(first.Start(zone)) && until.Equal(last.Add(1).Start(zone))
	switch {
	case g.Until.Sub(g.From) <= time.Second:
		return "of " + from.Format(layout)
	case wholeDays && first == last:
		return "of " + string(first)
	case wholeDays:
		return fmt.Sprintf("from %s to %s", first, last)
	}
	return fmt.Sprintf("from %s to %s", from.Format(layout), until.Format(layout))
}

// Words say what is missing, for the owner: "usage from 2026-10-01 to 2026-10-12: 24 requests … (raw $0.24)".
func (g Gap) Words(zone *time.Location) string {
	text := fmt.Sprintf("usage %s: %s", g.Period(zone), g.Why)
	if g.Raw != nil {
		text += fmt.Sprintf(" (raw $%s)", *g.Raw)
	}
	return text
}

// overlaps tells whether two gaps have a time in common, or touch.
func (g Gap) overlaps(other Gap) bool {
	return !g.From.After(other.Until) && !other.From.After(g.Until)
}

// holds tells whether the time of another gap is part of this one's.
func (g Gap) holds(other Gap) bool { return !g.From.After(other.From) && !g.Until.Before(other.Until) }

// Listing is what a pass has found out about what is missing.
type Listing struct {
	// Everything that was created from From until Until has been listed and recorded, but for the refused
	// rows. Zero times are no time at all.
	From, Until time.Time
	Refused     []string // subjects of the rows that were refused
	Missing     []Gap    // what is missing now
}

// write opens and closes gaps.
func (l Listing) write(ctx context.Context, q querier, orgID string, now time.Time) error {
	if _, err := openGaps(ctx, q, orgID, l.Missing); err != nil {
		return err
	}
	if !l.Until.After(l.From) {
		return nil
	}
	return closeListed(ctx, q, orgID, l.From, l.Until, l.Refused, now)
}

// ErrGap: there is no open gap of that number.
var ErrGap = errors.New("no such gap")

// GapFilter chooses gaps. Zero fields choose all.
type GapFilter struct {
	ID            int64
	Organisations []string // ids
	Kind          GapKind
	Subject       string
	From, Until   time.Time // those that have a time in common with this one
	Open          bool      // only those that are open
}

// OpenGap remembers that usage is missing; g.NoticedAt is now. Noticing the same again changes nothing: an
// open gap of the same kind and subject that overlaps or touches is widened, and takes over g.Why and a known
// amount. What has been accepted stays accepted. OpenGap returns the gap that remembers it.
func (s *Store) OpenGap(ctx context.Context, g Gap) (kept Gap, err error) {
	err = s.write(ctx, func(q querier) (err error) {
		kept, err = openGap(ctx, q, g)
		return err
	})
	return kept, err
}

func openGap(ctx context.Context, q querier, g Gap) (Gap, error) {
	kept, err := openGaps(ctx, q, g.OrganisationID, []Gap{g})
	if err != nil {
		return g, err
	}
	return kept[0], nil
}

// openGaps opens gaps of an organisation. What is known already is read once, whatever their number: a list may
// be refused row by row.
func openGaps(ctx context.Context, q querier, orgID string, gaps []Gap) (kept []Gap, err error) {
	if len(gaps) == 0 {
		return nil, nil
	}
	type same struct {
		kind    GapKind
		subject string
	}
	all, err := readGaps(ctx, q, GapFilter{Organisations: []string{orgID}})
	if err != nil {
		return nil, err
	}
	known := map[same][]Gap{}
	for _, g := range all {
		known[same{g.Kind, g.Subject}] = append(known[same{g.Kind, g.Subject}], g)
	}
	for _, g := range gaps {
		like := same{g.Kind, g.Subject}
		one, others, err := noticeGap(ctx, q, g, known[like])
		if err != nil {
			return nil, err
		}
		kept, known[like] = append(kept, one), others
	}
	return kept, nil
}

// noticeGap opens a gap beside those of the same kind and subject. It returns the one that remembers it, and
// all of them as they are then.
func noticeGap(ctx context.Context, q querier, g Gap, same []Gap) (Gap, []Gap, error) {
	g.From, g.Until = g.From.UTC().Truncate(time.Second), g.Until.UTC().Truncate(time.Second)
	g.NoticedAt = g.NoticedAt.UTC().Truncate(time.Second)
	if !g.Until.After(g.From) {
		g.Until = g.From.Add(time.Second)
	}
	var open, rest []Gap
	for _, other := range same {
		switch {
		case other.Accepted && other.holds(g):
			return other, same, nil
		case other.IsOpen() && other.overlaps(g):
			open = append(open, other)
		default:
			rest = append(rest, other)
		}
	}
	if len(open) == 0 {
		g, err := insertGap(ctx, q, g)
		return g, append(rest, g), err
	}
	kept := open[0]
	kept.Why = g.Why
	if g.Raw != nil {
		kept.Raw = g.Raw
	}
	for _, other := range append(open[1:], g) {
		kept.From, kept.Until = earliest(kept.From, other.From), latest(kept.Until, other.Until)
	}
	for _, other := range open[1:] {
		other.ClosedAt, other.Note = g.NoticedAt, fmt.Sprintf("part of gap %d", kept.ID)
		if err := updateGap(ctx, q, other); err != nil {
			return kept, nil, err
		}
		rest = append(rest, other)
	}
	return kept, append(rest, kept), updateGap(ctx, q, kept)
}

func insertGap(ctx context.Context, q querier, g Gap) (Gap, error) {
	const query = `
		insert into usage_sync_gaps (client_org_id, kind, subject, gap_from, gap_until, why, noticed_at, raw, accepted,
			closed_by, note)
		values (?, ?, ?, ?, ?, ?, ?, ?, 0, '', '') returning id`
	row := q.QueryRowContext(ctx, query, g.OrganisationID, g.Kind, g.Subject, g.From.Unix(), g.Until.Unix(), g.Why,
		g.NoticedAt.Unix(), nullMoney(g.Raw))
	return g, row.Scan(&g.ID)
}

func updateGap(ctx context.Context, q querier, g Gap) error {
	const query = `
		update usage_sync_gaps set gap_from = ?, gap_until = ?, why = ?, raw = ?, closed_at = ?, accepted = ?,
			closed_by = ?, note = ?
		where id = ?`
	_, err := q.ExecContext(ctx, query, g.From.Unix(), g.Until.Unix(), g.Why, nullMoney(g.Raw), unix(g.ClosedAt),
		g.Accepted, g.ClosedBy, g.Note, g.ID)
	return err
}

func nullMoney(m *Money) any {
	if m == nil {
		return nil
	}
	return int64(*m)
}

func earliest(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// CloseGaps closes the open gaps of a kind and subject, because their usage has been recorded. The note says
// by what. It returns how many they were.
func (s *Store) CloseGaps(ctx context.Context, orgID string, kind GapKind, subject, note string, now time.Time) (
	closed int, err error) {
	err = s.write(ctx, func(q querier) error {
		closed = 0
		open, err := readGaps(ctx, q, GapFilter{Organisations: []string{orgID}, Kind: kind, Open: true})
		for _, g := range open {
			if g.Subject != subject || err != nil {
				continue
			}
			g.ClosedAt, g.Note = now, note
			err = updateGap(ctx, q, g)
			closed++
		}
		return err
	})
	return closed, err
}

// CloseListed closes what was missing of a time of which everything has been listed and recorded: gaps of
// history, outages and lists, and refused rows that were not refused again. What lies outside that time stays
// open. still are the subjects of rows that were refused.
func (s *Store) CloseListed(ctx context.Context, orgID string, from, until time.Time, still []string,
	now time.Time) error {
	return s.write(ctx, func(q querier) error { return closeListed(ctx, q, orgID, from, until, still, now) })
}

func closeListed(ctx context.Context, q querier, orgID string, from, until time.Time, still []string,
	now time.Time) error {
	open, err := readGaps(ctx, q, GapFilter{Organisations: []string{orgID}, From: from, Until: until, Open: true})
	if err != nil {
		return err
	}
	refused := make(map[string]bool, len(still))
	for _, subject := range still {
		refused[subject] = true
	}
	for _, g := range open {
		if !slices.Contains(listed, g.Kind) || (g.Kind == GapRefused && refused[g.Subject]) {
			continue
		}
		if err := cutGap(ctx, q, g, from, until, now); err != nil {
			return err
		}
	}
	return nil
}

// cutGap takes the time from from until until out of an open gap, and closes it where nothing is left. What
// is taken out of its middle leaves two gaps.
func cutGap(ctx context.Context, q querier, g Gap, from, until, now time.Time) error {
	from, until = ceilSecond(from), until.UTC().Truncate(time.Second)
	head, tail := g, g
	head.Until, tail.From = earliest(g.Until, from), latest(g.From, until)
	head.Raw, tail.Raw = nil, nil // of a part it is not known
	hasHead, hasTail := head.Until.After(head.From), tail.Until.After(tail.From)
	switch {
	case !until.After(from) || !g.Until.After(from) || !until.After(g.From):
		return nil
	case hasHead && hasTail:
		if _, err := insertGap(ctx, q, tail); err != nil {
			return err
		}
		return updateGap(ctx, q, head)
	case hasHead:
		return updateGap(ctx, q, head)
	case hasTail:
		return updateGap(ctx, q, tail)
	}
	g.ClosedAt, g.Note = now, "listed in full"
	return updateGap(ctx, q, g)
}

func ceilSecond(t time.Time) time.Time {
	return t.UTC().Add(time.Second - time.Nanosecond).Truncate(time.Second)
}

// AcceptGap closes an open gap by hand: nobody expects its usage any more. Who has accepted it and why goes
// into the history, too. An unknown number, and that of a gap that is closed, is ErrGap.
func (s *Store) AcceptGap(ctx context.Context, id int64, by, note string, now time.Time) (g Gap, err error) {
	err = s.write(ctx, func(q querier) error {
		found, err := readGaps(ctx, q, GapFilter{ID: id})
		switch {
		case err != nil:
			return err
		case len(found) == 0 || id == 0:
			return fmt.Errorf("%w: %d", ErrGap, id)
		case !found[0].IsOpen():
			return fmt.Errorf("%w: %d was closed at %s", ErrGap, id, found[0].ClosedAt.Format(time.RFC3339))
		}
		g = found[0]
		g.ClosedAt, g.Accepted, g.ClosedBy, g.Note = now.UTC().Truncate(time.Second), true, by, note
		if err := updateGap(ctx, q, g); err != nil {
			return err
		}
		r := Run{StartedAt: now, EndedAt: now, OrganisationID: g.OrganisationID, Source: sourceGaps,
			WindowStart: g.From, WindowEnd: g.Until,
			Note: fmt.Sprintf("%s has accepted gap %d (%s): %s", by, id, g.Why, note)}
		const name = `select coalesce((select name from client_organizations where id = ?), '')`
		if err := q.QueryRowContext(ctx, name, g.OrganisationID).Scan(&r.Organisation); err != nil {
			return err
		}
		return insertRun(ctx, q, r)
	})
	return g, err
}

// Gaps returns the gaps that a filter chooses, the earliest first.
func (s *Store) Gaps(ctx context.Context, f GapFilter) (gaps []Gap, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		gaps, err = readGaps(ctx, q, f)
		return err
	})
	return gaps, err
}

func readGaps(ctx context.Context, q querier, f GapFilter) ([]Gap, error) {
	const query = `
		select id, client_org_id, kind, subject, gap_from, gap_until, why, noticed_at, raw, closed_at, accepted,
			closed_by, note
		from usage_sync_gaps
		where (?2 = '' or kind = ?2) and (?3 = '' or subject = ?3) and (not ?4 or closed_at is null)
			and (?5 is null or gap_until > ?5) and (?6 is null or gap_from < ?6) and (?7 = 0 or id = ?7) %s
		order by gap_from, id`
	chosen := "and ?1 is not null"
	if len(f.Organisations) > 0 {
		chosen = "and client_org_id in (select value from json_each(?1))"
	}
	return collect(ctx, q, scanGap, fmt.Sprintf(query, chosen), jsonText(append([]string{}, f.Organisations...)),
		f.Kind, f.Subject, f.Open, unix(f.From), unix(f.Until), f.ID)
}

func scanGap(scan func(...any) error) (Gap, error) {
	var g Gap
	var from, until, noticed, raw, closed sql.NullInt64
	err := scan(&g.ID, &g.OrganisationID, &g.Kind, &g.Subject, &from, &until, &g.Why, &noticed, &raw, &closed,
		&g.Accepted, &g.ClosedBy, &g.Note)
	g.From, g.Until = fromUnix(from), fromUnix(until)
	g.NoticedAt, g.ClosedAt = fromUnix(noticed), fromUnix(closed)
	if raw.Valid {
		amount := Money(raw.Int64)
		g.Raw = &amount
	}
	return g, err
}
