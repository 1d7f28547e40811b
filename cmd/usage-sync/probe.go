package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"

	"usage-sync/job"
	"usage-sync/job/doctor"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// probeTime is how much longer than the other checks a probe may take: it has many questions, and asks them
// one after the other.
const probeTime = 4

// errProbeFile: what was seen can't be kept.
var errProbeFile = job.NewError(job.KindOutputFile, "probe file")

// probe examines the facts about OpenRouter that the program counts on. It ends with 65 where one would bill
// wrongly.
func (c *doctorCmd) probe(a *app) error {
	var found openrouter.Examination
	err := a.withStore(a.readable, func(db *store.Store) (err error) {
		found, err = c.examine(a, db)
		return err
	})
	if err != nil {
		return err
	}
	if c.Save != "" {
		if err := saveProbe(c.Save, found, a.now()); err != nil {
			return err
		}
	}
	var wrong []string
	for _, f := range found.Findings {
		if f.Verdict == openrouter.BillsWrong {
			wrong = append(wrong, f.Name)
		}
	}
	if len(wrong) > 0 {
		err = fmt.Errorf("%w: OpenRouter differs from what this version counts on, and would be billed wrongly: %s",
			openrouter.ErrAnswer, strings.Join(wrong, ", "))
	}
	if a.cli.JSON {
		return errors.Join(printJSON(a.stdout, probeJSON(found, exitCode(err))), reported(err))
	}
	printProbe(a.stdout, found)
	return reported(err)
}

func (c *doctorCmd) examine(a *app, db *store.Store) (found openrouter.Examination, err error) {
	key, _, err := c.managementKey(a.ctx, db)
	switch {
	case err != nil:
		return found, err
	case key == "":
		return found, fmt.Errorf("%w: --probe needs a management key (OPENROUTER_MANAGEMENT_KEY, "+
			"OPENROUTER_MANAGEMENT_KEY_FILE or "+
			"the credential management-key)", doctor.ErrConfig)
	}
	orgs, err := db.Organisations(a.ctx, c.Org, a.cli.Timezone.Location)
	if err != nil {
		return found, err
	}
	client, err := openrouter.New(c.BaseURL, version(), a.log)
	if err != nil {
		return found, err
	}
	late := fmt.Errorf("%w: the probe took longer than %d times --timeout", doctor.ErrTimedOut, probeTime)
	ctx, cancel := context.WithTimeoutCause(a.ctx, probeTime*c.Timeout, late)
	defer cancel()
	return openrouter.NewManagement(client, key).Examine(ctx, orgs, a.now())
}

var verdictMarks = map[openrouter.Verdict]string{
	openrouter.AsExpected: "✓", openrouter.Handled: "!", openrouter.BillsWrong: "✗", openrouter.NotTold: "–",
}

// printProbe prints one line per fact.
func printProbe(w io.Writer, found openrouter.Examination) {
	width := 0
	for _, f := range found.Findings {
		width = max(width, len(f.Name))
	}
	counts := map[openrouter.Verdict]int{}
	for _, f := range found.Findings {
		counts[f.Verdict]++
		fmt.Fprintf(w, "%s %-*s  %s: %s (counts on: %s; %s)\n",
			verdictMarks[f.Verdict], width, f.Name, f.Verdict, f.Seen, f.CountsOn, f.Evidence)
	}
	fmt.Fprintf(w, "%s: %d as expected, %d different but handled, %d would bill wrongly, %d could not be told; "+
		"%s\n",
		store.Counted(len(found.Findings), "fact"), counts[openrouter.AsExpected], counts[openrouter.Handled],
		counts[openrouter.BillsWrong], counts[openrouter.NotTold], store.Counted(found.Requests, "request"))
}

type probeOut struct {
	ExitCode int                `json:"exit_code"`
	Requests int                `json:"requests"`
	Facts    []factOut          `json:"facts"`
	Version  string             `json:"version,omitempty"` // of a file: what was seen by which version, and when
	Day      string             `json:"day,omitempty"`
	Answers  []openrouter.Shape `json:"answers,omitempty"`
}

type factOut struct {
	Fact     string             `json:"fact"`
	Evidence string             `json:"evidence"`
	CountsOn string             `json:"counts_on"`
	Seen     string             `json:"seen"`
	Verdict  openrouter.Verdict `json:"verdict"`
}

func probeJSON(found openrouter.Examination, code int) probeOut {
	out := probeOut{ExitCode: code, Requests: found.Requests}
	for _, f := range found.Findings {
		out.Facts = append(out.Facts, factOut{f.Name, f.Evidence, f.CountsOn, f.Seen, f.Verdict})
	}
	return out
}

// saveProbe writes what was seen: shapes and formats, and nothing that is anybody's.
func saveProbe(path string, found openrouter.Examination, now time.Time) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return fmt.Errorf("%w: %s is there and no file", errProbeFile, path)
	}
	out := probeJSON(found, exitOK)
	out.Version, out.Day, out.Answers = version(), now.UTC().Format(time.DateOnly), found.Shapes
	for _, f := range found.Findings {
		if f.Verdict == openrouter.BillsWrong {
			out.ExitCode = exitDataErr
		}
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(out); err != nil {
		return err
	}
	beside := renameio.WithTempDir(filepath.Dir(path))
	if err := renameio.WriteFile(path, text.Bytes(), 0o644, renameio.IgnoreUmask(), beside); err != nil {
		return fmt.Errorf("%w: %w", errProbeFile, err)
	}
	return nil
}
