package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"usage-sync/job/table"
	"usage-sync/store"
)

type historyCmd struct {
	orgFlag
	Limit  int  `default:"20" placeholder:"N" help:"How many passes to show."`
	Failed bool `help:"Only those that failed."`
}

func (*historyCmd) Help() string {
	return "Shows the last passes from the database, newest first: one row per organisation and pass, kept for 92 days, and\n" +
		"which usage is known to be missing. With --json one object per line and pass,\n" +
		"and a last one where usage is missing."
}

// ExitHelp lists the exit codes.
func (*historyCmd) ExitHelp() string {
	return exitHelp(exitOK, exitUsage, exitNoInput, exitIOErr, exitTempFail, exitNoPerm, exitConfig)
}

// Validate bounds --limit.
func (c *historyCmd) Validate() error {
	if c.Limit < 1 {
		return errors.New("--limit: must be at least 1")
	}
	return nil
}

type runOut struct {
	StartedAt   string  `json:"started_at"`
	DurationS   float64 `json:"duration_s"`
	ClientOrgID string  `json:"client_org_id,omitempty"`
	Name        string  `json:"name,omitempty"`
	Source      string  `json:"source,omitempty"`
	WindowStart string  `json:"window_start,omitempty"`
	Fetched     int64   `json:"fetched"`
	Recorded    int64   `json:"recorded"`
	Updated     int64   `json:"updated"`
	Duplicates  int64   `json:"duplicates"`
	Refused     int64   `json:"refused"`
	Tokens      int64   `json:"tokens"`
	RawCost     float64 `json:"raw_cost"`
	MarkupCost  float64 `json:"markup_cost"`
	APIRequests int64   `json:"api_requests"`
	ExitCode    int     `json:"exit_code"`
	Error       string  `json:"error,omitempty"`
	Note        string  `json:"note,omitempty"`
}

// Run prints the history.
func (c *historyCmd) Run(a *app) error {
	var runs []store.Run
	var gaps []store.Gap
	var orgs map[string]*knownOrganisation
	err := a.withStore(a.readable, func(db *store.Store) (err error) {
		if orgs, err = knownOrganisations(a, db); err != nil {
			return err
		}
		filter, err := c.filter(a, db)
		if err != nil {
			return err
		}
		if runs, err = db.Runs(a.ctx, filter); err != nil {
			return err
		}
		gaps, err = db.Gaps(a.ctx, store.GapFilter{Organisations: filter.Organisations, Open: true})
		return err
	})
	if err != nil {
		return err
	}
	if a.cli.JSON {
		for _, r := range runs {
			if err := printJSON(a.stdout, runJSON(r)); err != nil {
				return err
			}
		}
		if len(gaps) == 0 {
			return nil
		}
		out := gapsOut{Gaps: []gapOut{}}
		for _, g := range gaps {
			out.Gaps = append(out.Gaps, jsonOfGap(g, orgs[g.OrganisationID], a.now()))
		}
		return printJSON(a.stdout, out)
	}
	switch {
	case len(runs) == 0 && c.Failed:
		fmt.Fprintln(a.stdout, "No failed pass is on record.")
		return nil
	case len(runs) == 0:
		fmt.Fprintln(a.stdout, "No pass is on record.")
		return nil
	}
	if err := printRuns(a, runs); err != nil || len(gaps) == 0 {
		return err
	}
	fmt.Fprintf(a.stdout, "\nMissing (usage-sync gaps says what to do):\n")
	for _, g := range gaps {
		fmt.Fprintf(a.stdout, "%d  %s: %s\n", g.ID, g.OrganisationID, g.Words(orgs[g.OrganisationID].zone()))
	}
	return nil
}

// historyColumns are the columns of the history and what they mean.
var historyColumns = []struct {
	title, meaning string
	align          byte
	text           func(store.Run) string
	count          func(store.Run) int64
	rare           bool // shown where a pass has any
}{
	{title: "STARTED (UTC)", align: 'l', text: func(r store.Run) string { return r.StartedAt.UTC().Format("2006-01-02 15:04") }},
	{title: "ORGANISATION", align: 'c', text: func(r store.Run) string { return cmp.Or(r.Organisation, "-") }},
	{title: "SOURCE", align: 'l', text: func(r store.Run) string { return cmp.Or(r.Source, "-") }},
	{title: "FETCHED", meaning: "rows that the source listed", count: func(r store.Run) int64 { return r.Fetched }},
	{title: "NEW", meaning: "recorded by this pass", count: func(r store.Run) int64 { return r.Recorded }},
	{title: "UPDATED", meaning: "known, with another cost or token count", count: func(r store.Run) int64 { return r.Updated }},
	{title: "KNOWN", meaning: "recorded before, and the same", count: func(r store.Run) int64 { return r.Duplicates }},
	{title: "REFUSED", meaning: "not to be trusted, not recorded", count: func(r store.Run) int64 { return r.Refused }, rare: true},
	{title: "TOKENS", count: func(r store.Run) int64 { return r.Tokens }},
	{title: "COST", meaning: "what this pass has added", align: 'r'},
	{title: "EXIT", meaning: "the exit code", count: func(r store.Run) int64 { return int64(r.ExitCode) }},
}

// printRuns shows passes as a table, with what went wrong or was noted below each, and what the columns mean.
func printRuns(a *app, runs []store.Run) error {
	costs := make([]store.Money, len(runs))
	for i, r := range runs {
		costs[i] = r.Markup
	}
	dollars := dollarsOf(false, costs...)
	rows := make([][]string, len(runs)+1)
	var align, legend []string
	for _, c := range historyColumns {
		if c.rare && !slices.ContainsFunc(runs, func(r store.Run) bool { return c.count(r) != 0 }) {
			continue
		}
		rows[0] = append(rows[0], c.title)
		align = append(align, string(cmp.Or(c.align, 'r')))
		if c.meaning != "" {
			legend = append(legend, c.title+": "+c.meaning)
		}
		for i, r := range runs {
			text := ""
			switch {
			case c.text != nil:
				text = c.text(r)
			case c.count != nil:
				text = store.Grouped(c.count(r))
			default:
				text = dollars(r.Markup)
			}
			rows[i+1] = append(rows[i+1], text)
		}
	}
	width := columns(a.stdout)
	var text strings.Builder
	if err := table.Write(&text, width, strings.Join(align, ""), rows); err != nil {
		return err
	}
	lines := strings.SplitAfter(text.String(), "\n")
	fmt.Fprint(a.stdout, lines[0])
	for i, r := range runs {
		fmt.Fprint(a.stdout, lines[i+1])
		if more := cmp.Or(r.Error, r.Note); more != "" {
			const indent = "    "
			if isTerminal(a.stdout) { // what reads a pipe looks for lines
				more = strings.ReplaceAll(table.Wrap(more, width-len(indent)), "\n", "\n"+indent)
			}
			fmt.Fprintln(a.stdout, indent+more)
		}
	}
	_, err := fmt.Fprintf(a.stdout, "\n%s.\n", table.Wrap(strings.Join(legend, "; "), width))
	return err
}

func (c *historyCmd) filter(a *app, db *store.Store) (store.RunFilter, error) {
	filter := store.RunFilter{Failed: c.Failed, Limit: c.Limit}
	if len(c.Org) > 0 {
		orgs, err := db.Organisations(a.ctx, c.Org, a.cli.Timezone.Location)
		if err != nil {
			return filter, err
		}
		for _, org := range orgs {
			filter.Organisations = append(filter.Organisations, org.ID)
		}
	}
	return filter, nil
}

func runJSON(r store.Run) runOut {
	out := runOut{StartedAt: r.StartedAt.Format(time.RFC3339), DurationS: r.EndedAt.Sub(r.StartedAt).Seconds(),
		ClientOrgID: r.OrganisationID, Name: r.Organisation, Source: r.Source, Fetched: r.Fetched, Recorded: r.Recorded,
		Updated: r.Updated, Duplicates: r.Duplicates, Refused: r.Refused, Tokens: r.Tokens, RawCost: r.Raw.Float(),
		MarkupCost: r.Markup.Float(), APIRequests: r.Requests, ExitCode: r.ExitCode, Error: r.Error, Note: r.Note}
	if !r.WindowStart.IsZero() {
		out.WindowStart = r.WindowStart.Format(time.RFC3339)
	}
	return out
}
