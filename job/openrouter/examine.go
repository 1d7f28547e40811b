package openrouter

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"usage-sync/store"
)

const (
	// mostExamined bounds the requests of an examination.
	mostExamined = 25
	// mostWorkspaces bounds the workspaces whose keys and destinations are looked at, besides the default
	// one.
	mostWorkspaces = 2
	// mostOrganisations bounds those that are asked for usage until one has some.
	mostOrganisations = 3
	// mostSingles bounds the generations that are looked up one by one.
	mostSingles = 4
)

// exchange is one request of an examination and its answer.
type exchange struct {
	path   string // and the method
	status int    // 0 where there was no answer, or none that can be read
	header http.Header
	text   []byte
	body   map[string]any // numbers are json.Number
	err    error
}

// data returns the answer's data as a list of objects, or of one.
func (x *exchange) data() []object {
	if x == nil || x.err != nil {
		return nil
	}
	return objects(x.body["data"])
}

// rows returns the rows of an answer to a query.
func (x *exchange) rows() []object {
	if inner := x.data(); len(inner) == 1 {
		return objects(inner[0]["data"])
	}
	return nil
}

// part returns a field of an answer to a query that stands beside its rows.
func (x *exchange) part(name string) (any, bool) {
	inner := x.data()
	if len(inner) != 1 {
		return nil, false
	}
	value, ok := inner[0][name]
	return value, ok
}

// truncated tells whether an answer says that rows are missing.
func (x *exchange) truncated() bool {
	meta, _ := x.part("metadata")
	fields, _ := meta.(map[string]any)
	truncated, _ := fields["truncated"].(bool)
	return truncated
}

// object is a JSON object as it came.
type object map[string]any

func objects(value any) (all []object) {
	switch v := value.(type) {
	case map[string]any:
		return []object{v}
	case []any:
		for _, one := range v {
			if fields, ok := one.(map[string]any); ok {
				all = append(all, fields)
			}
		}
	}
	return all
}

func (o object) text(name string) string {
	text, _ := o[name].(string)
	return text
}

// money reads an amount; ok is false where there is none.
func (o object) money(name string) (amount store.Money, ok bool) {
	number, isNumber := o[name].(json.Number)
	if !isNumber {
		number = json.Number(o.text(name))
	}
	amount, err := store.ParseMoney(string(number))
	return amount, err == nil
}

// count reads a whole number, which comes as text or as a number; ok is false where there is none.
func (o object) count(name string) (n int64, ok bool) {
	number, isNumber := o[name].(json.Number)
	if !isNumber {
		number = json.Number(o.text(name))
	}
	n, err := number.Int64()
	return n, err == nil
}

// time returns the name and the value of the field that ends in a granularity.
func (o object) time(granularity string) (name string, value any) {
	for name, value := range o {
		if strings.HasSuffix(name, "__"+granularity) {
			return name, value
		}
	}
	return "", nil
}

// evidence is what an examination has gathered.
type evidence struct {
	*Management
	now       time.Time
	org       store.Organisation // the one whose usage was looked at, with the hash that its key was found by
	orgs      []store.Organisation
	exchanges []*exchange

	key, meta, workspaces *exchange
	keys                  []*exchange // of the default workspace, then of others
	raw, users, minutes   *exchange   // since yesterday's midnight in UTC, by generation
	minutesOf             timeRange
	hours, day            *exchange // rolled up, since then and of yesterday
	fraction              *exchange
	small, unresolved     *exchange
	activity, anyActivity *exchange // of yesterday
	singles               []*exchange
	destinations          []*exchange
}

// Examine looks at what OpenRouter answers, and holds it against what the program counts on. It sends at most
// 25 requests, none of which costs money, and no inference. It looks at the usage of the first organisation
// that has any, among the first three. An error means that it came to nothing.
func (m *Management) Examine(ctx context.Context, orgs []store.Organisation, now time.Time) (Examination, error) {
	e := &evidence{Management: m.Counting(), now: now.UTC(), orgs: orgs}
	if e.key = e.get(ctx, "key", nil); e.key.err != nil {
		return Examination{}, e.key.err
	}
	e.gather(ctx)
	if err := context.Cause(ctx); err != nil {
		return Examination{}, err
	}
	found := Examination{Requests: len(e.exchanges), Shapes: shapesOf(e.exchanges)}
	for _, fact := range Contract {
		seen, verdict := fact.examine(e)
		found.Findings = append(found.Findings, FactFinding{fact, seen, verdict})
	}
	return found, nil
}

func (e *evidence) gather(ctx context.Context) {
	e.meta = e.get(ctx, "analytics/meta", nil)
	e.workspaces = e.get(ctx, "workspaces", nil)
	e.keys = append(e.keys, e.get(ctx, "keys", url.Values{"include_disabled": {"true"}}))
	others := e.otherWorkspaces()
	for _, workspace := range others {
		query := url.Values{"include_disabled": {"true"}, "workspace_id": {workspace}}
		e.keys = append(e.keys, e.get(ctx, "keys", query))
	}
	e.gatherUsage(ctx)
	for _, workspace := range append([]string{""}, others...) {
		query := url.Values{}
		if workspace != "" {
			query.Set("workspace_id", workspace)
		}
		e.destinations = append(e.destinations, e.get(ctx, "observability/destinations", query))
	}
}

// otherWorkspaces returns the ids of some workspaces besides the default one. That is the one of the keys
// that come without naming one; where there are none it is taken to be the first.
func (e *evidence) otherWorkspaces() (ids []string) {
	workspaces := e.workspaces.data()
	if len(workspaces) == 0 {
		return nil
	}
	standard := workspaces[0].text("id")
	if keys := e.accountKeys(); len(keys) > 0 && keys[0].text("workspace_id") != "" {
		standard = keys[0].text("workspace_id")
	}
	for _, workspace := range workspaces {
		if id := workspace.text("id"); id != "" && id != standard && len(ids) < mostWorkspaces {
			ids = append(ids, id)
		}
	}
	return ids
}

// yesterday returns the last completed day in UTC.
func (e *evidence) yesterday() timeRange {
	today := e.now.Truncate(24 * time.Hour)
	return timeRange{today.AddDate(0, 0, -1), today}
}

// gatherUsage asks what the first organisation with any usage has used.
func (e *evidence) gatherUsage(ctx context.Context) {
	whole := timeRange{e.yesterday().Start, e.now}.wholeSeconds()
	byGeneration := query{Metrics: []string{"request_count", "tokens_total", "total_usage"},
		Dimensions: []string{"generation_id", "model"}, Granularity: "hour", TimeRange: whole, Limit: mostRows}
	for _, org := range e.orgs[:min(mostOrganisations, len(e.orgs))] {
		e.org = org
		e.org.KeyHash = cmp.Or(org.KeyHash, e.findHash(org.Key))
		if e.raw = e.ask(ctx, byGeneration, e.org.KeyHash); len(e.raw.rows()) > 0 {
			break
		}
	}
	ask := func(change func(q *query)) *exchange {
		q := byGeneration
		change(&q)
		return e.ask(ctx, q, e.org.KeyHash)
	}
	e.users = ask(func(q *query) {
		q.Metrics, q.Dimensions = []string{"request_count"}, []string{"generation_id", "external_user"}
	})
	rolledUp := []string{"request_count", "tokens_total", "total_usage", "credits_usage", "byok_usage"}
	e.hours = ask(func(q *query) { q.Metrics, q.Dimensions = rolledUp, []string{"api_key_id", "model"} })
	e.day = ask(func(q *query) {
		q.Metrics, q.Dimensions, q.Granularity, q.TimeRange = rolledUp, []string{"model"}, "day", e.yesterday()
	})
	e.minutesOf = e.busyHour()
	e.minutes = ask(func(q *query) { q.Granularity, q.TimeRange = "minute", e.minutesOf })
	e.small = e.askSmall(ctx, byGeneration)
	const milliseconds = "2006-01-02T15:04:05.000Z" // as the vendor's SDK sends them
	e.fraction = e.askText(ctx, fmt.Sprintf(`{"metrics":["request_count"],"granularity":"day","limit":10,`+
		`"time_range":{"start":"%s","end":"%s"}}`, whole.Start.Format(milliseconds), whole.End.Format(milliseconds)))
	q := byGeneration
	q.Limit = 10
	e.unresolved = e.ask(ctx, q, strings.Repeat("0", 64))
	date := url.Values{"date": {e.yesterday().Start.Format(time.DateOnly)}}
	e.anyActivity = e.get(ctx, "activity", date)
	e.activity = e.get(ctx, "activity", url.Values{"date": date["date"], "api_key_hash": {e.org.KeyHash}})
	for _, id := range e.samples() {
		e.singles = append(e.singles, e.get(ctx, "generation", url.Values{"id": {id}}))
	}
}

// orderedQuery is a query whose rows come in an order of their own.
type orderedQuery struct {
	query
	OrderBy struct {
		Field     string `json:"field"`
		Direction string `json:"direction"`
	} `json:"order_by"`
}

// askSmall asks for fewer rows than there are: those that most was paid for with keys of the client's own.
func (e *evidence) askSmall(ctx context.Context, of query) *exchange {
	q := orderedQuery{query: of}
	q.Limit, q.Metrics = 2, append(slices.Clone(of.Metrics), "byok_usage")
	q.OrderBy.Field, q.OrderBy.Direction = "byok_usage", "desc"
	q.Filters = []filter{{Field: "api_key_id", Operator: "eq", Value: e.org.KeyHash}}
	text, err := json.Marshal(q)
	if err != nil {
		return &exchange{err: err}
	}
	return e.askText(ctx, string(text))
}

// findHash returns the hash of a key: its SHA-256 where a key of the account has that, else of the only one
// with a label that fits, else the SHA-256 all the same.
func (e *evidence) findHash(key store.Key) string {
	sum := sha256.Sum256([]byte(key))
	own := hex.EncodeToString(sum[:])
	var fitting []string
	for _, k := range e.accountKeys() {
		if strings.EqualFold(k.text("hash"), own) {
			return own
		}
		if fits, _ := labelFits(k.text("label"), key); fits {
			fitting = append(fitting, k.text("hash"))
		}
	}
	if len(fitting) == 1 {
		return fitting[0]
	}
	return own
}

func (e *evidence) accountKeys() (all []object) {
	for _, x := range e.keys {
		all = append(all, x.data()...)
	}
	return all
}

// busyHour returns an hour that is over and has rows, or the last one.
func (e *evidence) busyHour() timeRange {
	end := e.now.Truncate(time.Hour)
	for _, row := range e.raw.rows() {
		if at, ok := row.bucket("hour"); ok && at.Before(end) {
			return timeRange{at, at.Add(time.Hour)}
		}
	}
	return timeRange{end.Add(-time.Hour), end}
}

// bucket returns the start of a row's bucket, as the program reads it.
func (o object) bucket(granularity string) (time.Time, bool) {
	_, value := o.time(granularity)
	number, isNumber := value.(json.Number)
	text, isText := value.(string)
	if !isNumber && !isText {
		return time.Time{}, false
	}
	at, err := ParseTime(cmp.Or(string(number), text), isNumber)
	return at, err == nil
}

// samples returns the ids of generations that tell the most: one without a user, else some whose user is a
// short word, one with a key of the client's own, one of no request, and the dearest.
func (e *evidence) samples() (ids []string) {
	add := func(id string) {
		if id != "" && !slices.Contains(ids, id) && len(ids) < mostSingles {
			ids = append(ids, id)
		}
	}
	users := e.users.rows()
	slices.SortStableFunc(users, func(a, b object) int { return cmp.Compare(userLength(a), userLength(b)) })
	for i, row := range users {
		another := i > 0 && row.text("external_user") != users[i-1].text("external_user")
		if i == 0 || another && userLength(users[0]) > 0 && len(ids) < 2 {
			add(row.text("generation_id"))
		}
	}
	for _, row := range e.small.rows() {
		if byok, ok := row.money("byok_usage"); ok && byok > 0 {
			add(row.text("generation_id"))
			break
		}
	}
	dearest, most := "", store.Money(-1)
	for _, row := range e.raw.rows() {
		if n, ok := row.count("request_count"); ok && n == 0 {
			add(row.text("generation_id"))
		}
		if cost, ok := row.money("total_usage"); ok && cost > most {
			dearest, most = row.text("generation_id"), cost
		}
	}
	add(dearest)
	for _, row := range e.raw.rows() { // the newest
		add(row.text("generation_id"))
	}
	return ids
}

// userLength is how long a row's user is called, and 0 for what is known to be none.
func userLength(row object) int {
	user := row.text("external_user")
	if user == noUser {
		return 0
	}
	return len(user)
}

func (e *evidence) get(ctx context.Context, path string, query url.Values) *exchange {
	return e.exchange(ctx, request{method: http.MethodGet, key: e.Management.key, path: path, query: query,
		manages: true})
}

func (e *evidence) ask(ctx context.Context, q query, hash string) *exchange {
	q.Filters = []filter{{Field: "api_key_id", Operator: "eq", Value: hash}}
	q.TimeRange = q.TimeRange.wholeSeconds()
	text, err := json.Marshal(q)
	if err != nil {
		return &exchange{err: err}
	}
	return e.askText(ctx, string(text))
}

func (e *evidence) askText(ctx context.Context, text string) *exchange {
	const path = "analytics/query"
	return e.exchange(ctx, request{method: http.MethodPost, key: e.Management.key, path: path, body: []byte(text),
		pace: e.pace.wait, narrows: true, manages: true})
}

// errNotAsked is of a request that an examination leaves out.
var errNotAsked = errors.New("not asked: an examination has enough requests")

// exchange sends a request once. Whatever comes of it is for the facts to judge.
func (e *evidence) exchange(ctx context.Context, r request) *exchange {
	x := &exchange{path: r.method + " /" + r.path}
	if len(e.exchanges) == mostExamined {
		x.err = errNotAsked
		return x
	}
	e.exchanges = append(e.exchanges, x)
	r.tries = 1
	x.err = e.client.send(ctx, r, func(header http.Header, body io.Reader) (err error) {
		x.status, x.header = http.StatusOK, header
		if x.text, err = io.ReadAll(body); err != nil {
			return err
		}
		d := json.NewDecoder(bytes.NewReader(x.text))
		d.UseNumber()
		if err := d.Decode(&x.body); err != nil {
			return fmt.Errorf("%w: not the expected JSON", ErrAnswer)
		}
		return nil
	})
	if apiErr, ok := errors.AsType[*APIError](x.err); ok {
		x.status = apiErr.Status
	}
	return x
}
