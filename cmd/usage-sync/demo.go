package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

type demoCmd struct {
	Keep bool `help:"Keep the throw-away database and say where it is."`
}

func (*demoCmd) Help() string {
	return "Makes whole passes over a throw-away database with two organisations, against a stand-in of OpenRouter on a loopback\n" +
		"address: a first pass, new usage and a second pass that adds only that, and a third that adds nothing."
}

// ExitHelp lists the exit codes.
func (*demoCmd) ExitHelp() string {
	return exitHelp(exitOK, exitUsage, exitCantCreat)
}

// errDemo: the throw-away database can't be made.
var errDemo = job.NewError(job.KindOutputFile, "throw-away database")

// The demo's clients. Neither key opens anything.
var demoClients = []store.NewOrganisation{
	{ID: "acme", Name: "Acme GmbH", Key: "sk-or-v1-demo-acme", Rate: 1.3, Timezone: "Europe/Berlin"},
	{ID: "globex", Name: "Globex Sp. z o.o.", Key: "sk-or-v1-demo-globex", Rate: 1.5, Timezone: "Europe/Warsaw"},
}

const demoManagementKey = "sk-or-v1-demo-management"

// Run shows the job.
func (c *demoCmd) Run(a *app) (err error) {
	dir, err := os.MkdirTemp("", "usage-sync-demo-")
	if err != nil {
		return fmt.Errorf("%w: %w", errDemo, err)
	}
	path := filepath.Join(dir, "webui.db")
	if c.Keep {
		defer fmt.Fprintf(a.stdout, "\nThe database is kept: usage-sync --db %s usage\n", path)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	own := *a
	own.cli.DB, own.cli.Volume, own.cli.Timezone, own.log = path, "", zone{time.UTC}, newLogger(a.stdout, "text", slog.LevelInfo)
	d := &demo{app: &own, coloured: isTerminal(a.stdout) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
	d.clock.Store(a.now().UnixNano())
	d.server = standin.New(d.now)
	for _, client := range demoClients {
		d.server.SetKey(client.Key, standin.Key{Name: client.Name})
	}
	d.server.AddManagementKey(demoManagementKey)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: d.server, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }()
	defer server.Close()
	d.url = "http://" + listener.Addr().String() + "/api/v1"
	if err := store.CreateDemo(a.ctx, path, demoClients, d.now()); err != nil {
		return err
	}
	return d.play()
}

type demo struct {
	*app
	server *standin.Server
	url    string
	clock  atomic.Int64 // Unix nanoseconds: the stand-in reads it as it answers

	coloured bool // a terminal shows it, and nobody has set NO_COLOR (https://no-color.org)
}

func (d *demo) now() time.Time { return time.Unix(0, d.clock.Load()) }

func (d *demo) play() error {
	d.title("A container's database with two organisations, and what OpenRouter lists for them")
	d.use("acme", "first", 40, 30*time.Hour)
	d.use("globex", "first", 25, 20*time.Hour)
	for _, step := range []struct {
		title string
		do    func()
	}{
		{"First pass: everything since yesterday's midnight", func() {}},
		{"Ten minutes later, new usage has arrived. Second pass: only that is added", func() {
			d.clock.Add(int64(10 * time.Minute))
			d.use("acme", "second", 3, 5*time.Minute)
		}},
		{"Ten minutes later, nothing new. Third pass: two requests each, nothing is added", func() {
			d.clock.Add(int64(10 * time.Minute))
		}},
	} {
		step.do()
		d.title(step.title)
		if err := d.pass(); err != nil {
			return err
		}
	}
	return nil
}

func (d *demo) title(text string) {
	fmt.Fprintln(d.stdout, d.colour("1;36", "\n== "+text))
}

// colour wraps a text into an SGR sequence (ECMA-48, 8.3.117).
func (d *demo) colour(attributes, text string) string {
	if !d.coloured {
		return text
	}
	return "\x1b[" + attributes + "m" + text + "\x1b[0m"
}

// use lets OpenRouter list usage of a client, spread evenly over the time before now.
func (d *demo) use(client, label string, count int, before time.Duration) {
	models := []struct{ name, permanent string }{
		{"openai/gpt-4.1", "openai/gpt-4.1-2025-04-14"},
		{"deepseek/deepseek-chat-v3", "deepseek/deepseek-chat-v3-20250324"},
		{"google/gemini-2.5-flash", "google/gemini-2.5-flash"}, // it has no dated name
	}
	users := []string{"anna", "ben", ""}
	for i := range count {
		model, created := models[i%len(models)], d.now().Add(-before*time.Duration(i+1)/time.Duration(count+1))
		d.server.Add("sk-or-v1-demo-"+client, standin.Generation{
			ID:           fmt.Sprintf("gen-%d-%s%s%03d", created.Unix(), client, label, i),
			CreatedAt:    created,
			Model:        model.name,
			Permaslug:    model.permanent,
			ExternalUser: users[i%len(users)],
			PromptTokens: int64(400 + 37*i), CompletionTokens: int64(100 + 11*i),
			Cost: fmt.Sprintf("0.00%03d5", 100+i*7),
		})
	}
}

// pass makes one pass, as the command sync does, and shows what it did and what the dashboard then shows.
func (d *demo) pass() error {
	d.cli.Now = d.now()
	flags := passFlags{sourceFlags: sourceFlags{managementFlag: managementFlag{demoManagementKey},
		BaseURL: d.url, Source: job.SourceAnalytics}, Timeout: time.Minute}
	report, err := flags.pass(d.app, job.Pass{DaysBack: 1})
	if err == nil {
		err = outcome(report)
	}
	if err != nil {
		return err
	}
	for _, o := range report.Organisations {
		fmt.Fprintf(d.stdout, "%s %s: %d new, %d known, %d tokens, raw $%s, marked up %s, %d requests\n",
			d.colour("32", "✓"), o.Organisation.Name, o.Run.Recorded, o.Run.Duplicates, o.Run.Tokens, o.Run.Raw,
			d.colour("32", "$"+o.Run.Markup.String()), o.Run.Requests)
	}
	return d.withStore(d.readable, func(db *store.Store) error { return d.show(db, report) })
}

// show prints what the dashboard shows.
func (d *demo) show(db *store.Store, report job.Report) error {
	for _, o := range report.Organisations {
		u, err := db.Usage(d.ctx, o.Organisation, d.now(), 2)
		if err != nil {
			return err
		}
		fmt.Fprintln(d.stdout)
		if err := printUsage(d.app, u, d.now(), false); err != nil {
			return err
		}
	}
	return nil
}
