package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"

	"usage-sync/job/table"
	"usage-sync/store"
)

type restoreCmd struct {
	Src       string `place:"beside" arg:"" predictor:"file" name:"src" help:"A backup, of the usage or of the whole database."`
	UsageOnly bool   `required:"" help:"Put the usage tables back: the only thing that can be, while the application runs."`
	Yes       bool   `help:"Do it without asking."`
	lockFlags
}

func (*restoreCmd) Help() string {
	return "Shows how the usage tables differ from a backup's, asks, and makes them those of the backup in one transaction:\n" +
		"organisations and their keys, totals, the ledger and the state of the passes. All other tables stay as they are. Without\n" +
		"a terminal to ask at, and without --yes, it only shows. No pass can run meanwhile.\n\n" +
		"What was used since the backup is recorded anew by the next pass, which reaches back to where the backup's last pass\n" +
		"ended, 30 days at the most. To put a whole database back, see 'usage-sync backup --help'."
}

// ExitHelp lists the exit codes.
func (*restoreCmd) ExitHelp() string {
	return exitHelpOf(doneThough, exitOK, exitPartial, exitUsage, exitDataErr, exitNoInput,
		exitCantCreat, exitIOErr, exitTempFail, exitNoPerm, exitConfig)
}

// Validate bounds --lock-wait.
func (c *restoreCmd) Validate() error {
	return c.lockFlags.check()
}

type restoreOut struct {
	Status string             `json:"status"`
	Tables []restoreTableJSON `json:"tables"`
	Days   []restoreDayJSON   `json:"days"`
}

type restoreTableJSON struct {
	Table   string `json:"table"`
	Added   int64  `json:"added"`
	Removed int64  `json:"removed"`
	Changed int64  `json:"changed"`
}

type restoreDayJSON struct {
	ClientOrgID string    `json:"client_org_id"`
	Name        string    `json:"name"`
	Date        store.Day `json:"date"`
	Now         totalsOut `json:"now"`
	Backup      totalsOut `json:"backup"`
}

// Run shows what would change and, with consent, changes it.
func (c *restoreCmd) Run(a *app) (err error) {
	lock, err := c.acquire(a.ctx, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.late(lock.Release())) }()
	open := func(ctx context.Context) (*store.Store, error) { return a.open(ctx, store.ReadWrite) }
	var status string
	var changes store.Restore
	err = a.withStore(open, func(db *store.Store) (err error) {
		status, changes, err = c.restore(a, db)
		return err
	})
	if err != nil {
		return err
	}
	if a.cli.JSON {
		return printJSON(a.stdout, restoreJSON(status, changes))
	}
	fmt.Fprintln(a.stdout, map[string]string{
		"same":     "The usage tables are those of the backup: nothing to do",
		"shown":    "Nothing was changed; --yes does it",
		"restored": "Restored: the next pass records what was used since",
	}[status])
	return nil
}

// restore returns what it has done, "same", "shown" or "restored", and the changes.
func (c *restoreCmd) restore(a *app, db *store.Store) (status string, changes store.Restore, err error) {
	changes, err = db.CompareUsage(a.ctx, c.Src)
	if err != nil || changes.Same() {
		return "same", changes, err
	}
	if !a.cli.JSON {
		if err := c.show(a, changes); err != nil {
			return "", changes, err
		}
	}
	if consent, err := c.consent(a); err != nil || !consent {
		return "shown", changes, err
	}
	if changes, err = db.RestoreUsage(a.ctx, c.Src); err == nil {
		a.done("The usage tables are those of the backup")
	}
	return "restored", changes, err
}

func (c *restoreCmd) show(a *app, r store.Restore) error {
	rows := [][]string{{"TABLE", "ROWS TO ADD", "TO REMOVE", "TO CHANGE"}}
	for _, t := range r.Tables {
		rows = append(rows, []string{t.Table, fmt.Sprint(t.Added), fmt.Sprint(t.Removed), fmt.Sprint(t.Changed)})
	}
	if err := table.Write(a.stdout, columns(a.stdout), "llll", rows); err != nil || len(r.Days) == 0 {
		return err
	}
	rows = [][]string{{"DATE", "ORGANISATION", "TOKENS NOW", "IN THE BACKUP", "COST NOW", "IN THE BACKUP"}}
	for _, d := range r.Days {
		rows = append(rows, []string{string(d.Day), cmp.Or(d.Organisation, d.OrganisationID), fmt.Sprint(d.Now.Tokens),
			fmt.Sprint(d.Backup.Tokens), fmt.Sprintf("$%.6f", d.Now.Cost), fmt.Sprintf("$%.6f", d.Backup.Cost)})
	}
	fmt.Fprintln(a.stdout)
	return table.Write(a.stdout, columns(a.stdout), "llllll", rows)
}

// consent asks at a terminal. A signal ends the waiting.
func (c *restoreCmd) consent(a *app) (bool, error) {
	file, ok := a.stdin.(*os.File)
	if c.Yes || a.cli.JSON || !ok || !term.IsTerminal(int(file.Fd())) {
		return c.Yes, nil
	}
	answer, err := askAt(a, file, "Put the backup's usage tables back? [y/N] ")
	return strings.EqualFold(answer, "y"), err
}

func restoreJSON(status string, r store.Restore) restoreOut {
	out := restoreOut{Status: status, Tables: []restoreTableJSON{}, Days: []restoreDayJSON{}}
	for _, t := range r.Tables {
		out.Tables = append(out.Tables, restoreTableJSON(t))
	}
	for _, d := range r.Days {
		out.Days = append(out.Days, restoreDayJSON{d.OrganisationID, d.Organisation, d.Day,
			shownTotals(d.Now), shownTotals(d.Backup)})
	}
	return out
}

func shownTotals(t store.DayTotals) totalsOut {
	return totalsOut{Tokens: t.Tokens, Requests: t.Requests, Cost: t.Cost, RawCost: t.RawCost}
}
