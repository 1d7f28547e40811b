package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"usage-sync/job"
	"usage-sync/job/table"
	"usage-sync/store"
)

type ratesCmd struct {
	orgFlag
	lockFlags
	Correct int64     `placeholder:"ID" help:"The noted rate that holds from another time."`
	From    time.Time `placeholder:"RFC3339" help:"With --correct: since when it holds."`
	Note    string    `help:"With --correct: why, for the history."`
	Yes     bool      `help:"Do it. Without, --correct only shows what it would change."`
}

func (*ratesCmd) Help() string {
	return "Shows the markup rates that were noted, and since when each holds. The application keeps the rate of now alone: a change\n" +
		"is noted with the time that its row says it was changed, where that is possible, else with that of the first pass after\n" +
		"it. Usage has the rate of its own time, however late it is recorded.\n\n" +
		"--correct says since when a rate really holds; what was recorded between the two times is priced anew."
}

// ExitHelp lists the exit codes.
func (*ratesCmd) ExitHelp() string {
	return exitHelpOf(doneThough, exitOK, exitPartial, exitUsage, exitNoInput, exitCantCreat, exitIOErr,
		exitTempFail, exitNoPerm, exitConfig)
}

// Validate checks what goes together.
func (c *ratesCmd) Validate() error {
	if (c.Correct == 0) != c.From.IsZero() {
		return errors.New("--correct and --from go together")
	}
	if c.Correct == 0 && (c.Note != "" || c.Yes) {
		return errors.New("--note and --yes go with --correct")
	}
	return c.lockFlags.check()
}

// Run lists the rates, or corrects one.
func (c *ratesCmd) Run(a *app) error {
	if c.Correct == 0 {
		return a.withStore(a.readable, func(db *store.Store) error { return c.list(a, db) })
	}
	lock, err := c.acquire(a.ctx, a)
	if err != nil {
		return err
	}
	err = a.withStore(a.writable, func(db *store.Store) error { return c.correct(a, db) })
	return errors.Join(err, a.late(lock.Release()))
}

type rateOut struct {
	ID           int64   `json:"id"`
	Organisation string  `json:"client_org_id"`
	Rate         float64 `json:"markup_rate"`
	From         *string `json:"from"`
	NoticedAt    string  `json:"noticed_at"`
	By           string  `json:"corrected_by,omitempty"`
	Note         string  `json:"note,omitempty"`
}

func (c *ratesCmd) list(a *app, db *store.Store) error {
	orgs, err := c.organisations(a, db)
	if err != nil {
		return err
	}
	rows := [][]string{{"ID", "ORGANISATION", "RATE", "SINCE", "NOTICED", "CORRECTED BY", "NOTE"}}
	for _, org := range orgs {
		prices, err := db.Prices(a.ctx, org, a.now())
		if err != nil {
			return err
		}
		for _, n := range prices.Noted(time.Time{}, a.now().Add(time.Second)) {
			if a.cli.JSON {
				if err := printJSON(a.stdout, jsonOfRate(org, n)); err != nil {
					return err
				}
				continue
			}
			id := "-" // the next pass notes it
			if n.ID != 0 {
				id = fmt.Sprint(n.ID)
			}
			rows = append(rows, []string{id, org.Name, n.Rate.String(), since(n),
				n.NoticedAt.UTC().Format(time.RFC3339), cmp.Or(n.By, "-"), n.Note})
		}
	}
	if a.cli.JSON {
		return nil
	}
	return table.Write(a.stdout, columns(a.stdout), "lllllll", rows)
}

func since(n store.NotedRate) string {
	if n.From.IsZero() {
		return "the first"
	}
	return n.From.UTC().Format(time.RFC3339)
}

func jsonOfRate(org store.Organisation, n store.NotedRate) rateOut {
	out := rateOut{ID: n.ID, Organisation: org.ID, Rate: n.Rate.Float(),
		NoticedAt: n.NoticedAt.UTC().Format(time.RFC3339), By: n.By, Note: n.Note}
	if !n.From.IsZero() {
		from := since(n)
		out.From = &from
	}
	return out
}

// organisations are those that were named, or all: usage of one that is not active any more has its price, too.
func (c *ratesCmd) organisations(a *app, db *store.Store) ([]store.Organisation, error) {
	if len(c.Org) > 0 {
		return db.Organisations(a.ctx, c.Org, a.cli.Timezone.Location)
	}
	return db.AllOrganisations(a.ctx, a.cli.Timezone.Location)
}

func (c *ratesCmd) correct(a *app, db *store.Store) error {
	org, err := c.whose(a, db)
	if err != nil {
		return err
	}
	correction := job.RateCorrection{Store: db, Log: a.log, Now: a.now(),
		RateCorrection: store.RateCorrection{ID: c.Correct, From: c.From, By: whoami(), Note: c.Note}}
	carryOut := correction.Try
	if c.Yes {
		carryOut = correction.Correct
	}
	done, err := carryOut(a.ctx, org)
	if err != nil {
		return err
	}
	if c.Yes {
		a.done("The rate is corrected")
	}
	if done.Unknown > 0 {
		a.log.Warn(fmt.Sprintf("These days keep the price of %s: their time is not known any more",
			store.Counted(done.Unknown, "generation")))
	}
	if a.cli.JSON {
		return printJSON(a.stdout, repricedOut{jsonOfRate(org, done.Is), c.Yes, done.Generations, done.Cost().Float()})
	}
	fmt.Fprintf(a.stdout, "%s: %s holds since %s, not since %s: %s priced anew, $%s\n", org.Name, done.Is.Rate,
		since(done.Is), since(done.Was), store.Counted(done.Generations, "generation"), done.Cost())
	for _, day := range slices.Sorted(maps.Keys(done.Days)) {
		fmt.Fprintf(a.stdout, "  %s  $%s\n", day, done.Days[day])
	}
	if !c.Yes {
		fmt.Fprintln(a.stdout, "Nothing was changed; --yes does it")
	}
	return nil
}

type repricedOut struct {
	Rate        rateOut `json:"rate"`
	Done        bool    `json:"done"`
	Generations int     `json:"generations"`
	MarkupCost  float64 `json:"markup_cost"`
}

// whose is the organisation that has the noted rate.
func (c *ratesCmd) whose(a *app, db *store.Store) (store.Organisation, error) {
	orgs, err := c.organisations(a, db)
	if err != nil {
		return store.Organisation{}, err
	}
	for _, org := range orgs {
		prices, err := db.Prices(a.ctx, org, a.now())
		if err != nil {
			return store.Organisation{}, err
		}
		if prices.Has(c.Correct) {
			return org, nil
		}
	}
	return store.Organisation{}, fmt.Errorf("%w: there is no noted rate %d", job.ErrRates, c.Correct)
}
