package openrouter

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"net/http"
	"net/url"
	"time"

	"usage-sync/store"
)

const (
	// pageSize is how many rows are asked for. A server that allows fewer sends fewer.
	pageSize = 1000
	// shortPage is how many are asked for above those that are known, where some are: a pass seldom finds as
	// many new ones.
	shortPage = 100
)

// Window is what a source is asked for: the generations created from Since to Until.
type Window struct {
	Since, Until time.Time
	// Cut tells generations created up to its second from later ones; zero is none. A source that knows times only
	// roughly finds out on which side of it, and of the organisation's midnights, each generation lies.
	Cut time.Time
	// LookBack is before Since, or zero. A source that has the generations created since then in the same
	// answers hands them over, too, and says so in Page.Reach.
	LookBack time.Time
	// Known is what is recorded of the window. A list asks for no more at first than it takes to meet it.
	Known Known
	// Anew: nothing counts as recorded. The day of each generation is found out, also of those that the ledger holds.
	Anew bool
}

// Known says what is recorded already. The zero Known is nothing.
type Known struct {
	Rows   int       // how many generations of the window, about
	Newest time.Time // there are generations from then or later, whether or not they lie in the window
}

// Page is a part of what a source has.
type Page struct {
	Generations []store.Generation
	Refused     []Refusal
	ServerTime  time.Time // the server's clock; zero where it does not say
	Reach       time.Time // pages hold all generations created since then; zero is Window.Since
	AsOf        time.Time // generations created later may be missing; zero is the time of the answer
}

// Generations lists an organisation's generations newest first through the guide's endpoint GET /generations, with the
// organisation's own key. OpenRouter does not publish it; compatible gateways and private proxies offer it.
type Generations struct {
	client *Client
}

// NewGenerations returns the source that lists GET /generations.
func NewGenerations(client *Client) *Generations { return &Generations{client: client.Counting()} }

// Name returns the source's name on the command line and in the history.
func (*Generations) Name() string { return "generations" }

// Traffic returns what the source has sent and got so far.
func (g *Generations) Traffic() Traffic { return g.client.Traffic() }

// Fetch hands over page by page, newest first, until the window is over, or the list. Pages may repeat
// generations, as new ones that arrive meanwhile shift the list, and may hold some from outside the window.
// Where a page does not continue the one before, the window is read again, until a reading is sound or finds
// nothing that was not found before; else it is ErrPaging.
func (g *Generations) Fetch(ctx context.Context, org store.Organisation, window Window, page func(Page) error) error {
	p := &paging{client: g.client, org: org, since: window.Since, known: window.Known, page: page,
		seed: maphash.MakeSeed(), earlier: map[uint64]bool{}, unnamed: map[string]bool{}}
	for n := 1; ; n++ {
		r := &reading{seen: map[uint64]bool{}}
		if err := p.read(ctx, r, n == 1); err != nil {
			return err
		}
		switch {
		case r.doubts == "" || n > 1 && r.fresh == 0:
			return nil
		case n == mostReadings:
			return fmt.Errorf("%w: it changes while it is read, %d times over: %s", ErrPaging, n, r.doubts)
		}
		for key := range r.seen {
			p.earlier[key] = true
		}
	}
}

// ErrPaging: the list changes while it is paged in a way that may leave rows out.
var ErrPaging = fmt.Errorf("%w: the list of generations can't be paged", ErrAnswer)

// ErrNoSource: the server does not offer what the source asks for.
var ErrNoSource = errors.New("no usable source")

// generation asks for a single one (https://openrouter.ai/docs/api-reference/get-a-generation), some times if
// need be: it is never worth a pass.
func (c *Client) generation(ctx context.Context, key store.Key, id string,
	manages bool) (g store.Generation, err error) {
	err = c.send(ctx, request{method: http.MethodGet, key: key, path: "generation",
		query: url.Values{"id": {id}}, manages: manages,
		tries: lookupTries}, func(_ http.Header, body io.Reader) error {
		g, err = decodeGeneration(body)
		return err
	})
	if err == nil && g.ID != id {
		err = fmt.Errorf("%w: asked for generation %s, got %s", ErrAnswer, plain(id, key), plain(g.ID, key))
	}
	return g, err
}

// generation asks for a single one of any key of the account.
func (m *Management) generation(ctx context.Context, id string) (store.Generation, error) {
	return m.client.generation(ctx, m.key, id, true)
}
