package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"usage-sync/job"
	"usage-sync/job/table"
	"usage-sync/store"
)

type gapsCmd struct {
	orgFlag
	All    bool    `help:"Also those that are closed."`
	Accept []int64 `placeholder:"NUMBER" help:"Close a gap although its usage is not recorded; repeatable. Wants --note."`
	Note   string  `placeholder:"TEXT" help:"Why the usage is not expected any more."`
	// Rebuild and Yes are about what a table has lost.
	Rebuild []int64 `placeholder:"NUMBER" help:"Show what would be made anew of recorded usage that a table has lost; with --yes, do it. Repeatable."`
	Yes     bool    `help:"Do it. Without, --rebuild only shows what it would change."`
}

func (*gapsCmd) Help() string {
	return "Shows which usage is known to be missing, or may be: from before the first pass, of an outage that no source\n" +
		"reaches back over, of rows that were refused. A statement whose period has a gap is provisional. A gap is closed\n" +
		"by whatever lists its time in full, such as 'usage-sync sync --days-back 14', or by --accept: the usage is not\n" +
		"expected any more. Who has accepted it, when and why stays on record and in 'usage-sync history'.\n\n" +
		"What a table has lost that was recorded (kind 'lost') ends each pass with 78 until it is decided: --rebuild makes it\n" +
		"anew, the ledger from our own table or the totals from the ledger; --accept lets it be. Nothing is counted again.\n\n" +
		"Without --org these are the gaps of all organisations, active or not."
}

// ExitHelp lists the exit codes.
func (*gapsCmd) ExitHelp() string {
	return exitHelp(exitOK, exitUsage, exitNoInput, exitIOErr, exitTempFail, exitNoPerm, exitConfig)
}

// Validate runs before anything else.
func (c *gapsCmd) Validate() error {
	switch {
	case len(c.Accept) > 0 && strings.TrimSpace(c.Note) == "":
		return errors.New("--accept: wants a --note that says why the usage is not expected any more")
	case len(c.Accept) == 0 && c.Note != "":
		return errors.New("--note: goes with --accept")
	case len(c.Accept) > 0 && len(c.Rebuild) > 0:
		return errors.New("--rebuild and --accept: one or the other")
	case c.Yes && len(c.Rebuild) == 0:
		return errors.New("--yes: goes with --rebuild")
	}
	return nil
}

// Run lists gaps, accepts some, or makes anew what one has lost.
func (c *gapsCmd) Run(a *app) error {
	if len(c.Rebuild) > 0 {
		return a.withStore(a.writable, func(db *store.Store) error { return c.rebuild(a, db) })
	}
	if len(c.Accept) > 0 {
		return a.withStore(a.writable, func(db *store.Store) error { return c.accept(a, db) })
	}
	return a.withStore(a.readable, func(db *store.Store) error { return c.list(a, db) })
}

func (c *gapsCmd) accept(a *app, db *store.Store) error {
	orgs, err := knownOrganisations(a, db)
	if err != nil {
		return err
	}
	chosen, err := c.chosen(a, db)
	if err != nil {
		return err
	}
	out := gapsOut{Gaps: []gapOut{}}
	for _, id := range c.Accept {
		found, err := db.Gaps(a.ctx, store.GapFilter{ID: id, Organisations: chosen})
		if err != nil {
			return err
		}
		if len(found) == 0 {
			return fmt.Errorf("%w: %d", store.ErrGap, id)
		}
		g, err := db.AcceptGap(a.ctx, id, whoami(), strings.TrimSpace(c.Note), a.now())
		if err != nil {
			return err
		}
		a.done("The gap is accepted")
		out.Gaps = append(out.Gaps, jsonOfGap(g, orgs[g.OrganisationID], a.now()))
		if !a.cli.JSON {
			fmt.Fprintf(a.stdout, "Accepted gap %d of %s: %s\n", g.ID, g.OrganisationID,
				g.Words(orgs[g.OrganisationID].zone()))
		}
	}
	if a.cli.JSON {
		return printJSON(a.stdout, out)
	}
	return nil
}

func (c *gapsCmd) rebuild(a *app, db *store.Store) error {
	out := []rebuiltOut{}
	for _, id := range c.Rebuild {
		done, err := job.Rebuild(a.ctx, db, id, a.cli.Timezone.Location, whoami(), a.now(), !c.Yes)
		if err != nil {
			return err
		}
		if c.Yes {
			a.done("What was lost is made anew")
		}
		out = append(out, rebuiltOut{Gap: id, Done: c.Yes, Generations: done.Generations, Unknown: done.Unknown,
			Days: len(done.Days), Text: done.String()})
		if a.cli.JSON {
			continue
		}
		if c.Yes {
			_, err = fmt.Fprintf(a.stdout, "Made anew what gap %d had lost: %s.\n", id, done)
		} else {
			err = showRebuilt(a.stdout, id, done)
		}
		if err != nil {
			return err
		}
	}
	if a.cli.JSON {
		return printJSON(a.stdout, map[string]any{"rebuilt": out})
	}
	return nil
}

func showRebuilt(w io.Writer, id int64, done store.Rebuilt) error {
	for _, d := range done.Days {
		if _, err := fmt.Fprintf(w, "%s  %d requests, $%s; now %d, $%s\n", d.Day, d.After.Requests, d.After.Cost,
			d.Before.Requests, d.Before.Cost); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "Gap %d would be made anew: %s. To do it: usage-sync gaps --rebuild %[1]d --yes\n",
		id, done)
	return err
}

type rebuiltOut struct {
	Gap         int64  `json:"gap"`
	Done        bool   `json:"done"` // false: it was only shown
	Generations int64  `json:"generations"`
	Unknown     int64  `json:"unknown"`
	Days        int    `json:"days"`
	Text        string `json:"text"`
}

func (c *gapsCmd) list(a *app, db *store.Store) error {
	orgs, err := knownOrganisations(a, db)
	if err != nil {
		return err
	}
	chosen, err := c.chosen(a, db)
	if err != nil {
		return err
	}
	gaps, err := db.Gaps(a.ctx, store.GapFilter{Organisations: chosen, Open: !c.All})
	if err != nil {
		return err
	}
	if a.cli.JSON {
		out := gapsOut{Gaps: []gapOut{}}
		for _, g := range gaps {
			out.Gaps = append(out.Gaps, jsonOfGap(g, orgs[g.OrganisationID], a.now()))
		}
		return printJSON(a.stdout, out)
	}
	if len(gaps) == 0 {
		_, err := fmt.Fprintln(a.stdout, "No usage is known to be missing.")
		return err
	}
	return printGaps(a.stdout, gaps, orgs, a.now())
}

// knownOrganisation is one that gaps may be of; nil is one that has been removed.
type knownOrganisation struct{ store.Organisation }

func (o *knownOrganisation) zone() *time.Location {
	if o == nil {
		return time.UTC
	}
	return o.Zone
}

// knownOrganisations returns all organisations by id.
func knownOrganisations(a *app, db *store.Store) (map[string]*knownOrganisation, error) {
	all, err := db.AllOrganisations(a.ctx, a.cli.Timezone.Location)
	byID := map[string]*knownOrganisation{}
	for _, org := range all {
		byID[org.ID] = &knownOrganisation{org}
	}
	return byID, err
}

// chosen returns the ids of the organisations that were asked for; none is all.
func (c *gapsCmd) chosen(a *app, db *store.Store) (ids []string, err error) {
	if len(c.Org) == 0 {
		return nil, nil
	}
	orgs, err := db.Organisations(a.ctx, c.Org, a.cli.Timezone.Location)
	for _, org := range orgs {
		ids = append(ids, org.ID)
	}
	return ids, err
}

func printGaps(w io.Writer, gaps []store.Gap, orgs map[string]*knownOrganisation, now time.Time) error {
	width := columns(w)
	for _, g := range gaps {
		org := orgs[g.OrganisationID]
		name := g.OrganisationID
		if org != nil {
			name = org.Name
		}
		lines := []string{g.Words(org.zone()) + "."}
		lines[0] = strings.ToUpper(lines[0][:1]) + lines[0][1:]
		switch {
		case g.IsOpen():
			lines = append(lines, fmt.Sprintf("Noticed at %s. %s", g.NoticedAt.In(org.zone()).Format(gapTime),
				adviceOn(g, org, now)))
		case g.Accepted:
			lines = append(lines, fmt.Sprintf("Accepted by %s at %s: %s", g.ClosedBy,
				g.ClosedAt.In(org.zone()).Format(gapTime), g.Note))
		default:
			lines = append(lines, fmt.Sprintf("Closed at %s: %s", g.ClosedAt.In(org.zone()).Format(gapTime), g.Note))
		}
		if _, err := fmt.Fprintf(w, "%d  %s (%s), %s\n", g.ID, name, g.OrganisationID, g.Kind); err != nil {
			return err
		}
		for _, line := range lines {
			const indent = "   "
			text := strings.ReplaceAll(table.Wrap(line, width-len(indent)), "\n", "\n"+indent)
			if _, err := fmt.Fprintln(w, indent+text); err != nil {
				return err
			}
		}
	}
	return nil
}

const gapTime = "2006-01-02 15:04 MST"

func adviceOn(g store.Gap, org *knownOrganisation, now time.Time) string {
	return job.GapAdvice(g, org.zone(), now)
}

type gapsOut struct {
	Gaps []gapOut `json:"gaps"`
}

type gapOut struct {
	ID          int64         `json:"id"`
	ClientOrgID string        `json:"client_org_id"`
	Name        string        `json:"name,omitempty"`
	Kind        store.GapKind `json:"kind"`
	Subject     string        `json:"subject,omitempty"`
	From        string        `json:"from"`
	Until       string        `json:"until"`
	Why         string        `json:"why"`
	RawCost     *float64      `json:"raw_cost"`
	NoticedAt   string        `json:"noticed_at"`
	Status      string        `json:"status"` // open, closed or accepted
	Advice      string        `json:"advice,omitempty"`
	ClosedAt    string        `json:"closed_at,omitempty"`
	ClosedBy    string        `json:"closed_by,omitempty"`
	Note        string        `json:"note,omitempty"`
}

func jsonOfGap(g store.Gap, org *knownOrganisation, now time.Time) gapOut {
	out := gapOut{ID: g.ID, ClientOrgID: g.OrganisationID, Kind: g.Kind, Subject: g.Subject,
		From: g.From.Format(time.RFC3339), Until: g.Until.Format(time.RFC3339), Why: g.Why,
		NoticedAt: g.NoticedAt.Format(time.RFC3339), Status: "open",
		ClosedBy: g.ClosedBy, Note: g.Note}
	if org != nil {
		out.Name = org.Name
	}
	if g.Raw != nil {
		raw := g.Raw.Float()
		out.RawCost = &raw
	}
	switch {
	case g.IsOpen():
		out.Advice = adviceOn(g, org, now)
		return out
	case g.Accepted:
		out.Status = "accepted"
	default:
		out.Status = "closed"
	}
	out.ClosedAt = g.ClosedAt.Format(time.RFC3339)
	return out
}
