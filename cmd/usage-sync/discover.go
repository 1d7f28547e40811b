package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"usage-sync/job"
	"usage-sync/job/discover"
	"usage-sync/job/openrouter"
	"usage-sync/job/table"
	"usage-sync/store"
)

type discoverCmd struct {
	Socket  string `placeholder:"PATH" env:"DOCKER_HOST" help:"Socket of the container engine, also as unix:///path. Default: Docker's, else Podman's."`
	Inside  string `placeholder:"PATH" default:"/app/backend/data/webui.db" help:"Where the database lies in containers whose own settings do not say."`
	Write   bool   `help:"Make the files of each instance: its settings, and drop-ins that let its units write beside the database."`
	Force   bool   `help:"With --write: replace files that were edited by hand, too."`
	Enable  bool   `help:"Also start the timer of every instance whose database has the usage tables; implies --write."`
	UnitDir string `placeholder:"DIR" default:"/etc/systemd/system" help:"Directory of the drop-ins."`
	CronDir string `hidden:"" placeholder:"DIR" default:"/etc/cron.d" help:"Directory of cron's tables, which may name an instance's settings."`
	managementFlag
	Look    bool   `hidden:"" help:"Print what is in the database of --db as JSON: what discover does with each in a process of its own."`
	UserDir string `placeholder:"DIR" default:"/etc/sysusers.d" help:"Directory of the users that passes over other users' databases run as."`
}

func (*discoverCmd) Help() string {
	return "Asks Docker or Podman for all containers, running or not, and lists those that have a database, with where it lies on the\n" +
		"host: each container's own settings say where it is (DATABASE_URL, DATABASE_TYPE, DATA_DIR). An instance is known by its\n" +
		"database: of containers that share one the first gets it, and where a container was renamed or made anew under another\n" +
		"name, its files and timers move to that. It may run daily: what is right is left alone, no file but those of a former\n" +
		"name is ever removed, and a file that somebody has edited is only replaced with --force.\n\n" +
		"--write makes DIR/CONTAINER.env, database.conf in the directory of drop-ins of each unit, and where the database is not\n" +
		"root's the user that passes run as. --enable leaves out what no pass could work on, and what a takeover has to be decided\n" +
		"for. To give a container up: systemctl disable --now usage-sync@CONTAINER.timer, then remove its file."
}

// ExitHelp lists the exit codes.
func (*discoverCmd) ExitHelp() string {
	return exitHelpOf(doneThough, exitOK, exitPartial, exitUsage, exitDataErr, exitUnavailable,
		exitCantCreat, exitNoPerm)
}

// Validate reads the addresses.
func (c *discoverCmd) Validate() (err error) {
	if c.Socket, err = discover.SocketPath(c.Socket); err != nil {
		return fmt.Errorf("--socket (DOCKER_HOST): %w", err)
	}
	if !path.IsAbs(c.Inside) || path.Clean(c.Inside) != c.Inside {
		return fmt.Errorf("--inside: %q is no absolute path", c.Inside)
	}
	return nil
}

type discoverOut struct {
	Socket     string        `json:"socket"`
	Containers int           `json:"containers"`
	Instances  []instanceOut `json:"instances"`
	Without    []string      `json:"without_database"`
	Enabled    []string      `json:"enabled"`
	Disabled   []string      `json:"disabled"`
}

type instanceOut struct {
	Container     string        `json:"container"`
	State         string        `json:"state"`
	Status        string        `json:"status"`
	Database      string        `json:"database"`
	Volume        string        `json:"volume"`
	Former        []string      `json:"former"`
	Organizations []string      `json:"organizations"`
	Tables        []string      `json:"tables"`
	Missing       []string      `json:"missing"`
	Takeovers     []takeoverOut `json:"takeovers"`
	Problem       string        `json:"problem,omitempty"`
	Edited        []string      `json:"edited"`
	Written       []string      `json:"written"`
	Removed       []string      `json:"removed"`
}

type takeoverOut struct {
	Organization string      `json:"organization"`
	Days         []store.Day `json:"days"`
}

// Run lists, and writes what was asked for.
func (c *discoverCmd) Run(a *app) error {
	if c.Look {
		return c.lookHere(a)
	}
	engine, err := discover.Dial(a.ctx, c.Socket)
	if err != nil {
		return err
	}
	containers, err := engine.Containers(a.ctx)
	if err != nil {
		return err
	}
	layout := discover.Layout{Config: a.cli.ConfigDir, Units: c.UnitDir, Sysusers: c.UserDir, Cron: c.CronDir}
	found, without := discover.Find(containers, c.Inside, func(database, volume string) (discover.Looked, error) { return c.lookInto(a, database, volume) })
	instances, err := layout.Compare(containers, found)
	if err != nil {
		return err
	}
	out := discoverOut{Socket: c.Socket, Containers: len(containers), Without: without}
	if c.Write || c.Enable {
		if err := layout.Write(a.ctx, instances, c.Force); err != nil {
			return err
		}
	}
	if c.Enable {
		if out.Enabled, out.Disabled, err = layout.Enable(a.ctx, instances); err != nil {
			return err
		}
	}
	if c.Write || c.Enable {
		a.done("The files are written")
	}
	if a.cli.JSON {
		return printJSON(a.stdout, out.complete(instances))
	}
	return c.print(a, out, instances)
}

// lookInto has another process look into a database. Whatever a container has laid there, it can't keep this one from
// finding the others: not by a pipe that nobody writes to, not by what takes all memory.
func (c *discoverCmd) lookInto(a *app, database, volume string) (looked discover.Looked, err error) {
	args := []string{"discover", "--look", "--json", "--db", database, "--now", a.now().Format(time.RFC3339Nano)}
	settings := []string{"USAGE_SYNC_VOLUME=" + volume}
	if c.ManagementKey != "" { // no argument: everybody sees those
		settings = append(settings, "OPENROUTER_MANAGEMENT_KEY="+string(c.ManagementKey))
	}
	one := a.child(args, settings, lookTime)
	if one.code == exitOK {
		return looked, json.Unmarshal(one.out, &looked)
	}
	var failure failureOut
	if !one.late {
		_ = json.Unmarshal(one.out, &failure)
	}
	switch why := cmp.Or(failure.Error, strings.TrimPrefix(lastLine(one.log), "ERROR - ")); {
	// SQLite's words, and Go's
	case strings.Contains(why, "out of memory"), bytes.Contains(one.log, []byte("out of memory")):
		return looked, fmt.Errorf("it can't be examined: that takes more than %d MB of memory", lookMemory>>20)
	case failure.Error == "":
		return looked, fmt.Errorf("it can't be examined: %s", why)
	default:
		return looked, errors.New(why)
	}
}

// lookMemory is how much memory the examination of a database may take beside what the program needs.
const lookMemory = 96 << 20

// lookHere prints what is in the database.
func (c *discoverCmd) lookHere(a *app) error {
	if err := boundMemory(lookMemory); err != nil {
		return err
	}
	if err := job.CheckVolume(a.cli.DB, a.cli.Volume); err != nil {
		return err
	}
	looked, err := discover.LookInto(a.ctx, a.cli.DB, c.keyHash, a.now())
	if err != nil {
		return err
	}
	return printJSON(a.stdout, looked)
}

// boundMemory bounds what this process allocates from here on. Address space that is only reserved does not count, the
// stacks of threads to come do.
func boundMemory(more uint64) error {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, after, _ := strings.Cut(string(text), "\nVmData:")
	var taken uint64 // kB
	if _, err := fmt.Sscan(after, &taken); err != nil {
		return fmt.Errorf("VmData in /proc/self/status: %w", err)
	}
	limit := taken<<10 + more
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		return fmt.Errorf("RLIMIT_DATA: %w", err)
	}
	return nil
}

// keyHash is what a pass has proved with the host's management key. That of a database is no help: the
// container could have made it up, and a proof with it.
func (c *discoverCmd) keyHash(ctx context.Context, db *store.Store) (string, error) {
	key, _, err := c.hostKey()
	if err != nil || key == "" {
		return "", err
	}
	return job.ProvedKeyHash(ctx, db, openrouter.Sealer(key))
}

// complete makes every list one, and adds the instances.
func (out discoverOut) complete(instances []discover.Instance) discoverOut {
	list := func(texts []string) []string { return append([]string{}, texts...) }
	out.Without, out.Enabled, out.Disabled = list(out.Without), list(out.Enabled), list(out.Disabled)
	out.Instances = []instanceOut{}
	for _, i := range instances {
		takeovers := []takeoverOut{}
		for _, t := range i.Takeovers {
			takeovers = append(takeovers, takeoverOut{t.Organisation, t.Days})
		}
		out.Instances = append(out.Instances, instanceOut{Container: i.Container, State: i.State,
			Status: string(i.Status), Database: i.Database, Volume: i.Volume, Former: list(i.Former),
			Organizations: list(i.Contents.Organisations),
			Tables:        list(i.Contents.Tables), Missing: list(i.Contents.Missing),
			Takeovers: takeovers, Problem: i.Problem, Edited: list(i.Edited),
			Written: list(i.Written), Removed: list(i.Removed)})
	}
	return out
}

func (c *discoverCmd) print(a *app, out discoverOut, instances []discover.Instance) error {
	fmt.Fprintf(a.stdout, "%s, %s\n", store.Counted(out.Containers, "container"), tally(instances))
	if len(instances) > 0 {
		rows := [][]string{{"CONTAINER", "STATE", "INSTANCE", "TABLES", "ORGANISATIONS", "DATABASE"}}
		for _, i := range instances {
			rows = append(rows, []string{i.Container, cmp.Or(i.State, "-"), string(i.Status), tables(i),
				cmp.Or(strings.Join(i.Contents.Organisations, ", "), "-"), cmp.Or(i.Database, "-")})
		}
		fmt.Fprintln(a.stdout)
		if err := table.Write(a.stdout, columns(a.stdout), "llllll", rows); err != nil {
			return err
		}
	}
	var notes []string
	if n := len(out.Without); n > 0 {
		notes = append(notes, fmt.Sprintf("%s without a database: %s", store.Counted(n, "container"),
			strings.Join(out.Without, ", ")))
	}
	for _, i := range instances {
		notes = append(notes, notesOf(i)...)
	}
	if c.Write && !c.Enable && slices.ContainsFunc(instances,
		func(i discover.Instance) bool { return len(i.Written) > 0 }) {
		notes = append(notes, "Next: systemd-sysusers && systemctl daemon-reload")
	}
	for _, unit := range out.Enabled {
		notes = append(notes, "Enabled "+unit)
	}
	for _, unit := range out.Disabled {
		notes = append(notes, "Disabled "+unit)
	}
	if len(notes) > 0 {
		fmt.Fprintf(a.stdout, "\n%s\n", strings.Join(notes, "\n"))
	}
	return nil
}

// notesOf is what there is to say of an instance below the table.
func notesOf(i discover.Instance) (notes []string) {
	note := func(format string, args ...any) { notes = append(notes, i.Container+": "+fmt.Sprintf(format, args...)) }
	for _, former := range i.Former {
		note("its container was %s before", former)
	}
	if i.Problem != "" {
		note("%s", i.Problem)
	}
	for _, t := range i.Takeovers {
		note("others have counted usage of %s on %s. Decide, then run discover again: usage-sync takeover "+
			"--db %s --org %s", t.Organisation, store.Counted(len(t.Days), "day"),
			discover.QuoteShell(i.Database), discover.QuoteShell(t.OrganisationID))
	}
	for _, file := range i.Edited {
		if !slices.Contains(i.Written, file) {
			note("%s was edited by hand; only --force replaces it", file)
		}
	}
	for _, file := range i.Written {
		notes = append(notes, "Wrote "+file)
	}
	for _, file := range i.Removed {
		notes = append(notes, "Removed "+file)
	}
	return notes
}

// tally counts instances by status.
func tally(instances []discover.Instance) string {
	count := map[discover.Status]int{}
	for _, i := range instances {
		count[i.Status]++
	}
	var parts []string
	for _, status := range discover.Statuses {
		if count[status] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", count[status], status))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "none with a database")
}

// tables sums up which usage tables there are.
func tables(i discover.Instance) string {
	switch {
	case len(i.Contents.Tables) == 0:
		return "-"
	case len(i.Contents.Missing) == 0:
		return "all"
	}
	return fmt.Sprintf("%d missing", len(i.Contents.Missing))
}
