package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/alecthomas/kong"

	"usage-sync/job"
	"usage-sync/job/table"
	"usage-sync/store"
)

type syncCmd struct {
	orgFlag
	passFlags
	alertFlags
	DaysBack     int       `env:"OPENROUTER_USAGE_SYNC_DAYS_BACK" default:"1" placeholder:"N" help:"Days before today to look at, 0 to 30."`
	Full         bool      `help:"Fetch the whole window again, whatever is known to be recorded."`
	DryRun       bool      `help:"Show what would change and write nothing."`
	Replace      bool      `xor:"takeover" help:"What others have counted is put aside, and its days made anew from what OpenRouter lists. See usage-sync takeover."`
	Adopt        bool      `xor:"takeover" help:"What others have counted stands: count what was used after their last write. See usage-sync takeover."`
	AdoptUntil   time.Time `placeholder:"RFC3339" help:"With --adopt: when others last wrote, where the tables do not say."`
	AdoptNone    bool      `xor:"takeover" help:"What others have counted came from elsewhere: count in full beside it."`
	OldSyncIsOff bool      `help:"The old sync is off, although it has written a moment ago."`
	monitorFlags
}

func (*syncCmd) Help() string {
	return "Asks OpenRouter what each organisation used and records every generation exactly once. In the steady state a pass\n" +
		"costs one request; once a day the whole window is fetched again."
}

// ExitHelp lists the exit codes.
func (*syncCmd) ExitHelp() string {
	return exitHelp(exitOK, exitPartial, exitUsage, exitDataErr, exitNoInput, exitUnavailable, exitCantCreat, exitIOErr,
		exitTempFail, exitNoPerm, exitConfig)
}

// Validate runs before anything else.
func (c *syncCmd) Validate() error {
	switch {
	case c.DaysBack < 0 || c.DaysBack > job.MaxDaysBack:
		return fmt.Errorf("--days-back: %d is not between 0 and %d", c.DaysBack, job.MaxDaysBack)
	case !c.AdoptUntil.IsZero() && !c.Adopt:
		return errors.New("--adopt-until: goes with --adopt")
	}
	return errors.Join(c.passFlags.check(), c.alertFlags.check())
}

// Run makes one pass, and tells monitoring what became of it once the lock is free again.
func (c *syncCmd) Run(a *app, parsed *kong.Context) error {
	if a.cli.Interval == 0 && !explicit(parsed, "days-back", "org") {
		return c.disabled(a)
	}
	if explicit(parsed, "org") {
		if err := c.checkNames(a); err != nil {
			return errors.Join(err, c.print(a, job.Report{}, err))
		}
	}
	if c.DryRun {
		c.monitorFlags = monitorFlags{} // nobody is to be told of what was not done
	}
	monitoring := c.monitorFlags.start(a, c.rule(a))
	defer monitoring.endBug()
	bar, log := newProgress(a.stderr), a.log
	if bar.watched() {
		a.log = a.logger(bar)
	}
	var report job.Report
	x, err := c.open(a, c.DryRun)
	if err == nil {
		report, err = x.pass(a, job.Pass{
			Organisations: c.Org, DaysBack: c.DaysBack, Full: c.Full, DryRun: c.DryRun, Answer: c.answer(),
			AdoptUntil: c.AdoptUntil, OldSyncIsOff: c.OldSyncIsOff, By: whoami(),
			Interval: a.interval(), Alerts: c.settings(), Progress: bar.add,
		}).Run(x.ctx)
		err = errors.Join(err, x.end())
	}
	bar.clear()
	a.log = log
	if err == nil {
		err = outcome(report)
	}
	if !c.DryRun && len(report.Organisations) > 0 {
		a.done("The pass was made, and what it has found is recorded")
	}
	err = monitoring.end(report, err)
	if printErr := c.print(a, report, err); err == nil {
		err = printErr
	}
	return err
}

// checkNames is the error of a name that somebody has typed and that is none. It is no failed pass: nobody is
// told of it, and the history does not have it. Whatever else is wrong the pass finds out.
func (c *syncCmd) checkNames(a *app) error {
	err := a.withStore(a.readable, func(db *store.Store) error {
		_, err := job.Choose(a.ctx, db, c.Org, a.cli.Timezone.Location)
		return err
	})
	if errors.Is(err, store.ErrOrganisation) {
		//lint:ignore ST1005 existing greps look for the guide's words
		return fmt.Errorf("Failed to get organizations: %w", err)
	}
	return nil
}

// disabled says that polling is switched off. That is no failure, and the metrics say when it was last found so.
func (c *syncCmd) disabled(a *app) error {
	a.log.Info("Polling is switched off (OPENROUTER_USAGE_SYNC_INTERVAL=0): nothing to do. A run with --org " +
		"or --days-back still syncs")
	c.PingURL = ""
	err := c.monitorFlags.start(a, c.rule(a)).end(job.Report{}, nil)
	if !a.cli.JSON {
		return err
	}
	out := c.json(a, job.Report{StartedAt: a.now(), EndedAt: a.now()}, err)
	out.Status = "disabled"
	return errors.Join(err, printJSON(a.stdout, out))
}

func (c *syncCmd) answer() store.Answer {
	return answerFlags{Replace: c.Replace, Adopt: c.Adopt, None: c.AdoptNone}.answer()
}

type syncJSON struct {
	Status        string    `json:"status"`
	ExitCode      int       `json:"exit_code"`
	StartedAt     string    `json:"started_at"`
	DurationMS    int64     `json:"duration_ms"`
	Synced        int       `json:"synced"`
	Total         int       `json:"total"`
	Organizations []syncOrg `json:"organizations"`
	DryRun        bool      `json:"dry_run,omitempty"`
	Error         string    `json:"error,omitempty"`
}

type syncOrg struct {
	ID          string       `json:"id"`
	Name        string       `json:"name"`
	Status      string       `json:"status"`
	Source      string       `json:"source"`
	WindowStart string       `json:"window_start,omitempty"`
	Fetched     int64        `json:"fetched"`
	Recorded    int64        `json:"recorded"`
	Updated     int64        `json:"updated"`
	Duplicates  int64        `json:"duplicates"`
	Refused     int64        `json:"refused"`
	Tokens      int64        `json:"tokens"`
	RawCost     float64      `json:"raw_cost"`
	MarkupCost  float64      `json:"markup_cost"`
	APIRequests int64        `json:"api_requests"`
	Changes     []syncChange `json:"changes,omitempty"`
	Error       string       `json:"error,omitempty"`
}

type syncChange struct {
	Date       store.Day `json:"date"`
	Model      string    `json:"model"`
	Requests   int64     `json:"requests"`
	Updated    int64     `json:"updated"`
	Tokens     int64     `json:"tokens"`
	RawCost    float64   `json:"raw_cost"`
	MarkupCost float64   `json:"markup_cost"`
}

// print shows the report as JSON, or what a dry run has found as a table.
func (c *syncCmd) print(a *app, report job.Report, err error) error {
	switch {
	case a.cli.JSON:
		return printJSON(a.stdout, c.json(a, report, err))
	case c.DryRun:
		return printChanges(a.stdout, c.answer(), report)
	}
	return nil
}

func (c *syncCmd) json(a *app, report job.Report, err error) syncJSON {
	out := syncJSON{ExitCode: exitCode(err), Synced: report.Synced(), Total: len(report.Organisations),
		DryRun: c.DryRun, Organizations: []syncOrg{}}
	switch out.ExitCode {
	case exitOK:
		out.Status = "ok"
	case exitPartial:
		out.Status = "partial"
	default:
		out.Status = "failed"
	}
	if err != nil {
		out.Error = describe(err)
	}
	started := a.now()
	if !report.StartedAt.IsZero() {
		started = report.StartedAt
		out.DurationMS = max(0, report.EndedAt.Sub(started).Milliseconds())
	}
	out.StartedAt = started.UTC().Format(time.RFC3339)
	for _, o := range report.Organisations {
		out.Organizations = append(out.Organizations, jsonOf(o))
	}
	return out
}

func jsonOf(o job.Outcome) syncOrg {
	r := o.Run
	org := syncOrg{ID: r.OrganisationID, Name: r.Organisation, Status: "ok", Source: r.Source, Fetched: r.Fetched,
		Recorded: r.Recorded, Updated: r.Updated, Duplicates: r.Duplicates, Refused: r.Refused, Tokens: r.Tokens,
		RawCost: r.Raw.Float(), MarkupCost: r.Markup.Float(), APIRequests: r.Requests}
	if !r.WindowStart.IsZero() {
		org.WindowStart = r.WindowStart.In(o.Organisation.Zone).Format(time.RFC3339)
	}
	if o.Err != nil {
		org.Status, org.Error = "failed", o.Err.Error()
	}
	for _, change := range o.Changes {
		org.Changes = append(org.Changes, syncChange{Date: change.Day, Model: change.Model, Requests: change.Requests,
			Updated: change.Settled, Tokens: change.Tokens, RawCost: change.Raw.Float(),
			MarkupCost: change.Markup.Float()})
	}
	return org
}

func printJSON(w io.Writer, v any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

func printChanges(w io.Writer, answer store.Answer, report job.Report) error {
	for _, o := range report.Organisations {
		if o.Err != nil {
			continue
		}
		if o.Takeover != nil {
			if err := showCase(w, o.Takeover); err != nil {
				return err
			}
			bill := o.Takeover.Promise(answer)
			fmt.Fprintf(w, "%s would make %d / $%s of these days\n", answer, bill.Requests, bill.Cost)
		}
		fmt.Fprintf(w, "%s (%s): a pass would record %s and update %s; %s known\n",
			o.Organisation.Name, o.Organisation.ID, store.Counted(o.Run.Recorded, "generation"),
			store.Grouped(o.Run.Updated), store.Grouped(o.Run.Duplicates))
		if o.Adopted > 0 {
			fmt.Fprintf(w, "%s of them are in totals of others and would not be added\n", store.Grouped(o.Adopted))
		}
		if len(o.Changes) == 0 {
			continue
		}
		rows := [][]string{{"DATE", "MODEL", "REQUESTS", "UPDATED", "TOKENS", "RAW COST", "COST"}}
		dollars := dollarsOf(false, o.Run.Raw, o.Run.Markup)
		for _, c := range o.Changes {
			rows = append(rows, []string{string(c.Day), c.Model, store.Grouped(c.Requests), store.Grouped(c.Settled),
				store.Grouped(c.Tokens), dollars(c.Raw), dollars(c.Markup)})
		}
		if err := table.Write(w, columns(w), "lcrrrrr", rows); err != nil {
			return err
		}
	}
	return nil
}
