package job

import (
	"context"
	"errors"
	"io/fs"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// Failure is a kind of failure: what it takes to mend it. Monitoring counts by it, so the words stay as they are.
type Failure string

const (
	FailureNone          Failure = ""
	FailureKeyRefused    Failure = "key_refused"
	FailureRateLimited   Failure = "rate_limited"
	FailureUnreachable   Failure = "unreachable" // no answer, or one of 5xx
	FailureAnswer        Failure = "untrusted_answer"
	FailureDatabase      Failure = "database" // missing, busy, unreadable, full, damaged
	FailureConfiguration Failure = "configuration"
	FailureLockHeld      Failure = "lock_held" // another pass is at work
	FailureTimedOut      Failure = "timed_out"
	FailureOther         Failure = "other"
)

// FailureOf returns the kind of an error. Where several are at work it is the one that is mended first.
func FailureOf(err error) Failure {
	var api *openrouter.APIError
	var schema *store.SchemaError
	var takeover *TakeoverError
	switch is := func(target error) bool { return errors.Is(err, target) }; {
	case err == nil:
		return FailureNone
	case is(ErrHeld):
		return FailureLockHeld
	case errors.As(err, &schema), is(store.ErrBusy), is(store.ErrUnfinished), is(store.ErrIO), is(store.ErrPermission):
		return FailureDatabase
	case errors.As(err, &takeover), is(store.ErrOrganisation), is(store.ErrRate), is(openrouter.ErrBaseURL),
		is(openrouter.ErrNoSource), is(ErrLockFile):
		return FailureConfiguration
	case is(fs.ErrNotExist):
		return FailureDatabase
	case is(openrouter.ErrAnswer), is(ErrRefused), is(store.ErrData), is(store.ErrMoney):
		return FailureAnswer
	case errors.As(err, &api) && api.Refused():
		return FailureKeyRefused
	case errors.As(err, &api) && api.RateLimited():
		return FailureRateLimited
	case errors.As(err, &api) && api.Temporary(), is(openrouter.ErrUnreachable):
		return FailureUnreachable
	case errors.As(err, &api):
		return FailureAnswer
	case is(ErrTimedOut), is(context.DeadlineExceeded):
		return FailureTimedOut
	}
	return FailureOther
}
