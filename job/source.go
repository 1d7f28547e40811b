package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// Source yields the generations of one organisation.
type Source interface {
	// Name is what the command line and the history call it.
	Name() string
	// Fetch hands over the generations of a window, in pages of any order. Pages may repeat generations, and may hold
	// some from outside the window.
	Fetch(ctx context.Context, org store.Organisation, window openrouter.Window, page func(openrouter.Page) error) error
	// Traffic is what it has sent and got so far.
	Traffic() openrouter.Traffic
}

// AnalyticsSource is a source that knows an organisation by the hashes of its keys.
type AnalyticsSource interface {
	Source
	KeyWitness
	// LastUse returns the end of the last hour before now in which a key was used; zero where no query reaches one.
	LastUse(ctx context.Context, hash string, now time.Time) (time.Time, error)
}

// Choices of a source.
const (
	SourceAuto        = "auto" // see Sources
	SourceGenerations = "generations"
	SourceAnalytics   = "analytics"
)

// tryListAgain is after how long a server that had no list is asked for it again.
const tryListAgain = 24 * time.Hour

// Sources are the ways to an organisation's usage. Each call makes a new source, for one organisation.
//
// The choice SourceAuto asks OpenRouter itself for the analytics: it publishes no list. Without a management
// key, and of a gateway, it asks for the list first, and for the analytics where the server has no list. What a
// pass finds out is remembered for a day, so that it does not waste a request on what is known.
type Sources struct {
	Choice      string
	OpenRouter  bool // the server is OpenRouter itself, and no gateway
	Generations func() Source
	Analytics   func() AnalyticsSource // nil without a management key
	Account     *openrouter.Management // tells what was used in all; nil without a management key
	HostKeyHash string                 // the host's word for the hash of the only organisation's key; may be empty

	check func(openrouter.Page) error // looks at each page before anything of it is used; may be nil
}

// Request asks for one organisation's generations.
type Request struct {
	Organisation store.Organisation
	Window       openrouter.Window
	Now          time.Time
	// Page takes what a source hands over. Its error ends the fetch and is returned by it.
	Page func(source string, page openrouter.Page) error
}

// Fetched tells how a fetch went, also where it failed.
type Fetched struct {
	Source  string             // the one that was asked last, or is missing
	Traffic openrouter.Traffic // of all that were asked
	Choice  store.SourceChoice // what is known of the sources now
	Learned bool               // Choice is not what was remembered

	Organisation store.Organisation // with the hashes by which it was asked for
	Attribution  Attribution        // of which keys it was asked for
	NoList       error              // why the analytics were asked in place of the list; nil where they were not
}

// Fetch hands over an organisation's generations from the source of choice. It is the one place where a source
// is chosen. It writes nothing: whoever records what it hands over remembers its Choice and Attribution, too.
func (s Sources) Fetch(ctx context.Context, db *store.Store, request Request) (Fetched, error) {
	remembered, err := db.SourceChoice(ctx, request.Organisation)
	if err != nil {
		return Fetched{}, err
	}
	f := &fetch{Sources: s, db: db, request: request, done: Fetched{Choice: remembered}}
	switch {
	case s.Choice == SourceGenerations:
		err = f.list(ctx)
	case s.Choice == SourceAnalytics || (s.OpenRouter && s.Analytics != nil):
		err = f.analytics(ctx)
	case s.Analytics != nil && listIsMissing(remembered, request.Now):
		err = f.analyticsElseList(ctx)
	default:
		err = f.elseAnalytics(ctx, f.list(ctx))
	}
	f.done.Learned = f.done.Choice != remembered
	return f.done, err
}

// listIsMissing tells whether the server had no list when it was last asked, not long ago.
func listIsMissing(choice store.SourceChoice, now time.Time) bool {
	since := now.Sub(choice.TriedAt)
	return choice.Source == SourceAnalytics && since >= 0 && since < tryListAgain
}

// fetch is the work on one request.
type fetch struct {
	Sources
	db      *store.Store
	request Request
	pages   int // handed over so far
	done    Fetched
}

// elseAnalytics asks for the analytics where the list's error says that there is none.
func (f *fetch) elseAnalytics(ctx context.Context, listErr error) error {
	if f.pages > 0 || !isNoList(listErr) {
		return listErr
	}
	missing := store.SourceChoice{Source: SourceAnalytics, TriedAt: f.request.Now}
	if errors.Is(listErr, openrouter.ErrNoSource) {
		f.done.Choice = missing // whatever becomes of the analytics
		if f.Analytics == nil {
			f.done.Source = SourceAnalytics // which is what is missing
			return fmt.Errorf("%w; %s, or point --base-url at a gateway that offers the list", listErr, analyticsAdvice)
		}
	} else if f.Analytics == nil {
		return listErr
	}
	f.done.NoList = listErr
	err := f.analytics(ctx)
	switch {
	case err == nil:
		f.done.Choice.Source, f.done.Choice.TriedAt = missing.Source, missing.TriedAt
	case errors.Is(err, openrouter.ErrNoSource) && !errors.Is(listErr, openrouter.ErrNoSource):
		return listErr // a server that has a list, after all
	}
	return err
}

// analyticsElseList asks for the analytics of a server that had no list. Where there are none either, it is
// another server by now.
func (f *fetch) analyticsElseList(ctx context.Context) error {
	err := f.analytics(ctx)
	if f.pages > 0 || !errors.Is(err, openrouter.ErrNoSource) {
		return err
	}
	listErr := f.list(ctx)
	if errors.Is(listErr, openrouter.ErrNoSource) {
		return err
	}
	return listErr
}

// isNoList tells whether an error is the answer of a server that has no list: it knows no such path, or whoever
// answers for unknown paths refuses the key or sends a page for people.
func isNoList(err error) bool {
	var answer *openrouter.APIError
	switch {
	case errors.Is(err, openrouter.ErrNoSource): // 404, 405
		return true
	case errors.As(err, &answer):
		return answer.Status == http.StatusBadRequest || answer.Status == http.StatusUnauthorized ||
			answer.Status == http.StatusForbidden
	}
	return errors.Is(err, openrouter.ErrAnswer)
}

// list fetches from the list.
func (f *fetch) list(ctx context.Context) error {
	source := f.Generations()
	defer f.asked(source)
	err := source.Fetch(ctx, f.request.Organisation, f.request.Window, f.page(source, bounds{}))
	if err != nil {
		return err
	}
	f.done.Choice.Source, f.done.Choice.TriedAt = "", time.Time{}
	f.done.Attribution, err = f.attribute(ctx, f.db, nil, f.request.Organisation, f.request.Now)
	return err
}

// analytics fetches from the analytics, by the proved hashes of the organisation's keys.
func (f *fetch) analytics(ctx context.Context) error {
	if f.Analytics == nil {
		f.done.Source = SourceAnalytics
		return fmt.Errorf("%w: %s", openrouter.ErrNoSource, analyticsAdvice)
	}
	source := f.Analytics()
	defer f.asked(source)
	a, err := f.attribute(ctx, f.db, source, f.request.Organisation, f.request.Now)
	if err != nil {
		return err
	}
	for _, group := range a.groups() {
		if err := f.group(ctx, source, &a, group); err != nil {
			if errors.Is(err, openrouter.ErrKeyHash) {
				a.forget()
				f.done.Attribution = a
			}
			return KeyHashAdvice(err)
		}
	}
	f.dropQuiet(ctx, source, &a)
	f.done.Attribution, f.done.Organisation = a, a.of(f.request.Organisation)
	return nil
}

// group fetches by some keys together, and one by one where the server does not know one of them, or takes no filter by
// several. A former key that it does not know is dropped.
func (f *fetch) group(ctx context.Context, source AnalyticsSource, a *Attribution, g keyGroup) error {
	org := f.request.Organisation
	org.KeyHash, org.FormerHashes = g.hashes[0], g.hashes[1:]
	window := f.request.Window
	if g.bounds != (bounds{}) {
		window.Cut = cmp.Or(g.until, g.from)
	}
	err := source.Fetch(ctx, org, window, f.page(source, g.bounds))
	unknown := errors.Is(err, openrouter.ErrKeyHash)
	answer, ok := errors.AsType[*openrouter.APIError](err)
	switch {
	case len(g.hashes) > 1 && (unknown || (ok && answer.Status == http.StatusBadRequest)):
		for _, hash := range g.hashes {
			if err := f.group(ctx, source, a, keyGroup{g.bounds, []string{hash}}); err != nil {
				return err
			}
		}
		return nil
	case unknown && a.index(g.hashes[0]) != a.present:
		a.lose(a.index(g.hashes[0]), f.request.Now.UTC().Truncate(time.Second), "the account does not know it any more")
		return nil
	}
	return err
}

// dropQuiet drops former keys that have not been used for as long as a query reaches back. One of which that
// can't be found out now is asked for a little longer.
func (f *fetch) dropQuiet(ctx context.Context, source AnalyticsSource, a *Attribution) {
	now := f.request.Now.UTC().Truncate(time.Second)
	for i := range a.Spans {
		k := &a.Spans[i]
		if i == a.present || !k.DroppedAt.IsZero() || now.Sub(k.UsedUntil) < quiet {
			continue
		}
		last, err := source.LastUse(ctx, k.Hash, now)
		switch {
		case err != nil:
		case last.After(k.UsedUntil):
			k.UsedUntil = last
		default:
			k.DroppedAt = now
			a.Notes = append(a.Notes, fmt.Sprintf("the former key %.8s… was not used since %s: it is asked "+
				"for no more", k.Hash, k.UsedUntil.Format(time.RFC3339)))
		}
	}
}

// page hands over what a page of a source has within some bounds. What is larger than a generation can be is
// refused here, whoever asks.
func (f *fetch) page(source Source, b bounds) func(openrouter.Page) error {
	return func(page openrouter.Page) error {
		if f.check != nil {
			if err := f.check(page); err != nil {
				return err
			}
		}
		f.pages++
		page.Generations = slices.DeleteFunc(page.Generations, func(g store.Generation) bool { return !b.hold(g.CreatedAt) })
		page.Refused = slices.DeleteFunc(page.Refused, func(r openrouter.Refusal) bool {
			return !r.CreatedAt.IsZero() && !b.hold(r.CreatedAt)
		})
		page.Generations = slices.DeleteFunc(page.Generations, func(g store.Generation) bool {
			err := f.db.CheckBounds(g)
			if err != nil {
				page.Refused = append(page.Refused, openrouter.Refusal{ID: openrouter.Plain(g.ID, ""),
					CreatedAt: g.CreatedAt, Reason: err.Error(), Cost: &g.Cost})
			}
			return err != nil
		})
		return f.request.Page(source.Name(), page)
	}
}

// asked notes a source that was asked.
func (f *fetch) asked(source Source) {
	f.done.Source = source.Name()
	f.done.Traffic.Add(source.Traffic())
}

// analyticsAdvice says what is missing where the analytics are wanted and there is no management key.
const analyticsAdvice = "set a management key (OPENROUTER_MANAGEMENT_KEY, OPENROUTER_MANAGEMENT_KEY_FILE or the " +
	"credential management-key) to read POST /analytics/query"

// KeyHashAdvice says what to do about a key hash that the server does not know. It leaves other errors as they are.
func KeyHashAdvice(err error) error {
	if !errors.Is(err, openrouter.ErrKeyHash) {
		return err
	}
	return fmt.Errorf("%w; check openrouter_key_hash of client_organizations, and that the management key is "+
		"of the account that the key belongs to", err)
}
