package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/store"
)

type statusCmd struct {
	orgFlag
	alertFlags
	Warning  time.Duration `placeholder:"D" help:"Age of the last success that is a warning. Default: 2.5 intervals."`
	Critical time.Duration `placeholder:"D" help:"Age of the last success that is critical. Default: 6 intervals."`
	lockFlag
}

func (*statusCmd) Help() string {
	return "Judges the last passes from the database alone: without the network, the lock or a write. Says whether a pass is\n" +
		"running, and what was used today and this month. One line with performance data, by the convention of monitoring\n" +
		"plug-ins. The interval is OPENROUTER_USAGE_SYNC_INTERVAL (600 s); where polling is switched off (0) only failures\n" +
		"count."
}

// ExitHelp lists the exit codes, which are those of monitoring plug-ins.
func (*statusCmd) ExitHelp() string {
	return "Exit codes:\n  0      OK: every organisation was synced of late\n  1      WARNING: a last success is old, a last pass failed, usage is missing, or it\n         is out of the ordinary\n" +
		"  2      CRITICAL: a last success is very old, or the key or the configuration is refused\n" +
		"  3      UNKNOWN: no pass is on record, the database can't be read, or the command line makes no sense"
}

// healthOut is what status says of one organisation.
type healthOut struct {
	Instance    string    `json:"instance,omitempty"`
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Status      string    `json:"status"`
	Message     string    `json:"message"`
	LastRun     *string   `json:"last_run"`
	LastSuccess *string   `json:"last_success"`
	AgeSeconds  *int64    `json:"age_seconds"`
	ExitCode    *int      `json:"exit_code"`
	Error       string    `json:"error,omitempty"`
	Today       totalsOut `json:"today"`
	ThisMonth   totalsOut `json:"this_month"`
	Limit       *float64  `json:"monthly_limit"`
	Gaps        int       `json:"gaps,omitempty"`
	Warnings    []string  `json:"warnings,omitempty"`
}

type statusOut struct {
	Status        string      `json:"status"`
	Running       bool        `json:"running"`
	Holder        *holderOut  `json:"holder"`
	Organizations []healthOut `json:"organizations"`
	Performance   []string    `json:"performance"`
	Error         string      `json:"error,omitempty"`
}

type holderOut struct {
	PID   int    `json:"pid"`
	Since string `json:"since"`
}

// Validate runs before anything else.
func (c *statusCmd) Validate() error {
	if c.Warning < 0 || c.Critical < 0 {
		return errors.New("--warning, --critical: an age can't be negative")
	}
	if c.Critical > 0 && c.Warning > c.Critical {
		return fmt.Errorf("--warning %s comes after --critical %s", c.Warning, c.Critical)
	}
	return c.alertFlags.check()
}

// Run prints one line and ends with its code.
func (c *statusCmd) Run(a *app) error {
	h, err := a.health(c.lockFlag, c.rule(a), c.Org)
	return c.answer(a, h, err)
}

// answer prints what was found, or why nothing was.
func (c *statusCmd) answer(a *app, h health, err error) error {
	state, rule := h.state(), c.rule(a)
	if err != nil {
		state = alert.StateUnknown
	}
	if a.cli.JSON {
		if err := printJSON(a.stdout, h.json(state, err, rule)); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(a.stdout, statusLine(state, h, err, rule))
	}
	if state == alert.StateOK {
		return nil
	}
	if err == nil {
		err = errors.New(state.String())
	}
	return &reportedError{&codedError{int(state), err}}
}

// rule also goes by the ages that flags set.
func (c *statusCmd) rule(a *app) alert.Rule {
	rule := c.alertFlags.rule(a)
	rule.Warning = cmp.Or(c.Warning, rule.Warning)
	rule.Critical = cmp.Or(c.Critical, max(rule.Critical, c.Warning))
	return rule
}

// health is how the passes over the database go.
type health struct {
	holder        job.Holder // of the lock, where a pass is running
	running       bool
	organisations []alert.Health
}

func (h health) state() alert.State { return alert.Worst(h.organisations) }

// health looks at the database alone: without the network, the lock or a write.
func (a *app) health(lock lockFlag, rule alert.Rule, chosen []string) (h health, err error) {
	path, err := lock.path(a)
	if err != nil {
		return h, err
	}
	// Who may not open the lock file may still read the database.
	h.holder, h.running, _ = job.Peek(path)
	err = a.withStore(a.readable, func(db *store.Store) (err error) {
		h.organisations, err = rule.Look(a.ctx, db, chosen, a.cli.Timezone.Location, a.now())
		return err
	})
	return h, err
}

func (h health) json(state alert.State, err error, rule alert.Rule) statusOut {
	out := statusOut{Status: state.String(), Running: h.running, Organizations: []healthOut{},
		Performance: []string{}}
	if h.running {
		out.Holder = &holderOut{h.holder.PID, h.holder.Since.Format(time.RFC3339)}
	}
	if err != nil {
		out.Error = describe(err)
	}
	for _, one := range h.organisations {
		out.Organizations = append(out.Organizations, healthJSON(one))
		out.Performance = append(out.Performance, performance(one, rule)...)
	}
	return out
}

func healthJSON(h alert.Health) healthOut {
	out := healthOut{ID: h.Organisation.ID, Name: h.Organisation.Name, Status: h.State.String(), Message: h.Message,
		Today: outOf(h.Usage.Live), ThisMonth: outOf(h.Usage.Month), Gaps: len(h.Gaps), Warnings: h.Warnings()}
	if limit := h.Organisation.MonthlyLimit.Float(); limit > 0 {
		out.Limit = &limit
	}
	if last := h.LastRun; last != nil {
		at := last.StartedAt.Format(time.RFC3339)
		out.LastRun, out.ExitCode, out.Error = &at, &last.ExitCode, last.Error
	}
	if !h.Tally.LastSuccess.IsZero() {
		at, age := h.Tally.LastSuccess.Format(time.RFC3339), int64(h.Age.Seconds())
		out.LastSuccess, out.AgeSeconds = &at, &age
	}
	return out
}

// statusLine is one line: state, what is wrong, and performance data behind a bar.
func statusLine(state alert.State, h health, err error, rule alert.Rule) string {
	text := fmt.Sprintf("USAGE-SYNC %s - ", state)
	if err != nil {
		return text + oneLine(strings.TrimSuffix(describe(err)+". "+hint(err), ". "))
	}
	well := 0
	var today, month store.Totals
	var parts, data []string
	for _, one := range h.organisations {
		if one.State == alert.StateOK {
			well++
		}
		if one.State != alert.StateOK || len(h.organisations) == 1 {
			parts = append(parts, one.Organisation.Name+": "+one.Message)
		}
		data = append(data, performance(one, rule)...)
		today.Tokens += one.Usage.Live.Tokens
		today.Cost += one.Usage.Live.Cost
		month.Cost += one.Usage.Month.Cost
	}
	text += fmt.Sprintf("%d/%d organisations well", well, len(h.organisations))
	if len(parts) > 0 {
		text += "; " + strings.Join(parts, "; ")
	}
	text += fmt.Sprintf("; today %s, %s, this month %s", store.Counted(today.Tokens, "token"), today.Cost.Dollars(),
		month.Cost.Dollars())
	if h.running {
		text += fmt.Sprintf("; a pass is running (%s)", h.holder)
	}
	return oneLine(text) + " | " + strings.Join(data, " ")
}

// performance is the performance data of an organisation.
func performance(h alert.Health, rule alert.Rule) (data []string) {
	label := label(h.Organisation.ID)
	if !h.Tally.LastSuccess.IsZero() {
		data = append(data, fmt.Sprintf("'age_%s'=%ds;%d;%d;0", label, int64(h.Age.Seconds()),
			int(rule.Warning.Seconds()), int(rule.Critical.Seconds())))
	}
	limit, daily := ";", ""
	if monthly := h.Organisation.MonthlyLimit.Float() / 100; monthly > 0 {
		limit = fmt.Sprintf("%.6f;%.6f", monthly*rule.LimitWarning, monthly*rule.LimitCritical)
	}
	if rule.DailyLimit > 0 {
		daily = fmt.Sprintf("%.6f", rule.DailyLimit.Float())
	}
	if corrected := h.Tally.Books["corrected"]; corrected > 0 {
		data = append(data, fmt.Sprintf("'books_corrected_%s'=%dc;;;0", label, corrected))
	}
	return append(data, fmt.Sprintf("'tokens_%s'=%d;;;0", label, h.Usage.Live.Tokens),
		fmt.Sprintf("'cost_%s'=%.6f;%s;;0", label, h.Usage.Live.Cost.Float(), daily),
		fmt.Sprintf("'month_cost_%s'=%.6f;%s;0", label, h.Usage.Month.Cost.Float(), limit))
}

// label makes an id part of a label of performance data, of which every parser and every place that keeps it
// takes letters, digits and these.
func label(id string) string {
	return strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && (r == '_' || r == '-' || r == '.' || unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '_'
	}, id)
}

// unknownStatus answers a command line that makes no sense.
func unknownStatus(w io.Writer, err error) error {
	fmt.Fprintf(w, "USAGE-SYNC %s - %s. Try 'usage-sync status --help'\n", alert.StateUnknown,
		strings.TrimSuffix(oneLine(err.Error()), "?"))
	return &reportedError{&codedError{int(alert.StateUnknown), err}}
}

// oneLine also takes out the bar, which starts the performance data.
func oneLine(text string) string { return strings.NewReplacer("\n", " ", "|", "/").Replace(text) }
