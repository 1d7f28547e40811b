package main

import (
	"errors"
	"fmt"
	"strings"

	"usage-sync/store"
)

type recordCmd struct {
	orgFlag
	Model      string `required:"" placeholder:"PROVIDER/MODEL" help:"The model, as OpenRouter names it."`
	Tokens     int64  `required:"" placeholder:"N" help:"Tokens."`
	Cost       money  `required:"" placeholder:"USD" help:"Raw cost in US dollars; the markup is added."`
	User       string `placeholder:"EXTERNAL-USER" help:"The external user. Default: none, as background_sync."`
	Date       day    `placeholder:"YYYY-MM-DD" help:"The organisation's day. Default: today."`
	Note       string `help:"Why, for the history."`
	Correction bool   `help:"Allow negative tokens and costs; a correction counts as no request."`
}

func (*recordCmd) Help() string {
	return "Records usage that OpenRouter does not list, through the same path as a pass: ledger, user, model and day. The ledger\n" +
		"id is manual-<uuid>, so each run records anew. A negative value is written with an equals sign: --cost=-0.5."
}

// ExitHelp lists the exit codes.
func (*recordCmd) ExitHelp() string {
	return exitHelp(exitOK, exitUsage, exitNoInput, exitIOErr, exitTempFail, exitNoPerm, exitConfig)
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

const (
	mostTokens = 1e15
	mostCost   = 1_000_000 * store.Dollar
)

// Validate refuses what only a correction may do, and what is a slip of the finger.
func (c *recordCmd) Validate() error {
	cost := store.Money(c.Cost)
	switch {
	case !c.Correction && (c.Tokens < 0 || cost < 0):
		return errors.New("negative --tokens or --cost: only a --correction may take away")
	case c.Tokens > mostTokens || c.Tokens < -mostTokens:
		return fmt.Errorf("--tokens: more than %g", mostTokens)
	case cost > mostCost || cost < -mostCost:
		return fmt.Errorf("--cost: more than $%s", mostCost)
	case strings.TrimSpace(c.Model) == "":
		return errors.New("--model: must not be empty")
	case len(c.Org) > 1:
		return errors.New("--org: one organisation at a time")
	}
	return nil
}

// Run records one entry.
func (c *recordCmd) Run(a *app) (err error) {
	db, err := a.openChecked(store.ReadWrite)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if err := db.EnsureOwnTables(a.ctx); err != nil {
		return err
	}
	org, err := c.organisation(a, db)
	if err != nil {
		return err
	}
	now := a.now()
	on := store.Day(c.Date)
	if on == "" {
		on = store.DayOf(now, org.Zone)
	}
	if on > store.DayOf(now, org.Zone) {
		return &usageError{fmt.Errorf("--date: %s is in the future for %s", on, org.Name)}
	}
	g := store.Generation{ID: store.ManualID(), CreatedAt: now, Model: c.Model, User: c.User, Tokens: c.Tokens,
		Cost: store.Money(c.Cost), Day: on}
	done, err := db.RecordGenerations(a.ctx, store.Batch{Organisation: org, Source: "manual", Now: now,
		Generations: []store.Generation{g}, Correction: c.Correction})
	if err != nil {
		return err
	}
	entry := done.Entries[0]
	recorded := fmt.Sprintf("✅ Recorded %d tokens, $%s for %s", entry.Tokens, entry.Markup, entry.Generation.Model)
	a.log.Debug(recorded)
	// The entry is in; a history that can't be written is no reason to record it again.
	run := store.Run{StartedAt: now, EndedAt: a.now(), OrganisationID: org.ID, Organisation: org.Name, Source: "manual",
		Recorded: 1, Tokens: entry.Tokens, Raw: entry.Raw, Markup: entry.Markup, Note: c.Note}
	if err := db.FinishRun(a.ctx, run, nil, nil); err != nil {
		a.log.Warn(fmt.Sprintf("Recorded, but not in the history: %v", err))
	}
	if a.cli.JSON {
		return printJSON(a.stdout, recordOut{"ok", g.ID, org.ID, on, c.Model, entry.Tokens, entry.Raw.Float(), entry.Markup.Float()})
	}
	_, err = fmt.Fprintf(a.stdout, "%s (%s on %s, raw $%s, id %s)\n", recorded, org.Name, on, entry.Raw, g.ID)
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

// organisation returns the one that is meant: usage must not land on a client by chance.
func (c *recordCmd) organisation(a *app, db *store.Store) (store.Organisation, error) {
	orgs, err := db.Organisations(a.ctx, c.Org, a.cli.Timezone.Location)
	switch {
	case err != nil:
		return store.Organisation{}, err
	case len(orgs) > 1:
		return store.Organisation{}, &usageError{fmt.Errorf("%d organisations are active: name one with --org", len(orgs))}
	}
	return orgs[0], orgs[0].Problem
}
