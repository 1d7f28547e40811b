package monitor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// sharedFile is the name of a metrics file that holds the instances of a host, each by its name.
const sharedFile = "usage-sync.prom"

func isShared(path, instance string) bool { return instance != "" && filepath.Base(path) == sharedFile }

// writeShared replaces what the file says of the instance in those families that the writer has made or might have, and
// leaves the rest. Another instance of the same database is this one under a former name: what it has told goes.
func (p *page) writeShared(ctx context.Context, path string, might func(name string) bool) error {
	release, err := lockDirectory(ctx, filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("%w %s: %w", ErrMetricsFile, path, err)
	}
	defer release()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w %s: %w", ErrMetricsFile, path, err)
	}
	before := parseWhere("", text, func([]string) bool { return true })
	own := pair("instance", p.instance)
	former := map[string]bool{}
	for labels := range before.samples(databaseInfo.name) {
		id, instance := pairsOf(labels)[0], pairsOf(labels)[1]
		if _, same := p.samples(databaseInfo.name)["{"+id+","+own+"}"]; same && instance != own {
			former[instance] = true
		}
	}
	for name, f := range before.families {
		maps.DeleteFunc(f.samples, func(labels, _ string) bool {
			pairs := pairsOf(labels)
			return might(name) && slices.Contains(pairs, own) ||
				slices.ContainsFunc(pairs, func(pair string) bool { return former[pair] })
		})
		if now := p.families[name]; now != nil {
			maps.Copy(now.samples, f.samples)
		} else if len(f.samples) > 0 {
			p.families[name] = f
		}
	}
	return p.write(path)
}

func (p *page) samples(name string) map[string]string {
	if f := p.families[name]; f != nil {
		return f.samples
	}
	return nil
}

// lockPoll is the pause between two tries to lock a directory.
const lockPoll = 5 * time.Millisecond

// lockDirectory takes the kernel's lock of a directory: no file of ours is left in it, and the lock of one that
// dies is free.
func lockDirectory(ctx context.Context, path string) (release func(), err error) {
	directory, err := os.Open(filepath.Clean(path))
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(directory.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = directory.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = directory.Close()
			return nil, fmt.Errorf("lock: %w", err)
		}
		select {
		case <-ctx.Done():
			_ = directory.Close()
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}
