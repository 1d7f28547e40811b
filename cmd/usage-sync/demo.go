package main

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
	"usage-sync/job/reconcile"
	"usage-sync/job/report"
	"usage-sync/store"
)

type demoCmd struct {
	Keep bool `help:"Keep the throw-away database, and say which commands to try on it."`
}

func (*demoCmd) Help() string {
	return "Tells the story of one client on a throw-away database, against a stand-in of OpenRouter on a loopback address: a first\n" +
		"pass, one that adds what is new, one that adds nothing, the comparison with OpenRouter's own figures, and the client's\n" +
		"statement."
}

// ExitHelp lists the exit codes.
func (*demoCmd) ExitHelp() string {
	return exitHelp(exitOK, exitUsage, exitCantCreat)
}

// errDemo: the throw-away database can't be made.
var errDemo = job.NewError(job.KindOutputFile, "throw-away database")

// demoClient is the client of the story. Its key opens nothing.
var demoClient = store.NewOrganisation{ID: "acme", Name: "Acme GmbH", Key: "sk-or-v1-demo-acme",
	Rate: 1.3, Timezone: "Europe/Berlin"}

const demoManagementKey = "sk-or-v1-demo-management"

// Run shows the job. Where the reader of standard output goes away, it still removes what it has made.
func (c *demoCmd) Run(a *app) (err error) {
	signal.Ignore(syscall.SIGPIPE)
	dir, err := os.MkdirTemp("", "usage-sync-demo-")
	if err != nil {
		return fmt.Errorf("%w: %w", errDemo, err)
	}
	path := filepath.Join(dir, "webui.db")
	if !c.Keep {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	own := *a
	own.cli.DB, own.cli.Volume, own.cli.Timezone, own.log = path, "", zone{time.UTC},
		newLogger(a.stdout, "text", slog.LevelInfo)
	d := &demo{app: &own, paint: painter(a.stdout)}
	d.clock.Store(a.now().UnixNano())
	d.server = standin.New(d.now)
	d.server.SetKey(demoClient.Key, standin.Key{Name: demoClient.Name})
	d.server.AddManagementKey(demoManagementKey)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: d.server, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	d.flags = passFlags{sourceFlags: sourceFlags{managementFlag: managementFlag{demoManagementKey},
		BaseURL: "http://" + listener.Addr().String() + "/api/v1", Source: job.SourceAnalytics}, Timeout: time.Minute}
	if err := store.CreateDemo(a.ctx, path, []store.NewOrganisation{demoClient}, d.now()); err != nil {
		return err
	}
	if err := d.play(); err != nil {
		return err
	}
	if c.Keep {
		d.title("The database is kept. Try, and remove its directory when you have seen enough:")
		for _, command := range []string{"usage", "history", "report --for owner --from " + string(d.yesterday())} {
			fmt.Fprintf(a.stdout, "usage-sync --db %s %s\n", path, command)
		}
		return nil
	}
	d.title("Nothing is left of it. 'usage-sync demo --keep' leaves the database, to try other commands on")
	return nil
}

type demo struct {
	*app
	flags  passFlags
	server *standin.Server
	clock  atomic.Int64 // Unix nanoseconds: the stand-in reads it as it answers

	paint func(attributes, text string) string
}

func (d *demo) now() time.Time { return time.Unix(0, d.clock.Load()) }

// yesterday is the client's.
func (d *demo) yesterday() store.Day {
	berlin, err := time.LoadLocation(demoClient.Timezone)
	if err != nil {
		berlin = time.UTC
	}
	return store.DayOf(d.now(), berlin).Add(-1)
}

// play tells the story, until its reader goes away.
func (d *demo) play() error {
	for _, part := range []func() error{d.first, d.more, d.prove, d.bill} {
		if err := cmp.Or(part(), d.gone()); err != nil {
			return err
		}
	}
	return nil
}

// gone is an error where nobody reads any more, as after "| head -1".
func (d *demo) gone() error {
	if out, ok := d.stdout.(*checkedWriter); ok && errors.Is(out.err, syscall.EPIPE) {
		return reported(&interrupted{syscall.SIGPIPE})
	}
	return nil
}

func (d *demo) first() error {
	d.title("Acme GmbH pays OpenRouter's cost times 1.3. It has made 40 requests since yesterday. The first pass:")
	d.use("first", 40, 30*time.Hour)
	_, err := d.pass()
	return err
}

func (d *demo) more() error {
	d.title("A pass ten minutes later, with 3 requests more, and another one, with none:")
	d.log = newLogger(d.stdout, "text", slog.LevelWarn)
	for _, count := range []int{3, 0} {
		d.clock.Add(int64(10 * time.Minute))
		d.use("more", count, 5*time.Minute)
		run, err := d.pass()
		if err != nil {
			return err
		}
		fmt.Fprintf(d.stdout, "%s %s new, %s: %s at OpenRouter, %s for the client; asked with %s\n", d.paint("32", "✓"),
			store.Grouped(run.Recorded), store.Counted(run.Tokens, "token"), run.Raw.Dollars(),
			d.paint("32", run.Markup.Dollars()), store.Counted(run.Requests, "request"))
	}
	return nil
}

func (d *demo) prove() error {
	d.title("Is that what OpenRouter itself says was used? (usage-sync reconcile)")
	all, err := d.flags.compare(d.app,
		reconcile.Reconciliation{Period: reconcile.Period{From: d.yesterday(), To: d.yesterday().Add(1)}})
	if err != nil {
		return err
	}
	return reconcile.Results{Comparisons: all}.Write(d.stdout, reconcile.Text)
}

func (d *demo) bill() error {
	d.title("What Acme GmbH is sent (usage-sync report)")
	return d.withStore(d.readable, func(db *store.Store) error {
		statements, err := report.Make(d.ctx, db, report.Request{Zone: time.UTC,
			Period: report.Asked{From: d.yesterday()}, For: report.Client, Now: d.now()})
		if err != nil {
			return err
		}
		return report.Write(d.stdout, report.Text, columns(d.stdout), statements)
	})
}

func (d *demo) title(text string) { fmt.Fprintln(d.stdout, d.paint("1;36", "== "+text)) }

// use lets OpenRouter list usage of the client, spread evenly over the time before now.
func (d *demo) use(label string, count int, before time.Duration) {
	models := []struct{ name, permanent string }{
		{"openai/gpt-4.1", "openai/gpt-4.1-2025-04-14"},
		{"deepseek/deepseek-chat-v3", "deepseek/deepseek-chat-v3-20250324"},
	}
	users := []string{"anna", "ben", "anna"}
	for i := range count {
		model, created := models[i%len(models)], d.now().Add(-before*time.Duration(i+1)/time.Duration(count+1))
		d.server.Add(string(demoClient.Key), standin.Generation{
			ID:           fmt.Sprintf("gen-%d-%s%03d", created.Unix(), label, i),
			CreatedAt:    created,
			Model:        model.name,
			Permaslug:    model.permanent,
			ExternalUser: users[i%len(users)],
			PromptTokens: int64(4000 + 370*i), CompletionTokens: int64(1000 + 110*i),
			Cost: fmt.Sprintf("0.0%03d5", 100+i*17),
		})
	}
}

// pass makes one pass, as the command sync does.
func (d *demo) pass() (store.Run, error) {
	d.cli.Now = d.now()
	report, err := d.flags.pass(d.app, job.Pass{DaysBack: 1})
	if err == nil {
		err = outcome(report)
	}
	if err != nil {
		return store.Run{}, err
	}
	return report.Organisations[0].Run, nil
}
