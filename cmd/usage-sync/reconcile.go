package main

import (
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"usage-sync/job"
	"usage-sync/job/monitor"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

type reconcileCmd struct {
	orgFlag
	passFlags
	Month       month  `placeholder:"YYYY-MM" help:"The days of a month, as far as they are over. Default: the month of yesterday."`
	From        day    `placeholder:"YYYY-MM-DD" help:"The first day, by the organisation's calendar. Default: the first of the month."`
	To          day    `placeholder:"YYYY-MM-DD" help:"The last day; it may be today. Default: yesterday."`
	Tolerance   money  `placeholder:"USD" default:"0.000001" help:"By how much the raw cost of a day and model may differ; tokens and requests must be the same."`
	Fix         bool   `help:"Record what is missing and settle what has changed, as a pass would, and compare again. Deletes nothing."`
	All         bool   `help:"Show also what is the same on both sides."`
	MetricsFile string `placeholder:"PATH" env:"USAGE_SYNC_RECONCILE_METRICS_FILE" help:"Write what differs into this file, for Prometheus' textfile collector; not that of the passes."`
	Instance    string `placeholder:"NAME" env:"USAGE_SYNC_INSTANCE" help:"What the metrics call this container. Default: the name of the metrics file without usage-sync-reconcile- and .prom."`
	CSV         bool   `name:"csv" help:"Print CSV, one line for each day and model."`
}

func (*reconcileCmd) Help() string {
	return "Holds the dashboard's tables against what OpenRouter itself says was used: requests, tokens and raw cost of each day and\n" +
		"model, as far as 31 days back. That takes a management key; with the organisation's own key alone it compares the total\n" +
		"cost of this month in UTC. Where something differs it looks for causes: generations missing in the ledger or not listed\n" +
		"by OpenRouter, a changed cost, usage recorded by hand. Without --fix it writes nothing."
}

// ExitHelp lists the exit codes.
func (*reconcileCmd) ExitHelp() string {
	return strings.NewReplacer(
		"success, or nothing to do", "the same within the tolerance",
		"partial: some organisations synced, some failed", "partial: some days or organisations could not be compared, the others are the same",
		"an answer or a row that can't be trusted; what is sound is recorded", "beyond the tolerance, or an answer that can't be trusted",
	).Replace(exitHelp(exitOK, exitPartial, exitUsage, exitDataErr, exitNoInput, exitUnavailable, exitCantCreat, exitIOErr, exitTempFail, exitNoPerm, exitConfig))
}

// mostTolerance is more than makes sense, and still can be added up for all days and models.
const mostTolerance = 100 * store.Dollar

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
	case c.Month != "" && (c.From != "" || c.To != ""):
		return errors.New("--month: excludes --from and --to")
	case c.From != "" && c.To != "" && c.From > c.To:
		return fmt.Errorf("--from: %s comes after --to, %s", c.From, c.To)
	case c.Tolerance < 0 || store.Money(c.Tolerance) > mostTolerance:
		return fmt.Errorf("--tolerance: must be between 0 and $%s", mostTolerance)
	}
	return c.passFlags.check()
}

// Run compares, and prints what it finds.
func (c *reconcileCmd) Run(a *app) error {
	if c.CSV && a.cli.JSON {
		return &usageError{errors.New("--csv: excludes --json")}
	}
	all, err := c.reconcile(a)
	if err == nil {
		err = c.verdict(a, all)
	}
	if printErr := c.print(a, all, err); err == nil {
		err = printErr
	}
	if c.MetricsFile != "" && all != nil {
		if fileErr := monitor.WriteReconciliation(c.MetricsFile, c.Instance, a.now(), all); err == nil {
			err = fileErr
		} else if fileErr != nil {
			a.log.Error(describe(fileErr))
		}
	}
	return err
}

func (c *reconcileCmd) print(a *app, all []job.Comparison, err error) error {
	switch {
	case a.cli.JSON:
		return c.printJSON(a.stdout, all, err)
	case c.CSV && all != nil:
		return printCSV(a.stdout, all, c.All)
	}
	return printComparisons(a.stdout, all, c.All)
}

func (c *reconcileCmd) reconcile(a *app) (all []job.Comparison, err error) {
	client, err := openrouter.New(c.BaseURL, version(), a.log)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(a.ctx, c.Timeout, fmt.Errorf("%w: --timeout is %s", job.ErrTimedOut, c.Timeout))
	defer cancel()
	if c.Fix {
		lock, err := c.acquire(ctx, a)
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, lock.Release()) }()
	}
	db, err := c.open(a)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	sources, err := c.sources(ctx, client, db)
	if err != nil {
		return nil, err
	}
	reconciliation := &job.Reconciliation{
		Store: db, Sources: sources, Client: client, Log: a.log, Now: a.now, ExitCode: exitCode,
		Organisations: c.Org, Zone: a.cli.Timezone.Location, Tolerance: store.Money(c.Tolerance), Fix: c.Fix,
		Period: job.Period{Month: string(c.Month), From: store.Day(c.From), To: store.Day(c.To)},
	}
	return reconciliation.Run(ctx)
}

// open opens the database for reading alone, but with --fix.
func (c *reconcileCmd) open(a *app) (*store.Store, error) {
	if !c.Fix {
		return a.openChecked(store.ReadOnly)
	}
	return a.openPrepared()
}

// verdict logs what could not be compared and is the error of it all: a difference anywhere, else the first organisation's
// error where all have failed, else partial where something could not be compared.
func (c *reconcileCmd) verdict(a *app, all []job.Comparison) error {
	var first, beyond error
	failed, differences := 0, 0
	for _, one := range all {
		var signal *interrupted
		switch {
		case errors.As(one.Err, &signal):
			return one.Err
		case one.Err != nil:
			failed++
			a.log.Error(fmt.Sprintf("Failed to reconcile %s: %v", one.Organisation.Name, one.Err))
			first = cmp.Or(first, one.Err)
			continue
		case len(one.Beyond) > 0 && beyond == nil:
			beyond = fmt.Errorf("%w: %s", job.ErrBeyondReach, spans(one.Beyond))
		}
		differences += one.Differences()
	}
	switch {
	case differences > 0:
		return &reportedError{fmt.Errorf("%w: %d differences", job.ErrDiffers, differences)}
	case failed > 0 && failed == len(all):
		return &reportedError{first}
	case failed > 0 || beyond != nil:
		return &reportedError{&codedError{exitPartial, cmp.Or(first, beyond)}}
	}
	return nil
}

// spans words days, those in a row as one.
func spans(days []store.Day) string {
	var parts []string
	for i := 0; i < len(days); {
		last := i
		for last+1 < len(days) && days[last+1] == days[last].Add(1) {
			last++
		}
		part := string(days[i])
		if last > i {
			part += " to " + string(days[last])
		}
		parts = append(parts, part)
		i = last + 1
	}
	return strings.Join(parts, ", ")
}

// exactly returns dollars with six decimals, or as many as there are.
func exactly(m store.Money) string {
	if m%1_000_000 == 0 {
		return m.String()
	}
	return strings.TrimRight(strconv.FormatFloat(m.Float(), 'f', 12, 64), "0")
}

func printComparisons(w io.Writer, all []job.Comparison, everything bool) error {
	for i, c := range all {
		if i > 0 {
			fmt.Fprintln(w)
		}
		if c.Before != nil {
			if err := printComparison(w, *c.Before, everything); err != nil {
				return err
			}
		}
		if c.Fixed != nil {
			printFixed(w, *c.Fixed)
		}
		if err := printComparison(w, c, everything); err != nil {
			return err
		}
	}
	return nil
}

func printComparison(w io.Writer, c job.Comparison, everything bool) error {
	fmt.Fprintf(w, "%s (%s)", c.Organisation.Name, c.Organisation.ID)
	if c.Err != nil && len(c.Rows) == 0 && c.Month == nil {
		fmt.Fprintf(w, ": not compared: %v\n", c.Err)
		return nil
	}
	fmt.Fprintf(w, ", %s to %s by %s\n", c.First, c.Last, strings.Join(c.Basis, " and "))
	if err := printRows(w, c, everything); err != nil {
		return err
	}
	printMonth(w, c)
	for _, cause := range c.Causes {
		printCause(w, cause)
	}
	if c.Unexplained != nil {
		fmt.Fprintf(w, "  Causes are not known: %v\n", c.Unexplained)
	}
	if c.Err != nil {
		fmt.Fprintf(w, "  Failed: %v\n", c.Err)
	}
	if len(c.Beyond) > 0 {
		fmt.Fprintf(w, "  Not compared: %s; OpenRouter tells of the last 31 days alone, up to today\n", spans(c.Beyond))
	}
	printSummary(w, c)
	return nil
}

func printRows(w io.Writer, c job.Comparison, everything bool) error {
	table := newTable(w)
	shown := 0
	for _, row := range c.Rows {
		if !row.Differs && !everything {
			continue
		}
		if shown++; shown == 1 {
			fmt.Fprintln(table, "DATE\tMODEL\tREQUESTS\tOPENROUTER\tTOKENS\tOPENROUTER\tRAW COST\tOPENROUTER\tDIFFERENCE\t")
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%d\t%d\t$%s\t$%s\t$%s\t\n", row.Day, nameOf(row), row.Ours.Requests, row.Theirs.Requests,
			row.Ours.Tokens, row.Theirs.Tokens, exactly(row.Ours.Raw), exactly(row.Theirs.Raw), exactly(row.Difference().Raw))
	}
	return table.Flush()
}

// nameOf is the model, or in brackets the table in which a whole day is not the sum of its models.
func nameOf(row job.Row) string {
	if row.Table != "" {
		return "(" + row.Table + ")"
	}
	return row.Model
}

func printMonth(w io.Writer, c job.Comparison) {
	m := c.Month
	if m == nil {
		return
	}
	fmt.Fprintf(w, "  Total of %s in UTC so far: ledger $%s, OpenRouter $%s, difference $%s\n", m.Month, exactly(m.Ours), exactly(m.Theirs),
		exactly(m.Ours-m.Theirs))
	if m.OwnCalendar {
		fmt.Fprintf(w, "  By the calendar of %s, whose month is cut differently, the tables hold $%s: $%s more than the ledger in UTC\n",
			c.Organisation.Zone, exactly(m.Tables), exactly(m.Tables-m.Ours))
	} else if m.Tables != m.Ours {
		fmt.Fprintf(w, "  The tables hold $%s, which is not what the ledger does\n", exactly(m.Tables))
	}
	if m.Differs {
		fmt.Fprintln(w, "  OpenRouter's total has no gap at the end: usage since the last pass is part of it")
	}
}

// causeWords say what each kind of cause means.
var causeWords = map[job.CauseKind]string{
	job.CauseMissing: "missing in the ledger",
	job.CauseExtra:   "in the ledger, and not listed by OpenRouter",
	job.CauseChanged: "with other tokens or another cost in the ledger",
	job.CauseManual:  "recorded by hand",
	job.CauseDay:     "in the ledger under another day",
	job.CauseModel:   "in the ledger under another model",
	job.CauseForeign: "in the ledger under another organisation",
	job.CauseRefused: "that can't be trusted",
}

func printCause(w io.Writer, c job.Cause) {
	switch c.Kind {
	case job.CauseUnknown:
		fmt.Fprintf(w, "  %s: no cause found: tables and ledger are what OpenRouter lists now\n", c.Day)
		return
	case job.CauseTables:
		for _, e := range c.Examples {
			fmt.Fprintf(w, "  %s: %s does not add up to the ledger: %s, ledger %s\n", c.Day, e.ID, worded(e.Ours), worded(e.Theirs))
		}
		return
	}
	fmt.Fprintf(w, "  %s: %s %s", c.Day, counted(c.Count, "generation"), causeWords[c.Kind])
	if c.Effect.Raw != 0 {
		fmt.Fprintf(w, " ($%s)", exactly(c.Effect.Raw))
	}
	fmt.Fprintln(w)
	for _, e := range c.Examples {
		fmt.Fprintf(w, "    %s\n", strings.Join(wordedExample(c.Kind, e), ", "))
	}
	if more := c.Count - len(c.Examples); more > 0 {
		fmt.Fprintf(w, "    and %d more\n", more)
	}
}

func wordedExample(kind job.CauseKind, e job.Example) []string {
	parts := []string{e.ID}
	if e.Model != "" {
		parts = append(parts, e.Model)
	}
	switch kind {
	case job.CauseMissing:
		parts = append(parts, wordedOne(e.Theirs))
	case job.CauseChanged:
		parts = append(parts, wordedOne(e.Ours), "OpenRouter "+wordedOne(e.Theirs))
	case job.CauseRefused:
	default:
		parts = append(parts, wordedOne(e.Ours))
	}
	if e.Elsewhere != "" {
		parts = append(parts, e.Elsewhere)
	}
	return parts
}

func wordedOne(a job.Amount) string { return fmt.Sprintf("%d tokens, $%s", a.Tokens, exactly(a.Raw)) }

func worded(a job.Amount) string { return fmt.Sprintf("%d requests, %s", a.Requests, wordedOne(a)) }

func printFixed(w io.Writer, f job.Fixed) {
	fmt.Fprintf(w, "  Fixed: %d recorded, %d settled (%d tokens, raw $%s, marked up $%s)\n", f.Recorded, f.Settled, f.Tokens, exactly(f.Raw),
		exactly(f.Markup))
	if len(f.Left) > 0 {
		fmt.Fprintf(w, "  Left alone: %s; the tables hold usage there that the ledger does not know, and what OpenRouter lists may be in it\n",
			spans(f.Left))
	}
}

func printSummary(w io.Writer, c job.Comparison) {
	if c.Month != nil {
		verdict := "the same"
		if c.Month.Differs {
			verdict = "it differs"
		}
		fmt.Fprintf(w, "The total of %s is compared: %s\n", c.Month.Month, verdict)
		return
	}
	days := map[store.Day]bool{}
	for day := c.First; day <= c.Last; day = day.Add(1) {
		days[day] = true
	}
	fmt.Fprintf(w, "%s compared, %s, %s\n", counted(len(days)-len(c.Beyond), "day"), counted(len(c.Rows), "row"),
		counted(c.Differences(), "difference"))
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// comparisonsOut is reconcile --json. Without --all the rows are those that differ.
type comparisonsOut struct {
	Status        string          `json:"status"` // ok, different, partial or failed
	ExitCode      int             `json:"exit_code"`
	Tolerance     float64         `json:"tolerance"`
	Organizations []comparisonOut `json:"organizations"`
	Error         string          `json:"error,omitempty"`
}

// comparisonOut is one organisation. With --fix it is what is left, and Before is what was.
type comparisonOut struct {
	ID          string      `json:"id"`
	Name        string      `json:"name"`
	Status      string      `json:"status"` // ok, different or failed
	From        store.Day   `json:"from"`
	To          store.Day   `json:"to"`
	Basis       []string    `json:"basis"` // activity, analytics or key
	NotCompared []store.Day `json:"not_compared"`
	Differences int         `json:"differences"`
	Rows        []rowOut    `json:"rows"`
	Month       *monthSum   `json:"month,omitempty"`
	Causes      []causeOut  `json:"causes"`
	APIRequests int64       `json:"api_requests"`
	Error       string      `json:"error,omitempty"`
	CausesError string      `json:"causes_error,omitempty"`
	Fixed       *fixedOut   `json:"fixed,omitempty"`
	Before      *beforeOut  `json:"before,omitempty"`
}

type beforeOut struct {
	Differences int        `json:"differences"`
	Rows        []rowOut   `json:"rows"`
	Causes      []causeOut `json:"causes"`
}

type amountOut struct {
	Requests int64   `json:"requests"`
	Tokens   int64   `json:"tokens"`
	RawCost  float64 `json:"raw_cost"`
}

func amountJSON(a job.Amount) amountOut { return amountOut{a.Requests, a.Tokens, a.Raw.Float()} }

type rowOut struct {
	Date       store.Day `json:"date"`
	Model      string    `json:"model,omitempty"`
	Table      string    `json:"table,omitempty"` // a whole day, in a table that is not the sum of the models
	Ours       amountOut `json:"ours"`
	OpenRouter amountOut `json:"openrouter"`
	Difference float64   `json:"difference"` // of raw cost
	Differs    bool      `json:"differs"`
}

type monthSum struct {
	Month       string  `json:"month"`
	Ledger      float64 `json:"ledger"`
	OpenRouter  float64 `json:"openrouter"`
	Difference  float64 `json:"difference"`
	Tables      float64 `json:"tables"`
	OwnCalendar bool    `json:"own_calendar"` // Tables are of the organisation's month, which is not that of UTC
}

type causeOut struct {
	Date     store.Day    `json:"date"`
	Kind     string       `json:"kind"`
	Count    int          `json:"count"`
	Effect   amountOut    `json:"effect"` // on ours
	Examples []exampleOut `json:"examples"`
}

type exampleOut struct {
	ID         string    `json:"id"`
	Model      string    `json:"model,omitempty"`
	Ours       amountOut `json:"ours"`
	OpenRouter amountOut `json:"openrouter"` // or of the ledger, where the kind is tables
	Elsewhere  string    `json:"elsewhere,omitempty"`
}

type fixedOut struct {
	Recorded   int64       `json:"recorded"`
	Updated    int64       `json:"updated"`
	Tokens     int64       `json:"tokens"`
	RawCost    float64     `json:"raw_cost"`
	MarkupCost float64     `json:"markup_cost"`
	LeftAlone  []store.Day `json:"left_alone"`
}

func (c *reconcileCmd) printJSON(w io.Writer, all []job.Comparison, err error) error {
	code := exitCode(err)
	out := comparisonsOut{Status: "failed", ExitCode: code, Tolerance: store.Money(c.Tolerance).Float(), Organizations: []comparisonOut{}}
	switch {
	case code == exitOK:
		out.Status = "ok"
	case code == exitPartial:
		out.Status = "partial"
	case errors.Is(err, job.ErrDiffers):
		out.Status = "different"
	}
	if err != nil {
		out.Error = describe(err)
	}
	for _, one := range all {
		out.Organizations = append(out.Organizations, comparisonJSON(one, c.All))
	}
	return printJSON(w, out)
}

func comparisonJSON(c job.Comparison, everything bool) comparisonOut {
	out := comparisonOut{ID: c.Organisation.ID, Name: c.Organisation.Name, Status: "ok", From: c.First, To: c.Last,
		Basis: append([]string{}, c.Basis...), NotCompared: append([]store.Day{}, c.Beyond...), Differences: c.Differences(),
		Rows: rowsJSON(c, everything), Causes: causesJSON(c), APIRequests: c.Requests}
	if out.Differences > 0 {
		out.Status = "different"
	}
	if c.Err != nil {
		out.Status, out.Error = "failed", c.Err.Error()
	}
	if c.Unexplained != nil {
		out.CausesError = c.Unexplained.Error()
	}
	if m := c.Month; m != nil {
		out.Month = &monthSum{m.Month, m.Ours.Float(), m.Theirs.Float(), (m.Ours - m.Theirs).Float(), m.Tables.Float(), m.OwnCalendar}
	}
	if f := c.Fixed; f != nil {
		out.Fixed = &fixedOut{f.Recorded, f.Settled, f.Tokens, f.Raw.Float(), f.Markup.Float(), append([]store.Day{}, f.Left...)}
	}
	if b := c.Before; b != nil {
		out.Before = &beforeOut{b.Differences(), rowsJSON(*b, everything), causesJSON(*b)}
	}
	return out
}

func rowsJSON(c job.Comparison, everything bool) []rowOut {
	rows := []rowOut{}
	for _, r := range c.Rows {
		if r.Differs || everything {
			rows = append(rows, rowOut{r.Day, r.Model, r.Table, amountJSON(r.Ours), amountJSON(r.Theirs), r.Difference().Raw.Float(), r.Differs})
		}
	}
	return rows
}

func causesJSON(c job.Comparison) []causeOut {
	causes := []causeOut{}
	for _, one := range c.Causes {
		cause := causeOut{one.Day, string(one.Kind), one.Count, amountJSON(one.Effect), []exampleOut{}}
		for _, e := range one.Examples {
			cause.Examples = append(cause.Examples, exampleOut{e.ID, e.Model, amountJSON(e.Ours), amountJSON(e.Theirs), e.Elsewhere})
		}
		causes = append(causes, cause)
	}
	return causes
}

// printCSV prints a line for each day and model, for each day that was not compared, and for a month.
func printCSV(w io.Writer, all []job.Comparison, everything bool) error {
	out := csv.NewWriter(w)
	_ = out.Write([]string{"client_org_id", "name", "date", "model", "requests", "openrouter_requests", "tokens", "openrouter_tokens",
		"raw_cost", "openrouter_raw_cost", "difference", "status", "causes"})
	for _, c := range all {
		line := func(date, model string, ours, theirs job.Amount, status, causes string) {
			_ = out.Write([]string{cell(c.Organisation.ID), cell(c.Organisation.Name), date, cell(model),
				fmt.Sprint(ours.Requests), fmt.Sprint(theirs.Requests), fmt.Sprint(ours.Tokens), fmt.Sprint(theirs.Tokens),
				exactly(ours.Raw), exactly(theirs.Raw), exactly(ours.Raw - theirs.Raw), status, cell(causes)})
		}
		empty := func(date, status, causes string) {
			_ = out.Write([]string{cell(c.Organisation.ID), cell(c.Organisation.Name), date, "", "", "", "", "", "", "", "", status, cell(causes)})
		}
		if c.Err != nil && len(c.Rows) == 0 {
			empty("", "failed", c.Err.Error())
		}
		for _, day := range c.Beyond {
			empty(string(day), "not compared", "")
		}
		for _, row := range c.Rows {
			switch {
			case row.Differs:
				line(string(row.Day), nameOf(row), row.Ours, row.Theirs, "different", causesOf(c, row.Day))
			case everything:
				line(string(row.Day), nameOf(row), row.Ours, row.Theirs, "same", "")
			}
		}
		if m := c.Month; m != nil && (m.Differs || everything) {
			status := map[bool]string{true: "different", false: "same"}[m.Differs]
			_ = out.Write([]string{cell(c.Organisation.ID), cell(c.Organisation.Name), m.Month, "", "", "", "", "", exactly(m.Ours), exactly(m.Theirs),
				exactly(m.Ours - m.Theirs), status, ""})
		}
	}
	out.Flush()
	return out.Error()
}

// causesOf names the causes of a day with their numbers.
func causesOf(c job.Comparison, day store.Day) string {
	var parts []string
	for _, cause := range c.Causes {
		if cause.Day == day {
			parts = append(parts, fmt.Sprintf("%s %d", cause.Kind, cause.Count))
		}
	}
	return strings.Join(parts, "; ")
}

// cell keeps a text from being taken for a formula by a spreadsheet (https://owasp.org/www-community/attacks/CSV_Injection).
func cell(text string) string {
	if text != "" && strings.ContainsRune("=+-@\t\r\n", rune(text[0])) {
		return "'" + text
	}
	return text
}
