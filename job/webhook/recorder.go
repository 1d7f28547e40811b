package webhook

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"usage-sync/job"
	"usage-sync/store"
)

var (
	// ErrKey: the key of the guide's payload belongs to no active organisation.
	ErrKey = errors.New("the api_key belongs to no active organisation")
	// errUnmapped: it can't be told whose usage a delivery is.
	errUnmapped = errors.New("it can't be told which organisation this is of")
	// errFuture: usage that has not happened yet can't be placed on a day.
	errFuture = errors.New("dated in the future")
)

const (
	// batchSize bounds one write transaction.
	batchSize = 1000
	// clockSlack is how far the clocks of OpenRouter and this machine may be apart.
	clockSlack = 5 * time.Minute
)

// Recorder records usage, whoever delivers it, as a pass would: once, on the organisation's own day, at its markup.
type Recorder struct {
	Store *store.Store
	Log   *slog.Logger
	Now   func() time.Time
	Zone  *time.Location // of organisations that have none of their own
	// AcceptUnnamed takes deliveries that do not name their key for usage of the only organisation: the host's
	// word that the destination is for this organisation's key alone. OpenRouter's default is to deliver those
	// of all keys.
	AcceptUnnamed bool

	all      []store.Organisation
	loaded   bool
	keyNames map[string]string        // as somebody has taught them
	accounts map[string]string        // as the account calls keys whose hash is proved
	arrivals map[string]*job.Arrivals // by organisation
}

// Result is what became of usage. Each that was handed in is in one of the counts or among the held.
type Result struct {
	Recorded int // new to the ledger
	Updated  int // delivered before, with another cost or token count
	Known    int
	Held     []Held
}

// Held is usage that can't be recorded as things stand.
type Held struct {
	Usage Usage
	Err   error // ErrKey, errUnmapped, errFuture, a *job.TakeoverError, or what is wrong with the organisation
}

func (r *Result) add(other Result) {
	r.Recorded += other.Recorded
	r.Updated += other.Updated
	r.Known += other.Known
	r.Held = append(r.Held, other.Held...)
}

// Record records what can be recorded. What it returns without an error is committed.
func (r *Recorder) Record(ctx context.Context, all []Usage) (Result, error) {
	var result Result
	if err := r.load(ctx); err != nil {
		return result, err
	}
	now := r.Now()
	type destination struct {
		organisation int // index in all
		adopt        bool
	}
	batches := map[destination][]store.Generation{}
	for _, u := range all {
		i, err := r.whose(u)
		var adopt bool
		if err == nil {
			u.OrganisationID = r.all[i].ID
			adopt, err = r.place(ctx, &u, r.all[i], now)
		}
		switch {
		case err == nil:
			to := destination{i, adopt}
			batches[to] = append(batches[to], u.Generation)
		case held(err):
			result.Held = append(result.Held, Held{u, err})
		default:
			return result, err
		}
	}
	for to, generations := range batches {
		for part := range slices.Chunk(generations, batchSize) {
			one, err := r.batch(ctx, store.Batch{Organisation: r.all[to.organisation],
				Source: store.SourceWebhook, Now: now, Generations: part, Adopt: to.adopt, Delivered: true})
			if err != nil {
				return result, err
			}
			result.add(one)
		}
	}
	return result, nil
}

// held tells errors of the usage from those of the machine.
func held(err error) bool {
	var takeover *job.TakeoverError
	return errors.Is(err, ErrKey) || errors.Is(err, errUnmapped) || errors.Is(err, errFuture) ||
		errors.As(err, &takeover) ||
		errors.Is(err, store.ErrBound) ||
		errors.Is(err, store.ErrRate) || errors.Is(err, store.ErrOrganisation)
}

// load reads the organisations, once. That there is none is no error yet: usage is then held.
func (r *Recorder) load(ctx context.Context) error {
	if r.loaded {
		return nil
	}
	var err error
	if r.all, err = r.Store.AllOrganisations(ctx, r.Zone); err != nil {
		return err
	}
	if r.keyNames, err = r.Store.KeyNames(ctx); err != nil {
		return err
	}
	if r.accounts, err = r.Store.AccountKeyNames(ctx); err != nil {
		return err
	}
	r.arrivals, r.loaded = map[string]*job.Arrivals{}, true
	return nil
}

// whose returns the organisation that has used it. The guide's payload has the key of an active one. A delivery
// of Broadcast names its key: by a name that was made known, by what the account calls a key whose hash was
// proved, or by the name of an organisation, active or not. Nothing follows from an organisation's being the
// only one: by default OpenRouter delivers the usage of all keys of a workspace
// (https://openrouter.ai/docs/guides/features/broadcast, 22 Aug 2026), other clients' included.
func (r *Recorder) whose(u Usage) (int, error) {
	is := func(match func(store.Organisation) bool) int { return slices.IndexFunc(r.all, match) }
	switch {
	case u.Key != "":
		want := sha256.Sum256([]byte(u.Key))
		found := -1
		for i, org := range r.all { // each of them, or the time would tell which one comes close
			got := sha256.Sum256([]byte(org.Key))
			if subtle.ConstantTimeCompare(want[:], got[:]) == 1 && org.Active {
				found = i
			}
		}
		if found < 0 {
			return -1, ErrKey
		}
		return found, nil
	case u.OrganisationID != "":
		if i := is(func(o store.Organisation) bool { return o.ID == u.OrganisationID }); i >= 0 {
			return i, nil
		}
		return -1, fmt.Errorf("%w: %s is no organisation any more", errUnmapped, u.OrganisationID)
	case u.KeyName != "":
		return r.named(u.KeyName)
	case !r.AcceptUnnamed:
		return -1, fmt.Errorf("%w: it does not name its key; switch identity metadata on in the "+
			"destination's settings, or, "+
			"where the destination is for this client's key alone, set USAGE_SYNC_UNNAMED_DELIVERIES=accept",
			errUnmapped)
	case len(r.all) != 1:
		return -1, fmt.Errorf("%w: it does not name its key, and there are %d organisations", errUnmapped, len(r.all))
	}
	return 0, nil
}

// named returns the organisation of a key's name.
func (r *Recorder) named(name string) (int, error) {
	id, taught := r.keyNames[name]
	owner, proved := r.accounts[name]
	for _, same := range []func(store.Organisation) bool{
		func(o store.Organisation) bool { return taught && o.ID == id },
		func(o store.Organisation) bool { return proved && o.ID == owner },
		func(o store.Organisation) bool { return !proved && o.Name == name },
		func(o store.Organisation) bool { return !proved && strings.EqualFold(o.Name, name) },
	} {
		i := slices.IndexFunc(r.all, same)
		if i >= 0 && !slices.ContainsFunc(r.all[i+1:], same) {
			return i, nil
		}
	}
	return -1, fmt.Errorf("%w: no organisation, or more than one, is called like its key, %q", errUnmapped, shown(name))
}

// shown is the name of a key for people to read. Some call a key by itself; OpenRouter's own names for keys are
// cut short already.
func shown(name string) string {
	if strings.HasPrefix(name, "sk-") && !strings.Contains(name, "...") {
		return store.Key(name).String()
	}
	return name
}

// place gives usage its day, and tells whether it was counted by others.
func (r *Recorder) place(ctx context.Context, u *Usage, org store.Organisation, now time.Time) (adopt bool, err error) {
	if org.Problem != nil {
		return false, org.Problem
	}
	if u.CreatedAt.After(now.Add(clockSlack)) {
		return false, fmt.Errorf("%w: %s", errFuture, u.CreatedAt.UTC().Format(time.RFC3339))
	}
	if err := r.Store.CheckBounds(u.Generation); err != nil {
		return false, err
	}
	at := u.CreatedAt
	if at.After(now) {
		at = now // a clock that is somewhat fast must not open tomorrow
	}
	u.Day = store.DayOf(at, org.Zone)
	arrivals, ok := r.arrivals[org.ID]
	if !ok {
		if arrivals, err = job.NewArrivals(ctx, r.Store, org, now); err != nil {
			return false, err
		}
		r.arrivals[org.ID] = arrivals
	}
	return arrivals.Adopt(ctx, u.Generation)
}

func (r *Recorder) batch(ctx context.Context, b store.Batch) (Result, error) {
	done, err := r.Store.RecordGenerations(ctx, b)
	if err != nil {
		return Result{}, err
	}
	job.LogRate(r.Log, b.Organisation, done.Rate)
	result := Result{Known: done.Duplicates + len(done.Foreign)}
	if len(done.Foreign) > 0 {
		r.Log.Warn(fmt.Sprintf("%s: not counted again: %s in the ledger under another organisation, the first is %s",
			b.Organisation.Name, store.Counted(len(done.Foreign), "generation"), done.Foreign[0]))
	}
	for _, e := range done.Entries {
		if e.Settled {
			result.Updated++
		} else {
			result.Recorded++
		}
		if b.Counts(e) {
			r.Log.Debug(fmt.Sprintf("✅ Recorded %d tokens, $%s for %s", e.Tokens, e.Markup, e.Generation.Model))
		}
	}
	return result, nil
}
