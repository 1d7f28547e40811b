package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"usage-sync/job/report"
	"usage-sync/store"
)

type reportCmd struct {
	orgFlag
	Month     string  `placeholder:"YYYY-MM" help:"The month to state. Default: the last complete one of the client's calendar."`
	From      day     `placeholder:"YYYY-MM-DD" help:"The first day to state, in the place of a month."`
	To        day     `placeholder:"YYYY-MM-DD" help:"The last day to state. Default: today."`
	For       string  `enum:"client,owner" default:"client" help:"client hides raw cost and markup, owner shows them."`
	Format    string  `enum:"text,html,csv,json" default:"text" help:"text, html, csv or json."`
	CreditFee float64 `placeholder:"PERCENT" env:"USAGE_SYNC_CREDIT_FEE" default:"5.5" help:"OpenRouter's fee on credits, for the margin in the owner's summary of several instances."`
	Out       string  `placeholder:"PATH" help:"A file, or a directory that gets one file for each organisation. Default: standard output."`

	format report.Format
}

func (*reportCmd) Help() string {
	return "States what organisations used in a period: totals, cost per day, per model and per user, compared with the period before\n" +
		"(of a month the month before, of n days the n days before; of a period that is not over, the same part of it). The\n" +
		"figures are those of 'usage', today's live counter included. Amounts are in the billing_currency of global_settings.\n\n" +
		"Without --org these are all organisations that are active, or have used something in the period. A file is replaced as a\n" +
		"whole, with mode 0640. A directory that ends with / is made. CSV and JSON hold exact amounts; text and HTML round each for\n" +
		"display. CSV is UTF-8 with a byte order mark, commas and a decimal point."
}

// ExitHelp lists the exit codes.
func (*reportCmd) ExitHelp() string {
	return exitHelp(exitOK, exitUsage, exitDataErr, exitNoInput, exitCantCreat, exitIOErr, exitTempFail, exitNoPerm, exitConfig)
}

func (c *reportCmd) asked() report.Asked {
	return report.Asked{Month: c.Month, From: store.Day(c.From), To: store.Day(c.To)}
}

// Validate checks the period.
func (c *reportCmd) Validate() error {
	if c.CreditFee < 0 || c.CreditFee > 100 {
		return errors.New("--credit-fee: must be between 0 and 100 percent")
	}
	return c.asked().Check()
}

// Run writes the statements.
func (c *reportCmd) Run(a *app, parsed *kong.Context) error {
	if err := c.chooseFormat(a.cli.JSON, explicit(parsed, "format")); err != nil {
		return err
	}
	return a.withStore(a.readable, func(db *store.Store) error { return c.report(a, db) })
}

func (c *reportCmd) report(a *app, db *store.Store) error {
	statements, err := report.Make(a.ctx, db, report.Request{Organisations: c.Org, Zone: a.cli.Timezone.Location, Period: c.asked(),
		For: report.Audience(c.For), Now: a.now()})
	if err != nil {
		return err
	}
	c.warn(a, statements)
	if c.Out == "" || c.Out == "-" {
		return report.Write(a.stdout, c.format, columns(a.stdout), statements)
	}
	names, err := report.Save(c.Out, c.format, columns(nil), statements)
	for _, name := range names {
		a.log.Info("Wrote " + name)
	}
	return err
}

// chooseFormat lets --json be another word for --format json.
func (c *reportCmd) chooseFormat(json, explicit bool) error {
	c.format = report.Format(c.Format)
	switch {
	case json && explicit && c.format != report.JSON:
		return &usageError{fmt.Errorf("--json and --format %s exclude each other", c.Format)}
	case json:
		c.format = report.JSON
	}
	return nil
}

// warn tells of what should be known before a client is billed.
func (c *reportCmd) warn(a *app, statements []report.Statement) {
	for _, s := range statements {
		if !s.Final && !s.Running() {
			a.log.Warn(fmt.Sprintf("%s (%s): %s", s.Name, s.ID, strings.Join(append([]string{s.Provisional()}, s.Gaps()...), " ")))
		}
	}
	if code := statements[0].Currency.Code; code != "USD" {
		a.log.Warn(fmt.Sprintf("billing_currency is %s: no exchange rate is applied, the markup rate must make %s of US dollars", code, code))
	}
}

// columns is the width of the terminal that results go to, else that of a page.
func columns(w io.Writer) int {
	const page = 100
	if f, ok := fileOf(w); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil {
			return width
		}
	}
	return page
}
