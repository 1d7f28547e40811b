package standin

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The limits of POST /analytics/query
// (https://openrouter.ai/docs/api-reference/analytics/query-analytics-data, and answers of July to September
// 2026).
const (
	defaultPerMinute  = 64
	maxDimensions     = 2
	maxFilters        = 20
	defaultQueryLimit = 1000
	maxQueryLimit     = 10_000
	defaultRange      = 7 * 24 * time.Hour
	maxRange          = 367 * 24 * time.Hour
	maxDetailedRange  = 31 * 24 * time.Hour
	maxMinuteRange    = 3 * time.Hour
)

// AnalyticsPerMinute sets how many requests to POST /analytics/query a management key may make within any
// minute of real time, whatever the server's clock says: usually 64, and 0 is no limit. Those beyond it get
// 429 with the seconds to wait.
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
		Start string `json:"start"`
		End   string `json:"end"`
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
	Field        string          `json:"field"`
	Operator     string          `json:"operator"`
	Value        json.RawMessage `json:"value"`
	IncludeUnset bool            `json:"include_unset"` // taken, and left out of account

	values []string
}

// dimension is what rows can be told apart by.
type dimension struct {
	// value is what a filter compares, and what a row shows; empty is shown as null.
	value func(*account, *row) string
	// raw are those that rolled-up tables do not have: OpenRouter keeps them for 31 days only.
	raw bool
}

// dimensions are those of OpenRouter's that follow from a Generation. A key is filtered by its hash, and
// shown by its name.
var dimensions = map[string]dimension{
	"generation_id": {func(_ *account, r *row) string { return r.ID }, true},
	"external_user": {func(_ *account, r *row) string { return r.ExternalUser }, true},
	"provider":      {func(_ *account, r *row) string { return r.Provider }, true},
	"origin":        {func(*account, *row) string { return "" }, true},
	"finish_reason": {func(*account, *row) string { return "stop" }, true},
	"session_id":    {func(*account, *row) string { return "none" }, true},
	"data_region":   {func(*account, *row) string { return "global" }, true},
	"model":         {func(_ *account, r *row) string { return r.Permaslug }, false},
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
	"byok_request_count": func(g *group) int64 { return g.byokRequests },
}

// costs are the metrics that are sent as numbers, with what a row has of them. total_usage is what was
// charged and what was paid with keys of the client's own; of runs of server tools it is a part, whatever
// request_count says.
var costs = map[string]func(r *row) []amount{
	"total_usage":      func(r *row) []amount { return []amount{r.cost, r.upstream} },
	"credits_usage":    func(r *row) []amount { return []amount{r.cost} },
	"openrouter_usage": func(r *row) []amount { return only(!r.BYOK && !r.Tool, r.cost) },
	"byok_usage":       func(r *row) []amount { return []amount{r.upstream} },
	"byok_fees":        func(r *row) []amount { return only(r.BYOK, r.cost) },
	"usage_web":        func(r *row) []amount { return only(r.Tool, r.cost) },
	"usage_data":       func(*row) []amount { return nil },
	"usage_file":       func(*row) []amount { return nil },
	"usage_web_fetch":  func(*row) []amount { return nil },
	"usage_cache":      func(*row) []amount { return nil },
}

func only(is bool, a amount) []amount {
	if !is {
		return nil
	}
	return []amount{a}
}

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
func parseQuery(body string, now time.Time, fractions bool) (*query, error) {
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
	return q, q.checkRange(now, fractions)
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
		if counts[name] == nil && costs[name] == nil || named[name] {
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
	return q.Granularity != "" && slices.Contains(
		[]string{"date", "date__" + q.Granularity, "created_at", "created_at__" + q.Granularity}, q.OrderBy.Field)
}

// timeColumn is what a row calls its time bucket: by a column of the raw table where rolled-up ones do not
// have what is asked for (recordings of 31 July, 2 and 9 September 2026).
func (q *query) timeColumn() string {
	if q.raw() {
		return "created_at__" + q.Granularity
	}
	return "date__" + q.Granularity
}

// raw tells whether only the raw table can answer.
func (q *query) raw() bool {
	return slices.ContainsFunc(q.Dimensions, func(name string) bool { return dimensions[name].raw }) ||
		slices.ContainsFunc(q.Filters, func(f filter) bool { return dimensions[f.Field].raw })
}

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

// wholeSecond is how the live service wants a time, and fraction how the vendor's SDK writes one.
var (
	wholeSecond = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)$`) })
	fraction    = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\.\d{1,9}(Z|[+-])`) })
)

// parseTime reads a time of time_range. Seconds must be there; whether a fraction of one is taken is
// unproven: one live client says that it is refused, and so it is here.
func parseTime(text string, fractions bool) (time.Time, error) {
	whole := text
	if fractions {
		whole = fraction().ReplaceAllString(text, "$1")
	}
	if !wholeSecond().MatchString(whole) {
		return time.Time{}, fmt.Errorf("time_range: %q: Invalid ISO datetime", text)
	}
	return time.Parse(time.RFC3339Nano, text)
}

func (q *query) checkRange(now time.Time, fractions bool) (err error) {
	q.start, q.end = now.Add(-defaultRange), now
	if q.TimeRange != nil {
		if q.start, err = parseTime(q.TimeRange.Start, fractions); err != nil {
			return err
		}
		if q.end, err = parseTime(q.TimeRange.End, fractions); err != nil {
			return err
		}
	}
	switch length := q.end.Sub(q.start); {
	case length <= 0:
		return errors.New("time_range: start must be before end")
	case q.Granularity == "minute" && length > maxMinuteRange:
		return errors.New("minute granularity is only available for time ranges of up to 3 hours")
	case q.raw() && length > maxDetailedRange:
		return errors.New("time ranges with these dimensions are limited to 31 days")
	case q.Granularity == "hour" && length > maxDetailedRange:
		return errors.New("hour granularity is only available for time ranges of up to 31 days")
	case length > maxRange:
		return errors.New("time ranges are limited to 367 days")
	}
	return nil
}

// analytics answers POST /analytics/query
// (https://openrouter.ai/docs/api-reference/analytics/query-analytics-data). A generation is in a time range
// from its start on and before its end, by when it was created, and in buckets of UTC; weeks start on Monday.
// Without an order the newest buckets come first, and so do the newest generations within.
func (s *Server) analytics(key, body string) answer {
	started := time.Now()
	if wait, tooMany := s.tooMany(key); tooMany {
		return tooManyRequests(wait)
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := parseQuery(body, now, s.quirks.Fractions)
	switch {
	case err != nil:
		return errorAnswer(http.StatusBadRequest, "Invalid query: "+err.Error())
	case s.quirks.OneKey && slices.ContainsFunc(q.Filters, func(f filter) bool { return len(f.values) > 1 }):
		return errorAnswer(http.StatusBadRequest, "Invalid query: the operator in is not available for api_key_id")
	case q.byName():
		return errorAnswer(http.StatusInternalServerError, messages[http.StatusInternalServerError])
	}
	limit := defaultQueryLimit
	if q.Limit != nil {
		limit = *q.Limit
	}
	if s.quirks.MostRows > 0 {
		limit = min(limit, s.quirks.MostRows)
	}
	accounts, warnings := s.filtered(q.Filters)
	groups := q.groups(accounts, now, limit+1, s.quirks)
	truncated := len(groups) > limit
	groups = groups[:min(limit, len(groups))]

	out := append(make([]byte, 0, 256+len(groups)*200), `{"data":{"data":[`...)
	shape := q.shape(s.quirks, s.otherDates)
	for i, g := range groups {
		if i > 0 {
			out = append(out, ',')
		}
		out = q.appendRow(out, g, shape)
	}
	out = fmt.Appendf(out, `],"metadata":{"query_time_ms":%d,"row_count":%d,"truncated":%t}`,
		time.Since(started).Milliseconds(), len(groups), truncated && !s.quirks.NeverTruncated)
	if len(warnings) > 0 && !s.quirks.NoWarnings || s.quirks.EmptyWarnings {
		out = fmt.Appendf(out, `,"warnings":[%s]`, strings.Join(warnings, ","))
	}
	if cachedAt := cmp.Or(s.quirks.CachedAt, strconv.FormatInt(now.UnixMilli(), 10)); cachedAt != "-" {
		out = fmt.Appendf(out, `,"cachedAt":%s`, cachedAt)
	}
	a := jsonAnswer(http.StatusOK, append(out, "}}"...))
	if s.quirks.LimitHeaders {
		a.header.Set("X-RateLimit-Limit", strconv.Itoa(defaultPerMinute))
	}
	return a
}

// tooManyRequests is OpenRouter's own 429, which also says how many requests there may be.
func tooManyRequests(wait time.Duration) answer {
	a := errorAnswer(http.StatusTooManyRequests, messages[http.StatusTooManyRequests])
	a.header.Set("Retry-After", strconv.Itoa(int((wait+time.Second-1)/time.Second)))
	a.header.Set("X-RateLimit-Limit", strconv.Itoa(defaultPerMinute))
	a.header.Set("X-RateLimit-Remaining", "0")
	a.header.Set("X-RateLimit-Reset", strconv.FormatInt(time.Now().Add(wait).UnixMilli(), 10))
	return a
}

// keyHash is what a key is filtered by.
var keyHash = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{64}$`) })

// byName tells whether a key is filtered by anything but a hash, such as the name that rows show: the service
// then fails.
func (q *query) byName() bool {
	return slices.ContainsFunc(q.Filters, func(f filter) bool {
		return f.Field == "api_key_id" && slices.ContainsFunc(f.values, func(v string) bool { return !keyHash().MatchString(v) })
	})
}

// filtered returns the accounts that the filters leave, and a warning for each hash that is no key's: such a
// filter gives no rows, without an error. The caller holds the lock.
func (s *Server) filtered(filters []filter) (accounts []*account, warnings []string) {
	accounts = s.ordinary()
	for _, f := range filters {
		if f.Field != "api_key_id" || s.quirks.LoseHash {
			continue
		}
		for _, hash := range f.values {
			if a, known := s.byHash(hash); !known || a.Deleted && s.quirks.ForgetDeleted {
				warnings = append(warnings, quote("Could not resolve api_key_id hash "+hash+": no such API key"))
			}
		}
		accounts = slices.DeleteFunc(accounts, func(a *account) bool {
			return !operators[f.Operator](a.Hash, f.values) || a.Deleted && s.quirks.ForgetDeleted
		})
	}
	return accounts, warnings
}

// group is a row of an answer.
type group struct {
	bucket                                          int64 // the start in Unix seconds; 0 without granularity
	values                                          [maxDimensions]string
	requests, prompt, completion, reasoning, cached int64
	byokRequests                                    int64
	hasTokens                                       bool
	rows                                            []*row
}

func (g *group) add(r *row, q Quirks) {
	requests, prompt, completion := r.requests(), r.PromptTokens, r.CompletionTokens
	if q.ToolRequests {
		requests = 1
	}
	if q.NormalisedTokens {
		prompt, completion = prompt+prompt/8, completion+completion/8
	}
	g.requests += requests
	if r.BYOK {
		g.byokRequests += requests
	}
	if !r.NoTokens {
		g.prompt += prompt
		g.completion += completion
		g.reasoning += r.reasoning()
		g.cached += r.cached()
		g.hasTokens = true
	}
	g.rows = append(g.rows, r)
}

// cost returns what a metric of the group costs.
func (g *group) cost(of func(*row) []amount) amount {
	if len(g.rows) == 1 {
		if parts := of(g.rows[0]); len(parts) == 1 || len(parts) == 2 && parts[1].digits == nil {
			return parts[0]
		}
	}
	total := sum{}
	for _, r := range g.rows {
		for _, part := range of(r) {
			total.add(part)
		}
	}
	return total.total()
}

// groups returns the rows of the answer in their order; no more than enough of them need to be right.
func (q *query) groups(accounts []*account, now time.Time, enough int, quirks Quirks) []*group {
	type identity struct {
		bucket int64
		values [maxDimensions]string
	}
	// Generations are groups of their own: there is nothing to look up, and often a time from which on there
	// is enough.
	single := slices.Contains(q.Dimensions, "generation_id") &&
		!slices.ContainsFunc(accounts, func(a *account) bool { return a.shared })
	newestFirst := q.OrderBy == nil || q.byDate() && q.OrderBy.Direction == "desc"
	stop := single && newestFirst && len(accounts) == 1
	known := map[identity]*group{}
	var all []*group
	for _, a := range accounts {
		end := q.end
		if quirks.BothEnds {
			end = end.Add(1)
		}
		for _, r := range a.between(q.start, end) {
			leftOut := quirks.RolledUpWithout != "" && r.Model == quirks.RolledUpWithout && !q.raw()
			if leftOut || !r.counts(now) || !q.passes(a, r) {
				continue
			}
			id := identity{bucket: bucketOf(r.CreatedAt, q.Granularity)}
			for i, name := range q.Dimensions {
				id.values[i] = dimensions[name].value(a, r)
				switch {
				case name == "model" && quirks.Undated:
					id.values[i] = r.Model
				case name == "api_key_id" && quirks.KeyHashes:
					id.values[i] = a.Hash
				}
			}
			g, ok := known[id]
			if !ok {
				g = &group{bucket: id.bucket, values: id.values}
				all = append(all, g)
				if !single {
					known[id] = g
				}
			}
			g.add(r, quirks)
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
	} else if of, ok := costs[field]; ok {
		totals := map[*group]amount{}
		total := func(g *group) amount {
			a, known := totals[g]
			if !known {
				a = g.cost(of)
				totals[g] = a
			}
			return a
		}
		compare = func(x, y *group) int { return total(x).compare(total(y)) }
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

// shape is how the rows of an answer are written.
type shape struct {
	Quirks
	column, layout string
}

func (q *query) shape(quirks Quirks, otherDates bool) shape {
	f := shape{Quirks: quirks, column: q.timeColumn(), layout: time.DateOnly}
	switch {
	case quirks.TimeLayout != "":
		f.layout = quirks.TimeLayout
	case otherDates:
		f.layout = milliseconds
	case q.Granularity == "minute" || q.Granularity == "hour":
		f.layout = time.DateTime
	}
	if quirks.TimeColumn != "" {
		f.column = quirks.TimeColumn + "__" + q.Granularity + quirks.Suffix
	}
	f.Decimals = cmp.Or(f.Decimals, 6)
	return f
}

func (q *query) appendRow(out []byte, g *group, f shape) []byte {
	out = append(out, '{')
	if q.Granularity != "" {
		bucket := time.Unix(g.bucket, 0).UTC().Add(time.Duration(f.HoursLate) * time.Hour)
		out = append(append(append(out, '"'), f.column...), `":"`...)
		out = append(bucket.AppendFormat(out, f.layout), `",`...)
	}
	for i, name := range q.Dimensions {
		value := orNull(g.values[i])
		if g.values[i] == "" && name == "external_user" && f.NoUser != "" {
			value = f.NoUser
		}
		out = append(append(append(out, '"'), name...), `":`...)
		out = append(append(out, value...), ',')
	}
	for _, name := range q.Metrics {
		out = append(append(append(out, '"'), name...), `":`...)
		out = append(append(out, g.metric(name, f)...), ',')
	}
	out[len(out)-1] = '}'
	return out
}

// metric returns the JSON of a metric: counts as text, and costs as numbers, rounded once for all that is in
// the row. The cost of a single generation that is no number is written as everywhere else, to the letter.
func (g *group) metric(name string, f shape) string {
	if count, ok := counts[name]; ok {
		number := strconv.FormatInt(count(g), 10)
		switch {
		case !g.hasTokens && strings.Contains(name, "tokens"):
			return "null"
		case f.Numbers:
			return number
		}
		return `"` + number + `"`
	}
	if len(g.rows) == 1 && g.rows[0].cost.bad && (name == "total_usage" || name == "credits_usage") {
		return g.rows[0].Cost
	}
	of := costs[name]
	if name == "total_usage" && f.NoBYOK {
		of = costs["credits_usage"]
	}
	total := g.cost(of)
	if f.Cents {
		total.exponent += 2
	}
	if !f.Exact {
		total = total.round(f.Decimals, f.Rounding)
	}
	return total.String()
}
