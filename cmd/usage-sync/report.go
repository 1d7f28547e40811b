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
	Month  string `placeholder:"YYYY-MM" help:"The month to state. Default: the last complete one of the client's calendar."`
	From   day    `placeholder:"YYYY-MM-DD" help:"The first day to state, in the place of a month."`
	To     day    `placeholder:"YYYY-MM-DD" help:"The last day to state. Default: today."`
	For    string `enum:"client,owner" default:"client" help:"client hides raw cost and markup, owner shows them."`
	Format string `enum:"text,html,csv,xlsx,json" default:"text" help:"text, html, csv, xlsx or json."`
	Users  string `enum:"name,email,id,none" default:"name" help:"How users are named, where the application's table of users has them: name, email or id; none leaves users out."`
	decimalFlag
	CreditFee float64 `placeholder:"PERCENT" env:"USAGE_SYNC_CREDIT_FEE" default:"5.5" help:"OpenRouter's fee on credits, for the margin in the owner's summary of several instances."`
	Close     bool    `xor:"closing" help:"Freeze the statement of a period that is over, whole and reconciled, and give it a number."`
	Void      int64   `xor:"closing" placeholder:"NUMBER" help:"Enter that a closed statement of --org is void. Wants --note."`
	Note      string  `placeholder:"TEXT" help:"With --close and --void: why, for the record."`

	Generations bool `xor:"closing" help:"List what the statement was made from: a row for each generation that is still held. They add up to it. Text, csv, xlsx or json, to standard output."`

	Unreconciled bool `help:"With --close: although nobody has found that OpenRouter's own figures agree."`

	Out string `place:"write" placeholder:"PATH" help:"A file, or a directory that gets one file for each organisation. Default: standard output."`

	format report.Format
}

func (*reportCmd) Help() string {
	return "States what organisations used in a period: totals, cost per day, per model and per user, compared with the period before\n" +
		"(of a month the month before, of n days the n days before; of a period that is not over, the same part of it). The\n" +
		"figures are those of 'usage', today's live counter included. Amounts are in the billing_currency of global_settings.\n\n" +
		"Without --org these are all organisations that are active, or have used something in the period. A file is replaced as a\n" +
		"whole, with mode 0640. A directory that ends with / is made. CSV and JSON hold exact amounts; text and HTML round each for\n" +
		"display. CSV is UTF-8 with a byte order mark, commas and a decimal point, or with --decimal comma as spreadsheets read it\n" +
		"where people write 1,5. xlsx says of each cell whether it is a number or a name.\n\n" +
		"--close freezes the statement of a period: it is printed from what was frozen ever after, and what changes on its days\n" +
		"is on the next statement, as corrections. A wrong one is void by a second entry (--void), and may be closed again."
}

// ExitHelp lists the exit codes.
func (*reportCmd) ExitHelp() string {
	return exitHelp(exitOK, exitUsage, exitDataErr, exitNoInput, exitCantCreat, exitIOErr,
		exitTempFail, exitNoPerm, exitConfig)
}

func (c *reportCmd) asked() report.Asked {
	return report.Asked{Month: c.Month, From: store.Day(c.From), To: store.Day(c.To)}
}

// Validate checks the period.
func (c *reportCmd) Validate() error {
	if c.CreditFee < 0 || c.CreditFee > 100 {
		return errors.New("--credit-fee: must be between 0 and 100 percent")
	}
	switch {
	case c.Void != 0 && (len(c.Org) != 1 || strings.TrimSpace(c.Note) == ""):
		return errors.New("--void: wants the --org whose statement it is, and a --note that says why")
	case c.Void != 0 && (c.Month != "" || c.From != ""):
		return errors.New("--void: names a statement by its number, not by its period")
	case c.Note != "" && !c.writes():
		return errors.New("--note: goes with --close and --void")
	case c.Generations && (c.Out != "" || c.Format == string(report.HTML)):
		return errors.New("--generations: excludes --out and --format html")
	case c.Unreconciled && !c.Close:
		return errors.New("--unreconciled: goes with --close")
	}
	return c.asked().Check()
}

// writes tells whether the command changes the database.
func (c *reportCmd) writes() bool { return c.Close || c.Void != 0 }

// Run writes the statements.
func (c *reportCmd) Run(a *app, parsed *kong.Context) error {
	if err := c.chooseFormat(a.cli.JSON, explicit(parsed, "format")); err != nil {
		return err
	}
	if c.format == report.XLSX && (c.Out == "" || c.Out == "-") && isTerminal(a.stdout) {
		return &usageError{errors.New("--format xlsx: is nothing for a terminal, name a file with --out")}
	}
	switch {
	case c.Void != 0:
		return a.withStore(a.writable, func(db *store.Store) error { return c.void(a, db) })
	case c.Close:
		return a.withStore(a.writable, func(db *store.Store) error { return c.close(a, db) })
	}
	return a.withStore(a.readable, func(db *store.Store) error {
		statements, err := report.Make(a.ctx, db, c.request(a))
		if err != nil {
			return err
		}
		return c.write(a, db, statements)
	})
}

func (c *reportCmd) request(a *app) report.Request {
	return report.Request{Organisations: c.Org, Zone: a.cli.Timezone.Location, Period: c.asked(),
		For: report.Audience(c.For), Naming: report.Naming(c.Users), Now: a.now()}
}

// close closes what can be closed, and writes those statements.
func (c *reportCmd) close(a *app, db *store.Store) error {
	closed, err := report.Close(a.ctx, db, report.CloseRequest{Request: c.request(a), By: whoami(),
		Note: strings.TrimSpace(c.Note), Unreconciled: c.Unreconciled})
	for _, s := range closed {
		a.log.Info(fmt.Sprintf("%s (%s): statement %d of %s to %s is closed", s.Name, s.ID,
			s.Closed.Number, s.Span.First, s.Span.Last))
	}
	if len(closed) == 0 {
		return err
	}
	return errors.Join(err, c.write(a, db, closed))
}

func (c *reportCmd) void(a *app, db *store.Store) error {
	orgs, err := db.Organisations(a.ctx, c.Org, a.cli.Timezone.Location)
	if err != nil {
		return err
	}
	entry, err := report.Void(a.ctx, db, orgs[0], c.Void, whoami(), strings.TrimSpace(c.Note), a.now())
	if err != nil {
		return err
	}
	if a.cli.JSON {
		return printJSON(a.stdout, voidOut{ClientOrgID: entry.OrganisationID, Number: entry.Number, Voids: entry.Voids,
			From: entry.Span.First, To: entry.Span.Last})
	}
	_, err = fmt.Fprintf(a.stdout, "Entry %d of %s: statement %d of %s to %s is void\n",
		entry.Number, entry.OrganisationID, entry.Voids, entry.Span.First, entry.Span.Last)
	return err
}

type voidOut struct {
	ClientOrgID string    `json:"client_org_id"`
	Number      int64     `json:"number"`
	Voids       int64     `json:"voids"`
	From        store.Day `json:"from"`
	To          store.Day `json:"to"`
}

// write writes statements to where they were asked for.
func (c *reportCmd) write(a *app, db *store.Store, statements []report.Statement) error {
	c.warn(a, statements)
	if c.Generations {
		return report.WriteEvidence(a.ctx, db, a.stdout, c.format, statements)
	}
	if c.format == report.CSV {
		c.suggest(a)
	}
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
	switch {
	case c.Decimal != "" && c.format != report.CSV:
		return &usageError{errors.New("--decimal: goes with --format csv")}
	case c.Decimal == decimalComma:
		c.format = report.CommaCSV
	}
	return nil
}

func (c *reportCmd) isCSV() bool { return c.format == report.CSV || c.format == report.CommaCSV }

// formatArgs are the arguments that chose the format.
func (c *reportCmd) formatArgs() []string {
	switch {
	case c.format == report.CommaCSV:
		return []string{"--format", string(report.CSV), "--decimal", decimalComma}
	case c.format == report.CSV:
		return []string{"--format", string(report.CSV), "--decimal", "point"}
	}
	return []string{"--format", string(c.format)}
}

// warn tells of what should be known before a client is billed.
func (c *reportCmd) warn(a *app, statements []report.Statement) {
	for _, s := range statements {
		if !s.Final && !s.Running() {
			a.log.Warn(fmt.Sprintf("%s (%s): %s", s.Name, s.ID,
				strings.Join(append([]string{s.Provisional()}, s.Gaps()...), " ")))
		}
	}
	if code := statements[0].Currency.Code; code != "USD" {
		a.log.Warn(fmt.Sprintf("billing_currency is %s: no exchange rate is applied, the markup rate must "+
			"make %s of US dollars", code, code))
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
