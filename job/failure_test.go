package job_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/job/reconcile"
	"usage-sync/store"
)

func TestKindOf(t *testing.T) {
	status := func(code int) error { return &openrouter.APIError{Status: code} }
	file := job.NewError(job.KindOutputFile, "metrics file")
	for _, c := range []struct {
		err  error
		want job.Kind
	}{
		{nil, job.KindNone},
		{status(401), job.KindKeyRefused}, {status(402), job.KindKeyRefused}, {status(403), job.KindKeyRefused},
		{status(429), job.KindRateLimited},
		{status(408), job.KindUnreachable}, {status(503), job.KindUnreachable}, {openrouter.ErrUnreachable, job.KindUnreachable},
		{fmt.Errorf("%w: %w", openrouter.ErrUnreachable, context.DeadlineExceeded), job.KindUnreachable},
		{status(400), job.KindUntrusted}, {openrouter.ErrAnswer, job.KindUntrusted}, {job.ErrRefused, job.KindUntrusted},
		{store.ErrData, job.KindUntrusted}, {store.ErrMoney, job.KindUntrusted}, {reconcile.ErrDiffers, job.KindUntrusted},
		{store.ErrBackup, job.KindUntrusted}, {fmt.Errorf("%w: %w", store.ErrBackup, store.ErrNotDatabase), job.KindUntrusted},
		{fmt.Errorf("%w: %w", store.ErrBackup, fs.ErrNotExist), job.KindMissing},
		{store.ErrBusy, job.KindBusy}, {store.ErrUnfinished, job.KindBusy},
		{store.ErrLocking, job.KindBusy}, {store.ErrMoved, job.KindMoved}, {store.ErrChanged, job.KindMoved},
		{store.ErrNames, job.KindConfiguration},
		{store.ErrMemory, job.KindMemory}, {syscall.EMFILE, job.KindMemory}, {syscall.ENOMEM, job.KindMemory},
		{syscall.EDQUOT, job.KindDisk}, {syscall.EFBIG, job.KindDisk},
		{store.ErrIO, job.KindDisk}, {syscall.ENOSPC, job.KindDisk},
		{store.ErrDamaged, job.KindDamaged}, {store.ErrNotDatabase, job.KindDamaged}, {store.ErrNotFile, job.KindDamaged},
		{store.ErrPermission, job.KindPermission}, {&fs.PathError{Op: "lstat", Path: "x", Err: syscall.EACCES}, job.KindPermission},
		{syscall.ELOOP, job.KindMissing}, {syscall.ENOTDIR, job.KindMissing}, {syscall.ENAMETOOLONG, job.KindMissing}, {syscall.ESTALE, job.KindDisk},
		{fmt.Errorf("database x: %w", fs.ErrNotExist), job.KindMissing},
		{fmt.Errorf("x: %w", &store.SchemaError{}), job.KindSchema},
		{store.ErrOrganisation, job.KindConfiguration}, {store.ErrRate, job.KindConfiguration}, {openrouter.ErrBaseURL, job.KindConfiguration},
		{fmt.Errorf("%w: %w", openrouter.ErrNoSource, status(404)), job.KindConfiguration},
		{fmt.Errorf("x: %w", &job.TakeoverError{}), job.KindTakeover},
		{job.ErrHeld, job.KindLockHeld}, {store.ErrBackupHeld, job.KindLockHeld},
		{job.ErrTimedOut, job.KindTimedOut}, {context.DeadlineExceeded, job.KindTimedOut},
		{fmt.Errorf("%w: %w", job.ErrLockFile, fs.ErrNotExist), job.KindOutputFile}, {store.ErrBackupFile, job.KindOutputFile},
		{fmt.Errorf("%w: %w", file, fs.ErrPermission), job.KindOutputFile},
		{fmt.Errorf("%w: %w", file, syscall.ENOSPC), job.KindDisk},
		{job.ErrManual, job.KindUsage}, {reconcile.ErrBeyondReach, job.KindUsage},
		{errors.New("a bug"), job.KindBug},
	} {
		if got := job.KindOf(c.err); got != c.want {
			t.Errorf("%v: %q, want %q", c.err, got, c.want)
		}
	}
}
