package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// sourceFlags choose where usage is read from.
type sourceFlags struct {
	managementFlag
	KeyHash string `name:"key-hash" hidden:"" placeholder:"HASH" env:"USAGE_SYNC_KEY_HASH" help:"The host's word for the hash of this client's key."`
	BaseURL string `name:"base-url" placeholder:"URL" env:"OPENROUTER_BASE_URL" default:"https://openrouter.ai/api/v1" help:"OpenRouter, or a compatible gateway; https, or http to a loopback address."`
	Source  string `enum:"auto,generations,analytics" env:"USAGE_SYNC_SOURCE" default:"auto" help:"Where usage is read from: generations (a gateway's list), analytics (OpenRouter's own, with a management key), or auto."`
}

// sources are the ways to usage: the analytics are one of them where there is a management key.
func (f sourceFlags) sources(ctx context.Context, client *openrouter.Client, db *store.Store) (job.Sources, error) {
	sources := job.Sources{Choice: f.Source, OpenRouter: client.IsOpenRouter(), HostKeyHash: f.KeyHash,
		Generations: func() job.Source { return openrouter.NewGenerations(client) }}
	key, _, err := f.managementKey(ctx, db)
	if key != "" {
		management := openrouter.NewManagement(client, key)
		sources.Account = management
		sources.Analytics = func() job.AnalyticsSource { return openrouter.NewAnalytics(client, management, db.Unrecorded) }
	}
	return sources, err
}

// passFlags say where a pass asks, and how long it may take.
type passFlags struct {
	sourceFlags
	lockFlags
	Timeout time.Duration `placeholder:"D" env:"USAGE_SYNC_TIMEOUT" default:"5m" help:"Deadline of the whole pass."`
}

func (f *passFlags) check() error {
	if f.Timeout <= 0 {
		return errors.New("--timeout: must be longer than nothing")
	}
	return f.lockFlags.check()
}

// access is what a pass or a reconciliation works with, until end.
type access struct {
	ctx     context.Context // until the deadline
	client  *openrouter.Client
	db      *store.Store
	sources job.Sources
	cleanup []func() error
}

// end gives everything back, and returns what went wrong with that.
func (x *access) end() error {
	var errs []error
	for i := len(x.cleanup) - 1; i >= 0; i-- {
		errs = append(errs, x.cleanup[i]())
	}
	return errors.Join(errs...)
}

// open starts the time of a pass, takes the lock and opens the database and OpenRouter. Where nothing is to be
// written, it takes no lock.
func (f *passFlags) open(a *app, readOnly bool) (x *access, err error) {
	x = &access{}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.end())
		}
	}()
	if x.client, err = openrouter.New(f.BaseURL, version(), a.log); err != nil {
		return x, err
	}
	late := fmt.Errorf("%w: --timeout is %s", job.ErrTimedOut, f.Timeout)
	ctx, cancel := context.WithTimeoutCause(a.ctx, f.Timeout, late)
	x.ctx = ctx
	x.cleanup = append(x.cleanup, func() error { cancel(); return nil })
	open := a.readable
	if !readOnly {
		open = a.writable
		lock, err := f.acquire(ctx, a)
		if err != nil {
			return x, err
		}
		x.cleanup = append(x.cleanup, lock.Release)
	}
	if x.db, err = open(a.ctx); err != nil {
		return x, err
	}
	x.cleanup = append(x.cleanup, x.db.Close)
	x.client.WhileWaiting(x.db.Wait)
	x.sources, err = f.sources(ctx, x.client, x.db)
	return x, err
}

// pass makes a pass that writes. It returns an error where it came to no organisation.
func (f *passFlags) pass(a *app, p job.Pass) (job.Report, error) {
	x, err := f.open(a, false)
	if err != nil {
		return job.Report{}, err
	}
	report, err := x.pass(a, p).Run(x.ctx)
	return report, errors.Join(err, x.end())
}

// pass is the pass p with what it works with.
func (x *access) pass(a *app, p job.Pass) *job.Pass {
	p.Store, p.Sources, p.Log, p.Now = x.db, x.sources, a.log, a.now
	p.Zone, p.ExitCode = a.cli.Timezone.Location, exitCode
	return &p
}

// outcome is the error of the whole pass: that of the first organisation where all have failed, partial where
// some have.
func outcome(report job.Report) error {
	var first error
	for _, o := range report.Organisations {
		if _, signal := errors.AsType[*interrupted](o.Err); first == nil || signal {
			first = o.Err
		}
	}
	_, signal := errors.AsType[*interrupted](first)
	switch {
	case first == nil:
		return nil
	case report.Synced() == 0 || signal:
		return &reportedError{first}
	}
	return &reportedError{&codedError{exitPartial, first}}
}
