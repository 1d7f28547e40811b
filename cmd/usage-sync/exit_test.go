package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"usage-sync/job"
	"usage-sync/job/discover"
	"usage-sync/job/doctor"
	"usage-sync/job/httpapi"
	"usage-sync/job/monitor"
	"usage-sync/job/report"
	"usage-sync/job/webhook"
	"usage-sync/store"
)

// TestKinds walks every kind of failure through everything that follows from it. The codes and the classes are a contract.
func TestKinds(t *testing.T) {
	type follows struct {
		code   int
		class  string
		status int
		retry  job.Retry
		advice string // a part of the hint, and of what doctor says to do
	}
	want := map[job.Kind]follows{
		job.KindKeyRefused:    {77, "key_refused", 502, job.RetryNever, "openrouter_api_key"},
		job.KindRateLimited:   {75, "rate_limited", 429, job.RetryNext, "next pass"},
		job.KindUnreachable:   {69, "unreachable", 502, job.RetrySoon, "network"},
		job.KindUntrusted:     {65, "untrusted_answer", 502, job.RetrySoon, ""},
		job.KindBusy:          {75, "database", 503, job.RetryNext, "application holds the database"},
		job.KindDisk:          {74, "database", 503, job.RetrySoon, "free disk space"},
		job.KindDamaged:       {74, "database", 503, job.RetrySoon, "integrity_check"},
		job.KindMoved:         {75, "database", 503, job.RetryNext, "another database"},
		job.KindMemory:        {75, "other", 503, job.RetryNext, "file descriptors"},
		job.KindPermission:    {77, "database", 503, job.RetryNever, "root"},
		job.KindMissing:       {66, "database", 503, job.RetryNever, "--db"},
		job.KindSchema:        {78, "database", 503, job.RetryNever, "usage-sync migrate"},
		job.KindConfiguration: {78, "configuration", 503, job.RetryNever, ""},
		job.KindTakeover:      {78, "configuration", 409, job.RetryNever, "'usage-sync takeover --org ID' shows"},
		job.KindLockHeld:      {75, "lock_held", 409, job.RetryNext, "--lock-wait"},
		job.KindClock:         {75, "clock", 503, job.RetryNext, "clock right"},
		job.KindTimedOut:      {75, "timed_out", 504, job.RetryNext, "--timeout"},
		job.KindOutputFile:    {73, "configuration", 503, job.RetryNever, "directory"},
		job.KindUsage:         {64, "other", 422, job.RetryNever, ""},
		job.KindBug:           {70, "other", 503, job.RetryNever, ""},
	}
	if len(job.Kinds) != len(want) {
		t.Errorf("%d kinds, and %d are known here", len(job.Kinds), len(want))
	}
	for _, kind := range job.Kinds {
		w, known := want[kind]
		if !known {
			t.Errorf("%s is not known here", kind)
			continue
		}
		err := fmt.Errorf("wrapped: %w", job.NewError(kind, "text"))
		if got := job.KindOf(err); got != kind {
			t.Errorf("%s is taken for %s", kind, got)
		}
		if got := exitCode(err); got != w.code {
			t.Errorf("%s: exit code %d, want %d", kind, got, w.code)
		}
		if _, listed := codes[kind]; !listed {
			t.Errorf("%s has no exit code", kind)
		}
		if got := kind.Class(); got != w.class {
			t.Errorf("%s: class %q, want %q", kind, got, w.class)
		}
		if got := httpapi.StatusOf(kind); got != w.status {
			t.Errorf("%s: HTTP %d, want %d", kind, got, w.status)
		}
		if got := kind.Retry(); got != w.retry {
			t.Errorf("%s: retry %d, want %d", kind, got, w.retry)
		}
		if _, listed := hints[kind]; !listed {
			t.Errorf("%s has no hint, not even an empty one", kind)
		}
		for whose, got := range map[string]string{"hint": hint(err), "doctor": adviceOf(doctor.Finding{Level: doctor.Failed, Err: err})} {
			if !strings.Contains(got, w.advice) || (w.advice == "") != (got == "") {
				t.Errorf("%s: %s says %q, want %q", kind, whose, got, w.advice)
			}
		}
	}
}

// TestUnitsRetry: units and the Kubernetes job try again what the kinds say.
func TestUnitsRetry(t *testing.T) {
	names := map[int]string{exitUsage: "USAGE", exitNoInput: "NOINPUT", exitSoftware: "SOFTWARE", exitCantCreat: "CANTCREAT",
		exitNoPerm: "NOPERM", exitConfig: "CONFIG", exitTempFail: "TEMPFAIL"}
	by := map[job.Retry]map[int]bool{job.RetryNever: {}, job.RetryNext: {}, job.RetrySoon: {}}
	for _, kind := range job.Kinds {
		by[kind.Retry()][codes[kind]] = true
	}
	sorted := func(retries ...job.Retry) (all []int) {
		for _, retry := range retries {
			all = append(all, slices.Collect(maps.Keys(by[retry]))...)
		}
		slices.Sort(all)
		return all
	}
	words := func(all []int) string {
		var list []string
		for _, code := range all {
			list = append(list, names[code])
		}
		return strings.Join(list, " ")
	}
	for file, lines := range map[string][]string{
		"../../systemd/usage-sync@.service": {
			"RestartPreventExitStatus=" + words(sorted(job.RetryNever, job.RetryNext)),
			"SuccessExitStatus=" + words(sorted(job.RetryNext)) + " 143",
		},
		"../../cron/kubernetes.yaml": {
			"values: [" + strings.Trim(regexp.MustCompile(` `).ReplaceAllString(fmt.Sprint(sorted(job.RetryNever, job.RetryNext)), ", "), "[]") + "]",
		},
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range lines {
			if !bytes.Contains(text, []byte(line)) {
				t.Errorf("%s lacks %q", file, line)
			}
		}
	}
}

// TestHintByCause: what to do follows from what went wrong, whatever code it ends with.
func TestHintByCause(t *testing.T) {
	full := fmt.Errorf("write x: %w", syscall.ENOSPC)
	for _, c := range []struct {
		err  error
		want string
	}{
		{store.ErrNotDatabase, "--db"}, {store.ErrNotFile, "--db"},
		{fmt.Errorf("%w: %w", store.ErrBackup, fs.ErrNotExist), "another backup"},
		{fmt.Errorf("%w: %w", monitor.ErrMetricsFile, fs.ErrNotExist), "--metrics-file"},
		{fmt.Errorf("%w: %w", monitor.ErrMetricsFile, full), "free disk space"},
		{fmt.Errorf("%w: %w", job.ErrLockFile, fs.ErrPermission), "--lock"},
		{fmt.Errorf("%w: %w", job.ErrLockFile, full), "free disk space"},
		{fmt.Errorf("%w: %w", webhook.ErrSpool, fs.ErrPermission), "--spool-dir"},
		{fmt.Errorf("%w: %w", report.ErrFile, fs.ErrPermission), "--out"},
		{fmt.Errorf("%w: %w", discover.ErrSocket, fs.ErrPermission), "engine's group"},
		{fmt.Errorf("%w: %w", discover.ErrEngine, fs.ErrNotExist), "--socket"},
		{fmt.Errorf("%w: %w", errSecret, fs.ErrNotExist), ""},
		{errors.New("a bug"), ""},
	} {
		if got := hint(c.err); !strings.Contains(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}
