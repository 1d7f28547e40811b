package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/alecthomas/kong"

	"usage-sync/job/monitor"
	"usage-sync/job/reconcile"
	"usage-sync/store"
)

type reconcileCmd struct {
	orgFlag
	passFlags
	Month       month    `placeholder:"YYYY-MM" help:"The days of a month, as far as they are over. Default: the month of yesterday."`
	From        day      `placeholder:"YYYY-MM-DD" help:"The first day, by the organisation's calendar. Default: the first of the month."`
	To          day      `placeholder:"YYYY-MM-DD" help:"The last day; it may be today. Default: yesterday."`
	Tolerance   money    `placeholder:"USD" default:"0.000001" help:"By how much the raw cost of a day and model may differ; tokens and requests must be the same."`
	Fix         bool     `help:"Record what is missing and settle what has changed, as a pass would, and compare again. A delivery that is listed under another id is moved to that one."`
	Account     bool     `help:"Add up what every key of the account was charged, and hold it against what the instances of this host have recorded."`
	Known       []string `placeholder:"FILE" sep:"none" predictor:"file" help:"With --account: what another host of the account says with --account --json; repeatable."`
	RemoveExtra bool     `help:"With --fix: take away what was delivered, is in the ledger, and belongs to none of the organisation's keys. Without --fix it is only shown."`
	All         bool     `help:"Show also what is the same on both sides."`
	MetricsFile string   `place:"beside" placeholder:"PATH" env:"USAGE_SYNC_RECONCILE_METRICS_FILE" help:"Write what differs into this file, for Prometheus' textfile collector; not that of the passes."`
	CSV         bool     `name:"csv" help:"Print CSV, one line for each day and model."`
	decimalFlag
}

func (*reconcileCmd) Help() string {
	return "Compares the dashboard's tables with what OpenRouter itself says was used: requests, tokens and raw cost of each day and\n" +
		"model, as far as 31 days back. That takes a management key; with the organisation's own key alone it compares the total\n" +
		"cost of this month in UTC. Where something differs it looks for causes: generations missing in the ledger or not listed\n" +
		"by OpenRouter, a changed cost, usage recorded by hand. Without --fix it writes nothing."
}

// ExitHelp lists the exit codes.
func (*reconcileCmd) ExitHelp() string {
	return exitHelpOf(map[int]string{
		exitOK:      "the same within the tolerance",
		exitPartial: "partial: some days or organisations could not be compared, the others are the same",
		exitDataErr: "beyond the tolerance, or an answer that can't be trusted",
	}, exitOK, exitPartial, exitUsage, exitDataErr, exitNoInput, exitUnavailable, exitCantCreat,
		exitIOErr, exitTempFail, exitNoPerm, exitConfig)
}

// maxTolerance is more than makes sense, and still can be added up for all days and models.
const maxTolerance = 100 * store.Dollar

// month is a month on the command line.
type month string

func (m *month) UnmarshalText(text []byte) error {
	if _, err := time.Parse("2006-01", string(text)); err != nil {
		return fmt.Errorf("%.40q is not a month of the form YYYY-MM", text)
	}
	*m = month(text)
	return nil
}

// Validate runs before anything else.
func (c *reconcileCmd) Validate() error {
	switch {
	case c.Account && (c.Fix || c.CSV || len(c.Org) > 0):
		return errors.New("--account: excludes --org, --fix and --csv")
	case c.Decimal != "" && !c.CSV:
		return errors.New("--decimal: goes with --csv")
	case len(c.Known) > 0 && !c.Account:
		return errors.New("--known: goes with --account")
	case c.Month != "" && (c.From != "" || c.To != ""):
		return errors.New("--month: excludes --from and --to")
	case c.From != "" && c.To != "" && c.From > c.To:
		return fmt.Errorf("--from: %s comes after --to, %s", c.From, c.To)
	case c.Tolerance < 0 || store.Money(c.Tolerance) > maxTolerance:
		return fmt.Errorf("--tolerance: must be between 0 and $%s", maxTolerance)
	}
	return c.passFlags.check()
}

// Run compares, and prints what it finds.
func (c *reconcileCmd) Run(a *app, parsed *kong.Context) error {
	if c.Account {
		return c.account(a, a.cli.Instance != "" || databaseIsNamed(parsed.Args))
	}
	if c.CSV && a.cli.JSON {
		return &usageError{errors.New("--csv: excludes --json")}
	}
	all, err := c.reconcile(a)
	if slices.ContainsFunc(all, func(one reconcile.Comparison) bool { return one.Fixed != nil && one.Fixed.IsAny() }) {
		a.done("What was missing is recorded")
	}
	if err == nil {
		err = c.verdict(a, all)
	}
	if printErr := c.print(a, all, err); err == nil {
		err = printErr
	}
	if c.MetricsFile != "" && all != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), metricsTimeout)
		defer cancel()
		if fileErr := monitor.WriteReconciliation(ctx, c.MetricsFile, a.cli.Instance, a.now(), all); err == nil {
			err = fileErr
		} else if fileErr != nil {
			a.log.Error(describe(fileErr))
		}
	}
	return err
}

func (c *reconcileCmd) print(a *app, all []reconcile.Comparison, err error) error {
	results := reconcile.Results{Comparisons: all, All: c.All, Tolerance: store.Money(c.Tolerance), Status: "failed",
		ExitCode: exitCode(err)}
	switch {
	case err == nil:
		results.Status = "ok"
	case results.ExitCode == exitPartial:
		results.Status = "partial"
	case errors.Is(err, reconcile.ErrDiffers):
		results.Status = "different"
	}
	if err != nil {
		results.Error = describe(err)
	}
	switch {
	case a.cli.JSON:
		return results.Write(a.stdout, reconcile.JSON)
	case c.CSV && all != nil && c.Decimal == decimalComma:
		return results.Write(a.stdout, reconcile.CommaCSV)
	case c.CSV && all != nil:
		c.suggest(a)
		return results.Write(a.stdout, reconcile.CSV)
	}
	return results.Write(a.stdout, reconcile.Text)
}

func (c *reconcileCmd) reconcile(a *app) ([]reconcile.Comparison, error) {
	return c.compare(a, reconcile.Reconciliation{Organisations: c.Org, Tolerance: store.Money(c.Tolerance),
		Fix: c.Fix, RemoveExtra: c.RemoveExtra, Period: reconcile.Period{Month: string(c.Month),
			From: store.Day(c.From), To: store.Day(c.To)}})
}

// compare makes the reconciliation that r describes, as far as the command line says it.
func (f *passFlags) compare(a *app, r reconcile.Reconciliation) (all []reconcile.Comparison, err error) {
	x, err := f.open(a, !r.Fix)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, x.end()) }()
	r.Store, r.Sources, r.Client, r.Log, r.Now = x.db, x.sources, x.client, a.log, a.now
	r.Zone, r.ExitCode = a.cli.Timezone.Location, exitCode
	return r.Run(x.ctx)
}

// verdict logs what could not be compared and is the error of it all: a difference anywhere, else the first
// organisation's error where all have failed, else partial where something could not be compared.
func (c *reconcileCmd) verdict(a *app, all []reconcile.Comparison) error {
	for _, one := range all {
		if _, ended := errors.AsType[*interrupted](one.Err); ended {
			return one.Err
		}
		if one.Err != nil {
			a.log.Error(fmt.Sprintf("Failed to reconcile %s: %v", one.Organisation.Name, one.Err))
		}
	}
	verdict := reconcile.Judge(all)
	switch {
	case verdict.Differences > 0:
		return &reportedError{fmt.Errorf("%w: %s", reconcile.ErrDiffers,
			store.Counted(verdict.Differences, "difference"))}
	case verdict.Failed > 0 && verdict.Failed == len(all):
		return &reportedError{verdict.Failure}
	case verdict.Failed > 0 || verdict.Beyond != nil:
		return &reportedError{&codedError{exitPartial, cmp.Or(verdict.Failure, verdict.Beyond)}}
	}
	return nil
}
