package standin

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The limits of POST /analytics/query (https://openrouter.ai/docs/api-reference/analytics/query-analytics-data).
const (
	defaultPerMinute  = 64
	maxDimensions     = 2
	maxFilters        = 20
	defaultQueryLimit = 1000
	maxQueryLimit     = 10_000
	defaultRange      = 7 * 24 * time.Hour
	maxRange          = 365 * 24 * time.Hour
	maxDetailedRange  = 31 * 24 * time.Hour
	maxMinuteRange    = 3 * time.Hour
)

// AnalyticsPerMinute sets how many requests to POST /analytics/query a management key may make within any minute of real time,
// whatever the server's clock says: usually 64, and 0 is no limit. Those beyond it get 429 with the seconds to wait.
func (s *Server) AnalyticsPerMinute(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.perMinute = n
}

// tooMany counts a request of a key, unless it is beyond the limit: then it returns how long to wait.
func (s *Server) tooMany(key string) (wait time.Duration, tooMany bool) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(key)
	a.queries = slices.DeleteFunc(a.queries, func(t time.Time) bool { return now.Sub(t) >= time.Minute })
	if s.perMinute > 0 && len(a.queries) >= s.perMinute {
		return time.Minute - now.Sub(a.queries[len(a.queries)-s.perMinute]), true
	}
	a.queries = append(a.queries, now)
	return 0, false
}

// query is the body of POST /analytics/query.
type query struct {
	Metrics     []string `json:"metrics"`
	Dimensions  []string `json:"dimensions"`
	Granularity string   `json:"granularity"`
	TimeRange   *struct {
		Start time.Time `json:"start"`
		End   time.Time `json:"end"`
	} `json:"time_range"`
	Filters []filter `json:"filters"`
	OrderBy *struct {
		Field     string `json:"field"`
		Direction string `json:"direction"`
	} `json:"order_by"`
	Limit      *int `json:"limit"`
	GroupLimit *int `json:"group_limit"`

	start, end time.Time
}

type filter struct {
	Field    string          `json:"field"`
	Operator string          `json:"operator"`
	Value    json.RawMessage `json:"value"`

	values []string
}

// dimension is what rows can be told apart by.
type dimension struct {
	// value is what a filter compares, and what a row shows; empty is shown as null.
	value func(*account, *row) string
	// detailed are those that OpenRouter keeps for 31 days only.
	detailed bool
}

// dimensions are those of OpenRouter's that follow from a Generation. A key is filtered by its hash, not by
// the number that it has at OpenRouter, too, and shown by its name.
var dimensions = map[string]dimension{
	"generation_id": {func(_ *account, r *row) string { return r.ID }, true},
	"external_user": {func(_ *account, r *row) string { return r.ExternalUser }, true},
	"provider":      {func(_ *account, r *row) string { return r.Provider }, true},
	"model":         {func(_ *account, r *row) string { return r.Model }, false},
	"api_key_id":    {func(a *account, _ *row) string { return a.Name }, false},
}

// counts are the metrics that are sent as text.
var counts = map[string]func(*group) int64{
	"request_count":      func(g *group) int64 { return g.requests },
	"tokens_prompt":      func(g *group) int64 { return g.prompt },
	"tokens_completion":  func(g *group) int64 { return g.completion },
	"tokens_total":       func(g *group) int64 { return g.prompt + g.completion },
	"reasoning_tokens":   func(g *group) int64 { return g.reasoning },
	"cached_tokens":      func(g *group) int64 { return g.cached },
	"byok_request_count": func(*group) int64 { return 0 },
}

// costs are the metrics that are sent as numbers. Nothing is paid with keys of the client's own here, so that only some have one.
var costs = map[string]bool{"total_usage": true, "credits_usage": true, "byok_usage": false}

var granularities = []string{"minute", "hour", "day", "week", "month"}

// operators compare a value with those of a filter.
var operators = map[string]func(value string, with []string) bool{
	"eq":     func(value string, with []string) bool { return value == with[0] },
	"neq":    func(value string, with []string) bool { return value != with[0] },
	"lt":     func(value string, with []string) bool { return value < with[0] },
	"lte":    func(value string, with []string) bool { return value <= with[0] },
	"gt":     func(value string, with []string) bool { return value > with[0] },
	"gte":    func(value string, with []string) bool { return value >= with[0] },
	"in":     func(value string, with []string) bool { return slices.Contains(with, value) },
	"not_in": func(value string, with []string) bool { return !slices.Contains(with, value) },
}

// parseQuery reads and checks a query. What is wrong with it is the error.
func parseQuery(body string, now time.Time) (*query, error) {
	q := &query{}
	d := json.NewDecoder(strings.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(q); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more after the end of the JSON")
	}
	if err := q.checkNames(); err != nil {
		return nil, err
	}
	for i := range q.Filters {
		if err := q.Filters[i].check(); err != nil {
			return nil, err
		}
	}
	for name, n := range map[string]*int{"limit": q.Limit, "group_limit": q.GroupLimit} {
		if n != nil && (*n < 1 || *n > maxQueryLimit) {
			return nil, fmt.Errorf("%s must be from 1 to %d", name, maxQueryLimit)
		}
	}
	return q, q.checkRange(now)
}

func (q *query) checkNames() error {
	switch {
	case len(q.Metrics) == 0:
		return errors.New("at least one metric is required")
	case len(q.Dimensions) > maxDimensions:
		return fmt.Errorf("at most %d dimensions are allowed", maxDimensions)
	case len(q.Filters) > maxFilters:
		return fmt.Errorf("at most %d filters are allowed", maxFilters)
	case q.Granularity != "" && !slices.Contains(granularities, q.Granularity):
		return fmt.Errorf("unknown granularity %q", q.Granularity)
	}
	named := map[string]bool{}
	for _, name := range q.Metrics {
		_, count := counts[name]
		_, cost := costs[name]
		if !count && !cost || named[name] {
			return fmt.Errorf("unknown or repeated metric %q", name)
		}
		named[name] = true
	}
	for _, name := range q.Dimensions {
		if _, ok := dimensions[name]; !ok || named[name] {
			return fmt.Errorf("unknown or repeated dimension %q", name)
		}
		named[name] = true
	}
	if q.OrderBy == nil {
		return nil
	}
	if !named[q.OrderBy.Field] && !q.byDate() {
		return fmt.Errorf("order_by names %q, which the query does not ask for", q.OrderBy.Field)
	}
	if q.OrderBy.Direction != "asc" && q.OrderBy.Direction != "desc" {
		return fmt.Errorf("unknown direction %q", q.OrderBy.Direction)
	}
	return nil
}

// byDate tells whether order_by names the time bucket.
func (q *query) byDate() bool {
	return q.Granularity != "" && (q.OrderBy.Field == "date" || q.OrderBy.Field == q.dateField())
}

func (q *query) dateField() string { return "date__" + q.Granularity }

// check also reads the values.
func (f *filter) check() error {
	if _, ok := dimensions[f.Field]; !ok {
		return fmt.Errorf("unknown filter field %q", f.Field)
	}
	if _, ok := operators[f.Operator]; !ok {
		return fmt.Errorf("unknown operator %q", f.Operator)
	}
	values := []json.RawMessage{f.Value}
	if f.Operator == "in" || f.Operator == "not_in" {
		if err := json.Unmarshal(f.Value, &values); err != nil || len(values) == 0 {
			return fmt.Errorf("the operator %s wants an array of values", f.Operator)
		}
	}
	for _, value := range values {
		var text string
		var number json.Number
		switch {
		case bytes.Equal(value, []byte("null")):
			return errors.New("a filter wants texts or numbers")
		case json.Unmarshal(value, &text) == nil:
			f.values = append(f.values, text)
		case json.Unmarshal(value, &number) == nil:
			f.values = append(f.values, number.String())
		default:
			return errors.New("a filter wants texts or numbers")
		}
	}
	return nil
}

func (q *query) checkRange(now time.Time) error {
	q.start, q.end = now.Add(-defaultRange), now
	if q.TimeRange != nil {
		q.start, q.end = q.TimeRange.Start, q.TimeRange.End
	}
	detailed := slices.ContainsFunc(q.Dimensions, func(name string) bool { return dimensions[name].detailed }) ||
		slices.ContainsFunc(q.Filters, func(f filter) bool { return dimensions[f.Field].detailed })
	switch length := q.end.Sub(q.start); {
	case length <= 0:
		return errors.New("time_range: start must be before end")
	case q.Granularity == "minute" && length > maxMinuteRange:
		return errors.New("minute granularity is only available for time ranges of up to 3 hours")
	case detailed && length > maxDetailedRange:
		return errors.New("time ranges with these dimensions are limited to 31 days")
	case length > maxRange:
		return errors.New("time ranges are limited to 365 days")
	}
	return nil
}

// analytics answers POST /analytics/query (https://openrouter.ai/docs/api-reference/analytics/query-analytics-data). A generation
// is in a time range from its start on and before its end, by when it was created, and in buckets of UTC; weeks start on Monday.
// Without an order the newest buckets come first, and so do the newest generations within.
func (s *Server) analytics(key, body string) answer {
	started := time.Now()
	if wait, tooMany := s.tooMany(key); tooMany {
		a := errorAnswer(http.StatusTooManyRequests, messages[http.StatusTooManyRequests])
		a.header.Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
		return a
	}
	now := s.now()
	q, err := parseQuery(body, now)
	if err != nil {
		return errorAnswer(http.StatusBadRequest, "Invalid query: "+err.Error())
	}
	limit := defaultQueryLimit
	if q.Limit != nil {
		limit = *q.Limit
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	accounts, warnings := s.filtered(q.Filters)
	groups := q.groups(accounts, now, limit+1)
	truncated := len(groups) > limit
	groups = groups[:min(limit, len(groups))]

	out := append(make([]byte, 0, 256+len(groups)*200), `{"data":{"data":[`...)
	spell := q.bucketLayout(s.otherDates)
	for i, g := range groups {
		if i > 0 {
			out = append(out, ',')
		}
		out = q.appendRow(out, g, spell)
	}
	out = fmt.Appendf(out, `],"metadata":{"query_time_ms":%d,"row_count":%d,"truncated":%t}`,
		time.Since(started).Milliseconds(), len(groups), truncated)
	if len(warnings) > 0 {
		out = fmt.Appendf(out, `,"warnings":[%s]`, strings.Join(warnings, ","))
	}
	return jsonAnswer(http.StatusOK, fmt.Appendf(out, `,"cachedAt":%d}}`, now.UnixMilli()))
}

// filtered returns the accounts that the filters leave, and a warning for each hash that is no key's: such a filter gives no
// rows, without an error. The caller holds the lock.
func (s *Server) filtered(filters []filter) (accounts []*account, warnings []string) {
	accounts = s.ordinary()
	for _, f := range filters {
		if f.Field != "api_key_id" {
			continue
		}
		for _, hash := range f.values {
			if _, known := s.byHash(hash); !known {
				warnings = append(warnings, quote("Could not resolve api_key_id hash "+hash+": no such API key"))
			}
		}
		accounts = slices.DeleteFunc(accounts, func(a *account) bool { return !operators[f.Operator](a.Hash, f.values) })
	}
	return accounts, warnings
}

// group is a row of an answer.
type group struct {
	bucket                                          int64 // the start in Unix seconds; 0 without granularity
	values                                          [maxDimensions]string
	requests, prompt, completion, reasoning, cached int64
	first                                           *row
	cost                                            sum // of all rows; nil where there is only the first
}

func (g *group) add(r *row) {
	g.requests++
	g.prompt += r.PromptTokens
	g.completion += r.CompletionTokens
	g.reasoning += r.reasoning()
	g.cached += r.cached()
	if g.first == nil {
		g.first = r
		return
	}
	if g.cost == nil {
		g.cost = sum{}
		g.cost.add(g.first.cost)
	}
	g.cost.add(r.cost)
}

// total returns the cost in order to compare it, or 0 for a metric that has none.
func (g *group) total(costly bool) *big.Rat {
	cost := g.cost
	switch {
	case !costly:
		return new(big.Rat)
	case cost == nil:
		cost = sum{}
		cost.add(g.first.cost)
	}
	total, _ := cost.rat()
	return total
}

// groups returns the rows of the answer in their order; no more than enough of them need to be right.
func (q *query) groups(accounts []*account, now time.Time, enough int) []*group {
	type identity struct {
		bucket int64
		values [maxDimensions]string
	}
	// Generations are groups of their own: there is nothing to look up, and often a time from which on there is enough.
	single := slices.Contains(q.Dimensions, "generation_id")
	newestFirst := q.OrderBy == nil || q.byDate() && q.OrderBy.Direction == "desc"
	stop := single && newestFirst && len(accounts) == 1
	known := map[identity]*group{}
	var all []*group
	for _, a := range accounts {
		for _, r := range a.between(q.start, q.end) {
			if !r.counts(now) || !q.passes(a, r) {
				continue
			}
			id := identity{bucket: bucketOf(r.CreatedAt, q.Granularity)}
			for i, name := range q.Dimensions {
				id.values[i] = dimensions[name].value(a, r)
			}
			g, ok := known[id]
			if !ok {
				g = &group{bucket: id.bucket, values: id.values}
				all = append(all, g)
				if !single {
					known[id] = g
				}
			}
			g.add(r)
			if stop && len(all) >= enough {
				return all
			}
		}
	}
	slices.SortStableFunc(all, q.order())
	return q.perGroup(all)
}

func (q *query) passes(a *account, r *row) bool {
	for i := range q.Filters {
		f := &q.Filters[i]
		if f.Field != "api_key_id" && !operators[f.Operator](dimensions[f.Field].value(a, r), f.values) {
			return false
		}
	}
	return true
}

// bucketOf returns the start of the bucket of a time.
func bucketOf(t time.Time, granularity string) int64 {
	switch granularity {
	case "minute":
		return t.Truncate(time.Minute).Unix()
	case "hour":
		return t.Truncate(time.Hour).Unix()
	case "day":
		return dayOf(t).Unix()
	case "week":
		return mondayOf(t).Unix()
	case "month":
		return firstOf(t).Unix()
	}
	return 0
}

// order compares groups as order_by says.
func (q *query) order() func(x, y *group) int {
	if q.OrderBy == nil {
		return func(x, y *group) int { return cmp.Compare(y.bucket, x.bucket) }
	}
	compare := func(x, y *group) int { return cmp.Compare(x.bucket, y.bucket) }
	field := q.OrderBy.Field
	if count, ok := counts[field]; ok {
		compare = func(x, y *group) int { return cmp.Compare(count(x), count(y)) }
	} else if costly, ok := costs[field]; ok {
		totals := map[*group]*big.Rat{}
		total := func(g *group) *big.Rat {
			if totals[g] == nil {
				totals[g] = g.total(costly)
			}
			return totals[g]
		}
		compare = func(x, y *group) int { return total(x).Cmp(total(y)) }
	} else if i := slices.Index(q.Dimensions, field); i >= 0 {
		compare = func(x, y *group) int { return cmp.Compare(x.values[i], y.values[i]) }
	}
	if q.OrderBy.Direction == "desc" {
		return func(x, y *group) int { return compare(y, x) }
	}
	return compare
}

// perGroup leaves as many buckets of each combination of dimensions as group_limit says.
func (q *query) perGroup(all []*group) []*group {
	if q.GroupLimit == nil || len(q.Dimensions) == 0 {
		return all
	}
	kept := map[[maxDimensions]string]int{}
	return slices.DeleteFunc(all, func(g *group) bool {
		kept[g.values]++
		return kept[g.values] > *q.GroupLimit
	})
}

// bucketLayout is how a bucket is written.
func (q *query) bucketLayout(other bool) string {
	fine := q.Granularity == "minute" || q.Granularity == "hour"
	switch {
	case fine && other:
		return "2006-01-02T15:04:05Z"
	case fine || other:
		return milliseconds
	}
	return time.DateOnly
}

// appendRow writes a group. The cost of a single generation is written as everywhere else, to the letter.
func (q *query) appendRow(out []byte, g *group, layout string) []byte {
	out = append(out, '{')
	if q.Granularity != "" {
		out = append(append(append(out, `"date__`...), q.Granularity...), `":"`...)
		out = append(time.Unix(g.bucket, 0).UTC().AppendFormat(out, layout), `",`...)
	}
	for i, name := range q.Dimensions {
		out = append(append(append(out, '"'), name...), `":`...)
		out = append(append(out, orNull(g.values[i])...), ',')
	}
	for _, name := range q.Metrics {
		out = append(append(append(out, '"'), name...), `":`...)
		count, isCount := counts[name]
		switch {
		case isCount:
			out = append(strconv.AppendInt(append(out, '"'), count(g), 10), '"')
		case !costs[name]:
			out = append(out, '0')
		case g.cost == nil:
			out = append(out, g.first.Cost...)
		default:
			out = append(out, g.cost.String()...)
		}
		out = append(out, ',')
	}
	out[len(out)-1] = '}'
	return out
}
