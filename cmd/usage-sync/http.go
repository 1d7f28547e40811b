package main

import (
	"context"
	"errors"
	"time"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/job/httpapi"
	"usage-sync/job/webhook"
	"usage-sync/store"
)

type httpCmd struct {
	passFlags
	alertFlags
	deliveryFlags
	MaxSessionAge time.Duration `placeholder:"D" env:"USAGE_SYNC_MAX_SESSION_AGE" help:"Refuse Open WebUI sessions that began longer ago, or that do not say when. Default: a session holds as long as it says itself."`
}

// deliveryFlags say what becomes of deliveries of which it is not known whose they are.
type deliveryFlags struct {
	Unnamed  string `name:"unnamed-deliveries" enum:"spool,accept" default:"spool" env:"USAGE_SYNC_UNNAMED_DELIVERIES" help:"What to do with deliveries that do not name their key: spool keeps them; accept takes them for usage of the only organisation. Accept them only where the destination at OpenRouter has this client's key selected."`
	SpoolDir string `place:"beside" name:"spool-dir" placeholder:"PATH" env:"USAGE_SYNC_SPOOL" help:"Where deliveries wait until it is known whose they are. Default: beside the database, with .usage-sync.spool behind its name."`
}

func (f deliveryFlags) acceptUnnamed() bool { return f.Unnamed == "accept" }

func (f deliveryFlags) spool(a *app) (webhook.Spool, error) {
	if f.SpoolDir != "" {
		return webhook.Spool{Dir: f.SpoolDir, Like: a.cli.DB}, nil
	}
	if err := job.CheckVolume(a.cli.DB, a.cli.Volume); err != nil {
		return webhook.Spool{}, err
	}
	dir, err := job.Beside(a.cli.DB, ".usage-sync.spool")
	return webhook.Spool{Dir: dir, Like: a.cli.DB}, err
}

func (*httpCmd) Help() string {
	return "Answers exactly one HTTP/1.1 request and ends: systemd holds the socket and starts a process for each connection\n" +
		"(Accept=yes, StandardInput=socket). Routes under " + httpapi.Prefix + ":\n\n" +
		"  POST /webhook/openrouter-usage         records usage (the webhook's secret)\n" +
		"  POST /sync/openrouter-usage            makes one pass (administrators)\n" +
		"  GET  /usage/real-time/{client_org_id}  shows usage (members, administrators)\n" +
		"  POST /usage/manual-record              records by hand (administrators)\n" +
		"  GET  /health                           says how passes went (anybody)\n\n" +
		"The webhook takes OpenRouter's Broadcast and the guide's payload; usage is shown as 'usage --json' does.\n\n" +
		"Secrets come from the environment, from files, or as credentials of the unit: WEBUI_SECRET_KEY (webui-secret-key),\n" +
		"USAGE_SYNC_WEBHOOK_SECRET (webhook-secret) and USAGE_SYNC_API_TOKEN (api-token). Without one its routes answer 503.\n\n" +
		"Whatever a client does wrong is answered and no failure of the process. Where the answer is 5xx for a reason on our side,\n" +
		"the exit code says which."
}

// ExitHelp lists the exit codes.
func (*httpCmd) ExitHelp() string {
	return exitHelp(exitOK, exitUsage, exitDataErr, exitNoInput, exitUnavailable, exitCantCreat,
		exitIOErr, exitTempFail, exitNoPerm, exitConfig)
}

// Validate runs before anything else.
func (c *httpCmd) Validate() error {
	if c.MaxSessionAge < 0 {
		return errors.New("--max-session-age: can't be negative")
	}
	return errors.Join(c.passFlags.check(), c.alertFlags.check())
}

// Run answers one request.
func (c *httpCmd) Run(a *app) error {
	a.answering = true
	api := &httpapi.API{
		Log: a.log, Now: a.now, Zone: a.cli.Timezone.Location,
		Open:    a.openFor,
		Spool:   func() (webhook.Spool, error) { return c.spool(a) },
		Secrets: httpSecrets,
		Sync:    func(daysBack int) (job.Report, error) { return c.sync(a, daysBack) },
		Usage:   func(u store.Usage) any { return usageJSON(u) },
		Health:  func() httpapi.Health { return c.health(a) },

		AcceptUnnamed: c.acceptUnnamed(),
		MaxSessionAge: c.MaxSessionAge,
	}
	return api.ServeStdio(a.ctx, a.stdin, unchecked(a.stdout))
}

// sync makes one pass, which logs what fails as it happens.
func (c *httpCmd) sync(a *app, daysBack int) (job.Report, error) {
	report, err := c.pass(a, job.Pass{DaysBack: daysBack, Alerts: c.settings()})
	for i, o := range report.Organisations {
		report.Organisations[i].Err = reported(o.Err)
	}
	return report, err
}

// openFor opens the database for one request, with our own tables where it is to be written.
func (a *app) openFor(ctx context.Context, mode store.Mode) (*store.Store, error) {
	if mode == store.ReadWrite {
		return a.writable(ctx)
	}
	return a.readable(ctx)
}

// health is what status says, without a word about whose passes they were.
func (c *httpCmd) health(a *app) httpapi.Health {
	h, err := a.health(c.lockFlag, c.rule(a), nil)
	if err != nil {
		a.log.Error(describe(err))
		return httpapi.Health{Status: alert.StateUnknown.String(), Running: h.running}
	}
	state := h.state()
	out := httpapi.Health{Well: state == alert.StateOK || state == alert.StateWarning,
		Status: state.String(), Running: h.running}
	if at := alert.LastSuccess(h.organisations); !at.IsZero() {
		out.LastSuccess = &at
	}
	return out
}
