package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"usage-sync/store"
)

type backupCmd struct {
	Dest      string `place:"write" arg:"" predictor:"file" name:"dest" help:"A directory, or a file that does not exist yet. A directory that ends with / is made."`
	UsageOnly bool   `help:"Copy the usage tables alone: the container's, the ledger and ours."`
	Keep      int    `placeholder:"N" help:"Keep the N newest backups of the series in the directory and remove older ones."`
	Name      string `placeholder:"NAME" help:"Name of the series in a directory. Default: the database's own. Give each container one where they share the directory."`
}

func (*backupCmd) Help() string {
	return "Makes a consistent copy beside the running application: checked, with mode 0600 (it holds keys), and under its name only\n" +
		"once it is complete. In a directory it is NAME-TIME.db, or NAME-usage-TIME.db, with the time in UTC; a file that exists is\n" +
		"never replaced. It needs no lock: a pass may run meanwhile.\n\n" +
		"To put usage back, see 'usage-sync restore'. To put a whole database back, stop the container, copy the backup over\n" +
		"webui.db and remove webui.db-wal and webui.db-shm."
}

// ExitHelp lists the exit codes.
func (*backupCmd) ExitHelp() string {
	return exitHelpOf(doneThough, exitOK, exitPartial, exitUsage, exitNoInput, exitCantCreat, exitIOErr,
		exitTempFail, exitNoPerm, exitConfig)
}

// Validate bounds --keep and keeps --name in the directory.
func (c *backupCmd) Validate() error {
	if c.Keep < 0 {
		return errors.New("--keep: can't be negative")
	}
	if strings.ContainsRune(c.Name, '/') || strings.HasPrefix(c.Name, ".") {
		return fmt.Errorf("--name: %q is no plain file name", c.Name)
	}
	return nil
}

type backupOut struct {
	Status  string           `json:"status"`
	Path    string           `json:"path"`
	Bytes   int64            `json:"bytes"`
	Tables  map[string]int64 `json:"tables"`
	Removed []string         `json:"removed"`
}

// Run makes a backup.
func (c *backupCmd) Run(a *app) error {
	open := a.readable
	if !c.UsageOnly { // a whole database may be one without usage tables
		open = func(ctx context.Context) (*store.Store, error) { return a.open(ctx, store.ReadOnly) }
	}
	return a.withStore(open, func(db *store.Store) error { return c.backup(a, db) })
}

func (c *backupCmd) backup(a *app, db *store.Store) error {
	b, err := db.Backup(a.ctx, store.BackupRequest{Dest: c.Dest, Series: c.Name, UsageOnly: c.UsageOnly,
		Keep: c.Keep, Now: a.now()})
	if err != nil {
		return err
	}
	a.done("The backup is made: " + b.Path)
	var rows int64
	out := backupOut{Status: "ok", Path: b.Path, Bytes: b.Bytes, Tables: map[string]int64{},
		Removed: append([]string{}, b.Removed...)}
	for _, table := range b.Tables {
		out.Tables[table.Table] = table.Rows
		rows += table.Rows
	}
	if a.cli.JSON {
		return printJSON(a.stdout, out)
	}
	fmt.Fprintf(a.stdout, "%s: %s, %s in %s, checked\n", b.Path, store.Counted(b.Bytes, "byte"),
		store.Counted(rows, "row"), store.Counted(len(b.Tables), "usage table"))
	for _, old := range b.Removed {
		fmt.Fprintf(a.stdout, "Removed %s\n", old)
	}
	return nil
}
