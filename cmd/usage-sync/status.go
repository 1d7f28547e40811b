package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"usage-sync/job"
	"usage-sync/store"
)

type statusCmd struct {
	orgFlag
	watchFlags
	Warning  time.Duration `placeholder:"D" help:"Age of the last success that is a warning. Default: 2.5 intervals."`
	Critical time.Duration `placeholder:"D" help:"Age of the last success that is critical. Default: 6 intervals."`
	lockFlag
}

// The exit codes of monitoring plug-ins (https://www.monitoring-plugins.org/doc/guidelines.html).
const (
	stateOK = iota
	stateWarning
	stateCritical
	stateUnknown
)

var stateNames = []string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}

func (*statusCmd) Help() string {
	return "Judges the last passes from the database alone: without the network, the lock or a write. Says whether a pass is\n" +
		"running, and what was used today and this month. One line with performance data, by the convention of monitoring plug-ins. The interval is OPENROUTER_USAGE_SYNC_INTERVAL (600 s); where polling is\n" +
		"switched off (0) only failures count."
}

// ExitHelp lists the exit codes, which are those of monitoring plug-ins.
func (*statusCmd) ExitHelp() string {
	return "Exit codes:\n  0      OK: every organisation was synced of late\n  1      WARNING: a last success is old, a last pass failed, or usage is out of the ordinary\n" +
		"  2      CRITICAL: a last success is very old, or the key or the configuration is refused\n" +
		"  3      UNKNOWN: no pass is on record, the database can't be read, or the command line makes no sense"
}

// health is what status says of one organisation.
type health struct {
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
	Warnings    []string  `json:"warnings,omitempty"`

	state int
}

type statusOut struct {
	Status        string     `json:"status"`
	Running       bool       `json:"running"`
	Holder        *holderOut `json:"holder"`
	Organizations []health   `json:"organizations"`
	Error         string     `json:"error,omitempty"`
}

type holderOut struct {
	PID   int    `json:"pid"`
	Since string `json:"since"`
}

// Validate runs before anything else.
func (c *statusCmd) Validate() error { return c.watchFlags.check() }

// Run prints one line and ends with its code.
func (c *statusCmd) Run(a *app) error {
	holder, running, orgs, err := c.look(a)
	state := worst(orgs)
	if err != nil {
		state = stateUnknown
	}
	if a.cli.JSON {
		out := statusOut{Status: stateNames[state], Running: running, Organizations: append([]health{}, orgs...)}
		if running {
			out.Holder = &holderOut{holder.PID, holder.Since.Format(time.RFC3339)}
		}
		if err != nil {
			out.Error = describe(err)
		}
		if err := printJSON(a.stdout, out); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(a.stdout, statusLine(state, orgs, holder, running, err, c))
	}
	if state == stateOK {
		return nil
	}
	if err == nil {
		err = errors.New(stateNames[state])
	}
	return &reportedError{&codedError{state, err}}
}

// worst is the state of all together: critical beats unknown.
func worst(orgs []health) int {
	state := stateOK
	for _, h := range orgs {
		if state != stateCritical && h.state > state || h.state == stateCritical {
			state = h.state
		}
	}
	return state
}

func (c *statusCmd) look(a *app) (holder job.Holder, running bool, orgs []health, err error) {
	c.setLimits(time.Duration(a.cli.Interval) * time.Second)
	path, err := c.path(a)
	if err != nil {
		return holder, false, nil, err
	}
	// Who may not open the lock file may still read the database.
	holder, running, _ = job.Peek(path)
	db, err := a.openChecked(store.ReadOnly)
	if err != nil {
		return holder, running, nil, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	chosen, err := db.Organisations(a.ctx, c.Org, a.cli.Timezone.Location)
	if err != nil {
		return holder, running, nil, err
	}
	for _, org := range chosen {
		h, err := c.judge(a.ctx, db, org, a.now())
		if err != nil {
			return holder, running, nil, err
		}
		orgs = append(orgs, h)
	}
	return holder, running, orgs, nil
}

// setLimits derives from the interval what no flag has set.
func (c *statusCmd) setLimits(interval time.Duration) {
	if c.Warning == 0 {
		c.Warning = interval * 5 / 2
	}
	if c.Critical == 0 {
		c.Critical = max(interval*6, c.Warning)
	}
}

// judge says how the last passes of an organisation went, by the limits that are set.
func (c *statusCmd) judge(ctx context.Context, db *store.Store, org store.Organisation, now time.Time) (health, error) {
	h := health{ID: org.ID, Name: org.Name}
	ids := []string{org.ID}
	last, err := db.Runs(ctx, store.RunFilter{Organisations: ids, Synced: true, Limit: 1})
	if err != nil {
		return h, err
	}
	tally, err := db.Tally(ctx, org.ID)
	if err != nil {
		return h, err
	}
	usage, err := db.Usage(ctx, org, now, 1)
	if err != nil {
		return h, err
	}
	judgement, err := c.settings().JudgeFunc(now)(ctx, db, usage)
	if err != nil {
		return h, err
	}
	h.Today, h.ThisMonth, h.Limit, h.Warnings = outOf(usage.Live), outOf(usage.Month), judgement.Limit, judgement.Warnings
	if len(last) > 0 {
		at := last[0].StartedAt.Format(time.RFC3339)
		h.LastRun, h.ExitCode, h.Error = &at, &last[0].ExitCode, last[0].Error
	}
	if !tally.LastSuccess.IsZero() {
		at, age := tally.LastSuccess.Format(time.RFC3339), int64(max(0, now.Sub(tally.LastSuccess)).Seconds())
		h.LastSuccess, h.AgeSeconds = &at, &age
	}
	h.state, h.Message = c.stateOf(h)
	h.Status = stateNames[h.state]
	return h, nil
}

func (c *statusCmd) stateOf(h health) (int, string) {
	failed := h.ExitCode != nil && *h.ExitCode != exitOK
	var age time.Duration
	if h.AgeSeconds != nil {
		age = time.Duration(*h.AgeSeconds) * time.Second
	}
	switch {
	case h.LastRun == nil:
		return stateUnknown, "no pass is on record"
	case failed && (*h.ExitCode == exitNoPerm || *h.ExitCode == exitConfig):
		return stateCritical, fmt.Sprintf("last pass failed (exit %d): %s", *h.ExitCode, h.Error)
	case h.LastSuccess == nil:
		return stateCritical, fmt.Sprintf("no pass has succeeded yet: %s", h.Error)
	case c.Critical > 0 && age >= c.Critical:
		return stateCritical, fmt.Sprintf("last success %s ago", age)
	case failed:
		return stateWarning, fmt.Sprintf("last pass failed (exit %d): %s; last success %s ago", *h.ExitCode, h.Error, age)
	case c.Warning > 0 && age >= c.Warning:
		return stateWarning, fmt.Sprintf("last success %s ago", age)
	case len(h.Warnings) > 0:
		return stateWarning, fmt.Sprintf("last success %s ago, but %s", age, strings.Join(h.Warnings, "; "))
	}
	return stateOK, fmt.Sprintf("last success %s ago", age)
}

// statusLine is one line: state, what is wrong, and performance data behind a bar.
func statusLine(state int, orgs []health, holder job.Holder, running bool, err error, c *statusCmd) string {
	text := fmt.Sprintf("USAGE-SYNC %s - ", stateNames[state])
	if err != nil {
		return text + oneLine(strings.TrimSuffix(describe(err)+". "+hint(err), ". "))
	}
	well := 0
	var today, month totalsOut
	var parts, data []string
	for _, h := range orgs {
		if h.state == stateOK {
			well++
		}
		if h.state != stateOK || len(orgs) == 1 {
			parts = append(parts, h.Name+": "+h.Message)
		}
		label := strings.NewReplacer("'", "", "=", "").Replace(h.ID)
		if h.AgeSeconds != nil {
			data = append(data, fmt.Sprintf("'age_%s'=%ds;%d;%d;0", label, *h.AgeSeconds, int(c.Warning.Seconds()), int(c.Critical.Seconds())))
		}
		limit := ""
		if h.Limit != nil {
			limit = fmt.Sprintf("%.6f", *h.Limit)
		}
		data = append(data, fmt.Sprintf("'tokens_%s'=%d;;;0", label, h.Today.Tokens), fmt.Sprintf("'cost_%s'=%.6f;;;0", label, h.Today.Cost),
			fmt.Sprintf("'month_cost_%s'=%.6f;%s;;0", label, h.ThisMonth.Cost, limit))
		today.Tokens += h.Today.Tokens
		today.Cost += h.Today.Cost
		month.Cost += h.ThisMonth.Cost
	}
	text += fmt.Sprintf("%d/%d organisations well", well, len(orgs))
	if len(parts) > 0 {
		text += "; " + strings.Join(parts, "; ")
	}
	text += fmt.Sprintf("; today %d tokens, $%.6f, this month $%.6f", today.Tokens, today.Cost, month.Cost)
	if running {
		text += fmt.Sprintf("; a pass is running (%s)", holder)
	}
	return oneLine(text) + " | " + strings.Join(data, " ")
}

// unknownStatus answers a command line that makes no sense.
func unknownStatus(w io.Writer, err error) error {
	fmt.Fprintf(w, "USAGE-SYNC %s - %s. Try 'usage-sync status --help'\n", stateNames[stateUnknown], oneLine(err.Error()))
	return &reportedError{&codedError{stateUnknown, err}}
}

// oneLine also takes out the bar, which starts the performance data.
func oneLine(text string) string { return strings.NewReplacer("\n", " ", "|", "/").Replace(text) }
