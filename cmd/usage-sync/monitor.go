package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"usage-sync/job"
	"usage-sync/job/monitor"
	"usage-sync/store"
)

// monitorFlags say whom a pass tells what became of it.
type monitorFlags struct {
	MetricsFile   string `placeholder:"PATH" env:"USAGE_SYNC_METRICS_FILE" help:"Write metrics into this file after each pass, for Prometheus' textfile collector, which wants a name that ends in .prom."`
	MetricsModels bool   `env:"USAGE_SYNC_METRICS_MODELS" help:"With the cost of each model: a series per organisation and model."`
	Instance      string `placeholder:"NAME" env:"USAGE_SYNC_INSTANCE" help:"What the metrics call this container. Default: the name of the metrics file without usage-sync- and .prom."`
	PingURL       string `name:"ping-url" placeholder:"URL" env:"USAGE_SYNC_PING_URL" help:"Tell URL/start that a pass starts, and URL or URL/<exit code> how it ended; https, or http to a loopback address."`
}

// metricsPatience is how long the database may take to say what goes into the metrics file.
const metricsPatience = 15 * time.Second

// watch accompanies one run of a pass. None of what it does changes what the pass has done.
type watch struct {
	*monitorFlags
	app     *app
	started time.Time
	judge   monitor.JudgeFunc
	pinger  *monitor.Pinger // nil where nobody is to be told
}

// watch starts to watch a run.
func (f *monitorFlags) watch(a *app, settings monitor.Settings) *watch {
	return &watch{monitorFlags: f, app: a, started: a.now(), judge: settings.JudgeFunc(a.now())}
}

// startPing tells that a pass starts, and lets end tell how it ended.
func (w *watch) startPing() {
	a := w.app
	if w.PingURL == "" {
		return
	}
	pinger, err := monitor.NewPinger(w.PingURL, version())
	if err != nil {
		a.log.Warn(fmt.Sprintf("Nobody is told how this pass ends: %v; check --ping-url (USAGE_SYNC_PING_URL)", err))
		return
	}
	w.pinger = pinger
	a.tail = &monitor.Tail{}
	a.log = a.logger(a.stderr)
	log := a.log
	pinger.Start(context.WithoutCancel(a.ctx), func(err error) { log.Warn(err.Error()) })
}

// end tells what became of the pass, and returns its error. Only where it has none of its own, the error may be that the
// metrics file can't be made.
func (w *watch) end(report job.Report, err error) error {
	if w.MetricsFile != "" {
		fileErr := w.writeMetrics(report, err)
		switch {
		case !errors.Is(fileErr, monitor.ErrMetricsFile):
			// Whatever else it is, a pass that has failed has said it already.
			if fileErr != nil && err == nil {
				w.app.log.Warn(fmt.Sprintf("The metrics are not complete: %v", fileErr))
			}
		case err == nil:
			err = fileErr
		default:
			w.app.log.Error(describe(fileErr))
		}
	}
	if w.pinger != nil {
		if pingErr := w.pinger.End(context.WithoutCancel(w.app.ctx), exitCode(err), summary(report, err), w.app.tail.String()); pingErr != nil {
			w.app.log.Warn(pingErr.Error())
		}
	}
	return err
}

func (w *watch) writeMetrics(report job.Report, err error) error {
	a := w.app
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), metricsPatience)
	defer cancel()
	file := monitor.MetricsFile{Path: w.MetricsFile, Instance: w.Instance, Version: version(), Models: w.MetricsModels,
		Interval: time.Duration(a.cli.Interval) * time.Second, Database: a.cli.DB, Zone: a.cli.Timezone.Location, Judge: w.judge}
	db, openErr := store.Open(ctx, a.cli.DB, store.ReadOnly)
	if openErr == nil {
		defer db.Close()
	}
	run := monitor.Run{StartedAt: w.started, EndedAt: a.now(), ExitCode: exitCode(err), Err: err, Report: report}
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
