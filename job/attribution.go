package job

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// KeyWitness tells what OpenRouter knows of an organisation's key.
type KeyWitness interface {
	// FindKeyHash looks for a key among those of the account. What it finds is a candidate and no proof.
	FindKeyHash(ctx context.Context, org store.Organisation) (openrouter.AccountKey, error)
	// OwnKey is what the server says to the key itself.
	OwnKey(ctx context.Context, key store.Key) (openrouter.KeyInfo, error)
	// KeyOf is what the server says of the key with a hash; ErrKeyHash where the account has none.
	KeyOf(ctx context.Context, hash string) (openrouter.KeyInfo, error)
	// Seal marks texts in a way that only the holder of the management key can. What was proved is remembered in the
	// container's own database, where the container could write a proof of its own.
	Seal(texts ...string) string
}

// unprovedError: it can't be proved that the hash by which an organisation's usage would be asked for is that
// of its key. The database of a container is a claim: with another client's hash in it, the other client's
// usage would be billed here.
type unprovedError struct {
	Organisation string
	Hash         string
	Reason       string
}

func (e *unprovedError) Error() string {
	return fmt.Sprintf("nothing proves that the key hash %.8s… is that of the key of %s: %s. Nothing was "+
		"recorded. Set "+
		"openrouter_key_hash of client_organizations to null where the key was replaced; or, on the host, USAGE_SYNC_KEY_HASH "+
		"to what GET /keys calls the hash of this client's key", e.Hash, e.Organisation, e.Reason)
}

// Kind makes it a fault of the configuration.
func (*unprovedError) Kind() Kind { return KindConfiguration }

const (
	// settled is how long a key must have been in a database at its place before that database's word is taken
	// that it is a former key of the same client: a copy made for another client has its keys replaced sooner.
	settled = 7 * 24 * time.Hour
	// quiet is how long a former key is asked for after its last use: as far back as a query reaches.
	quiet = openrouter.MaxRange
)

// LostKey is a former key whose usage can't be asked for, so that some of it may be missing.
type LostKey struct {
	store.KeySpan
	Reason string
}

// Attribution says by which keys an organisation's usage is asked for. The keys of an organisation are a set:
// where one takes the place of another, both may be in use for days
// (https://openrouter.ai/docs/guides/guides/api-key-rotation, 22 Aug 2026).
type Attribution struct {
	Spans []store.KeySpan // all keys that the organisation has and has had, as they are now
	Lost  []LostKey       // those that have been dropped just now, and not for being quiet
	Notes []string        // for the history
	Stale string          // the setting that holds a former key's hash; empty is none

	present int // index of the key that the organisation has
	bounds  map[string]bounds
}

// bounds are the times from which and until which a key's generations are the organisation's; zero is unbounded.
type bounds struct{ from, until time.Time }

func (b bounds) hold(at time.Time) bool {
	return !at.Before(b.from) && (b.until.IsZero() || at.Before(b.until))
}

// attribute decides whose generations are asked for as an organisation's: it is the one place that does.
// Without a witness only the list of the present key is asked for, which shows nothing of former ones.
func (s Sources) attribute(ctx context.Context, db *store.Store, witness KeyWitness, org store.Organisation,
	now time.Time) (a Attribution, err error) {
	byOrg, err := db.KeySpans(ctx)
	if err != nil {
		return a, err
	}
	a = Attribution{Spans: slices.Clone(byOrg[org.ID]), bounds: map[string]bounds{}}
	present := store.KeySpan{Mark: store.KeyMark(org.Key)}
	sealed := func(store.KeySpan) bool { return false }
	if witness != nil {
		seal := func(k store.KeySpan) string { return witness.Seal("key", org.ID, k.Mark, k.Hash) }
		sealed = func(k store.KeySpan) bool { return k.Hash != "" && hmac.Equal([]byte(k.Seal), []byte(seal(k))) }
		p := proof{Sources: s, witness: witness, org: org, proved: slices.DeleteFunc(slices.Clone(a.Spans),
			func(k store.KeySpan) bool { return !sealed(k) })}
		if present.Hash, present.Name, err = p.keyHash(ctx, db); err != nil {
			return a, err
		}
		present.Seal, a.Stale = seal(present), p.stale
	}
	a.rotate(org, present, db.Place(), now.UTC().Truncate(time.Second), sealed)
	if witness == nil {
		return a, nil
	}
	delete(byOrg, org.ID)
	return a, a.bound(ctx, db, org, byOrg, now)
}

// rotate makes a key the present one, and others that were it former ones.
func (a *Attribution) rotate(org store.Organisation, key store.KeySpan, place string, now time.Time,
	sealed func(store.KeySpan) bool) {
	first := len(a.Spans) == 0
	a.present = slices.IndexFunc(a.Spans, func(k store.KeySpan) bool {
		return k.Mark == key.Mark && (k.Hash == key.Hash || k.Hash == "" || key.Hash == "")
	})
	if a.present < 0 {
		key.Since, key.PlacedAt, key.Place, key.Client, key.Covered = now, now, place, org.Name, first
		a.Spans = append(a.Spans, key)
		a.present = len(a.Spans) - 1
	}
	for i := range a.Spans {
		k := &a.Spans[i]
		if i == a.present || (!k.Present() && !k.DroppedAt.IsZero()) {
			continue
		}
		if k.Present() {
			k.Until, k.UsedUntil = now, now
		}
		if reason := unfollowed(*k, key, org, place, now, sealed); reason != "" {
			a.lose(i, now, reason)
		}
	}
	k := &a.Spans[a.present]
	if !k.DroppedAt.IsZero() { // it is back
		k.Covered = false
	}
	k.Until, k.UsedUntil, k.DroppedAt = time.Time{}, time.Time{}, time.Time{}
	k.Client = org.Name
	if k.Place != place {
		k.Place, k.PlacedAt = place, now
	}
	if key.Hash != "" {
		k.Hash, k.Seal, k.Name = key.Hash, key.Seal, cmp.Or(key.Name, k.Name)
	}
}

// unfollowed says why the usage of a former key is not asked for together with that of the present one; empty
// where it is. A database that was copied for another client remembers the keys of the first.
func unfollowed(k, present store.KeySpan, org store.Organisation, place string, now time.Time,
	sealed func(store.KeySpan) bool) string {
	moved := k.PlacedAt.After(k.Since) && k.Until.Sub(k.PlacedAt) < settled
	switch {
	case present.Hash == "":
		return "the list of the new key shows nothing of it"
	case !sealed(k):
		return "no hash of it was proved"
	case k.Client != org.Name:
		return fmt.Sprintf("it was the key of %q, and the organisation's name was changed along with it", k.Client)
	case k.Place != place || moved:
		return "the database is a copy of the one that had it, or was moved"
	}
	return ""
}

// lose drops a former key whose usage can't be asked for.
func (a *Attribution) lose(i int, now time.Time, reason string) {
	a.Spans[i].DroppedAt = now
	a.Lost = append(a.Lost, LostKey{a.Spans[i], reason})
}

// bound finds the keys that other organisations of the database have, or have had, and from when or until when they are
// this one's.
func (a *Attribution) bound(ctx context.Context, db *store.Store, org store.Organisation,
	others map[string][]store.KeySpan, now time.Time) error {
	var marks map[string]string // of the present keys, by organisation
	for _, k := range a.Spans {
		if !k.DroppedAt.IsZero() {
			continue
		}
		if marks == nil && (len(others) > 0 || !k.Present()) {
			all, err := db.AllOrganisations(ctx, time.UTC)
			if err != nil {
				return err
			}
			marks = make(map[string]string, len(all))
			for _, o := range all {
				marks[o.ID] = store.KeyMark(o.Key)
			}
		}
		b := a.bounds[k.Hash]
		for id, spans := range others {
			for _, o := range spans {
				if o.Mark == k.Mark || (o.Hash != "" && o.Hash == k.Hash) {
					b = b.beside(k, o, marks[id], now)
				}
			}
		}
		for id, mark := range marks {
			if id != org.ID && mark == k.Mark && !k.Present() {
				b.until = k.Until
			}
		}
		a.bounds[k.Hash] = b
	}
	return nil
}

// beside narrows bounds where another organisation has had a key, too. Its present key's mark is empty where it
// is gone.
func (b bounds) beside(k, other store.KeySpan, present string, now time.Time) bounds {
	ended := other.Until
	if ended.IsZero() && present != "" && present != other.Mark {
		ended = now
	}
	switch {
	case k.Present() && !ended.IsZero(), !k.Present() && other.Since.Before(k.Since):
		b.from = later(b.from, ended)
	case !k.Present():
		b.until = k.Until
	}
	return b
}

// keyGroup are keys that are asked for together.
type keyGroup struct {
	bounds
	hashes []string
}

// groups are the keys that are asked for, the present one's first.
func (a *Attribution) groups() (groups []keyGroup) {
	for _, hash := range append([]string{a.Spans[a.present].Hash}, a.former()...) {
		i := slices.IndexFunc(groups, func(g keyGroup) bool { return g.bounds == a.bounds[hash] })
		if i < 0 {
			groups = append(groups, keyGroup{bounds: a.bounds[hash]})
			i = len(groups) - 1
		}
		groups[i].hashes = append(groups[i].hashes, hash)
	}
	return groups
}

// former are the hashes of the former keys that are asked for.
func (a *Attribution) former() (hashes []string) {
	for i, k := range a.Spans {
		if i != a.present && k.DroppedAt.IsZero() {
			hashes = append(hashes, k.Hash)
		}
	}
	return hashes
}

// of returns an organisation with the hashes by which it is asked for.
func (a *Attribution) of(org store.Organisation) store.Organisation {
	org.KeyHash, org.FormerHashes = a.Spans[a.present].Hash, a.former()
	return org
}

// index is that of the key with a hash.
func (a *Attribution) index(hash string) int {
	return slices.IndexFunc(a.Spans, func(k store.KeySpan) bool { return k.Hash == hash })
}

// forget has the next pass prove the present key's hash anew.
func (a *Attribution) forget() { a.Spans[a.present].Seal = "" }

// cover notes that the whole window was recorded of all keys that are asked for.
func cover(spans []store.KeySpan) {
	for i := range spans {
		spans[i].Covered = spans[i].Covered || spans[i].DroppedAt.IsZero()
	}
}

// uncovered tells whether an organisation's usage is asked for by a key of which the watermark says nothing:
// one that has taken the place of another may have been in use before.
func (s Sources) uncovered(spans []store.KeySpan, org store.Organisation) bool {
	mark, known := store.KeyMark(org.Key), len(spans) == 0
	isNew := s.HostKeyHash != "" && !slices.ContainsFunc(spans, func(k store.KeySpan) bool {
		return strings.EqualFold(k.Hash, s.HostKeyHash)
	})
	for _, k := range spans {
		if !k.DroppedAt.IsZero() {
			continue
		}
		if !k.Covered {
			return true
		}
		known = known || (k.Mark == mark && (k.Hash == "" || !isNew))
	}
	return !known
}

// proof is the work on the hash of one organisation's key.
type proof struct {
	Sources
	witness KeyWitness
	org     store.Organisation
	proved  []store.KeySpan // what was proved before
	stale   string          // the setting that holds a former key's hash
}

// keyHash returns the hash by which OpenRouter knows an organisation's key, and what the account calls the key,
// where it was asked. The hash is accepted where the host names it, where it is the SHA-256 of the key, where
// it was proved for this key before, or where the key proves itself: what the server says to the key is what it
// says of the hash. A label or a name is no proof: a made-up key can fit a label, and names are anybody's. That
// the hash is the SHA-256 of the key is what live hashes look like (Sep 2026) and no one's word; where it is
// not, the key proves itself.
func (p *proof) keyHash(ctx context.Context, db *store.Store) (hash, name string, err error) {
	mark := store.KeyMark(p.org.Key)
	var latest store.KeySpan
	isFormer := func(hash string) bool {
		is := func(k store.KeySpan, mine bool) bool { return k.Hash == hash && (k.Mark == mark) == mine }
		return slices.ContainsFunc(p.proved, func(k store.KeySpan) bool { return is(k, false) }) &&
			!slices.ContainsFunc(p.proved, func(k store.KeySpan) bool { return is(k, true) })
	}
	claimed := strings.ToLower(p.org.KeyHash)
	switch {
	case p.HostKeyHash != "":
		if err := p.onlyActive(ctx, db); err != nil {
			return "", "", err
		}
		claimed = strings.ToLower(p.HostKeyHash)
		if !isFormer(claimed) {
			return claimed, "", nil
		}
		claimed, p.stale = "", "USAGE_SYNC_KEY_HASH"
	case isFormer(claimed):
		claimed, p.stale = "", "openrouter_key_hash"
	}
	for _, k := range p.proved {
		switch {
		case k.Mark != mark:
		case k.Hash == claimed:
			return k.Hash, k.Name, nil
		case latest.Hash == "" || k.Present():
			latest = k
		}
	}
	if claimed == "" && latest.Hash != "" {
		return latest.Hash, latest.Name, nil
	}
	candidate := openrouter.AccountKey{Hash: claimed}
	if claimed == "" {
		if candidate, err = p.witness.FindKeyHash(ctx, p.org); err != nil {
			return "", "", err
		}
	}
	sum := sha256.Sum256([]byte(p.org.Key))
	if candidate.Hash == hex.EncodeToString(sum[:]) {
		return candidate.Hash, candidate.Name, nil
	}
	name, err = p.prove(ctx, candidate.Hash)
	return candidate.Hash, name, err
}

// onlyActive returns an error unless the organisation is the only active one, which the host's word is about.
func (p *proof) onlyActive(ctx context.Context, db *store.Store) error {
	all, err := db.AllOrganisations(ctx, time.UTC)
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(all, func(o store.Organisation) bool { return !o.Active || o.Key == "" || o.ID == p.org.ID })
	if len(others) > 0 {
		return &unprovedError{p.org.Name, p.HostKeyHash, fmt.Sprintf("USAGE_SYNC_KEY_HASH names one key, and "+
			"%d organisations "+
			"are active", len(others)+1)}
	}
	return nil
}

// prove has a key prove that a hash is its own, and returns what the account calls it.
func (p *proof) prove(ctx context.Context, hash string) (name string, err error) {
	unproved := func(format string, args ...any) error {
		return &unprovedError{p.org.Name, hash, fmt.Sprintf(format, args...)}
	}
	mine, err := p.witness.OwnKey(ctx, p.org.Key)
	if answer, ok := errors.AsType[*openrouter.APIError](err); ok && answer.Refused() {
		return "", unproved("it is not the key's SHA-256, and the server refuses the key itself with HTTP %d",
			answer.Status)
	}
	if err != nil {
		return "", fmt.Errorf("prove the key hash of %s: %w", p.org.Name, err)
	}
	theirs, err := p.witness.KeyOf(ctx, hash)
	if errors.Is(err, openrouter.ErrKeyHash) {
		return "", unproved("the account has no key with that hash")
	}
	if err != nil {
		return "", fmt.Errorf("prove the key hash of %s: %w", p.org.Name, err)
	}
	if difference := mine.Differs(theirs); difference != "" {
		return "", unproved("it is the hash of another key: its %s differs", difference)
	}
	return theirs.Name, nil
}

// ProvedKeyHash returns the hash of the key of a database's only active organisation, as far as that is known
// without asking anybody: it is the SHA-256 of the key, or a pass has proved it. Seal is that of the account's
// management key.
func ProvedKeyHash(ctx context.Context, db *store.Store, seal func(texts ...string) string) (string, error) {
	all, err := db.AllOrganisations(ctx, time.UTC)
	if err != nil {
		return "", err
	}
	active := slices.DeleteFunc(all, func(o store.Organisation) bool { return !o.Active || o.Key == "" })
	if len(active) != 1 || active[0].Problem != nil {
		return "", nil
	}
	org := active[0]
	byOrg, err := db.KeySpans(ctx)
	if err != nil {
		return "", err
	}
	for _, k := range byOrg[org.ID] {
		if k.Mark == store.KeyMark(org.Key) && k.Present() && k.Hash != "" &&
			hmac.Equal([]byte(k.Seal), []byte(seal("key", org.ID, k.Mark, k.Hash))) {
			return k.Hash, nil
		}
	}
	sum := sha256.Sum256([]byte(org.Key))
	if own := hex.EncodeToString(sum[:]); strings.EqualFold(org.KeyHash, own) {
		return own, nil
	}
	return "", nil
}

// Attributed returns an organisation with the proved hashes of its keys, for those who ask the account and fetch no
// generations.
func (s Sources) Attributed(ctx context.Context, db *store.Store, org store.Organisation, now time.Time) (
	store.Organisation, error) {
	a, err := s.attribute(ctx, db, s.Account, org, now)
	if err != nil {
		return org, err
	}
	return a.of(org), nil
}
