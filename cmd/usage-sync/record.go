package main

import (
	"errors"
	"fmt"
	"strings"

	"usage-sync/job"
	"usage-sync/store"
)

type recordCmd struct {
	Org        []string `placeholder:"ID-OR-NAME" sep:"none" predictor:"organisation" env:"USAGE_SYNC_ORG" help:"The organisation, by id or by name. Default: the only active one."`
	Model      string   `required:"" placeholder:"PROVIDER/MODEL" help:"The model, as OpenRouter names it."`
	Tokens     int64    `required:"" placeholder:"N" help:"Tokens."`
	Cost       money    `required:"" placeholder:"USD" help:"Raw cost in US dollars; the markup is added."`
	User       string   `placeholder:"EXTERNAL-USER" help:"The external user. Default: none, as background_sync."`
	Date       day      `placeholder:"YYYY-MM-DD" help:"The organisation's day. Default: today."`
	Note       string   `help:"Why, for the history."`
	Correction bool     `help:"Allow negative tokens and costs; a correction counts as no request."`
}

func (*recordCmd) Help() string {
	return "Records usage that OpenRouter does not list, through the same path as a pass: ledger, user, model and day. The ledger\n" +
		"id is manual-<uuid>, so each run records anew. A negative value is written with an equals sign: --cost=-0.5."
}

// ExitHelp lists the exit codes.
func (*recordCmd) ExitHelp() string {
	return exitHelpOf(doneThough, exitOK, exitPartial, exitUsage, exitNoInput, exitIOErr,
		exitTempFail, exitNoPerm, exitConfig)
}

// money is an amount on the command line.
type money store.Money

func (m *money) UnmarshalText(text []byte) error {
	amount, err := store.ParseMoney(strings.TrimPrefix(string(text), "$"))
	*m = money(amount)
	return err
}

// day is a date on the command line.
type day store.Day

func (d *day) UnmarshalText(text []byte) error {
	parsed, err := store.ParseDay(string(text))
	*d = day(parsed)
	return err
}

// Validate refuses what makes no sense before anything is opened.
func (c *recordCmd) Validate() error {
	if len(c.Org) > 1 {
		return errors.New("--org: one organisation at a time")
	}
	return c.manual().Check()
}

func (c *recordCmd) manual() job.Manual {
	return job.Manual{Organisation: strings.Join(c.Org, ""), Model: c.Model, Tokens: c.Tokens,
		Cost: store.Money(c.Cost), User: c.User, Day: store.Day(c.Date), Note: c.Note, Correction: c.Correction}
}

// Run records one entry.
func (c *recordCmd) Run(a *app) error {
	return a.withStore(a.writable, func(db *store.Store) error { return c.record(a, db) })
}

func (c *recordCmd) record(a *app, db *store.Store) error {
	entry, err := c.manual().Record(a.ctx, db, a.log, a.now, a.cli.Timezone.Location)
	switch {
	case errors.Is(err, job.ErrManual):
		return &usageError{err}
	case err != nil:
		return err
	}
	org, g := entry.Organisation, entry.Generation
	a.done(fmt.Sprintf("The usage is recorded, with the id %s", g.ID))
	if a.cli.JSON {
		return printJSON(a.stdout, recordOut{"ok", g.ID, org.ID, g.Day, g.Model, entry.Tokens,
			entry.Raw.Float(), entry.Markup.Float()})
	}
	_, err = fmt.Fprintf(a.stdout, "%s (%s on %s, raw $%s, id %s)\n", entry.Line(), org.Name, g.Day, entry.Raw, g.ID)
	return err
}

type recordOut struct {
	Status      string    `json:"status"`
	ID          string    `json:"id"`
	ClientOrgID string    `json:"client_org_id"`
	Date        store.Day `json:"date"`
	Model       string    `json:"model"`
	Tokens      int64     `json:"tokens"`
	RawCost     float64   `json:"raw_cost"`
	MarkupCost  float64   `json:"markup_cost"`
}
