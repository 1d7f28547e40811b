package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"usage-sync/job"
	"usage-sync/job/doctor"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

type doctorCmd struct {
	orgFlag
	sourceFlags
	lockFlag
	alertFlags
	Brief   bool          `help:"Show only what is not well, what keeps passes from working first."`
	Timeout time.Duration `placeholder:"D" default:"30s" help:"Deadline of the whole examination; a single check gets a third of it, a probe four times as much."`
	Probe   bool          `help:"Examine the facts about OpenRouter's API that the program counts on: at most 25 requests, none of which costs money. Needs a management key."`
	Save    string        `place:"beside" placeholder:"FILE" help:"With --probe: keep the shapes of what was seen, without ids, names, amounts, keys or texts, fit for a bug report."`
}

func (*doctorCmd) Help() string {
	return "Examines what a pass depends on, one line per check, in the order in which things depend on each other: ✓ is well, ! works\n" +
		"but is not as it should be, ✗ keeps passes from working, – can't be told because of an earlier ✗. It changes nothing, not\n" +
		"even by reading, and waits for nothing. Old or failed passes are shown as !: what caused them is another line's ✗. The\n" +
		"exit code is that of the first ✗.\n\n" +
		"With --probe, one line per fact about OpenRouter's API instead: ✓ as expected, ! different but handled, ✗ would bill\n" +
		"wrongly (65), – could not be told."
}

// ExitHelp lists the exit codes.
func (*doctorCmd) ExitHelp() string {
	return exitHelp(exitOK, exitUsage, exitDataErr, exitNoInput, exitUnavailable, exitCantCreat, exitIOErr,
		exitTempFail, exitNoPerm, exitConfig)
}

// Validate runs before anything else.
func (c *doctorCmd) Validate() error {
	if c.Timeout <= 0 {
		return errors.New("--timeout: must be longer than nothing")
	}
	if c.Brief && c.Probe {
		return errors.New("--brief: excludes --probe")
	}
	if c.Save != "" && !c.Probe {
		return errors.New("--save: wants --probe")
	}
	return c.alertFlags.check()
}

// Run prints the findings, and ends with the code of the first failure.
func (c *doctorCmd) Run(a *app) error {
	if c.Probe {
		return c.probe(a)
	}
	if err := job.CheckVolume(a.cli.DB, a.cli.Volume); err != nil {
		return err
	}
	client, clientErr := openrouter.New(c.BaseURL, version(), a.log)
	findings := doctor.Examine(a.ctx, doctor.Config{
		Database: a.cli.DB, LockFile: c.Lock, Organisations: c.Org, Zone: a.cli.Timezone.Location,
		AllowMarkup: store.Rate(a.cli.AllowMarkup), HostZone: hostZone(), Now: a.now, Timeout: c.Timeout,
		Client: client, ClientErr: clientErr,
		ManagementKey: c.managementKey,
		Sources:       func(ctx context.Context, db *store.Store) (job.Sources, error) { return c.sources(ctx, client, db) },
		Health:        c.rule(a), Loose: a.loose,
	})
	var first error
	for _, f := range findings {
		if f.Level == doctor.Failed {
			first = f.Err
			break
		}
	}
	if a.cli.JSON {
		return errors.Join(printDiagnosis(a.stdout, findings, exitCode(first)), reported(first))
	}
	printFindings(a.stdout, findings, c.Brief)
	return reported(first)
}

// hostZone is the zone of this machine: an IANA name where it has one.
func hostZone() string {
	if name := os.Getenv("TZ"); name != "" {
		return name
	}
	if target, err := os.Readlink("/etc/localtime"); err == nil {
		if _, name, found := strings.Cut(target, "zoneinfo/"); found {
			return strings.TrimPrefix(name, "posix/")
		}
	}
	name, _ := time.Now().Zone()
	return name
}

var marks = map[doctor.Level]string{doctor.OK: "✓", doctor.Warning: "!", doctor.Failed: "✗", doctor.Skipped: "–"}

// markColours are SGR attributes (ECMA-48, 8.3.117).
var markColours = map[doctor.Level]string{doctor.OK: "32", doctor.Warning: "33",
	doctor.Failed: "1;31", doctor.Skipped: "2"}

// printFindings prints one line each, and one that counts them. In brief these are only what is not well, the
// worst first.
func printFindings(w io.Writer, findings []doctor.Finding, brief bool) {
	shown := findings
	if brief {
		shown = append(ofLevel(findings, doctor.Failed), ofLevel(findings, doctor.Warning)...)
	}
	width := 0
	for _, f := range shown {
		width = max(width, len(f.Check))
	}
	paint := painter(w)
	for _, f := range shown {
		text := f.Text
		if f.Organisation != "" {
			text = f.Organisation + ": " + text
		}
		if advice := adviceOf(f); advice != "" {
			text += " → " + advice
		}
		fmt.Fprintf(w, "%s %-*s  %s\n", paint(markColours[f.Level], marks[f.Level]), width, f.Check,
			strings.ReplaceAll(text, "\n", " "))
	}
	fmt.Fprintln(w, countFindings(findings))
}

// countFindings counts findings in one line, beginning with what matters most.
func countFindings(findings []doctor.Finding) string {
	var parts []string
	for _, level := range []struct {
		doctor.Level
		meaning string
	}{
		{doctor.Failed, "keeping passes from working"}, {doctor.Warning, "not as it should be"},
		{doctor.Skipped, "not told because of that"},
		{doctor.OK, "well"},
	} {
		if n := len(ofLevel(findings, level.Level)); n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, level.meaning))
		}
	}
	return store.Counted(len(findings), "finding") + ": " + strings.Join(parts, ", ")
}

func ofLevel(findings []doctor.Finding, level doctor.Level) (some []doctor.Finding) {
	for _, f := range findings {
		if f.Level == level {
			some = append(some, f)
		}
	}
	return some
}

// adviceOf falls back to the hint that every command gives with such an error.
func adviceOf(f doctor.Finding) string {
	if f.Err == nil {
		return f.Advice
	}
	return cmp.Or(f.Advice, hint(f.Err))
}

type doctorOut struct {
	Status   string       `json:"status"`
	ExitCode int          `json:"exit_code"`
	Checks   []findingOut `json:"checks"`
}

type findingOut struct {
	Check        string `json:"check"`
	Organization string `json:"organization,omitempty"`
	Status       string `json:"status"`
	Message      string `json:"message"`
	Advice       string `json:"advice,omitempty"`
}

var levelWords = map[doctor.Level]string{doctor.OK: "ok", doctor.Warning: "warning",
	doctor.Failed: "failed", doctor.Skipped: "skipped"}

func printDiagnosis(w io.Writer, findings []doctor.Finding, code int) error {
	out := doctorOut{Status: levelWords[doctor.OK], ExitCode: code}
	for _, f := range findings {
		if f.Level == doctor.Failed || (f.Level == doctor.Warning && out.Status == levelWords[doctor.OK]) {
			out.Status = levelWords[f.Level]
		}
		out.Checks = append(out.Checks, findingOut{Check: f.Check, Organization: f.Organisation,
			Status: levelWords[f.Level], Message: f.Text, Advice: adviceOf(f)})
	}
	return printJSON(w, out)
}
