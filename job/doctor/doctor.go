// Package doctor looks at everything that a sync pass depends on, and says what to do where something is wrong. It
// changes nothing.
package doctor

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// Level is how a finding is to be taken.
type Level int

const (
	OK      Level = iota
	Warning       // passes work, or would, but something is not as it should be
	Failed        // passes can't work, or can't be trusted
	Skipped       // what the check depends on has failed
)

var (
	// errKey: a key works no more, or has nothing left to spend.
	errKey = job.NewError(job.KindKeyRefused, "key can't be used")
	// ErrConfig: what is set can't be right.
	ErrConfig = job.NewError(job.KindConfiguration, "configuration")
	// ErrTimedOut: a check of this machine took longer than it may.
	ErrTimedOut = job.NewError(job.KindTimedOut, "not done in time")
)

// Finding is one line of the examination.
type Finding struct {
	Check        string // its name, the same for all findings of a check
	Organisation string // its name, where the finding is about one
	Level        Level
	Text         string
	Advice       string // what to do; may be empty
	Err          error  // of a failed check
}

// Config is what to examine, and how.
type Config struct {
	Database      string
	LockFile      string         // empty: beside the database
	Organisations []string       // ids or names; none is every active one
	Zone          *time.Location // of organisations that have none of their own
	AllowMarkup   store.Rate     // the highest markup rate that is believed, where that is more than 10
	HostZone      string         // the zone of this machine, an IANA name if it has one
	Now           func() time.Time
	Timeout       time.Duration // of the whole examination

	Client    *openrouter.Client
	ClientErr error // why there is no client

	// ManagementKey returns the account's key and where it is set, or none.
	ManagementKey func(context.Context, *store.Store) (key store.Key, from string, err error)
	// Sources returns the ways to usage that a pass would choose from.
	Sources func(context.Context, *store.Store) (job.Sources, error)
	Health  alert.Rule // by which the last passes are judged
	Loose   error      // why the kernel does not keep this process to its files; nil where it does

	patience map[string]time.Duration // with single checks, in tests; otherwise each has a third of Timeout
}

// check is one thing to look at. It runs when those that it needs have found no fault, and those it comes after
// are done.
type check struct {
	name  string
	needs []string
	after []string
	late  error // what it means that the check takes too long
	run   func(context.Context) []Finding
}

// examination is what checks hand on to those that need them.
type examination struct {
	Config
	file       store.File
	db         *store.Store
	orgs       []store.Organisation
	connection openrouter.Connection
	askedAt    time.Time       // this machine's clock at the server's answer
	refused    map[string]bool // ids of organisations whose key does not work

	end         time.Time     // of the whole examination
	longestRead time.Duration // in which the application can't write
	leftBehind  atomic.Bool
}

// errNoAnswer is what a check that asks the server ends with where it takes too long.
var errNoAnswer = fmt.Errorf("%w: no answer in time", openrouter.ErrUnreachable)

// checks are in the order in which things depend on each other.
func (e *examination) checks() []check {
	return []check{
		{name: "database", late: ErrTimedOut, run: e.checkDatabase},
		{name: "readable", late: ErrTimedOut, run: e.checkReadable, needs: []string{"database"}},
		{name: "writable", late: ErrTimedOut, run: e.checkWritable, needs: []string{"database"}},
		{name: "integrity", late: ErrTimedOut, run: e.checkIntegrity, needs: []string{"readable"}},
		{name: "journal", late: ErrTimedOut, run: e.checkJournal, needs: []string{"database"}},
		{name: "confinement", late: ErrTimedOut, run: e.checkConfinement, needs: []string{"database"}},
		{name: "disk", late: ErrTimedOut, run: e.checkDisk, needs: []string{"database"}},
		{name: "tables", late: ErrTimedOut, run: e.checkTables, needs: []string{"readable"}},
		{name: "organisations", late: ErrTimedOut, run: e.checkOrganisations, needs: []string{"tables"}},
		{name: "markup", late: ErrTimedOut, run: e.checkMarkup, needs: []string{"organisations"}},
		{name: "key hashes", late: ErrTimedOut, run: e.checkKeyHashes, needs: []string{"organisations"}},
		{name: "time zone", late: ErrTimedOut, run: e.checkZone, needs: []string{"organisations"}},
		{name: "books", late: ErrTimedOut, run: e.checkBooks, needs: []string{"organisations"}},
		{name: "gaps", late: ErrTimedOut, run: e.checkGaps, needs: []string{"organisations"}},
		{name: "calendars", late: ErrTimedOut, run: e.checkCalendars, needs: []string{"organisations"}},
		{name: "readers", late: ErrTimedOut, run: e.checkReaders, needs: []string{"tables"}},
		{name: "takeover", late: ErrTimedOut, run: e.checkTakeover, needs: []string{"organisations"}},
		{name: "lock", late: ErrTimedOut, run: e.checkLock, needs: []string{"database"}},
		{name: "base URL", late: ErrTimedOut, run: e.checkBaseURL},
		{name: "DNS", late: errNoAnswer, run: e.checkName, needs: []string{"base URL"}},
		{name: "connection", late: errNoAnswer, run: e.checkConnection, needs: []string{"DNS"}},
		{name: "answer", late: errNoAnswer, run: e.checkAnswer, needs: []string{"connection"}},
		{name: "clock", late: ErrTimedOut, run: e.checkClock, needs: []string{"connection"}},
		{name: "key", late: errNoAnswer, run: e.checkKeys, needs: []string{"organisations", "answer"}},
		{name: "management key", late: errNoAnswer, run: e.checkManagementKey, needs: []string{"tables", "answer"}},
		{name: "source", late: errNoAnswer, run: e.checkSource, needs: []string{"organisations", "answer"},
			after: []string{"key"}},
		{name: "deliveries", late: errNoAnswer, run: e.checkDeliveries, needs: []string{"tables", "answer"}},
		{name: "last pass", late: ErrTimedOut, run: e.checkLastPass, needs: []string{"organisations"}},
	}
}

// Examine makes all checks, each as soon as it can be made, and returns their findings in order. It returns when the
// timeout is over, whatever hangs.
func Examine(ctx context.Context, config Config) []Finding {
	e := &examination{Config: config, refused: map[string]bool{}, end: time.Now().Add(config.Timeout),
		longestRead: longestRead}
	checks := e.checks()
	found := make([][]Finding, len(checks))
	done := map[string]chan struct{}{}
	for _, c := range checks {
		done[c.name] = make(chan struct{})
	}
	index := func(name string) int { return slices.IndexFunc(checks, func(c check) bool { return c.name == name }) }
	var all sync.WaitGroup
	for i, c := range checks {
		all.Go(func() {
			defer close(done[c.name])
			for _, name := range slices.Concat(c.needs, c.after) {
				<-done[name]
			}
			for _, name := range c.needs {
				if !sound(found[index(name)]) {
					found[i] = []Finding{{Check: c.name, Level: Skipped, Text: "depends on " + name}}
					return
				}
			}
			found[i] = e.perform(ctx, c)
		})
	}
	all.Wait()
	if !e.leftBehind.Load() && e.db != nil { // else a check may still be reading
		_ = e.db.Close()
	}
	return slices.Concat(found...)
}

// sound tells whether others may build on what a check has found: one organisation may be enough for them.
func sound(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Level == OK || f.Level == Warning })
}

// hangs is how long a check that was told to end may take until it is left behind.
const hangs = 500 * time.Millisecond

// perform makes one check in its share of the time. What hangs in the kernel, on a dead network disk, can't be told to
// end: it is left behind.
func (e *examination) perform(ctx context.Context, c check) []Finding {
	share, set := e.patience[c.name]
	if !set {
		share = e.Timeout / 3
	}
	deadline := time.Now().Add(share)
	if e.end.Before(deadline) {
		deadline = e.end
	}
	ctx, cancel := context.WithDeadlineCause(ctx, deadline, c.late)
	defer cancel()
	result := make(chan []Finding, 1)
	go func() { result <- c.run(ctx) }()
	var findings []Finding
	select {
	case findings = <-result:
	case <-ctx.Done():
		select {
		case findings = <-result:
		case <-time.After(hangs):
			e.leftBehind.Store(true)
			findings = []Finding{failed(context.Cause(ctx), "")}
		}
	}
	for i := range findings {
		findings[i].Check = c.name
	}
	return findings
}

func ok(format string, args ...any) Finding {
	return Finding{Level: OK, Text: fmt.Sprintf(format, args...)}
}

func warning(advice, format string, args ...any) Finding {
	return Finding{Level: Warning, Text: fmt.Sprintf(format, args...), Advice: advice}
}

func failed(err error, advice string) Finding {
	return Finding{Level: Failed, Text: err.Error(), Advice: advice, Err: err}
}

// about makes a finding one about an organisation.
func (f Finding) about(org store.Organisation) Finding {
	f.Organisation = org.Name
	return f
}
