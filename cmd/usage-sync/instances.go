package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sync/errgroup"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/job/discover"
	"usage-sync/job/report"
	"usage-sync/job/table"
	"usage-sync/store"
)

// defaultDatabase is where the database lies in a container.
const defaultDatabase = "/app/backend/data/webui.db"

// useInstance makes the settings of the instance that the arguments or USAGE_SYNC_INSTANCE name those of this
// process, but for variables that are set. A name without a file is no more than what metrics are called, where
// the database is named otherwise.
func useInstance(args []string) error {
	name := cmp.Or(argument(args, "--instance", "-i"), os.Getenv("USAGE_SYNC_INSTANCE"))
	if name == "" {
		return nil
	}
	layout := discover.Layout{Config: configDir(args)}
	settings, err := layout.ReadSettings(name)
	switch {
	case err != nil && databaseIsNamed(args):
		return nil
	case errors.Is(err, fs.ErrNotExist):
		names, listErr := layout.Names()
		return errors.Join(fmt.Errorf("%w %s: there is no %s/%s.env, %s", discover.ErrInstance, name,
			layout.Config, name, listed(names)), listErr)
	case err != nil:
		return err
	case settings.Database() == "" && !databaseIsNamed(args):
		return fmt.Errorf("%w %s: %s/%s.env does not set USAGE_SYNC_DB", discover.ErrInstance,
			name, layout.Config, name)
	}
	if set := os.Getenv("USAGE_SYNC_DB"); set != "" && set != settings.Database() && argument(args, "--db", "") == "" {
		return &usageError{fmt.Errorf("the instance %s has the database %s, and USAGE_SYNC_DB names %s: "+
			"unset it", name, settings.Database(), set)}
	}
	for variable, value := range settings {
		if os.Getenv(variable) == "" {
			if err := os.Setenv(variable, value); err != nil {
				return fmt.Errorf("%w %s: %s: %w", discover.ErrInstance, name, variable, err)
			}
		}
	}
	return takeHostKey(layout.Config)
}

// argument returns the value that follows one of the names of a flag, or stands behind its equals sign. The
// command line can't be parsed yet: what an instance sets are defaults of its flags.
func argument(args []string, long, short string) string {
	for i, arg := range args {
		name, value, joined := strings.Cut(arg, "=")
		switch {
		case name == long && joined:
			return value
		case (arg == long || arg == short) && i+1 < len(args):
			return args[i+1]
		case short != "" && len(arg) > len(short) && strings.HasPrefix(arg, short) && !strings.HasPrefix(arg, "--"):
			return strings.TrimPrefix(arg[len(short):], "=")
		}
	}
	return ""
}

func configDir(args []string) string {
	return cmp.Or(argument(args, "--config-dir", ""), os.Getenv("USAGE_SYNC_CONFIG_DIR"), "/etc/usage-sync")
}

// databaseIsNamed tells whether it is known which database is meant, be it that of the container that this
// process runs in.
func databaseIsNamed(args []string) bool {
	if argument(args, "--db", "") != "" || os.Getenv("USAGE_SYNC_DB") != "" {
		return true
	}
	_, err := os.Stat(defaultDatabase)
	return err == nil
}

// reach is on how many instances a command works where no database is named.
type reach int

const (
	onNone reach = iota // it has no database
	onOne               // it writes: on the one that --org, or being alone, names
	onAll               // it reads
)

// reachOf returns the reach of a command, and the organisations that it was asked for.
func reachOf(parsed *kong.Context) (reach, []string) {
	node := parsed.Selected()
	if node == nil || !node.Target.CanAddr() {
		return onNone, nil
	}
	switch c := node.Target.Addr().Interface().(type) {
	case *usageCmd:
		return onAll, c.Org
	case *statusCmd:
		return onAll, c.Org
	case *historyCmd:
		return onAll, c.Org
	case *reportCmd:
		if c.writes() || c.Generations { // a table of rows that add up to one sum
			return onOne, c.Org
		}
		return onAll, c.Org
	case *doctorCmd:
		if c.Probe {
			return onOne, c.Org
		}
		return onAll, c.Org
	case *reconcileCmd:
		switch {
		case c.Account: // over all, in one
			return onNone, nil
		case c.Fix:
			return onOne, c.Org
		}
		return onAll, c.Org
	case *takeoverCmd:
		if c.answer() != "" || c.Again || c.Undo {
			return onOne, c.Org
		}
		return onAll, c.Org
	case *ratesCmd:
		if c.Correct != 0 {
			return onOne, c.Org
		}
		return onAll, c.Org
	case *gapsCmd:
		if len(c.Accept) > 0 {
			return onOne, c.Org
		}
		return onAll, c.Org
	case *syncCmd:
		return onOne, c.Org
	case *recordCmd:
		return onOne, c.Org
	case *ingestCmd:
		return onOne, slices.DeleteFunc([]string{c.Org}, func(s string) bool { return s == "" })
	case *backupCmd, *restoreCmd, *migrateCmd, *httpCmd:
		return onOne, nil
	}
	return onNone, nil
}

// onHost finds the instance of a command that names no database, and returns the command on that. One that goes
// over several instances it runs, and returns nil.
func (a *app) onHost(parsed *kong.Context, args []string) (*kong.Context, error) {
	reach, orgs := reachOf(parsed)
	if reach == onNone || a.cli.Instance != "" || databaseIsNamed(args) {
		return parsed, nil
	}
	layout := discover.Layout{Config: a.cli.ConfigDir}
	names, err := layout.Names()
	switch {
	case err != nil:
		return nil, err
	case len(names) == 0:
		return parsed, nil
	}
	if len(orgs) > 0 {
		if names, err = a.instancesOf(layout, names, orgs); err != nil {
			return nil, err
		}
	}
	switch {
	case len(names) == 1:
		return a.on(names[0], args)
	case reach == onOne && len(orgs) > 0:
		return nil, fmt.Errorf("%w: %s %s in several of them, choose with --instance: %s", discover.ErrInstance,
			strings.Join(orgs, ", "), map[bool]string{true: "is", false: "are"}[len(orgs) == 1],
			strings.Join(names, ", "))
	case reach == onOne:
		return nil, fmt.Errorf("%w: there are several, choose with --instance or --org: %s",
			discover.ErrInstance, strings.Join(names, ", "))
	}
	return nil, a.onAll(parsed, names, args)
}

// on returns the command on one instance.
func (a *app) on(name string, args []string) (*kong.Context, error) {
	a.cli = cli{}
	if err := os.Setenv("USAGE_SYNC_INSTANCE", name); err != nil {
		return nil, err
	}
	return a.parse(args)
}

// listed says which instances there are.
func listed(names []string) string {
	if len(names) == 0 {
		return "and no instance is configured: 'usage-sync discover --write' makes them"
	}
	return "but " + strings.Join(names, ", ")
}

// lookTime is how long an instance may take to say whose organisations it has.
const lookTime = 10 * time.Second

// instancesOf returns those instances whose databases have the organisations: by id, or else by name.
func (a *app) instancesOf(layout discover.Layout, names, orgs []string) ([]string, error) {
	type answer struct {
		byID, byName bool
		err          error
	}
	answers := make([]answer, len(names))
	var group errgroup.Group
	group.SetLimit(instancesAtOnce)
	for i, name := range names {
		group.Go(func() error {
			found, err := within(a.ctx, lookTime, func(ctx context.Context) ([]store.Organisation, error) {
				return organisationsIn(ctx, layout, name, orgs)
			})
			if err != nil {
				answers[i].err = fmt.Errorf("%s: %w", name, err)
				return nil
			}
			answers[i].byName = len(found) == len(orgs)
			answers[i].byID = answers[i].byName
			for _, org := range found {
				answers[i].byID = answers[i].byID && slices.Contains(orgs, org.ID)
			}
			return nil
		})
	}
	_ = group.Wait()
	var byID, byName []string
	var errs []error
	for i, name := range names {
		switch one := answers[i]; {
		case one.err != nil:
			errs = append(errs, one.err)
		case one.byID:
			byID = append(byID, name)
		case one.byName:
			byName = append(byName, name)
		}
	}
	switch {
	case len(byID) > 0:
		return byID, nil
	case len(byName) > 0:
		return byName, nil
	}
	err := fmt.Errorf("%w: none has %s: %s", discover.ErrInstance, strings.Join(orgs, " and "),
		strings.Join(names, ", "))
	if len(errs) > 0 {
		err = fmt.Errorf("%w; %d could not be looked at: %w", err, len(errs), errors.Join(errs...))
	}
	return nil, err
}

// organisationsIn returns those of an instance that bear the names, none where there are not as many.
func organisationsIn(ctx context.Context, layout discover.Layout, name string,
	orgs []string) ([]store.Organisation, error) {
	settings, err := layout.ReadSettings(name)
	if err == nil {
		err = job.CheckVolume(settings.Database(), settings.Volume())
	}
	if err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, settings.Database(), store.ReadOnly)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	found, err := db.Organisations(ctx, orgs, time.UTC)
	if errors.Is(err, store.ErrOrganisation) {
		return nil, nil
	}
	return found, err
}

// instancesAtOnce bounds the instances that are worked on at a time.
const instancesAtOnce = 4

// outcomeOf is what a command has said of one instance.
type outcomeOf struct {
	instance string
	out, log []byte
	code     int
	late     bool // it was told to end
}

// failed tells that the command has come to no result.
func (o outcomeOf) failed() bool { return o.code != exitOK && len(o.out) == 0 }

// eachOf runs the command over each instance in a process of its own, as its units do: whatever a database does
// to one, it does not do to the others.
func (a *app) eachOf(names, args []string, patience time.Duration) ([]outcomeOf, error) {
	all := make([]outcomeOf, len(names))
	var group errgroup.Group
	group.SetLimit(instancesAtOnce)
	for i, name := range names {
		group.Go(func() error {
			all[i] = a.child(args, []string{"USAGE_SYNC_INSTANCE=" + name}, patience)
			all[i].instance = name
			return nil
		})
	}
	_ = group.Wait()
	return all, context.Cause(a.ctx)
}

// child runs this program, with settings in its environment, until its time is over.
func (a *app) child(args, settings []string, patience time.Duration) (one outcomeOf) {
	ctx, cancel := context.WithTimeout(a.ctx, patience)
	defer cancel()
	fail := func(code int, why any) outcomeOf {
		one.late = ctx.Err() != nil
		one.code, one.log = code, fmt.Appendf(one.log, "ERROR - %v\n", why)
		return one
	}
	program, err := os.Executable()
	if err != nil {
		return fail(exitSoftware, err)
	}
	out, log := &bounded{most: mostOfChild}, &bounded{most: mostOfChild}
	c := exec.CommandContext(ctx, program, args...)
	c.Args[0] = os.Args[0]
	c.Env = append(os.Environ(), settings...)
	c.Stdout, c.Stderr = out, log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	c.Cancel = func() error { return c.Process.Signal(syscall.SIGTERM) }
	c.WaitDelay = grace
	done := make(chan error, 1)
	runtime.LockOSThread() // Pdeathsig is the death of this thread
	defer runtime.UnlockOSThread()
	if err := c.Start(); err != nil {
		return fail(exitSoftware, err)
	}
	go func() { done <- c.Wait() }()
	select {
	case err = <-done:
	case <-ctx.Done():
		select {
		case err = <-done:
		case <-time.After(c.WaitDelay + lastWordsTime): // not even SIGKILL ends what hangs in a disk that is gone
			return fail(exitTempFail, fmt.Sprintf("not done within %s", patience))
		}
	}
	one.out, one.log, one.code = out.Bytes(), log.Bytes(), c.ProcessState.ExitCode() // -1 where there is none
	switch {
	case ctx.Err() != nil:
		one.out = nil // that it was interrupted is not why
		return fail(exitTempFail, fmt.Sprintf("not done within %s", patience))
	case one.code < 0:
		return fail(exitSoftware, err)
	}
	return one
}

// mostOfChild bounds what a process may say of one database, in bytes: the statement of a large client takes a
// hundredth.
const mostOfChild = 32 << 20

// bounded keeps what is written up to a length, and fails beyond.
type bounded struct {
	bytes.Buffer
	most int
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.most {
		return 0, syscall.EFBIG
	}
	return b.Buffer.Write(p)
}

// onAll runs a reading command over several instances and prints what each has said.
func (a *app) onAll(parsed *kong.Context, names, args []string) error {
	command := parsed.Selected().Target.Addr().Interface()
	patience := instanceTime
	switch c := command.(type) {
	case *statusCmd:
		return c.overAll(a, names, args)
	case *reportCmd:
		return c.overAll(a, parsed, names, args)
	case *doctorCmd, *reconcileCmd, *takeoverCmd:
		patience = networkTime
	}
	all, err := a.eachOf(names, args, patience)
	if err != nil {
		return err
	}
	for i, one := range all {
		if a.cli.JSON {
			_, err = a.stdout.Write(withInstance(one.out, one.instance))
		} else {
			heading := "== " + one.instance + "\n"
			if i > 0 {
				heading = "\n" + heading
			}
			_, err = fmt.Fprintf(a.stdout, "%s%s", heading, one.out)
		}
		if err != nil {
			return err
		}
		a.passOn(one)
	}
	return overall(all)
}

// passOn passes the log of an instance on, with its name.
func (a *app) passOn(one outcomeOf) {
	if a.cli.LogFormat == "json" {
		_, _ = a.stderr.Write(withInstance(one.log, one.instance))
		return
	}
	for line := range strings.Lines(string(one.log)) {
		fmt.Fprintf(a.stderr, "%s: %s\n", one.instance, strings.TrimSuffix(line, "\n"))
	}
}

// withInstance adds the instance to each object of JSON lines.
func withInstance(lines []byte, instance string) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(lines) {
		if rest, object := bytes.CutPrefix(line, []byte("{")); object {
			fmt.Fprintf(&out, `{"instance":%q,`, instance)
			line = rest
		}
		out.Write(line)
	}
	return out.Bytes()
}

// overall is the error of a command over several instances: a difference (65) anywhere is one, else as for several
// organisations, the first error where all have failed, and partial where some have.
func overall(all []outcomeOf) error {
	failed, first := 0, error(nil)
	for _, one := range all {
		if one.code == exitOK {
			continue
		}
		failed++
		err := &codedError{one.code, fmt.Errorf("instance %s ended with %d", one.instance, one.code)}
		if first == nil || one.code == exitDataErr && exitCode(first) != exitDataErr {
			first = err
		}
	}
	switch {
	case failed == 0:
		return nil
	case failed == len(all) || exitCode(first) == exitDataErr:
		return &reportedError{first}
	}
	return &reportedError{&codedError{exitPartial, first}}
}

// instanceStatus is what status says of one instance.
type instanceStatus struct {
	Instance string     `json:"instance"`
	Status   string     `json:"status"`
	Running  bool       `json:"running"`
	Holder   *holderOut `json:"holder"`
	Error    string     `json:"error,omitempty"`
}

// hostStatus is what status says of all instances.
type hostStatus struct {
	Status        string           `json:"status"`
	Running       bool             `json:"running"`
	Instances     []instanceStatus `json:"instances"`
	Organizations []healthOut      `json:"organizations"`

	performance []string
}

// overAll judges all instances: one line for all, then one for each organisation, the worst first.
func (c *statusCmd) overAll(a *app, names, args []string) error {
	all, err := a.eachOf(names, slices.Concat(without(args, "--json"),
		[]string{"--json", "--log-format", "text"}), instanceTime)
	if err != nil {
		return err
	}
	out := gatherStatus(all)
	if a.cli.JSON {
		err = printJSON(a.stdout, out)
	} else {
		err = out.print(a.stdout, isTerminal(a.stdout))
	}
	state, _ := alert.ParseState(out.Status)
	if err != nil || state == alert.StateOK {
		return err
	}
	return &reportedError{&codedError{int(state), errors.New(out.Status)}}
}

func gatherStatus(all []outcomeOf) hostStatus {
	out, worst := hostStatus{Organizations: []healthOut{}}, alert.StateOK
	for _, one := range all {
		var said statusOut
		err := json.Unmarshal(one.out, &said)
		state, known := alert.ParseState(said.Status)
		if err != nil || !known {
			state = alert.StateUnknown
			said = statusOut{Status: alert.StateUnknown.String(),
				Error: cmp.Or(said.Error, lastLine(one.log), "it says nothing")}
		}
		out.Instances = append(out.Instances, instanceStatus{one.instance, said.Status, said.Running,
			said.Holder, said.Error})
		out.Running = out.Running || said.Running
		if alert.Compare(state, worst) < 0 {
			worst = state
		}
		for _, org := range said.Organizations {
			org.Instance = one.instance
			out.Organizations = append(out.Organizations, org)
		}
		for _, datum := range said.Performance {
			out.performance = append(out.performance, "'"+one.instance+"/"+strings.TrimPrefix(datum, "'"))
		}
	}
	out.Status = worst.String()
	slices.SortStableFunc(out.Organizations, func(a, b healthOut) int {
		x, _ := alert.ParseState(a.Status)
		y, _ := alert.ParseState(b.Status)
		return alert.Compare(x, y)
	})
	return out
}

// lastLine is the last line of a log that says something.
func lastLine(log []byte) string {
	lines := strings.Split(strings.TrimSpace(string(log)), "\n")
	return lines[len(lines)-1]
}

// print writes the line of a plug-in, the long output behind it, and last the performance data
// (https://www.monitoring-plugins.org/doc/guidelines.html, read on 25 November 2026).
func (s hostStatus) print(w io.Writer, colour bool) error {
	well := 0
	var today, month store.Totals
	for _, i := range s.Instances {
		if i.Status == alert.StateOK.String() {
			well++
		}
	}
	for _, o := range s.Organizations {
		day, err := o.Today.totals()
		if err != nil {
			return err
		}
		whole, err := o.ThisMonth.totals()
		if err != nil {
			return err
		}
		today, month = today.Add(day), month.Add(whole)
	}
	text := fmt.Sprintf("USAGE-SYNC %s - %d/%d instances well, %s; today %s, $%s, this month $%s", s.Status, well,
		len(s.Instances), store.Counted(len(s.Organizations), "organisation"),
		store.Counted(today.Tokens, "token"), today.Cost, month.Cost)
	if _, err := fmt.Fprintln(w, text); err != nil {
		return err
	}
	var lines [][]string
	line := func(status, instance, organisation, message string) {
		lines = append(lines, []string{status, instance, organisation, oneLine(message)})
	}
	for _, i := range s.Instances {
		if i.Error != "" {
			line(i.Status, i.Instance, "-", i.Error)
		}
	}
	for _, o := range s.Organizations {
		message := fmt.Sprintf("%s; today $%.6f, this month $%.6f", o.Message, o.Today.Cost, o.ThisMonth.Cost)
		if o.Limit != nil {
			message += fmt.Sprintf(" of $%.2f", *o.Limit)
		}
		line(o.Status, o.Instance, o.Name, message)
	}
	var long bytes.Buffer
	if err := table.Write(&long, columns(w), "llll", lines); err != nil {
		return err
	}
	for line := range strings.Lines(long.String()) {
		if status, _, _ := strings.Cut(line, " "); colour {
			line = colours[status] + status + "\x1b[0m" + strings.TrimPrefix(line, status)
		}
		if _, err := io.WriteString(w, line); err != nil {
			return err
		}
	}
	if colour || len(s.performance) == 0 { // a person, not a monitoring system
		return nil
	}
	_, err := fmt.Fprintln(w, "| "+strings.Join(s.performance, " "))
	return err
}

// colours are those of a terminal.
var colours = map[string]string{"OK": "\x1b[32m", "WARNING": "\x1b[33m", "UNKNOWN": "\x1b[35m", "CRITICAL": "\x1b[31m"}

// overAll states the clients of all instances. The owner's statements, and those that go into a directory, are
// preceded by a summary, which there is an index of the files.
func (c *reportCmd) overAll(a *app, parsed *kong.Context, names, args []string) error {
	if err := c.chooseFormat(a.cli.JSON, explicit(parsed, "format")); err != nil {
		return err
	}
	toFiles := c.Out != "" && c.Out != "-"
	if (c.format == report.HTML || c.format == report.XLSX) && !toFiles {
		return &usageError{fmt.Errorf("--format %s: the statements of several instances go into a directory, "+
			"name one with --out", c.format)}
	}
	if info, err := os.Stat(c.Out); toFiles && !strings.HasSuffix(c.Out, "/") && (err != nil || !info.IsDir()) {
		return &usageError{fmt.Errorf("--out: the statements of several instances want a directory, end its "+
			"name with a slash: %s/", c.Out)}
	}
	asked := without(args, "--json", "--format", "--decimal", "--out")
	stated, err := a.eachOf(names, slices.Concat(asked, []string{"--format", "json"}), instanceTime)
	if err != nil {
		return err
	}
	summary := report.Summary{For: report.Audience(c.For), Made: a.now(), CreditFee: c.CreditFee}
	var there []string // instances with statements
	for _, one := range stated {
		clients, err := report.ReadStatements(one.instance, one.out)
		if one.failed() || err != nil {
			summary.Missing = append(summary.Missing, report.Missing{Instance: one.instance,
				Reason: cmp.Or(lastLine(one.log), "it states nothing")})
			continue
		}
		there = append(there, one.instance)
		summary.Clients = append(summary.Clients, clients...)
	}
	switch {
	case toFiles:
		err = c.saveAll(a, &summary, there, asked)
	case c.For == string(report.Owner):
		err = summary.Write(a.stdout, c.format, columns(a.stdout))
		if err == nil && c.format == report.Text {
			fmt.Fprintln(a.stdout)
			err = c.printAll(a, there, asked)
		}
	default:
		err = c.printAll(a, there, asked)
	}
	for _, one := range stated {
		a.passOn(one)
	}
	if err != nil {
		return err
	}
	return overall(stated)
}

// saveAll writes the statements of each instance into a directory of its own, because two may have clients of
// one id, and the index beside them.
func (c *reportCmd) saveAll(a *app, summary *report.Summary, names, args []string) error {
	if err := os.MkdirAll(c.Out, 0o750); err != nil {
		return fmt.Errorf("%w: %w", report.ErrFile, err)
	}
	var files []string
	for _, name := range names {
		directory := filepath.Join(c.Out, name) + "/"
		written, err := a.eachOf([]string{name}, slices.Concat(args, c.formatArgs(), []string{"--out", directory,
			"--log-format", "text", "--log-level", "INFO"}), instanceTime)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(written[0].log)) {
			if _, file, found := strings.Cut(strings.TrimSpace(line), "Wrote "); found {
				files = append(files, file)
				a.log.Info("Wrote " + file)
			}
		}
		if written[0].code != exitOK {
			a.passOn(written[0])
			return &reportedError{&codedError{written[0].code,
				fmt.Errorf("the statements of %s are not written", name)}}
		}
	}
	for i := range summary.Clients {
		if len(files) == len(summary.Clients) {
			summary.Clients[i].File = linkTo(c.Out, files[i])
		}
	}
	index, err := summary.SaveIndex(c.Out, c.format)
	if err == nil {
		a.log.Info("Wrote " + index)
	}
	return err
}

// linkTo is the way from a directory to a file beneath it.
func linkTo(directory, file string) string {
	link, err := filepath.Rel(directory, file)
	if err != nil {
		return file
	}
	return link
}

// printAll prints the statements of the instances one after another: of CSV the first line once.
func (c *reportCmd) printAll(a *app, names, args []string) error {
	all, err := a.eachOf(names, slices.Concat(args, c.formatArgs()), instanceTime)
	if err != nil {
		return err
	}
	var head []byte
	for i, one := range all {
		text := one.out
		switch {
		case c.format == report.JSON:
			text = withInstance(text, one.instance)
		case c.isCSV() && i == 0:
			head, _, _ = bytes.Cut(text, []byte("\n"))
		case c.isCSV():
			text = bytes.TrimPrefix(bytes.TrimPrefix(text, head), []byte("\n"))
		case i > 0:
			text = append([]byte("\n"), text...)
		}
		if _, err := a.stdout.Write(text); err != nil {
			return err
		}
	}
	return nil
}

// without returns the arguments but for some flags and their values.
func without(args []string, flags ...string) (rest []string) {
	for i := 0; i < len(args); i++ {
		name, _, joined := strings.Cut(args[i], "=")
		if !slices.Contains(flags, name) {
			rest = append(rest, args[i])
			continue
		}
		if !joined && name != "--json" {
			i++
		}
	}
	return rest
}
