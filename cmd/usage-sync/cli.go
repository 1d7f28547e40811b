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
	"strconv"
	"strings"
	"sync/atomic"
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
	settings `group:"Flags of every command:"`
	commands
}

// settings are the flags of every command.
type settings struct {
	DB          string    `name:"db" placeholder:"PATH" env:"USAGE_SYNC_DB" default:"/app/backend/data/webui.db" help:"The container's database."`
	Instance    string    `short:"i" placeholder:"NAME" env:"USAGE_SYNC_INSTANCE" predictor:"instance" help:"A container of this host: takes the settings of NAME.env in the configuration directory, below flags and environment. Metrics bear the name; there the default is that of the metrics file without usage-sync- and .prom."`
	ConfigDir   string    `placeholder:"DIR" env:"USAGE_SYNC_CONFIG_DIR" default:"/etc/usage-sync" help:"Directory of the instances' settings."`
	Volume      string    `hidden:"" placeholder:"DIR" env:"USAGE_SYNC_VOLUME" help:"Where the database must lie, whatever leads to it; set by discover."`
	Timezone    zone      `placeholder:"TZ" env:"USAGE_SYNC_TIMEZONE" default:"UTC" help:"Calendar of organisations without a timezone of their own."`
	Today       string    `enum:"auto,live,daily" placeholder:"WHERE" env:"USAGE_SYNC_TODAY" default:"auto" help:"Where the application looks for today: in its live counter, in a daily row, or auto by its tables."`
	LogLevel    logLevel  `placeholder:"LEVEL" env:"LOG_LEVEL" default:"INFO" help:"DEBUG, INFO, WARNING or ERROR."`
	LogFormat   string    `enum:"text,json" env:"USAGE_SYNC_LOG_FORMAT" default:"text" help:"Format of the log: text or json."`
	AllowMarkup rate      `placeholder:"RATE" env:"USAGE_SYNC_ALLOW_MARKUP" help:"The highest markup rate that is believed, where that is more than 10."`
	MaxCost     dollars   `placeholder:"DOLLARS" env:"USAGE_SYNC_MAX_COST" help:"The raw cost that is believed of one generation, where that is more than 1000."`
	JSON        bool      `name:"json" help:"Print results as JSON."`
	Now         time.Time `hidden:"" placeholder:"RFC3339" env:"USAGE_SYNC_NOW" help:"The time to take for now; for tests and support."`
	Interval    int       `hidden:"" placeholder:"SECONDS" env:"OPENROUTER_USAGE_SYNC_INTERVAL" default:"600" help:"Seconds between two passes; 0 switches polling off."`

	Version kong.VersionFlag `short:"V" help:"Print the version."`
}

type commands struct {
	Sync        syncCmd        `cmd:"" default:"withargs" help:"Make one sync pass (the default command)."`
	Usage       usageCmd       `cmd:"" help:"Show today, this month and the last days of organisations."`
	Report      reportCmd      `cmd:"" help:"Write statements of what organisations used in a month or any other period."`
	Rates       ratesCmd       `cmd:"" help:"Show since when which markup rate holds, and correct it."`
	Record      recordCmd      `cmd:"" help:"Record usage by hand, for tests and corrections."`
	Migrate     migrateCmd     `cmd:"" help:"Create or check the usage tables."`
	Doctor      doctorCmd      `cmd:"" help:"Examine everything a pass depends on, and say what to do."`
	Status      statusCmd      `cmd:"" help:"Judge the last passes, for monitoring systems."`
	History     historyCmd     `cmd:"" help:"Show the last passes."`
	Reconcile   reconcileCmd   `cmd:"" help:"Compare the tables with OpenRouter's own figures, day by day and model by model."`
	Takeover    takeoverCmd    `cmd:"" help:"Show what others have counted, and decide what becomes of it."`
	Gaps        gapsCmd        `cmd:"" help:"Show which usage is known to be missing, and accept that it is."`
	Backup      backupCmd      `cmd:"" help:"Copy the database, or its usage tables, beside the running application."`
	Restore     restoreCmd     `cmd:"" help:"Put the usage tables of a backup back."`
	Discover    discoverCmd    `cmd:"" help:"Find the containers of this host that have a database, and configure them."`
	Ingest      ingestCmd      `cmd:"" help:"Record usage from webhook payloads in files."`
	HTTP        httpCmd        `cmd:"" name:"http" help:"Answer one HTTP request on standard input and output."`
	Demo        demoCmd        `cmd:"" help:"Tell the story of one client, against a built-in stand-in of OpenRouter."`
	Completions completionsCmd `cmd:"" help:"Print what enables completion in a shell."`
	Man         manCmd         `cmd:"" hidden:"" help:"Print the manual page."`
}

// grammar is what the arguments are parsed by. Where they begin with a command, as those of units do, that command is
// enough, and where no word is one, the default command: to build the others takes a third of the time of a short run.
// Help, the manual and completion need them all.
func (c *cli) grammar(args []string) (any, []kong.Option) {
	if slices.Contains(args, "man") || slices.Contains(args, "--help") || slices.Contains(args, "-h") ||
		os.Getenv("COMP_LINE") != "" {
		return c, nil
	}
	all := reflect.ValueOf(&c.commands).Elem()
	chosen, tags := 0, []string{string(all.Type().Field(0).Tag)}
	for i := range all.NumField() {
		switch slices.Index(args, nameOf(all.Type().Field(i))) {
		case -1:
		case 0:
			chosen, tags = i, nil
		default:
			if tags != nil {
				return c, nil // a command behind flags, or a value that is called like one
			}
		}
	}
	field := all.Type().Field(chosen)
	command := kong.DynamicCommand(nameOf(field), field.Tag.Get("help"), "",
		all.Field(chosen).Addr().Interface(), tags...)
	return &c.settings, []kong.Option{command}
}

// nameOf is the name of a field of commands on the command line.
func nameOf(field reflect.StructField) string {
	return cmp.Or(field.Tag.Get("name"), strings.ToLower(field.Name))
}

// forgetEmpty makes an empty variable of a flag the same as none: compose files pass on what is not set as "".
func forgetEmpty(parser *kong.Kong) error {
	return kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		if flag, ok := node.(*kong.Flag); ok {
			for _, name := range flag.Envs {
				if os.Getenv(name) == "" {
					_ = os.Unsetenv(name)
				}
			}
		}
		return next(nil)
	})
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
	Org []string `placeholder:"ID-OR-NAME" sep:"none" predictor:"organisation" env:"USAGE_SYNC_ORG" help:"An organisation, by id or by name; repeatable. Default: every active one."`
}

// lockFlag names the lock file.
type lockFlag struct {
	Lock string `place:"beside" placeholder:"PATH" env:"USAGE_SYNC_LOCK" help:"Lock file. Default: beside the database, with .usage-sync.lock behind its name."`
}

// path is the lock file's, of a database that is there.
func (f lockFlag) path(a *app) (string, error) {
	if err := job.CheckVolume(a.cli.DB, a.cli.Volume); err != nil {
		return "", err
	}
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
	tail           *monitor.Tail           // of the log; nil where nobody asks for it
	command        string                  // what was chosen, for its --help
	committed      *atomic.Pointer[string] // what is done for good; nil where nothing is
	loose          error                   // why the process is not confined; nil where it is
	watchdog       *watchdog               // of the command
	answering      bool                    // standard output is the client's of an HTTP request: no result is printed there
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

// open opens the database as it is.
func (a *app) open(ctx context.Context, mode store.Mode) (*store.Store, error) {
	if err := job.CheckVolume(a.cli.DB, a.cli.Volume); err != nil {
		return nil, err
	}
	db, err := store.Open(ctx, a.cli.DB, mode)
	if err == nil {
		db.KeepToday(store.TodayIn(a.cli.Today))
		db.AllowRate(store.Rate(a.cli.AllowMarkup))
		db.AllowCost(store.Money(a.cli.MaxCost))
	}
	return db, err
}

// readable opens the database to read, and checks the guide's tables.
func (a *app) readable(ctx context.Context) (*store.Store, error) {
	return a.checked(ctx, store.ReadOnly)
}

// writable opens the database to write, with the guide's tables and our own.
func (a *app) writable(ctx context.Context) (*store.Store, error) {
	db, err := a.checked(ctx, store.ReadWrite)
	if err != nil {
		return nil, err
	}
	if err := db.EnsureOwnTables(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

func (a *app) checked(ctx context.Context, mode store.Mode) (*store.Store, error) {
	db, err := a.open(ctx, mode)
	if err != nil {
		return nil, err
	}
	if err := db.CheckSchema(ctx); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// withStore runs fn with the database that open opens, and closes it.
func (a *app) withStore(open func(context.Context) (*store.Store, error), fn func(*store.Store) error) error {
	db, err := open(a.ctx)
	if err != nil {
		return err
	}
	return errors.Join(fn(db), a.late(db.Close()))
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

// dollars is an amount of money on the command line.
type dollars store.Money

func (d *dollars) UnmarshalText(text []byte) error {
	amount, err := store.ParseMoney(string(text))
	if err == nil && amount <= 0 {
		err = fmt.Errorf("%.40q is not more than nothing", text)
	}
	*d = dollars(amount)
	return err
}

// rate is a markup rate on the command line.
type rate store.Rate

func (r *rate) UnmarshalText(text []byte) error {
	factor, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return fmt.Errorf("%.40q is not a markup rate such as 1.3", text)
	}
	parsed, err := store.RateFromFloat(factor)
	*r = rate(parsed)
	return err
}

// pythonLevels are the other names that Python's logging knows, as the container's environment may hold one:
// what it does must not keep usage from being recorded. There is nothing above an error here
// (https://docs.python.org/3/library/logging.html#logging-levels).
var pythonLevels = map[string]slog.Level{
	"WARN": slog.LevelWarn, "CRITICAL": slog.LevelError, "FATAL": slog.LevelError, "NOTSET": slog.LevelDebug,
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
	if level, ok := pythonLevels[strings.ToUpper(string(text))]; ok {
		l.Level = level
		return nil
	}
	return fmt.Errorf("%q is not DEBUG, INFO, WARNING or ERROR", text)
}
