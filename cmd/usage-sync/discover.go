package main

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"usage-sync/job/discover"
)

type discoverCmd struct {
	Socket    string `placeholder:"PATH" env:"DOCKER_HOST" help:"Socket of the container engine, also as unix:///path. Default: Docker's, else Podman's."`
	Inside    string `placeholder:"PATH" default:"/app/backend/data/webui.db" help:"Where the database lies in the containers."`
	Write     bool   `help:"Make the files of each instance: its settings, and drop-ins that let its units write beside the database."`
	Force     bool   `help:"With --write: replace files that were edited by hand, too."`
	Enable    bool   `help:"Also start the timer of every instance whose database has the usage tables; implies --write."`
	ConfigDir string `placeholder:"DIR" env:"USAGE_SYNC_CONFIG_DIR" default:"/etc/usage-sync" help:"Directory of the instances' settings."`
	UnitDir   string `placeholder:"DIR" default:"/etc/systemd/system" help:"Directory of the drop-ins."`
	UserDir   string `placeholder:"DIR" default:"/etc/sysusers.d" help:"Directory of the users that passes over other users' databases run as."`
}

func (*discoverCmd) Help() string {
	return "Asks Docker or Podman for all containers, running or not, and lists those whose volumes hold a database, with where it\n" +
		"lies on the host. Against the files that --write has made it says which are new, configured, moved (the volume is another\n" +
		"one) or gone, and which share a database with another container. It may run daily: what is right is left alone, nothing\n" +
		"is ever removed, and a file that somebody has edited is only replaced with --force.\n\n" +
		"--write makes DIR/CONTAINER.env, database.conf in the directory of drop-ins of each unit, and where the database is not\n" +
		"root's the user that passes run as. To give a container up:\n" +
		"systemctl disable --now usage-sync@CONTAINER.timer, then remove its file."
}

// ExitHelp lists the exit codes.
func (*discoverCmd) ExitHelp() string {
	return exitHelp(exitOK, exitUsage, exitDataErr, exitUnavailable, exitCantCreat, exitNoPerm)
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
	Enabled    []string      `json:"enabled"`
}

type instanceOut struct {
	Container     string   `json:"container"`
	State         string   `json:"state"`
	Status        string   `json:"status"`
	Database      string   `json:"database"`
	Organizations []string `json:"organizations"`
	Tables        []string `json:"tables"`
	Missing       []string `json:"missing"`
	Problem       string   `json:"problem,omitempty"`
	Edited        []string `json:"edited"`
	Written       []string `json:"written"`
}

// Run lists, and writes what was asked for.
func (c *discoverCmd) Run(a *app) error {
	engine, err := discover.Dial(a.ctx, c.Socket)
	if err != nil {
		return err
	}
	containers, err := engine.Containers(a.ctx)
	if err != nil {
		return err
	}
	layout := discover.Layout{Config: c.ConfigDir, Units: c.UnitDir, Sysusers: c.UserDir}
	instances, err := layout.Compare(containers, discover.Find(a.ctx, containers, c.Inside))
	if err != nil {
		return err
	}
	if c.Write || c.Enable {
		if err := layout.Write(instances, c.Force); err != nil {
			return err
		}
	}
	var enabled []string
	if c.Enable {
		if enabled, err = layout.Enable(a.ctx, instances); err != nil {
			return err
		}
	}
	if a.cli.JSON {
		return printJSON(a.stdout, c.json(len(containers), instances, enabled))
	}
	return c.print(a, len(containers), instances, enabled)
}

func (c *discoverCmd) json(containers int, instances []discover.Instance, enabled []string) discoverOut {
	list := func(texts []string) []string { return append([]string{}, texts...) }
	out := discoverOut{Socket: c.Socket, Containers: containers, Instances: []instanceOut{}, Enabled: list(enabled)}
	for _, i := range instances {
		out.Instances = append(out.Instances, instanceOut{Container: i.Container, State: i.State, Status: string(i.Status),
			Database: i.Database, Organizations: list(i.Contents.Organisations), Tables: list(i.Contents.Tables),
			Missing: list(i.Contents.Missing), Problem: i.Problem, Edited: list(i.Edited), Written: list(i.Written)})
	}
	return out
}

func (c *discoverCmd) print(a *app, containers int, instances []discover.Instance, enabled []string) error {
	fmt.Fprintf(a.stdout, "%d containers, %s\n", containers, tally(instances))
	if len(instances) > 0 {
		table := newTable(a.stdout)
		fmt.Fprintln(table, "\nCONTAINER\tSTATE\tINSTANCE\tTABLES\tORGANISATIONS\tDATABASE\t")
		for _, i := range instances {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t\n", i.Container, cmp.Or(i.State, "-"), i.Status, tables(i),
				cmp.Or(strings.Join(i.Contents.Organisations, ", "), "-"), i.Database)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	var notes []string
	for _, i := range instances {
		if i.Problem != "" {
			notes = append(notes, i.Container+": "+i.Problem)
		}
		for _, file := range i.Edited {
			if !slices.Contains(i.Written, file) {
				notes = append(notes, fmt.Sprintf("%s: %s was edited by hand; only --force replaces it", i.Container, file))
			}
		}
		for _, file := range i.Written {
			notes = append(notes, "Wrote "+file)
		}
	}
	if c.Write && !c.Enable && slices.ContainsFunc(instances, func(i discover.Instance) bool { return len(i.Written) > 0 }) {
		notes = append(notes, "Next: systemd-sysusers && systemctl daemon-reload")
	}
	for _, unit := range enabled {
		notes = append(notes, "Enabled "+unit)
	}
	if len(notes) > 0 {
		fmt.Fprintf(a.stdout, "\n%s\n", strings.Join(notes, "\n"))
	}
	return nil
}

// tally counts instances by status.
func tally(instances []discover.Instance) string {
	count := map[discover.Status]int{}
	for _, i := range instances {
		count[i.Status]++
	}
	var parts []string
	for _, status := range []discover.Status{discover.New, discover.Configured, discover.Moved, discover.Gone, discover.Shared, discover.Unusable} {
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
