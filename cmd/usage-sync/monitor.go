package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/job/monitor"
	"usage-sync/store"
)

// monitorFlags say whom a pass tells what became of it.
type monitorFlags struct {
	MetricsFile   string `place:"beside" placeholder:"PATH" env:"USAGE_SYNC_METRICS_FILE" help:"Write metrics into this file after each pass, for Prometheus' textfile collector, which wants a name that ends in .prom."`
	MetricsModels bool   `env:"USAGE_SYNC_METRICS_MODELS" help:"With the cost of each model: a series per organisation and model."`
	PingURL       string `name:"ping-url" placeholder:"URL" env:"USAGE_SYNC_PING_URL" help:"Tell URL/start that a pass starts, and URL or URL/<exit code> how it ended; https, or http to a loopback address."`
}

// metricsTimeout is how long the database may take to say what goes into the metrics file.
const metricsTimeout = 15 * time.Second

// monitoring accompanies one run of a pass. None of what it does changes what the pass has done.
type monitoring struct {
	monitorFlags
	app     *app
	started time.Time
	rule    alert.Rule
	pinger  *monitor.Pinger // nil where nobody is to be told
}

// start tells that a run starts.
func (f monitorFlags) start(a *app, rule alert.Rule) *monitoring {
	m := &monitoring{monitorFlags: f, app: a, started: a.now(), rule: rule}
	if f.PingURL == "" {
		return m
	}
	pinger, err := monitor.NewPinger(f.PingURL, version())
	if err != nil {
		a.log.Warn(fmt.Sprintf("Nobody is told how this pass ends: %v; check --ping-url (USAGE_SYNC_PING_URL)", err))
		return m
	}
	m.pinger = pinger
	a.tail = &monitor.Tail{}
	a.log = a.logger(a.stderr)
	log := a.log
	pinger.Start(context.WithoutCancel(a.ctx), func(err error) { log.Warn(err.Error()) })
	return m
}

// endBug, deferred, also tells of a run that a bug has ended.
func (m *monitoring) endBug() {
	if bug := recover(); bug != nil {
		_ = m.end(job.Report{}, fmt.Errorf("a bug: %v", bug))
		panic(bug)
	}
}

// end tells what became of the pass, and returns its error. Only where it has none of its own, the error may be
// that the metrics file can't be made.
func (m *monitoring) end(report job.Report, err error) error {
	if m.MetricsFile != "" {
		fileErr := m.writeMetrics(report, err)
		switch {
		case !errors.Is(fileErr, monitor.ErrMetricsFile):
			// Whatever else it is, a pass that has failed has said it already.
			if fileErr != nil && err == nil {
				m.app.log.Warn(fmt.Sprintf("The metrics are not complete: %v", fileErr))
			}
		case err == nil:
			err = fileErr
		default:
			m.app.log.Error(describe(fileErr))
		}
	}
	if m.pinger != nil {
		ctx := context.WithoutCancel(m.app.ctx)
		if pingErr := m.pinger.End(ctx, exitCode(err), summary(report, err), m.app.tail.String()); pingErr != nil {
			m.app.log.Warn(pingErr.Error())
		}
	}
	return err
}

func (m *monitoring) writeMetrics(report job.Report, err error) error {
	a := m.app
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), metricsTimeout)
	defer cancel()
	file := monitor.MetricsFile{Path: m.MetricsFile, Instance: a.cli.Instance,
		Version: version(), Models: m.MetricsModels, Interval: time.Duration(a.cli.Interval) * time.Second,
		Database: a.cli.DB, Zone: a.cli.Timezone.Location, Rule: m.rule}
	db, openErr := a.open(ctx, store.ReadOnly)
	if openErr == nil {
		defer db.Close()
	}
	run := monitor.Run{StartedAt: m.started, EndedAt: a.now(), ExitCode: exitCode(err), Err: err, Report: report}
	return errors.Join(file.Write(ctx, db, run), openErr)
}

// summary is the first line of a ping's body.
func summary(report job.Report, err error) string {
	text := fmt.Sprintf("usage-sync %s: exit %d", version(), exitCode(err))
	if total := len(report.Organisations); total > 0 {
		text += fmt.Sprintf(", %d/%d organizations synced", report.Synced(), total)
	}
	if err != nil {
		text += ": " + describe(err)
	}
	return text
}
