package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/job/webhook"
	"usage-sync/store"
)

type ingestCmd struct {
	Files   []string `place:"read" arg:"" optional:"" name:"file" help:"Files with payloads, plain or gzipped; - is standard input, the default."`
	Spool   bool     `help:"Record what deliveries have left in the spool, and remove from it what is recorded."`
	KeyName string   `placeholder:"NAME" help:"Remember that OpenRouter's key of this name is that of --org; goes on with --spool."`
	Org     string   `placeholder:"ID-OR-NAME" help:"The organisation of --key-name."`
	deliveryFlags
}

func (*ingestCmd) Help() string {
	return "Records what the webhook would record, from files: one payload, JSON lines, or an array of them, the guide's payload or\n" +
		"OpenRouter's Broadcast deliveries. What is known is not counted again, so a file may be read twice."
}

// ExitHelp lists the exit codes.
func (*ingestCmd) ExitHelp() string {
	return exitHelpOf(doneThough, exitOK, exitPartial, exitUsage, exitDataErr, exitNoInput,
		exitCantCreat, exitIOErr, exitTempFail, exitNoPerm, exitConfig)
}

// Validate checks what goes together.
func (c *ingestCmd) Validate() error {
	if (c.KeyName == "") != (c.Org == "") {
		return errors.New("--key-name and --org go together")
	}
	return nil
}

// errInput: a file with payloads can't be read.
var errInput = job.NewError(job.KindMissing, "input")

// ingestBatch is how much usage is gathered before it is recorded.
const ingestBatch = 1000

// Run records payloads.
func (c *ingestCmd) Run(a *app) error {
	return a.withStore(a.writable, func(db *store.Store) error { return c.ingest(a, db) })
}

func (c *ingestCmd) ingest(a *app, db *store.Store) error {
	in := &ingesting{app: a, recorder: &webhook.Recorder{Store: db, Log: a.log, Now: a.now,
		Zone: a.cli.Timezone.Location, AcceptUnnamed: c.acceptUnnamed()}}
	if c.KeyName != "" {
		if err := c.remember(a, db); err != nil {
			return err
		}
	}
	if c.Spool || c.KeyName != "" {
		if err := c.fromSpool(in); err != nil {
			return err
		}
	} else if len(c.Files) == 0 {
		c.Files = []string{"-"}
	}
	for _, file := range c.Files {
		if err := in.file(file); err != nil {
			return err
		}
	}
	return in.summary()
}

// remember stores whose key a name means.
func (c *ingestCmd) remember(a *app, db *store.Store) error {
	orgs, err := db.Organisations(a.ctx, []string{c.Org}, a.cli.Timezone.Location)
	if err != nil {
		return err
	}
	return db.SetKeyName(a.ctx, c.KeyName, orgs[0].ID, a.now())
}

// ingesting is one run over files and spool.
type ingesting struct {
	*app
	recorder *webhook.Recorder
	batch    []webhook.Usage
	where    map[string]string // of the usage in the batch, by id
	total    webhook.Result
	ignored  int
	refused  []refusedOut
}

type refusedOut struct {
	Where  string `json:"where"`
	ID     string `json:"id,omitempty"`
	Reason string `json:"reason"`
}

func (in *ingesting) refuse(where, id, reason string) {
	in.refused = append(in.refused, refusedOut{where, id, reason})
	if id != "" {
		reason = "generation " + id + ": " + reason
	}
	in.log.Error(fmt.Sprintf("Refused %s: %s", where, reason))
}

func (in *ingesting) file(name string) error {
	r, label := in.stdin, "standard input"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("%w: %w", errInput, err)
		}
		defer f.Close()
		r, label = f, name
	}
	if r == nil {
		r = eof{}
	}
	if name == "-" {
		// Whoever writes may take their time: the application gets its database meanwhile, and a signal ends the wait.
		defer in.recorder.Store.Wait()()
		r = &interruptible{ctx: in.ctx, from: r, dog: in.watchdog}
	}
	err := webhook.Each(r, func(where string, p webhook.Payload, err error) error {
		where = label + ", " + where
		if err != nil {
			in.refuse(where, "", err.Error())
			return nil
		}
		for _, r := range p.Refused {
			in.refuse(where, r.ID, r.Reason)
		}
		in.ignored += p.Ignored
		for _, u := range p.Usage {
			in.batch = append(in.batch, u)
			if in.where == nil {
				in.where = map[string]string{}
			}
			in.where[u.ID] = where
		}
		if len(in.batch) < ingestBatch {
			return nil
		}
		return in.flush()
	})
	if in.ctx.Err() != nil && err != nil {
		return context.Cause(in.ctx)
	}
	if err != nil {
		// What came before is sound.
		if flushErr := in.flush(); flushErr != nil {
			return flushErr
		}
		if errors.Is(err, errFlush) {
			return err
		}
		in.refuse(label, "", openrouter.Plain(err.Error(), ""))
		return nil
	}
	return in.flush()
}

// interruptible reads until its context ends. What is read from may be a terminal, whose Read can't be told to end.
type interruptible struct {
	ctx  context.Context
	from io.Reader
	rest []byte // of the last read
	dog  *watchdog
}

// Read implements io.Reader.
func (r *interruptible) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		type read struct {
			text []byte
			err  error
		}
		done := make(chan read, 1)
		go func() {
			buffer := make([]byte, 64<<10)
			n, err := r.from.Read(buffer)
			done <- read{buffer[:n], err}
		}()
		defer r.dog.waits()()
		select {
		case <-r.ctx.Done():
			return 0, context.Cause(r.ctx)
		case got := <-done:
			if len(got.text) == 0 {
				return 0, got.err
			}
			r.rest = got.text // the error, if any, comes again
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

type eof struct{}

func (eof) Read([]byte) (int, error) { return 0, io.EOF }

// errFlush: the store could not record.
var errFlush = errors.New("recording")

func (in *ingesting) flush() error {
	if len(in.batch) == 0 {
		return nil
	}
	batch := in.batch
	in.batch = nil
	in.watchdog.alive()
	result, err := in.recorder.Record(in.ctx, batch)
	if err != nil {
		return fmt.Errorf("%w: %w", errFlush, err)
	}
	for _, held := range result.Held {
		in.refuse(in.where[held.Usage.ID], openrouter.Plain(held.Usage.ID, held.Usage.Key), held.Err.Error())
	}
	in.where = nil
	in.count(result)
	return nil
}

func (in *ingesting) count(r webhook.Result) {
	in.total.Recorded += r.Recorded
	in.total.Updated += r.Updated
	in.total.Known += r.Known
	if r.Recorded+r.Updated > 0 {
		in.done("What is sound is recorded")
	}
}

// fromSpool records what the spool keeps. A file goes when its usage is committed.
func (c *ingestCmd) fromSpool(in *ingesting) error {
	spool, err := c.spool(in.app)
	if err != nil {
		return err
	}
	kept, err := spool.List()
	if err != nil {
		return err
	}
	for _, k := range kept {
		in.watchdog.alive()
		if k.Err != nil {
			in.refuse("spool, "+k.File, "", k.Err.Error())
			continue
		}
		result, err := in.recorder.Record(in.ctx, []webhook.Usage{k.Usage})
		if err != nil {
			return err
		}
		if len(result.Held) > 0 {
			in.refuse("spool, "+k.File, openrouter.Plain(k.Usage.ID, ""), result.Held[0].Err.Error())
			continue
		}
		in.count(result)
		if err := spool.Drop(k.File); err != nil {
			return in.late(err)
		}
	}
	return nil
}

type ingestOut struct {
	Recorded int          `json:"recorded"`
	Updated  int          `json:"updated"`
	Known    int          `json:"known"`
	Ignored  int          `json:"ignored"`
	Refused  []refusedOut `json:"refused"`
}

// summary prints what became of everything. Where something was refused, that is the result.
func (in *ingesting) summary() error {
	var err error
	if in.cli.JSON {
		err = printJSON(in.stdout, ingestOut{in.total.Recorded, in.total.Updated, in.total.Known, in.ignored,
			append([]refusedOut{}, in.refused...)})
	} else {
		_, err = fmt.Fprintf(in.stdout, "Recorded %d, updated %d, known %d, ignored %d, refused %d\n",
			in.total.Recorded, in.total.Updated, in.total.Known, in.ignored, len(in.refused))
	}
	if err == nil && len(in.refused) > 0 {
		err = fmt.Errorf("%w: %d, what is sound is recorded", job.ErrRefused, len(in.refused))
	}
	return err
}
