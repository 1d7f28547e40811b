package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"usage-sync/job"
	"usage-sync/job/httpapi"
	"usage-sync/job/webhook"
	"usage-sync/store"
)

type httpCmd struct {
	passFlags
	watchFlags
	spoolFlag
}

// spoolFlag says where usage is kept of which it can't be told whose it is.
type spoolFlag struct {
	SpoolDir string `name:"spool-dir" placeholder:"PATH" env:"USAGE_SYNC_SPOOL" help:"Where deliveries wait until it is known whose they are. Default: beside the database, with .usage-sync.spool behind its name."`
}

func (f spoolFlag) spool(a *app) (webhook.Spool, error) {
	if f.SpoolDir != "" {
		return webhook.Spool{Dir: f.SpoolDir, Like: a.cli.DB}, nil
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
func (c *httpCmd) Validate() error { return errors.Join(c.passFlags.check(), c.watchFlags.check()) }

// Run answers one request.
func (c *httpCmd) Run(a *app) error {
	a.cli.JSON = false // standard output is the client's
	conn, finish, err := connection(a.stdin, a.stdout)
	if err != nil {
		return err
	}
	api := &httpapi.API{
		Log: a.log, Now: a.now, Zone: a.cli.Timezone.Location,
		Open:    a.openFor,
		Spool:   func() (webhook.Spool, error) { return c.spool(a) },
		Secrets: httpSecrets,
		Sync:    func(daysBack int) (job.Report, error) { return c.sync(a, daysBack) },
		Usage:   func(u store.Usage) any { return usageJSON(u) },
		Health:  func() httpapi.Health { return healthOf(a) },
	}
	return errors.Join(api.Serve(a.ctx, conn), finish())
}

// sync makes one pass, which logs what fails as it happens.
func (c *httpCmd) sync(a *app, daysBack int) (job.Report, error) {
	report, err := (&syncCmd{DaysBack: daysBack, passFlags: c.passFlags, watchFlags: c.watchFlags}).pass(a)
	for i, o := range report.Organisations {
		if o.Err != nil {
			report.Organisations[i].Err = &reportedError{o.Err}
		}
	}
	return report, err
}

// openFor opens the database for one request, with our own tables where it is to be written.
func (a *app) openFor(ctx context.Context, mode store.Mode) (*store.Store, error) {
	request := *a
	request.ctx = ctx
	if mode == store.ReadWrite {
		return request.openPrepared()
	}
	return request.openChecked(mode)
}

// connection makes a connection of standard input and output: they are one already where systemd has started us. Finish
// waits until the answer has been written.
func connection(in io.Reader, out io.Writer) (conn net.Conn, finish func() error, err error) {
	nothing := func() error { return nil }
	if checked, ok := out.(*checkedWriter); ok {
		out = checked.Writer
	}
	stdin, isFile := in.(*os.File)
	stdout, both := out.(*os.File)
	if isFile && both && sameSocket(stdin, stdout) {
		conn, err = net.FileConn(stdin)
		return conn, nothing, err
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	near, err := socket(pair[0])
	if err != nil {
		return nil, nil, err
	}
	far, err := socket(pair[1])
	if err != nil {
		return nil, nil, err
	}
	go func() {
		_, _ = io.Copy(far, in)
		_ = far.CloseWrite()
	}()
	written := make(chan error, 1)
	go func() {
		_, err := io.Copy(out, far)
		written <- err
	}()
	return near, func() error {
		if err := <-written; err != nil {
			return fmt.Errorf("standard output: %w", err)
		}
		return nil
	}, nil
}

func sameSocket(a, b *os.File) bool {
	infoA, errA := a.Stat()
	infoB, errB := b.Stat()
	return errA == nil && errB == nil && infoA.Mode()&os.ModeSocket != 0 && os.SameFile(infoA, infoB)
}

func socket(fd int) (*net.UnixConn, error) {
	file := os.NewFile(uintptr(fd), "socketpair")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// healthOf judges the last passes as status does, and leaves out whose they were.
func healthOf(a *app) httpapi.Health {
	_, running, orgs, err := (&statusCmd{}).look(a)
	if err != nil {
		a.log.Error(describe(err))
		return httpapi.Health{Status: stateNames[stateUnknown], Running: running}
	}
	state := worst(orgs)
	out := httpapi.Health{Well: state == stateOK || state == stateWarning, Status: stateNames[state], Running: running}
	for i, org := range orgs {
		if org.LastSuccess == nil {
			out.LastSuccess = nil
			break
		}
		at, err := time.Parse(time.RFC3339, *org.LastSuccess)
		if err == nil && (i == 0 || at.Before(*out.LastSuccess)) {
			out.LastSuccess = &at
		}
	}
	return out
}
