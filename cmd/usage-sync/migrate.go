package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"usage-sync/store"
)

type migrateCmd struct {
	Check      bool `xor:"act" help:"Only look whether the tables are there."`
	Standalone bool `xor:"act" help:"Make the tables although the application migrates its database itself: its own migration then fails, for good, if it makes them, too."`
}

func (*migrateCmd) Help() string {
	return "Creates the usage tables of the container's migration, the ledger and our own tables where they are missing, in one\n" +
		"transaction. Tables that are there are left alone; one with other columns is named and nothing is made. Nothing is made\n" +
		"either where the application's own migration is still to make the tables: it would fail, for good."
}

// ExitHelp lists the exit codes.
func (*migrateCmd) ExitHelp() string {
	return exitHelpOf(doneThough, exitOK, exitPartial, exitUsage, exitNoInput, exitIOErr,
		exitTempFail, exitNoPerm, exitConfig)
}

// Run creates or checks the tables.
func (c *migrateCmd) Run(a *app) error {
	mode, act := store.ReadWrite, c.migrate
	if c.Check {
		mode, act = store.ReadOnly, c.check
	}
	open := func(ctx context.Context) (*store.Store, error) { return a.open(ctx, mode) }
	return a.withStore(open, func(db *store.Store) error { return act(a, db) })
}

func (c *migrateCmd) migrate(a *app, db *store.Store) error {
	create := db.Migrate
	if c.Standalone {
		create = db.MigrateStandalone
	}
	created, err := create(a.ctx)
	if err != nil {
		return err
	}
	a.done("The tables are made")
	if a.cli.JSON {
		return printJSON(a.stdout, map[string]any{"status": "ok", "created": append([]string{}, created...)})
	}
	if len(created) > 0 {
		fmt.Fprintf(a.stdout, "Created %s\n", strings.Join(created, ", "))
	}
	fmt.Fprintln(a.stdout, tablesFound)
	return nil
}

// check prints the guide's lines. They are this command's result, so they go to standard output.
func (c *migrateCmd) check(a *app, db *store.Store) error {
	err := db.CheckSchema(a.ctx)
	var schema *store.SchemaError
	if err != nil && !errors.As(err, &schema) {
		return err
	}
	if a.cli.JSON {
		out := map[string]any{"status": "ok"}
		if err != nil {
			out = map[string]any{"status": "failed", "error": err.Error(),
				"missing": append([]string{}, schema.Missing...)}
		}
		return errors.Join(printJSON(a.stdout, out), reported(err))
	}
	if err != nil {
		fmt.Fprintf(a.stdout, "%s\n%s\n", tablesMissing, err)
		return &reportedError{err}
	}
	fmt.Fprintln(a.stdout, tablesFound)
	return nil
}
