package main

import (
	"errors"
	"fmt"
	"time"

	"usage-sync/store"
)

type usageCmd struct {
	orgFlag
	Days int `default:"7" placeholder:"N" help:"How many days to list."`
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
	if err != nil {
		return err
	}
	for i, org := range orgs {
		u, err := db.Usage(a.ctx, org, a.now(), c.Days)
		if err != nil {
			return err
		}
		if a.cli.JSON {
			err = printJSON(a.stdout, usageJSON(u))
		} else {
			if i > 0 {
				fmt.Fprintln(a.stdout)
			}
			err = printUsage(a, u)
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
	return out
}

func printUsage(a *app, u store.Usage) error {
	updated := "never"
	if !u.LastUpdated.IsZero() {
		updated = u.LastUpdated.In(u.Organisation.Zone).Format("2006-01-02 15:04:05 MST")
	}
	fmt.Fprintf(a.stdout, "%s (%s), last updated %s\n", u.Organisation.Name, u.Organisation.ID, updated)
	table := newTable(a.stdout)
	row := func(label string, t store.Totals, more string) {
		fmt.Fprintf(table, "%s\t%d\t%d\t$%s\t$%s\t%s\n", label, t.Requests, t.Tokens, t.Raw, t.Cost, more)
	}
	fmt.Fprintln(table, "\tREQUESTS\tTOKENS\tRAW COST\tCOST\t")
	row("Today", u.Live, "")
	limit := ""
	if u.Organisation.MonthlyLimit > 0 {
		limit = fmt.Sprintf("of $%s a month", u.Organisation.MonthlyLimit)
	}
	row("This month", u.Month, limit)
	for _, d := range u.Days {
		more := ""
		if d.PrimaryModel != "" {
			more = fmt.Sprintf("%s, %d users", d.PrimaryModel, d.UniqueUsers)
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
	return table.Flush()
}
