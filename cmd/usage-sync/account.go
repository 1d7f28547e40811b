package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"usage-sync/job"
	"usage-sync/job/discover"
	"usage-sync/job/openrouter"
	"usage-sync/job/reconcile"
	"usage-sync/store"
)

// errAccount: the account can't be looked at.
var errAccount = job.NewError(job.KindConfiguration, "account")

// account holds what all keys of the account were charged against what the instances of this host, and of
// others that are known, have recorded.
func (c *reconcileCmd) account(a *app, databaseKnown bool) error {
	ctx, cancel := context.WithTimeoutCause(a.ctx, c.Timeout,
		fmt.Errorf("%w: --timeout is %s", job.ErrTimedOut, c.Timeout))
	defer cancel()
	instances, err := a.instanceDatabases(databaseKnown)
	if err != nil {
		return err
	}
	first := reconcile.Period{Month: string(c.Month), From: store.Day(c.From), To: store.Day(c.To)}.First(a.now())
	var recorded []reconcile.Recorded
	var key store.Key
	var missed []error
	for _, one := range instances {
		found, err := within(ctx, lookTime, func(ctx context.Context) (recordedThere, error) { return recordedIn(ctx, one, first) })
		if err != nil {
			missed = append(missed, fmt.Errorf("instance %s: %w", one.name, err))
			continue
		}
		recorded = append(recorded, found.recorded...)
		key = cmp.Or(key, found.provisioning)
	}
	for _, path := range c.Known {
		known, err := recordedElsewhere(path)
		if err != nil {
			return err
		}
		recorded = append(recorded, known...)
	}
	if key, err = c.accountKey(a, key); err != nil {
		return err
	}
	client, err := openrouter.New(c.BaseURL, version(), a.log)
	if err != nil {
		return err
	}
	period := reconcile.Period{Month: string(c.Month), From: store.Day(c.From), To: store.Day(c.To)}
	account, err := reconcile.CompareAccount(ctx, openrouter.NewManagement(client, key), recorded, period,
		a.now(), store.Money(c.Tolerance))
	if err != nil {
		return errors.Join(append([]error{err}, missed...)...)
	}
	if err := account.Write(a.stdout, a.cli.JSON, columns(a.stdout)); err != nil {
		return err
	}
	for _, err := range missed {
		a.log.Error(fmt.Sprintf("What it has recorded is missing in the figures: %s", describe(err)))
	}
	switch {
	case account.Differs():
		return &reportedError{fmt.Errorf("%w: captured %.4f %%", reconcile.ErrDiffers, 100*account.Rate())}
	case len(missed) > 0:
		return &reportedError{&codedError{exitPartial, missed[0]}}
	}
	return nil
}

// instanceDatabase is an instance with what is known of it.
type instanceDatabase struct {
	name     string
	settings discover.Settings
}

// instanceDatabases returns the database that is named, or those of all instances.
func (a *app) instanceDatabases(databaseKnown bool) (all []instanceDatabase, err error) {
	if databaseKnown {
		return []instanceDatabase{{a.cli.Instance, discover.Settings{"USAGE_SYNC_DB": a.cli.DB,
			"USAGE_SYNC_VOLUME":   a.cli.Volume,
			"USAGE_SYNC_KEY_HASH": os.Getenv("USAGE_SYNC_KEY_HASH")}}}, nil
	}
	layout := discover.Layout{Config: a.cli.ConfigDir}
	names, err := layout.Names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		settings, err := layout.ReadSettings(name)
		if err != nil {
			return nil, err
		}
		all = append(all, instanceDatabase{name, settings})
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%w: no instance is configured, and no database is named", errAccount)
	}
	return all, nil
}

// recordedThere is what an instance has recorded, and the account's key where its database has it.
type recordedThere struct {
	recorded     []reconcile.Recorded
	provisioning store.Key
}

func recordedIn(ctx context.Context, one instanceDatabase, first store.Day) (found recordedThere, err error) {
	if err := job.CheckVolume(one.settings.Database(), one.settings.Volume()); err != nil {
		return found, err
	}
	db, err := store.Open(ctx, one.settings.Database(), store.ReadOnly)
	if err != nil {
		return found, err
	}
	defer db.Close()
	found.recorded, err = reconcile.RecordedOf(ctx, db, one.name, one.settings["USAGE_SYNC_KEY_HASH"], first)
	if err != nil {
		return found, err
	}
	found.provisioning, err = db.ProvisioningKey(ctx)
	return found, err
}

// accountKey returns the management key of the command line, the environment or the file for the units, else
// the one that a database has.
func (c *reconcileCmd) accountKey(a *app, fromDatabase store.Key) (store.Key, error) {
	if err := takeHostKey(a.cli.ConfigDir); err != nil {
		return "", err
	}
	key, _, err := c.hostKey()
	if key = cmp.Or(key, fromDatabase); key == "" && err == nil {
		err = fmt.Errorf("%w: a management key is needed, set OPENROUTER_MANAGEMENT_KEY_FILE or put it into %s",
			errAccount, hostKeyFile(a.cli.ConfigDir))
	}
	return key, err
}

// recordedElsewhere reads what another host has recorded.
func recordedElsewhere(path string) ([]reconcile.Recorded, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var statement reconcile.AccountStatement
	if err := json.Unmarshal(text, &statement); err != nil || statement.From == "" {
		return nil, fmt.Errorf("%w: %s holds no 'usage-sync reconcile --account --json'", errAccount, path)
	}
	return statement.Known(), nil
}
