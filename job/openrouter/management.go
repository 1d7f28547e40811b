package openrouter

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"usage-sync/store"
)

const (
	// queriesPerMinute stays under the 64 that POST /analytics/query allows: a doctor or a reconciliation may
	// run meanwhile.
	queriesPerMinute = 60
	// MaxRange is the longest time range of a query by generation, and how far back one reaches.
	MaxRange = 31 * 24 * time.Hour
	// mostRows is the largest limit of a query: more is an error (vendor's OpenAPI description, 22 Aug 2026).
	mostRows = 10_000
)

// Management asks OpenRouter about all keys of an account, with the account's management key. It may be used by several
// goroutines. The key is sent to the configured server alone: a redirect is an error.
type Management struct {
	client *Client
	key    store.Key
	pace   *pace
	limit  int // rows of one query
}

// ManagementOption changes a Management.
type ManagementOption func(*Management)

// WithQueriesPerMinute is for a server that allows another number of queries than OpenRouter.
func WithQueriesPerMinute(n int) ManagementOption {
	return func(m *Management) { m.pace = newPace(n, time.Minute) }
}

// NewManagement returns a client for an account.
func NewManagement(client *Client, key store.Key, options ...ManagementOption) *Management {
	m := &Management{client: client.withoutRedirects(), key: key, pace: newPace(queriesPerMinute, time.Minute),
		limit: mostRows}
	for _, option := range options {
		option(m)
	}
	return m
}

// Counting returns the same client with a count of its traffic of its own. Both keep to one pace.
func (m *Management) Counting() *Management {
	own := *m
	own.client = m.client.Counting()
	return &own
}

// Traffic returns what the client has sent and got so far.
func (m *Management) Traffic() Traffic { return m.client.Traffic() }

// Seal marks texts in a way that only the holder of the management key can.
func (m *Management) Seal(texts ...string) string { return Sealer(m.key)(texts...) }

// Sealer is the Seal of a management key.
func Sealer(key store.Key) func(texts ...string) string {
	return func(texts ...string) string {
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write([]byte("usage-sync seal"))
		for _, text := range texts {
			fmt.Fprintf(mac, "\x00%d\x00%s", len(text), text)
		}
		return hex.EncodeToString(mac.Sum(nil)[:16])
	}
}

// pace lets a number of calls through in any stretch of time.
type pace struct {
	mu      sync.Mutex
	stretch time.Duration
	last    []time.Time // of as many calls as a stretch may have
	next    int         // the oldest of them
}

func newPace(calls int, stretch time.Duration) *pace {
	return &pace{stretch: stretch, last: make([]time.Time, calls)}
}

func (p *pace) wait(ctx context.Context) error {
	p.mu.Lock()
	at := later(time.Now(), p.last[p.next].Add(p.stretch))
	p.last[p.next] = at
	p.next = (p.next + 1) % len(p.last)
	p.mu.Unlock()
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// query is the body of POST /analytics/query (https://openrouter.ai/docs/api-reference/analytics).
type query struct {
	Metrics     []string  `json:"metrics"`
	Dimensions  []string  `json:"dimensions,omitempty"`
	Granularity string    `json:"granularity"`
	TimeRange   timeRange `json:"time_range"`
	Filters     []filter  `json:"filters"`
	Limit       int       `json:"limit"`
}

// timeRange is from Start up to End.
type timeRange struct {
	Start time.Time `json:"start"`
	End   time.Time `json:"end"`
}

// wholeSeconds returns the smallest range of whole seconds, in UTC, that holds the range. Without seconds a
// time is refused (seen live on 2 Sep 2026), and so is one with a fraction, by one client's account; the
// vendor's SDK sends .000 (1.3.19).
func (r timeRange) wholeSeconds() timeRange {
	end := r.End.UTC().Truncate(time.Second)
	if end.Before(r.End) {
		end = end.Add(time.Second)
	}
	return timeRange{r.Start.UTC().Truncate(time.Second), end}
}

func (r timeRange) length() time.Duration { return r.End.Sub(r.Start) }

func (r timeRange) String() string {
	return r.Start.Format(time.RFC3339) + " to " + r.End.Format(time.RFC3339)
}

// inParts has ask hand over a range, and where that is too much for one answer the parts into which split cuts
// it, newest first. No part is longer than MaxRange.
func inParts(r timeRange, ask func(timeRange) (whole bool, err error),
	split func(timeRange) ([]timeRange, error)) error {
	for end := r.End; end.After(r.Start); {
		part := timeRange{later(r.Start, end.Add(time.Hour-MaxRange).Truncate(time.Hour)), end}
		whole, err := ask(part)
		if err != nil {
			return err
		}
		if !whole {
			smaller, err := split(part)
			if err != nil {
				return err
			}
			for _, one := range slices.Backward(smaller) {
				if err := inParts(one, ask, split); err != nil {
					return err
				}
			}
		}
		end = part.Start
	}
	return nil
}

// halves cuts a range in two where a unit of time begins.
func halves(r timeRange, unit time.Duration) []timeRange {
	half := later(r.Start.Add(unit), r.Start.Add(r.length()/2)).Truncate(unit)
	return []timeRange{{r.Start, half}, {half, r.End}}
}

type filter struct {
	Field    string `json:"field"`
	Operator string `json:"operator"`
	Value    any    `json:"value"` // a text, or texts
}

// ofKeys is the filter for rows of some keys (operators eq and in: vendor's description of 22 Aug 2026, in seen
// with 500 values).
func ofKeys(hashes []string) filter {
	if len(hashes) == 1 {
		return filter{Field: "api_key_id", Operator: "eq", Value: hashes[0]}
	}
	return filter{Field: "api_key_id", Operator: "in", Value: hashes}
}

// table is the answer to a query.
type table struct {
	rows      []tableRow
	truncated bool // rows are missing
	server    time.Time
	asOf      time.Time // it knows what was created before; zero where the server does not say
}

// tableRow is a row of an answer. Which fields mean something depends on the query.
type tableRow struct {
	bucket   time.Time // start of the time bucket
	id       string
	model    string // under the one name that it is recorded by
	dated    string // as the server calls it
	user     string
	requests int64
	tokens   int64
	cost     store.Money
	counted  bool   // it says how many requests it stands for, which may be none
	priced   bool   // it has a cost, which may be nothing
	problem  string // why it can't be trusted
}

// ErrKeyHash: the server does not know the hash of an organisation's key. It then answers with nothing, and the
// client would silently be billed nothing.
var ErrKeyHash = fmt.Errorf("%w: key hash", ErrAnswer)

// ask sends a query about some keys, or without hashes about all. What is too much for the server is an answer that is
// truncated.
func (m *Management) ask(ctx context.Context, hashes []string, q query) (t table, err error) {
	q.Filters = []filter{}
	if len(hashes) > 0 {
		q.Filters = append(q.Filters, ofKeys(hashes))
	}
	q.Limit = min(m.limit, mostRows)
	q.TimeRange = q.TimeRange.wholeSeconds()
	body, err := json.Marshal(q)
	if err != nil {
		return t, err
	}
	var warnings []string
	err = m.client.send(ctx, request{method: http.MethodPost, key: m.key, path: "analytics/query",
		body: body, pace: m.pace.wait,
		narrows: true, manages: true, rows: func() int { return len(t.rows) }},
		func(header http.Header, body io.Reader) error {
			t, warnings, err = decodeTable(body, q.Granularity, q.Limit)
			t.server = date(header)
			if t.asOf.IsZero() {
				t.asOf = t.server
			}
			return err
		})
	var apiErr *APIError
	if errors.As(err, &apiErr) {
		switch {
		case apiErr.TooMuch():
			return table{truncated: true}, nil
		case apiErr.NotOffered():
			return t, fmt.Errorf("%w: %s does not offer POST /analytics/query: %w",
				ErrNoSource, m.client.base.Host, err)
		}
	}
	for _, warning := range warnings {
		warning = plain(warning, m.key)
		if lower := strings.ToLower(warning); strings.Contains(lower, "key") || strings.Contains(lower, "hash") {
			return t, fmt.Errorf("%w %s… is not known to %s: %s", ErrKeyHash, shorten(strings.Join(hashes, "")),
				m.client.base.Host, warning)
		}
		m.client.log.Warn("OpenRouter warns: " + warning)
	}
	return t, err
}

func shorten(hash string) string { return hash[:min(8, len(hash))] }

// decodeTable reads {"data":{"data":[row, …],"metadata":{…},"warnings":[…],"cachedAt":ms}}.
func decodeTable(body io.Reader, granularity string, limit int) (t table, warnings []string, err error) {
	d := newDecoder(body)
	fields := timeColumn(granularity)
	var meta struct {
		RowCount  json.Number `json:"row_count"`
		Truncated *bool       `json:"truncated"`
	}
	var cachedAt *float64
	hasRows := false
	err = d.answer(func() error {
		return d.object(func(name []byte) error {
			switch string(name) {
			case `"data"`:
				if hasRows {
					return fmt.Errorf("%w: two lists of rows", ErrAnswer)
				}
				hasRows = true
				return d.array(func(int) error {
					row, err := d.tableRow(fields)
					t.rows = append(t.rows, row)
					return err
				})
			case `"metadata"`:
				return d.value(&meta)
			case `"warnings"`:
				return d.value(&warnings)
			case `"cachedAt"`:
				return d.value(&cachedAt)
			}
			return d.json.SkipValue()
		})
	})
	if err == nil && !hasRows {
		err = fmt.Errorf("%w: no rows in it", ErrAnswer)
	}
	if err != nil {
		return table{}, nil, err
	}
	count, _ := meta.RowCount.Float64()
	t.truncated = count > float64(len(t.rows))
	if meta.Truncated != nil {
		t.truncated = t.truncated || *meta.Truncated
	} else { // where it does not say: the server may send more rows than it was asked for
		t.truncated = t.truncated || len(t.rows) >= limit
	}
	if cachedAt != nil && *cachedAt > 0 {
		t.asOf = time.UnixMilli(int64(*cachedAt)).UTC()
	}
	return t, warnings, nil
}

// value reads a small value whose speed does not matter.
func (d *decoder) value(into any) error {
	text, err := d.json.ReadValue()
	if err == nil {
		err = json.Unmarshal(text, into)
	}
	return err
}

// tableFields are the fields of a row that are read, but for the time.
var tableFields = fieldsOf("generation_id", "model", "external_user", "request_count", "tokens_total",
	"total_usage").withLabels(tableModel | tableUser)

const (
	tableID = 1 << iota
	tableModel
	tableUser
	tableRequests
	tableTokens
	tableCost
	tableTime
)

// noUser is what a dimension without a value may be called: that of sessions is (vendor, 22 Aug 2026), and what
// the analytics show for an absent external_user nobody has seen.
const noUser = "none"

// timeColumn returns tableFields with the time. Its name is created_at__hour where a query has a dimension of
// single generations and date__hour where rolled-up tables can answer it; the suffix is the granularity (both
// seen live on 31 Jul, 2 and 9 Sep 2026, and the vendor's cookbook says to accept either).
func timeColumn(granularity string) rowFields {
	return tableFields.endingIn("__"+granularity, tableTime)
}

func (d *decoder) tableRow(fields rowFields) (r tableRow, err error) {
	if d.json.PeekKind() != '{' {
		r.problem = "not an object"
		return r, d.json.SkipValue()
	}
	met, problem, err := d.scalars(fields, func(field int, token jsontext.Token) (problem error) {
		switch field {
		case tableID:
			r.id, problem = text(token)
		case tableModel:
			r.model, r.dated = d.model(token), d.label(token)
		case tableUser:
			if r.user = d.label(token); r.user == noUser {
				r.user = ""
			}
		case tableTime:
			r.bucket, problem = instant(token)
		case tableRequests:
			r.requests, problem = tokenCount(token)
		case tableTokens:
			r.tokens, problem = tokenCount(token)
		case tableCost:
			r.cost, problem = cost(token)
		}
		return problem
	})
	r.priced, r.counted, r.problem = met&tableCost != 0, met&tableRequests != 0, problem
	if r.bucket.IsZero() {
		r.problem = cmp.Or(r.problem, "no time: no field ends in "+strings.TrimSuffix(fields.suffix, `"`))
	}
	return r, err
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// date reads an answer's own time; zero where it has none.
func date(header http.Header) time.Time {
	at, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return time.Time{}
	}
	return at
}
