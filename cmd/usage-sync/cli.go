package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"usage-sync/job"
	"usage-sync/job/monitor"
	"usage-sync/store"
)

const description = `Records what client organisations used of OpenRouter in the webui.db of their Open WebUI container.

Each run makes one pass and ends: scheduling belongs to systemd timers or cron. Results go to standard output, logs to
standard error.`

// cli is the command line. A flag beats its environment variable, which beats the default.
type cli struct {
	settings
	commands
}

// settings are the flags of every command.
type settings struct {
	DB        string    `name:"db" placeholder:"PATH" env:"USAGE_SYNC_DB" default:"/app/backend/data/webui.db" help:"The container's database."`
	Timezone  zone      `placeholder:"TZ" env:"USAGE_SYNC_TIMEZONE" default:"UTC" help:"Calendar of organisations without a timezone of their own."`
	LogLevel  logLevel  `placeholder:"LEVEL" env:"LOG_LEVEL" default:"INFO" help:"DEBUG, INFO, WARNING or ERROR."`
	LogFormat string    `enum:"text,json" env:"USAGE_SYNC_LOG_FORMAT" default:"text" help:"Format of the log: text or json."`
	JSON      bool      `name:"json" help:"Print results as JSON."`
	Now       time.Time `hidden:"" placeholder:"RFC3339" env:"USAGE_SYNC_NOW" help:"The time to take for now; for tests and support."`
	Interval  int       `hidden:"" placeholder:"SECONDS" env:"OPENROUTER_USAGE_SYNC_INTERVAL" default:"600" help:"Seconds between two passes; 0 switches polling off."`

	Version kong.VersionFlag `help:"Print the version."`
}

type commands struct {
	Sync        syncCmd        `cmd:"" default:"withargs" help:"Make one sync pass (the default command)."`
	Usage       usageCmd       `cmd:"" help:"Show today, this month and the last days of organisations."`
	Report      reportCmd      `cmd:"" help:"State what organisations used in a month or any other period."`
	Record      recordCmd      `cmd:"" help:"Record usage by hand, for tests and corrections."`
	Migrate     migrateCmd     `cmd:"" help:"Create or check the usage tables."`
	Doctor      doctorCmd      `cmd:"" help:"Examine everything a pass depends on, and say what to do."`
	Status      statusCmd      `cmd:"" help:"Judge the last passes, for monitoring systems."`
	History     historyCmd     `cmd:"" help:"Show the last passes."`
	Reconcile   reconcileCmd   `cmd:"" help:"Hold the tables against OpenRouter's own figures, day by day and model by model."`
	Backup      backupCmd      `cmd:"" help:"Copy the database, or its usage tables, beside the running application."`
	Restore     restoreCmd     `cmd:"" help:"Put the usage tables of a backup back."`
	Discover    discoverCmd    `cmd:"" help:"Find the containers of this host that have a database, and configure them."`
	Ingest      ingestCmd      `cmd:"" help:"Record usage from webhook payloads in files."`
	HTTP        httpCmd        `cmd:"" name:"http" help:"Answer one HTTP request on standard input and output."`
	Demo        demoCmd        `cmd:"" help:"Show whole passes against a built-in stand-in of OpenRouter."`
	Completions completionsCmd `cmd:"" help:"Print what enables completion in a shell."`
	Man         manCmd         `cmd:"" hidden:"" help:"Print the manual page."`
}

// grammar is what the arguments are parsed by. Where they begin with a command, as those of units do, that command is
// enough: to build the others takes a quarter of the time of a short run. Help, the manual and completion need them all.
func (c *cli) grammar(args []string) (any, []kong.Option) {
	if len(args) == 0 || args[0] == "man" || slices.Contains(args, "--help") || slices.Contains(args, "-h") || os.Getenv("COMP_LINE") != "" {
		return c, nil
	}
	all := reflect.ValueOf(&c.commands).Elem()
	for i := range all.NumField() {
		field := all.Type().Field(i)
		if cmp.Or(field.Tag.Get("name"), strings.ToLower(field.Name)) == args[0] {
			return &c.settings, []kong.Option{kong.DynamicCommand(args[0], field.Tag.Get("help"), "", all.Field(i).Addr().Interface())}
		}
	}
	return c, nil
}

// environment names the variables that are read.
var environment = []string{
	"USAGE_SYNC_DB", "USAGE_SYNC_TIMEZONE", "LOG_LEVEL", "USAGE_SYNC_LOG_FORMAT", "USAGE_SYNC_NOW",
	"OPENROUTER_USAGE_SYNC_INTERVAL", "USAGE_SYNC_ORG", "OPENROUTER_USAGE_SYNC_DAYS_BACK", "OPENROUTER_BASE_URL",
	"USAGE_SYNC_SOURCE", "OPENROUTER_MANAGEMENT_KEY", "OPENROUTER_MANAGEMENT_KEY_FILE", "USAGE_SYNC_LOCK", "USAGE_SYNC_LOCK_WAIT", "USAGE_SYNC_TIMEOUT",
	"DOCKER_HOST", "USAGE_SYNC_CONFIG_DIR",
	"USAGE_SYNC_SPOOL", "WEBUI_SECRET_KEY", "WEBUI_SECRET_KEY_FILE", "USAGE_SYNC_WEBHOOK_SECRET", "USAGE_SYNC_WEBHOOK_SECRET_FILE",
	"USAGE_SYNC_API_TOKEN", "USAGE_SYNC_API_TOKEN_FILE",
	"USAGE_SYNC_METRICS_FILE", "USAGE_SYNC_RECONCILE_METRICS_FILE", "USAGE_SYNC_METRICS_MODELS", "USAGE_SYNC_INSTANCE", "USAGE_SYNC_PING_URL",
	"USAGE_SYNC_LIMIT_WARNING", "USAGE_SYNC_LIMIT_CRITICAL", "USAGE_SYNC_SENSITIVITY",
}

// forgetEmpty makes an empty environment variable the same as none: compose files pass on what is not set as "".
func forgetEmpty(names ...string) {
	for _, name := range names {
		if os.Getenv(name) == "" {
			_ = os.Unsetenv(name)
		}
	}
}

// Validate runs before any command.
func (c *settings) Validate() error {
	if c.Interval < 0 {
		return errors.New("OPENROUTER_USAGE_SYNC_INTERVAL: seconds can't be negative")
	}
	return nil
}

// orgFlag chooses organisations.
type orgFlag struct {
	Org []string `placeholder:"ID-OR-NAME" sep:"none" env:"USAGE_SYNC_ORG" help:"An organisation, by id or by name; repeatable. Default: every active one."`
}

// lockFlag names the lock file.
type lockFlag struct {
	Lock string `placeholder:"PATH" env:"USAGE_SYNC_LOCK" help:"Lock file. Default: beside the database, with .usage-sync.lock behind its name."`
}

// path is the lock file's, of a database that is there.
func (f lockFlag) path(a *app) (string, error) {
	path, err := job.LockPath(a.cli.DB)
	return cmp.Or(f.Lock, path), err
}

// lockFlags say how the lock is taken.
type lockFlags struct {
	lockFlag
	LockWait time.Duration `placeholder:"D" env:"USAGE_SYNC_LOCK_WAIT" default:"0s" help:"How long to wait for another pass; 0 gives up at once."`
}

func (f lockFlags) check() error {
	if f.LockWait < 0 {
		return errors.New("--lock-wait: can't be negative")
	}
	return nil
}

func (f lockFlags) acquire(ctx context.Context, a *app) (*job.Lock, error) {
	path, err := f.path(a)
	if err != nil {
		return nil, err
	}
	return job.Acquire(ctx, path, f.LockWait)
}

// app is what the commands share.
type app struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
	log            *slog.Logger
	tail           *monitor.Tail // of the log; nil where nobody asks for it
	command        string        // what was chosen, for its --help
	cli            cli
}

// logger writes the log to w, as the flags say.
func (a *app) logger(w io.Writer) *slog.Logger {
	if a.tail != nil {
		w = io.MultiWriter(w, a.tail)
	}
	return newLogger(w, a.cli.LogFormat, a.cli.LogLevel.Level)
}

// now is the clock, or what --now has fixed.
func (a *app) now() time.Time {
	if !a.cli.Now.IsZero() {
		return a.cli.Now
	}
	return time.Now()
}

// open opens the database for one command.
func (a *app) open(mode store.Mode) (*store.Store, error) { return store.Open(a.ctx, a.cli.DB, mode) }

// openChecked also checks the guide's tables.
func (a *app) openChecked(mode store.Mode) (*store.Store, error) {
	db, err := a.open(mode)
	if err != nil {
		return nil, err
	}
	if err := db.CheckSchema(a.ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// openPrepared opens the database to write, with our own tables.
func (a *app) openPrepared() (*store.Store, error) {
	db, err := a.openChecked(store.ReadWrite)
	if err != nil {
		return nil, err
	}
	if err := db.EnsureOwnTables(a.ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// explicit tells whether a flag stands on the command line: the environment does not count.
func explicit(parsed *kong.Context, names ...string) bool {
	for _, path := range parsed.Path {
		for _, name := range names {
			if path.Flag != nil && !path.Resolved && path.Flag.Name == name {
				return true
			}
		}
	}
	return false
}

// zone is a time zone by its IANA name.
type zone struct{ *time.Location }

func (z *zone) UnmarshalText(text []byte) error {
	location, err := time.LoadLocation(string(text))
	if err != nil || string(text) == "Local" {
		return fmt.Errorf("%q is not an IANA time zone such as Europe/Warsaw", text)
	}
	z.Location = location
	return nil
}

// logLevel is a level in the guide's words.
type logLevel struct{ slog.Level }

func (l *logLevel) UnmarshalText(text []byte) error {
	for level, name := range levelNames {
		if strings.EqualFold(name, string(text)) {
			l.Level = level
			return nil
		}
	}
	return fmt.Errorf("%q is not DEBUG, INFO, WARNING or ERROR", text)
}
