package main

import (
	"errors"
	"fmt"
	"time"

	"usage-sync/job/table"
	"usage-sync/store"
)

type usageCmd struct {
	orgFlag
	Days  int  `default:"7" placeholder:"N" help:"How many days to list."`
	Exact bool `help:"Show amounts with all their decimals, as --json does."`
}

func (*usageCmd) Help() string {
	return "Shows what the dashboard shows, from the same tables and without the network: today from the live counter, the month\n" +
		"as daily rows plus live counter. With --json one object per organisation, one per line."
}

// ExitHelp lists the exit codes.
func (*usageCmd) ExitHelp() string {
	return exitHelp(exitOK, exitUsage, exitNoInput, exitIOErr, exitTempFail, exitNoPerm, exitConfig)
}

// Validate bounds --days.
func (c *usageCmd) Validate() error {
	if c.Days < 1 || c.Days > 366 {
		return errors.New("--days: must be between 1 and 366")
	}
	return nil
}

// Run prints the usage of each organisation.
func (c *usageCmd) Run(a *app) error {
	return a.withStore(a.readable, func(db *store.Store) error { return c.print(a, db) })
}

func (c *usageCmd) print(a *app, db *store.Store) error {
	orgs, err := db.Organisations(a.ctx, c.Org, a.cli.Timezone.Location)
	if len(c.Org) == 0 && (err == nil || errors.Is(err, store.ErrOrganisation)) {
		orphans, orphanErr := db.Orphans(a.ctx, a.cli.Timezone.Location)
		if orphanErr != nil {
			return orphanErr
		}
		if orgs = append(orgs, orphans...); len(orgs) > 0 {
			err = nil
		}
	}
	if err != nil {
		return err
	}
	for i, org := range orgs {
		u, err := db.Usage(a.ctx, org, a.now(), c.Days)
		if err != nil {
			return err
		}
		tally, err := db.Tally(a.ctx, org.ID)
		if err != nil {
			return err
		}
		if a.cli.JSON {
			err = printJSON(a.stdout, usageJSON(u))
		} else {
			if i > 0 {
				fmt.Fprintln(a.stdout)
			}
			err = printUsage(a, u, tally.LastSuccess, c.Exact)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type totalsOut struct {
	Tokens   int64   `json:"tokens"`
	Requests int64   `json:"requests"`
	Cost     float64 `json:"cost"`
	RawCost  float64 `json:"raw_cost"`
}

func outOf(t store.Totals) totalsOut {
	return totalsOut{Tokens: t.Tokens, Requests: t.Requests, Cost: t.Cost.Float(), RawCost: t.Raw.Float()}
}

// totals reads what another process has said.
func (t totalsOut) totals() (totals store.Totals, err error) {
	totals = store.Totals{Requests: t.Requests, Tokens: t.Tokens}
	if totals.Cost, err = store.MoneyFromFloat(t.Cost); err == nil {
		totals.Raw, err = store.MoneyFromFloat(t.RawCost)
	}
	return totals, err
}

type usageOut struct {
	ClientOrgID string    `json:"client_org_id"`
	Name        string    `json:"name"`
	Date        store.Day `json:"date"`
	totalsOut
	LastUpdated  *string    `json:"last_updated"`
	ThisMonth    monthOut   `json:"this_month"`
	MonthlyLimit *float64   `json:"monthly_limit"`
	Daily        []dayOut   `json:"daily"`
	Models       []modelOut `json:"models"`
	Users        []userOut  `json:"users"`
	Gaps         []usageGap `json:"gaps,omitempty"`
}

// usageGap is usage that is known to be missing in the figures.
type usageGap struct {
	ID    int64         `json:"id"`
	Kind  store.GapKind `json:"kind"`
	From  string        `json:"from"`
	Until string        `json:"until"`
	Why   string        `json:"why"`
}

type monthOut struct {
	totalsOut
	DaysActive int `json:"days_active"`
}

type dayOut struct {
	Date store.Day `json:"date"`
	totalsOut
	PrimaryModel string `json:"primary_model"`
	UniqueUsers  int64  `json:"unique_users"`
}

type modelOut struct {
	Model    string `json:"model"`
	Provider string `json:"provider"`
	totalsOut
}

type userOut struct {
	UserID           string `json:"user_id"`
	OpenRouterUserID string `json:"openrouter_user_id"`
	totalsOut
}

func usageJSON(u store.Usage) usageOut {
	out := usageOut{ClientOrgID: u.Organisation.ID, Name: u.Organisation.Name, Date: u.Today, totalsOut: outOf(u.Live),
		ThisMonth: monthOut{outOf(u.Month), u.DaysActive}, Daily: []dayOut{}, Models: []modelOut{}, Users: []userOut{}}
	if !u.LastUpdated.IsZero() {
		text := u.LastUpdated.UTC().Format(time.RFC3339)
		out.LastUpdated = &text
	}
	if limit := u.Organisation.MonthlyLimit.Float(); limit != 0 {
		out.MonthlyLimit = &limit
	}
	for _, d := range u.Days {
		out.Daily = append(out.Daily, dayOut{d.Day, outOf(d.Totals), d.PrimaryModel, d.UniqueUsers})
	}
	for _, m := range u.Models {
		out.Models = append(out.Models, modelOut{m.Model, m.Provider, outOf(m.Totals)})
	}
	for _, user := range u.Users {
		out.Users = append(out.Users, userOut{user.UserID, user.ExternalUserID, outOf(user.Totals)})
	}
	for _, g := range u.Gaps {
		out.Gaps = append(out.Gaps, usageGap{g.ID, g.Kind, g.From.Format(time.RFC3339),
			g.Until.Format(time.RFC3339), g.Why})
	}
	return out
}

// printUsage shows an organisation's usage. The last pass is the last complete one; zero is none.
func printUsage(a *app, u store.Usage, lastPass time.Time, exact bool) error {
	zone := u.Organisation.Zone
	last := "no complete pass yet"
	if !lastPass.IsZero() {
		last = "last complete pass " + lastPass.In(zone).Format(time.DateTime)
	}
	if u.Organisation.Gone {
		last = "no row of client_organizations has this id"
	}
	fmt.Fprintf(a.stdout, "%s (%s), days and times of %s, %s\n", u.Organisation.Name, u.Organisation.ID, zone, last)
	dollars := dollarsOf(exact, u.Month.Raw, u.Month.Cost, u.Live.Cost)
	rows := [][]string{{"", "REQUESTS", "TOKENS", "RAW COST", "COST", ""}}
	row := func(label string, t store.Totals, more string) {
		rows = append(rows, []string{label, store.Grouped(t.Requests), store.Grouped(t.Tokens),
			dollars(t.Raw), dollars(t.Cost), more})
	}
	row("Today", u.Live, "")
	limit := ""
	if u.Organisation.MonthlyLimit > 0 {
		limit = fmt.Sprintf("of %s a month", dollars(u.Organisation.MonthlyLimit))
	}
	row("This month", u.Month, limit)
	for _, d := range u.Days {
		more := ""
		if d.PrimaryModel != "" {
			more = fmt.Sprintf("%s, %s", d.PrimaryModel, store.Counted(d.UniqueUsers, "user"))
		}
		row("  "+string(d.Day), d.Totals, more)
	}
	for _, m := range u.Models {
		row("  model "+m.Model, m.Totals, "")
	}
	for _, user := range u.Users {
		more := ""
		if user.ExternalUserID != user.UserID {
			more = user.ExternalUserID
		}
		row("  user "+user.UserID, user.Totals, more)
	}
	width := columns(a.stdout)
	if err := table.Write(a.stdout, width, "crrrrl", rows); err != nil {
		return err
	}
	for _, g := range u.Gaps {
		text := table.Wrap(fmt.Sprintf("Missing: %s (gap %d, usage-sync gaps)", g.Words(zone), g.ID), width)
		if _, err := fmt.Fprintln(a.stdout, text); err != nil {
			return err
		}
	}
	return nil
}

// dollarsOf writes amounts that stand in one table: exactly, or with as many decimals as people need of these.
func dollarsOf(exact bool, amounts ...store.Money) func(store.Money) string {
	if exact {
		return func(m store.Money) string { return "$" + m.Exact() }
	}
	decimals := store.Decimals(amounts...)
	return func(m store.Money) string { return m.DollarsTo(decimals) }
}
