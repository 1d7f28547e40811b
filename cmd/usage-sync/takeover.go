package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"golang.org/x/term"

	"usage-sync/job"
	"usage-sync/job/table"
	"usage-sync/store"
)

type takeoverCmd struct {
	orgFlag
	passFlags
	DaysBack int `env:"OPENROUTER_USAGE_SYNC_DAYS_BACK" default:"1" placeholder:"N" help:"Days before today to decide about at the least, 0 to 30."`
	answerFlags
	Again bool `xor:"undo" help:"Decide again what was decided last."`
	Undo  bool `xor:"undo,takeover" help:"Put the tables back as they were before the last answer: passes ask again."`
	Yes   bool `help:"Do it without asking."`
}

// defaultInterval is that of the Python sync and of our timers.
const defaultInterval = 600

// interval is the time between two passes, also where polling is switched off: others may still poll.
func (a *app) interval() time.Duration {
	return time.Duration(cmp.Or(a.cli.Interval, defaultInterval)) * time.Second
}

// answerFlags are the answers, one of which may be given.
type answerFlags struct {
	Replace      bool      `xor:"takeover" help:"Put the days' rows aside and make them anew from what OpenRouter lists."`
	Adopt        bool      `xor:"takeover" help:"The totals stand: count what was used after their last write, and on days without rows."`
	AdoptUntil   time.Time `placeholder:"RFC3339" help:"With --adopt: when others last wrote, where the tables do not say."`
	None         bool      `xor:"takeover" help:"The totals came from elsewhere: count in full beside them."`
	OldSyncIsOff bool      `help:"The old sync is off, although it has written a moment ago."`
}

func (f answerFlags) answer() store.Answer {
	switch {
	case f.Replace:
		return store.AnswerReplace
	case f.Adopt:
		return store.AnswerAdopt
	case f.None:
		return store.AnswerNone
	}
	return ""
}

func (*takeoverCmd) Help() string {
	return "Shows per day what the tables hold that others have counted, such as the Python sync, what of it the ledger explains,\n" +
		"what OpenRouter lists, and what each answer would make of the bill. Then it asks. Without a terminal to ask at, and\n" +
		"without --yes and an answer, it only shows, and exits 78 while there is something to decide.\n\n" +
		"  replace  the days' rows are put aside in full and made anew from what\n" +
		"           OpenRouter lists: right whatever the totals hold\n" +
		"  adopt    the totals stand; what was used after their last write, and\n" +
		"           on days without rows of others, is counted\n" +
		"  none     the totals came from elsewhere: everything that OpenRouter\n" +
		"           lists is counted beside them\n\n" +
		"Before an answer the usage tables are copied beside the database. As long as OpenRouter's list reaches back, --again\n" +
		"changes an answer in one transaction, and --undo puts the tables back."
}

// ExitHelp lists the exit codes.
func (*takeoverCmd) ExitHelp() string {
	return exitHelp(exitOK, exitPartial, exitUsage, exitDataErr, exitNoInput, exitUnavailable, exitCantCreat, exitIOErr,
		exitTempFail, exitNoPerm, exitConfig)
}

// Validate runs before anything else.
func (c *takeoverCmd) Validate() error {
	switch {
	case c.DaysBack < 0 || c.DaysBack > job.MaxDaysBack:
		return fmt.Errorf("--days-back: %d is not between 0 and %d", c.DaysBack, job.MaxDaysBack)
	case !c.AdoptUntil.IsZero() && !c.Adopt:
		return errors.New("--adopt-until: goes with --adopt")
	case c.Yes && c.answer() == "" && !c.Undo:
		return errors.New("--yes: wants --replace, --adopt, --none or --undo")
	}
	return c.passFlags.check()
}

// Run shows what has to be decided and carries out the answer.
func (c *takeoverCmd) Run(a *app) (err error) {
	x, err := c.open(a, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, a.late(x.end())) }()
	t := &job.Takeover{Store: x.db, Sources: x.sources, Log: a.log, Now: a.now, Organisations: c.Org,
		Zone: a.cli.Timezone.Location, DaysBack: c.DaysBack, Again: c.Again, Interval: a.interval(),
		OldSyncIsOff: c.OldSyncIsOff, By: whoami()}
	if c.Undo {
		return c.undo(a, x.ctx, t)
	}
	cases, err := t.Look(x.ctx)
	if err != nil {
		return err
	}
	return c.decide(a, x.ctx, t, cases)
}

// decide shows the cases and carries out the answers.
func (c *takeoverCmd) decide(a *app, ctx context.Context, t *job.Takeover, cases []*job.Case) error {
	open := 0
	for _, one := range cases {
		if one.Open && one.Err == nil {
			open++
		}
	}
	if c.answer() != "" && open > 1 && len(c.Org) == 0 {
		return fmt.Errorf("%w: %d organisations have something to decide: answer for one at a time, with --org",
			job.ErrAnswer, open)
	}
	out := takeoverJSON{Organizations: []takeoverCase{}}
	var first error
	for _, one := range cases {
		if !a.cli.JSON {
			if err := showCase(a.stdout, one); err != nil {
				return err
			}
		}
		err, backup := one.Err, ""
		if err == nil && one.Open {
			backup, err = c.settle(a, ctx, t, one)
		}
		if err == nil && backup != "" && !a.cli.JSON {
			fmt.Fprintf(a.stdout, "Decided: %s. The usage tables as they were: %s\n", one.Question.Answer, backup)
		}
		out.Organizations = append(out.Organizations, jsonOfCase(one, backup, err))
		first = cmp.Or(first, err)
	}
	if a.cli.JSON {
		out.ExitCode = exitCode(first)
		return errors.Join(printJSON(a.stdout, out), reported(first))
	}
	return first
}

// settle carries out the answer of the command line, or of whoever sits at the terminal.
func (c *takeoverCmd) settle(a *app, ctx context.Context, t *job.Takeover, one *job.Case) (backup string, err error) {
	answer := c.answer()
	switch {
	case answer != "" && c.Yes:
	case answer != "":
		said, err := c.ask(a, fmt.Sprintf("Answer %s for %s? [y/N] ", answer, one.Organisation.Name))
		if err != nil {
			return "", err
		}
		if !strings.EqualFold(said, "y") {
			return "", one.Undecided()
		}
	default:
		said, err := c.ask(a, fmt.Sprintf("What is it to be for %s: replace, adopt, none, or nothing yet? ",
			one.Organisation.Name))
		if err != nil {
			return "", err
		}
		if answer = store.Answer(strings.ToLower(said)); answer != store.AnswerReplace && answer != store.AnswerAdopt &&
			answer != store.AnswerNone {
			if one.Question.AnsweredAt.IsZero() {
				return "", one.Undecided()
			}
			return "", nil // the answer of before holds
		}
	}
	if backup, err = t.Answer(ctx, one, answer, c.AdoptUntil); err == nil {
		a.done("The answer is carried out")
	}
	return backup, err
}

// ask asks at a terminal. A signal ends the waiting; without a terminal nothing is said.
func (c *takeoverCmd) ask(a *app, question string) (string, error) {
	file, ok := a.stdin.(*os.File)
	if a.cli.JSON || !ok || !term.IsTerminal(int(file.Fd())) {
		return "", nil
	}
	return askAt(a, file, question)
}

// askAt asks at a terminal.
func askAt(a *app, file *os.File, question string) (string, error) {
	fmt.Fprint(a.stderr, question)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(file).ReadString('\n')
		answer <- line
	}()
	select {
	case <-a.ctx.Done():
		return "", context.Cause(a.ctx)
	case line := <-answer:
		return strings.TrimSpace(line), nil
	}
}

func (c *takeoverCmd) undo(a *app, ctx context.Context, t *job.Takeover) error {
	orgs, err := t.Store.Organisations(ctx, c.Org, a.cli.Timezone.Location)
	if err != nil {
		return err
	}
	if len(orgs) > 1 {
		return fmt.Errorf("%w: %d organisations: undo one at a time, with --org", job.ErrAnswer, len(orgs))
	}
	if !c.Yes {
		said, err := c.ask(a, fmt.Sprintf("Put the tables of %s back as they were before the last answer? "+
			"[y/N] ", orgs[0].Name))
		if err != nil {
			return err
		}
		if !strings.EqualFold(said, "y") {
			fmt.Fprintln(a.stdout, "Nothing was changed; --yes does it")
			return nil
		}
	}
	u, backup, err := t.Undo(ctx, orgs[0])
	if err != nil {
		return err
	}
	a.done("The answer is taken back")
	if a.cli.JSON {
		return printJSON(a.stdout, takeoverCase{ID: orgs[0].ID, Name: orgs[0].Name, Status: "undone", Backup: backup})
	}
	fmt.Fprintf(a.stdout, "%s: the answer %s of %s is taken back. What was there until now: %s\n",
		orgs[0].Name, u.Answer, u.AnsweredAt.Format(time.RFC3339), backup)
	return nil
}

// whoami names who gives an answer.
func whoami() string {
	if name := os.Getenv("SUDO_USER"); name != "" {
		return name
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprint("uid ", os.Getuid())
}

// showCase prints a case as a table.
func showCase(w io.Writer, c *job.Case) error {
	org := c.Organisation
	if c.Err != nil {
		fmt.Fprintf(w, "%s (%s): can't be told\n", org.Name, org.ID)
		return nil
	}
	if !c.Open {
		fmt.Fprintf(w, "%s (%s): nothing to decide\n", org.Name, org.ID)
		return nil
	}
	written := "they do not say when they last wrote"
	if at := c.Question.LastWrite; !at.IsZero() && !c.Question.Assumed {
		written = "they last wrote at " + at.UTC().Format(time.RFC3339)
	}
	fmt.Fprintf(w, "%s (%s): others have counted usage on %s; %s\n", org.Name, org.ID,
		store.Counted(len(c.Question.Days), "day"), written)
	if theirs := c.Question.Calendar.Zone(org); theirs.String() != org.Zone.String() {
		fmt.Fprintf(w, "They file usage by the days of %s, and these days are those of %s\n", theirs, org.Zone)
	}
	if c.Question.Answer != "" && !c.Question.AnsweredAt.IsZero() {
		fmt.Fprintf(w, "%s has answered %s at %s\n", c.Question.By, c.Question.Answer,
			c.Question.AnsweredAt.Format(time.RFC3339))
	}
	rows := [][]string{{"DATE", "TOTALS HOLD", "IN THE LEDGER", "OPENROUTER LISTS", "UP TO THE LAST WRITE",
		"REPLACE", "ADOPT", "NONE"}}
	figure := func(t store.Totals) string { return fmt.Sprintf("%d / $%s", t.Requests, t.Cost) }
	bills := func(of func(store.Answer) store.Totals) (texts []string) {
		for _, answer := range store.Answers {
			if c.Refused[answer] != nil {
				texts = append(texts, "-")
			} else {
				texts = append(texts, figure(of(answer)))
			}
		}
		return texts
	}
	for _, d := range c.Days {
		rows = append(rows, append([]string{string(d.Day), figure(d.Held), fmt.Sprint(d.Ledger.Requests),
			figure(d.Listed), figure(d.Before)},
			bills(func(answer store.Answer) store.Totals { return d.Bill[answer] })...))
	}
	rows = append(rows, append([]string{"all", "", "", "", ""}, bills(c.Promise)...))
	if err := table.Write(w, columns(w), "llllllll", rows); err != nil {
		return err
	}
	for _, answer := range store.Answers {
		if err := c.Refused[answer]; err != nil {
			fmt.Fprintf(w, "%s: %v\n", answer, err)
		}
	}
	advised := "No answer is advised"
	if c.Advised != "" {
		advised = fmt.Sprintf("Advised is %s", c.Advised)
	}
	fmt.Fprintf(w, "%s: %s\n", advised, c.Advice)
	return nil
}

type takeoverJSON struct {
	ExitCode      int            `json:"exit_code"`
	Organizations []takeoverCase `json:"organizations"`
}

type takeoverCase struct {
	ID        string        `json:"id"`
	Name      string        `json:"name"`
	Status    string        `json:"status"` // none, open, decided, undone or failed
	LastWrite string        `json:"last_write,omitempty"`
	From      string        `json:"from,omitempty"`
	Answer    store.Answer  `json:"answer,omitempty"`
	Advised   store.Answer  `json:"advised,omitempty"`
	Advice    string        `json:"advice,omitempty"`
	Backup    string        `json:"backup,omitempty"`
	Days      []takeoverDay `json:"days,omitempty"`
	Error     string        `json:"error,omitempty"`
}

type takeoverDay struct {
	Date       store.Day              `json:"date"`
	InQuestion bool                   `json:"in_question"`
	Totals     takeoverSum            `json:"totals"`
	Ledger     int64                  `json:"ledger_requests"`
	Listed     takeoverSum            `json:"listed"`
	Before     takeoverSum            `json:"listed_up_to_last_write"`
	Bill       map[string]takeoverSum `json:"bill"`
}

type takeoverSum struct {
	Requests int64   `json:"requests"`
	Tokens   int64   `json:"tokens"`
	RawCost  float64 `json:"raw_cost"`
	Cost     float64 `json:"cost"`
}

func sumOfTakeover(t store.Totals) takeoverSum {
	return takeoverSum{t.Requests, t.Tokens, t.Raw.Float(), t.Cost.Float()}
}

func jsonOfCase(c *job.Case, backup string, err error) takeoverCase {
	out := takeoverCase{ID: c.Organisation.ID, Name: c.Organisation.Name, Status: "none", Backup: backup}
	var undecided *job.TakeoverError
	switch {
	case errors.As(err, &undecided):
		out.Status = "open"
	case err != nil:
		out.Status, out.Error = "failed", err.Error()
	case c.Open:
		out.Status, out.Answer = "decided", c.Question.Answer
	}
	if c.Open {
		out.Advised, out.Advice = c.Advised, c.Advice
		out.From = c.Question.From.UTC().Format(time.RFC3339)
		if !c.Question.LastWrite.IsZero() {
			out.LastWrite = c.Question.LastWrite.UTC().Format(time.RFC3339)
		}
	}
	for _, d := range c.Days {
		day := takeoverDay{Date: d.Day, InQuestion: d.InQuestion, Totals: sumOfTakeover(d.Held),
			Ledger: d.Ledger.Requests, Listed: sumOfTakeover(d.Listed), Before: sumOfTakeover(d.Before),
			Bill: map[string]takeoverSum{}}
		for answer, bill := range d.Bill {
			day.Bill[string(answer)] = sumOfTakeover(bill)
		}
		out.Days = append(out.Days, day)
	}
	return out
}
