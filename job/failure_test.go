package job_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

func TestFailureOf(t *testing.T) {
	status := func(code int) error { return &openrouter.APIError{Status: code} }
	for _, c := range []struct {
		err  error
		want job.Failure
	}{
		{nil, job.FailureNone},
		{status(401), job.FailureKeyRefused}, {status(402), job.FailureKeyRefused}, {status(403), job.FailureKeyRefused},
		{status(429), job.FailureRateLimited},
		{status(408), job.FailureUnreachable}, {status(503), job.FailureUnreachable}, {openrouter.ErrUnreachable, job.FailureUnreachable},
		{fmt.Errorf("%w: %w", openrouter.ErrUnreachable, context.DeadlineExceeded), job.FailureUnreachable},
		{status(400), job.FailureAnswer}, {openrouter.ErrAnswer, job.FailureAnswer}, {job.ErrRefused, job.FailureAnswer}, {store.ErrData, job.FailureAnswer},
		{store.ErrBusy, job.FailureDatabase}, {store.ErrIO, job.FailureDatabase}, {store.ErrPermission, job.FailureDatabase},
		{store.ErrUnfinished, job.FailureDatabase}, {&store.SchemaError{}, job.FailureDatabase},
		{fmt.Errorf("database x: %w", fs.ErrNotExist), job.FailureDatabase},
		{store.ErrOrganisation, job.FailureConfiguration}, {store.ErrRate, job.FailureConfiguration}, {&job.TakeoverError{}, job.FailureConfiguration},
		{fmt.Errorf("%w: %w", openrouter.ErrNoSource, status(404)), job.FailureConfiguration},
		{fmt.Errorf("%w: %w", job.ErrLockFile, fs.ErrNotExist), job.FailureConfiguration},
		{job.ErrHeld, job.FailureLockHeld},
		{job.ErrTimedOut, job.FailureTimedOut}, {context.DeadlineExceeded, job.FailureTimedOut},
		{errors.New("a bug"), job.FailureOther},
	} {
		if got := job.FailureOf(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}
