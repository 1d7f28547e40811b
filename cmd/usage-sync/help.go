package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/alecthomas/kong"

	"usage-sync/job"
	"usage-sync/job/discover"
	"usage-sync/job/doctor"
	"usage-sync/job/httpapi"
	"usage-sync/job/monitor"
	"usage-sync/job/openrouter"
	"usage-sync/job/report"
	"usage-sync/job/webhook"
	"usage-sync/store"
)

// flagHelp is what a flag's help says: its text, its default where the left column does not show it, its variable.
func flagHelp(v *kong.Value) string {
	shown := *v
	if f := v.Flag; f != nil && f.HasDefault && f.PlaceHolder != "" && !f.IsBool() {
		shown.Help += fmt.Sprintf(" Default: %s.", f.Default)
	}
	return kong.DefaultHelpValueFormatter(&shown)
}

// fullHelp prints help and ends it with examples and the exit codes of the command, or of the default command.
func fullHelp(options kong.HelpOptions, parsed *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, parsed); err != nil {
		return err
	}
	type exitHelper interface{ ExitHelp() string }
	var command exitHelper = &syncCmd{}
	name := "sync"
	if node := parsed.Selected(); node != nil && node.Target.CanAddr() {
		if own, ok := node.Target.Addr().Interface().(exitHelper); ok {
			command, name = own, node.Name
		}
	}
	if len(examples[name]) > 0 {
		fmt.Fprint(parsed.Stdout, "\nExamples:\n")
	}
	for _, e := range examples[name] {
		fmt.Fprintf(parsed.Stdout, "  %s\n      %s\n", e.line, e.meaning)
	}
	_, err := fmt.Fprintf(parsed.Stdout, "\n%s", hang(command.ExitHelp()))
	return err
}

// exitHelp lists the exit codes of a command with their meaning, and those that any command may end with.
func exitHelp(codes ...int) string { return exitHelpOf(nil, codes...) }

// doneThough is what partial means of a command that is not about several organisations.
var doneThough = map[int]string{exitPartial: "it is done, and what came after failed, such as standard " +
	"output: do not repeat it"}

// exitHelpOf is exitHelp for a command for which some codes have a meaning of their own.
func exitHelpOf(own map[int]string, codes ...int) string {
	meaning := maps.Clone(exitMeanings)
	maps.Copy(meaning, own)
	codes = append(slices.Clone(codes), exitSoftware, exitSignal)
	slices.Sort(codes)
	lines := []string{"Exit codes:"}
	for _, code := range codes {
		lines = append(lines, fmt.Sprintf("  %-6s %s", exitLabel(code), meaning[code]))
	}
	return strings.Join(lines, "\n")
}

func exitLabel(code int) string {
	if code == exitSignal {
		return "128+n"
	}
	return strconv.Itoa(code)
}

// exitMeanings say what the exit codes mean, where a command does not say otherwise.
var exitMeanings = map[int]string{
	exitOK:          "success, or nothing to do",
	exitPartial:     "partial: some organisations synced, some failed",
	exitUsage:       "unknown flag, or a value out of range",
	exitDataErr:     "an answer or a row that can't be trusted; what is sound is recorded",
	exitNoInput:     "the database file, a file to read, or the backup does not exist",
	exitUnavailable: "OpenRouter, or the container engine, can't be reached or keeps failing",
	exitSoftware:    "a bug: please report it, with the lines it printed",
	exitCantCreat:   "a file can't be made: lock, metrics, statement, backup, instance file or spool",
	exitIOErr:       "disk full, input/output error, damaged database",
	exitTempFail:    "another pass runs, database busy, rate-limited to the end, or timed out: try again later",
	exitNoPerm: "the key is refused (401, 402, 403), or the database, or the engine's socket, can't be " +
		"read or written",
	exitConfig: "usage tables missing, no such organisation, bad markup rate, base URL or currency, no " +
		"usable source, no secret, " +
		"or a takeover to decide on",
	exitSignal: "ended by signal n",
}

// hang wraps the lines of a list of exit codes at 80 columns, below where their texts begin.
func hang(list string) string {
	const width, indent = 80, 9
	var out strings.Builder
	for _, line := range strings.Split(list, "\n") {
		for len(line) > width {
			end := strings.LastIndexByte(line[:width+1], ' ')
			if end <= indent {
				break
			}
			out.WriteString(line[:end] + "\n")
			line = strings.Repeat(" ", indent) + line[end+1:]
		}
		out.WriteString(line + "\n")
	}
	return out.String()
}

const (
	tablesFound   = "✅ Usage tracking tables found"
	tablesMissing = "⚠️  Usage tracking tables not found. Please run the migration first."
)

// causes say what to do about errors that their kind says too little of. A line counts where its error decides
// the kind: a full disk is not helped by another directory.
var causes = []struct {
	err  error
	hint string
}{
	{errInput, ""},
	{store.ErrNotDatabase, "Check --db (USAGE_SYNC_DB): it names the file webui.db itself, not its directory " +
		"nor another file"},
	{store.ErrPermission, "Run as root or as the owner of the database; its directory must be writable too, " +
		"even to read one in " +
		"WAL mode"},
	{store.ErrEncrypted, "The application encrypts it (DATABASE_TYPE=sqlite+sqlcipher): usage-sync can't " +
		"read it. Move the application to a plain " +
		"database, as its later versions do"},
	{openrouter.ErrKey, "Put the key into client_organizations as OpenRouter has shown it: one word, without " +
		"a line break"},
	{store.ErrNames, "Mount the directory of the database into the container, and let no other name lead to " +
		"the file: two writers by " +
		"two names damage it"},
	{store.ErrChanged, "The application changes its tables, as an upgrade does; nothing was half recorded, " +
		"and the next pass tries again. If this " +
		"stays so, see what 'usage-sync doctor' says of them"},
	{store.ErrLocking, "Locks do not work there, as on some network file systems: SQLite needs a local disk. " +
		"Beside a very busy application " +
		"the next pass tries again"},
	{store.ErrUnfinished, "The next pass rolls it back, or the container's next access; nothing is lost"},
	{discover.ErrSocket, "Run as root, or as a member of the engine's group"},
	{discover.ErrEngine, "Check that Docker or Podman runs (systemctl enable --now podman.socket gives " +
		"Podman its socket), or name " +
		"the socket with --socket (DOCKER_HOST); a rootless engine's is /run/user/UID/docker.sock or " +
		"/run/user/UID/podman/podman.sock"},
	{discover.ErrSystemd, ""},
	{job.ErrVolume, "If the container has another volume now, 'usage-sync discover --write' says so in its " +
		"settings; else look at what is " +
		"in the volume: a symbolic link must not lead a pass to another place"},
	{doctor.ErrTimedOut, ""}, // something on this machine hangs
	{httpapi.ErrNoSecret, "Give the secret as a credential of the unit, in the environment, or in a file " +
		"that the variable with " +
		"_FILE behind its name names"},
	{report.ErrSeveral, "Name one organisation with --org, or a directory with --out DIRECTORY/: it gets one " +
		"file for each"},
	{discover.ErrFile, "Run as root, or name other directories with --config-dir and --unit-dir"},
	{store.ErrBackupFile, "Name a directory that is there and writable, or a file in one that does not exist yet"},
	{monitor.ErrMetricsFile, "The pass itself is complete and recorded. Make the directory of --metrics-file " +
		"(USAGE_SYNC_METRICS_FILE), or name another file"},
	{webhook.ErrSpool, "The spool lies beside the database: make the directory writable, or name another one " +
		"with --spool-dir " +
		"(USAGE_SYNC_SPOOL)"},
	{report.ErrFile, "The directory of --out must be there and writable; one that ends with / is made"},
	{job.ErrLockFile, "The lock file lies beside the database: make the directory writable, or name another " +
		"file with --lock"},
}

// hints say what to do about each kind of failure, where its errors do not say so themselves.
var hints = map[job.Kind]string{
	job.KindKeyRefused: "Check openrouter_api_key in client_organizations, the management key, and the " +
		"credit of the account",
	job.KindRateLimited: "Nothing is lost: the next pass tries again",
	job.KindUnreachable: "Check this machine's network and https://status.openrouter.ai; nothing is lost, " +
		"passes catch up",
	job.KindUntrusted: "",
	job.KindBusy: "The container's application holds the database; nothing was half recorded, the " +
		"next pass catches up",
	job.KindDisk: "Check free disk space (df) and the disk itself (dmesg); nothing was half recorded",
	job.KindDamaged: "Check the database (sqlite3 FILE 'pragma integrity_check') and restore a backup; " +
		"nothing was half recorded",
	job.KindMoved: "The container has got another database; nothing is claimed to be recorded, the next pass " +
		"uses that one. Before a " +
		"restore, stop the timer and the pass",
	job.KindMemory: "This machine has no memory or no file descriptors left (free, ulimit -n); the next " +
		"pass catches up",
	job.KindPermission: "Run as root or as the owner of the file",
	job.KindMissing: "Check --db (USAGE_SYNC_DB); the file is never created. On the host it lies in the " +
		"container's volume, e.g. " +
		"/var/lib/docker/volumes/NAME/_data/webui.db",
	job.KindSchema: tablesMissing + " ('usage-sync migrate' creates missing tables; start the " +
		"container's own migration if it has one)",
	job.KindConfiguration: "",
	job.KindTakeover: "'usage-sync takeover --org ID' shows what each answer makes of the bill, and " +
		"which one the figures speak for",
	job.KindLockHeld: "Nothing is wrong if that pass is still at work: this run did nothing. " +
		"--lock-wait waits for it",
	job.KindClock: "Set this machine's clock right (timedatectl); nothing was changed, the next pass " +
		"tries again",
	job.KindTimedOut:   "Nothing is lost: the next pass tries again. --timeout gives it longer",
	job.KindOutputFile: "Name a file in a directory that is there and writable",
	job.KindUsage:      "",
	job.KindBug:        "",
}

// hint says what to do next, by the cause of an error; empty where the error says so itself.
func hint(err error) string {
	if _, late := errors.AsType[*lateError](err); late {
		return ""
	}
	if errors.Is(err, store.ErrBackup) { // a missing one, too
		return "Nothing was changed; name another backup"
	}
	if schema, ok := errors.AsType[*store.SchemaError](err); ok {
		switch {
		case schema.Awaited:
			return "Start the container: its own migration makes the tables. Only a build without that migration gets them from " +
				"'usage-sync migrate --standalone'"
		case len(schema.Others) > 0:
			return "Something has put views or computed columns in the place of tables: see who can write to the database, and restore a backup"
		}
	}
	kind := job.KindOf(err)
	for _, line := range causes {
		if errors.Is(err, line.err) && job.KindOf(line.err) == kind {
			return line.hint
		}
	}
	return hints[kind]
}
