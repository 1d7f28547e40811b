package main

import (
	"cmp"
	"errors"
	"fmt"
	"time"

	"usage-sync/store"
)

type historyCmd struct {
	orgFlag
	Limit  int  `default:"20" placeholder:"N" help:"How many passes to show."`
	Failed bool `help:"Only those that failed."`
}

func (*historyCmd) Help() string {
	return "Shows the last passes from the database, newest first: one row per organisation and pass, kept for 92 days. With\n" +
		"--json one object per line."
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
	err := a.withStore(a.readable, func(db *store.Store) (err error) {
		runs, err = c.runs(a, db)
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
		return nil
	}
	switch {
	case len(runs) == 0 && c.Failed:
		fmt.Fprintln(a.stdout, "No failed pass is on record.")
		return nil
	case len(runs) == 0:
		fmt.Fprintln(a.stdout, "No pass is on record.")
		return nil
	}
	table := newTable(a.stdout)
	fmt.Fprintln(table, "STARTED\tORGANISATION\tSOURCE\tFETCHED\tNEW\tUPDATED\tKNOWN\tREFUSED\tTOKENS\tCOST\tREQUESTS\tEXIT\t")
	for _, r := range runs {
		fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t$%s\t%d\t%d\t%s\n", r.StartedAt.Format(time.DateTime),
			cmp.Or(r.Organisation, "-"), cmp.Or(r.Source, "-"), r.Fetched, r.Recorded, r.Updated, r.Duplicates, r.Refused, r.Tokens,
			r.Markup, r.Requests, r.ExitCode, cmp.Or(r.Error, r.Note))
	}
	return table.Flush()
}

func (c *historyCmd) runs(a *app, db *store.Store) ([]store.Run, error) {
	filter := store.RunFilter{Failed: c.Failed, Limit: c.Limit}
	if len(c.Org) > 0 {
		orgs, err := db.Organisations(a.ctx, c.Org, a.cli.Timezone.Location)
		if err != nil {
			return nil, err
		}
		for _, org := range orgs {
			filter.Organisations = append(filter.Organisations, org.ID)
		}
	}
	return db.Runs(a.ctx, filter)
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
