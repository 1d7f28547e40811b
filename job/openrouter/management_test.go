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
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

const (
	orgKey        = "sk-or-v1-" + "0e6f44a47a05f1dad2ad" + "7e88c4c1d6b7"
	managementKey = "sk-or-v1-fedcba9876543210-management"
)

// now is the time of these tests: in the middle of an hour.
var now = time.Date(2026, 5, 14, 15, 30, 0, 0, time.UTC)

func acme() store.Organisation {
	return store.Organisation{ID: "acme", Name: "Acme GmbH", Key: orgKey, Zone: time.UTC, KeyHash: sha256Hex(orgKey)}
}

func sha256Hex(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// logBuffer keeps what several goroutines log.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// account is a server with a management key and acme's key.
type account struct {
	*testing.T
	api  *standin.Server
	http *httptest.Server // none where the server is in memory
	logs *logBuffer
	mem  http.RoundTripper // of a server in memory

	ownKey bool // the management key is refused for single generations, so that acme's may be sent there
}

func newAccount(t *testing.T) *account {
	t.Helper()
	a := serveHandler(t, nil)
	a.api = standin.NewGateway(func() time.Time { return now })
	a.api.AddManagementKey(managementKey)
	a.api.SetKey(orgKey, standin.Key{Name: "Acme GmbH"})
	a.api.AnalyticsPerMinute(0)
	a.http.Config.Handler = a.api
	return a
}

// newAccountInMemory is an account whose server is called without a connection, so that its clock and the client's may be
// that of a synctest bubble.
func newAccountInMemory(t *testing.T) *account {
	t.Helper()
	a := &account{T: t, logs: &logBuffer{}}
	a.api = standin.NewGateway(func() time.Time { return now })
	a.api.AddManagementKey(managementKey)
	a.api.SetKey(orgKey, standin.Key{Name: "Acme GmbH"})
	a.api.AnalyticsPerMinute(0)
	a.mem = inMemory{a.api}
	return a
}

// inMemory sends requests to a handler, without a connection.
type inMemory struct{ http.Handler }

func (m inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := httptest.NewRecorder()
	m.ServeHTTP(w, r)
	return w.Result(), nil
}

// serveHandler is an account whose server answers as a test says.
func serveHandler(t *testing.T, handler http.Handler) *account {
	t.Helper()
	a := &account{T: t, http: httptest.NewServer(handler), logs: &logBuffer{}}
	t.Cleanup(a.http.Close)
	return a
}

// body answers each request with the same JSON.
func body(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", now.Format(http.TimeFormat))
		_, _ = io.WriteString(w, text)
	})
}

func (a *account) client() *Client {
	a.Helper()
	log := slog.New(slog.NewTextHandler(a.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	url := "http://127.0.0.1"
	if a.http != nil {
		url = a.http.URL
	}
	c, err := New(url+"/api/v1", "test", log, WithFirstWait(time.Millisecond))
	if err != nil {
		a.Fatal(err)
	}
	c.http.Transport = a.mem
	return c
}

func (a *account) management(options ...ManagementOption) *Management {
	a.Helper()
	return NewManagement(a.client(), managementKey, append([]ManagementOption{WithQueriesPerMinute(1_000_000)}, options...)...)
}

func rowLimit(n int) ManagementOption { return func(m *Management) { m.limit = n } }

const tableStart = `{"data":{"data":[`

func inTable(rows ...string) string {
	return tableStart + strings.Join(rows, ",") + fmt.Sprintf(`],"metadata":{"query_time_ms":12.5,"row_count":%d,"truncated":false}}}`, len(rows))
}

func TestDecodeTableRows(t *testing.T) {
	hour := time.Date(2026, 5, 19, 13, 0, 0, 0, time.UTC)
	day := time.Date(2026, 5, 19, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		row         string
		want        tableRow
		granularity string // hour where it is empty
	}{
		"as documented": {`{"date__hour":"2026-05-19T13:00:00.000Z","generation_id":"gen-1","model":"openai/gpt-4o","tokens_total":"1500","total_usage":0.0025}`,
			tableRow{bucket: hour, id: "gen-1", model: "openai/gpt-4o", dated: "openai/gpt-4o", tokens: 1500, cost: 2_500_000_000, priced: true}, ""},
		"of single generations, seen live on 2 Sep 2026": {`{"created_at__hour":"2026-05-19 13:00:00","generation_id":"gen-1","model":"google/gemini-3.1-flash-image-preview-20260226","request_count":"1","total_usage":0.06859,"tokens_total":"1631"}`,
			tableRow{bucket: hour, id: "gen-1", model: "google/gemini-3.1-flash-image-preview", dated: "google/gemini-3.1-flash-image-preview-20260226",
				requests: 1, counted: true, tokens: 1631, cost: 68_590_000_000, priced: true}, ""},
		"a video, which has no tokens, seen live on 2 Sep 2026": {`{"created_at__hour":"2026-05-19 13:00:00","generation_id":"gen-1","model":"google/veo-3.1","request_count":"1","total_usage":3.2,"tokens_total":null}`,
			tableRow{bucket: hour, id: "gen-1", model: "google/veo-3.1", dated: "google/veo-3.1", requests: 1, counted: true, cost: 3_200_000_000_000, priced: true}, ""},
		"rolled up, seen live on 31 Jul 2026": {`{"date__hour":"2026-05-19 13:00:00","api_key_id":"Acme production","model":"moonshotai/kimi-k2.6-20260420","request_count":"3","total_usage":0.012887,"tokens_total":"10800","tokens_prompt":"6278","tokens_completion":"4522","reasoning_tokens":"4373","cached_tokens":"4131","byok_usage":0}`,
			tableRow{bucket: hour, model: "moonshotai/kimi-k2.6", dated: "moonshotai/kimi-k2.6-20260420", requests: 3, counted: true, tokens: 10800,
				cost: 12_887_000_000, priced: true}, ""},
		"of a day, seen live on 9 Sep 2026": {`{"date__day":"2026-05-19","total_usage":0.005235,"request_count":"4","tokens_total":"66342"}`,
			tableRow{bucket: day, requests: 4, counted: true, tokens: 66342, cost: 5_235_000_000, priced: true}, "day"},
		"any column of the granularity": {`{"started__hour":"2026-05-19 13:00:00","generation_id":"g"}`, tableRow{bucket: hour, id: "g"}, ""},
		"a charge without a request": {`{"created_at__hour":"2026-05-19 13:00:00","generation_id":"g","model":null,"request_count":"0","total_usage":0.01,"tokens_total":"0"}`,
			tableRow{bucket: hour, id: "g", counted: true, cost: 10_000_000_000, priced: true}, ""},
		"counts as numbers": {`{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","tokens_total":1500,"request_count":2,"total_usage":1}`,
			tableRow{bucket: hour, id: "g", tokens: 1500, requests: 2, counted: true, cost: store.Dollar, priced: true}, ""},
		"a cost with an exponent": {`{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","total_usage":1.25e-7}`,
			tableRow{bucket: hour, id: "g", cost: 125_000, priced: true}, ""},
		"a cost as text": {`{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","total_usage":"0.5"}`,
			tableRow{bucket: hour, id: "g", cost: store.Dollar / 2, priced: true}, ""},
		"free":               {`{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","total_usage":0}`, tableRow{bucket: hour, id: "g", priced: true}, ""},
		"nulls":              {`{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","model":null,"external_user":null,"tokens_total":null,"total_usage":null}`, tableRow{bucket: hour, id: "g"}, ""},
		"an offset":          {`{"date__hour":"2026-05-19T15:00:00+02:00","generation_id":"g"}`, tableRow{bucket: hour, id: "g"}, ""},
		"no zone":            {`{"date__hour":"2026-05-19T13:00:00","generation_id":"g"}`, tableRow{bucket: hour, id: "g"}, ""},
		"a space":            {`{"date__hour":"2026-05-19 13:00:00","generation_id":"g"}`, tableRow{bucket: hour, id: "g"}, ""},
		"a number":           {`{"date__hour":1779195600,"generation_id":"g"}`, tableRow{bucket: hour, id: "g"}, ""},
		"a plain date":       {`{"date__hour":"2026-05-19","generation_id":"g"}`, tableRow{bucket: day, id: "g"}, ""},
		"a minute":           {`{"date__minute":"2026-05-19T13:07:00.000Z","generation_id":"g","request_count":"1"}`, tableRow{bucket: hour.Add(7 * time.Minute), id: "g", requests: 1, counted: true}, "minute"},
		"a user":             {`{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","external_user":"ann","request_count":"1"}`, tableRow{bucket: hour, id: "g", user: "ann", requests: 1, counted: true}, ""},
		"no user, in a word": {`{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","external_user":"none","request_count":"1"}`, tableRow{bucket: hour, id: "g", requests: 1, counted: true}, ""},
		"unknown fields":     {`{"x":{"date__hour":[1]},"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","total_usage2":-1}`, tableRow{bucket: hour, id: "g"}, ""},
		"labels that are none": {`{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","model":{"id":"x/y"},"external_user":true,"total_usage":1}`,
			tableRow{bucket: hour, id: "g", cost: store.Dollar, priced: true}, ""},
		"labels with control characters": {`{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","model":"x/\u001by","external_user":"\tann\u0000","total_usage":1}`,
			tableRow{bucket: hour, id: "g", model: "x/y", dated: "x/y", user: "ann", cost: store.Dollar, priced: true}, ""},
		"labels without an end": {`{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","external_user":"a` + strings.Repeat("ä", 300) + `","total_usage":1}`,
			tableRow{bucket: hour, id: "g", user: "a" + strings.Repeat("ä", 255), cost: store.Dollar, priced: true}, ""},
		"labels given twice": {`{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","external_user":"bob","external_user":"ann","total_usage":1}`,
			tableRow{bucket: hour, id: "g", user: "ann", cost: store.Dollar, priced: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, warnings, err := decodeTable(strings.NewReader(inTable(test.row)), cmp.Or(test.granularity, "hour"), 10)
			if err != nil || len(got.rows) != 1 || got.truncated || warnings != nil {
				t.Fatalf("%+v, %v, %v", got, warnings, err)
			}
			if got.rows[0] != test.want {
				t.Errorf("got  %+v\nwant %+v", got.rows[0], test.want)
			}
		})
	}
}

// A row that can't be trusted says why, and leaves those around it alone.
func TestDecodeTableProblems(t *testing.T) {
	const sound = `{"date__hour":"2026-05-19T13:00:00Z","generation_id":"sound","total_usage":1}`
	for name, test := range map[string]struct{ fields, problem string }{
		"negative cost":       {`"total_usage":-0.01`, "total_usage is negative"},
		"NaN":                 {`"total_usage":"NaN"`, "total_usage is"},
		"infinite":            {`"total_usage":"Infinity"`, "total_usage is"},
		"absurd cost":         {`"total_usage":2e6`, "total_usage is absurd"},
		"endless cost":        {`"total_usage":1e999`, "total_usage is"},
		"empty cost":          {`"total_usage":""`, "total_usage is"},
		"a boolean":           {`"total_usage":false`, "total_usage is not a number"},
		"a cost in an object": {`"total_usage":{"usd":1}`, "total_usage is not a single value"},
		"negative tokens":     {`"total_usage":1,"tokens_total":"-1"`, "tokens_total is negative"},
		"half a token":        {`"total_usage":1,"tokens_total":"1.5"`, "tokens_total is not a whole number"},
		"absurd tokens":       {`"total_usage":1,"tokens_total":"1000000000000001"`, "tokens_total is absurd"},
		"a cost given twice":  {`"total_usage":1,"total_usage":2`, "total_usage is given twice"},
	} {
		t.Run(name, func(t *testing.T) {
			row := `{"date__hour":"2026-05-19T13:00:00Z","generation_id":"bad",` + test.fields + `}`
			got, _, err := decodeTable(strings.NewReader(inTable(sound, row, sound)), "hour", 10)
			if err != nil || len(got.rows) != 3 || got.rows[0].problem != "" || got.rows[2].problem != "" {
				t.Fatalf("%+v, %v", got, err)
			}
			if problem := got.rows[1].problem; !strings.Contains(problem, test.problem) || got.rows[1].id != "bad" {
				t.Errorf("got %q of %q, want %q", problem, got.rows[1].id, test.problem)
			}
		})
	}
	for name, row := range map[string]string{
		"no time": `{"generation_id":"bad","total_usage":1}`, "null time": `{"date__hour":null,"generation_id":"bad"}`,
		"yesterday": `{"date__hour":"yesterday","generation_id":"bad"}`, "milliseconds": `{"date__hour":1747659600000,"generation_id":"bad"}`,
		"another granularity": `{"date__day":"2026-05-19","generation_id":"bad"}`, "two columns": `{"date__hour":"2026-05-19 13:00:00","created_at__hour":"2026-05-19 14:00:00","generation_id":"bad"}`,
		"not an object": `"bad"`,
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := decodeTable(strings.NewReader(inTable(row)), "hour", 10)
			if err != nil || len(got.rows) != 1 || got.rows[0].problem == "" {
				t.Errorf("%+v, %v", got, err)
			}
		})
	}
}

func TestDecodeTableMetadata(t *testing.T) {
	const row = `{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","total_usage":1}`
	for name, test := range map[string]struct {
		after     string // of two rows
		limit     int
		truncated bool
		asOf      time.Time
	}{
		"whole":                          {`],"metadata":{"query_time_ms":1,"row_count":2,"truncated":false}`, 10, false, time.Time{}},
		"exactly as many as were wanted": {`],"metadata":{"query_time_ms":1,"row_count":2,"truncated":false}`, 2, false, time.Time{}},
		"truncated":                      {`],"metadata":{"query_time_ms":1,"row_count":2,"truncated":true}`, 10, true, time.Time{}},
		"more rows than came":            {`],"metadata":{"row_count":3,"truncated":false}`, 10, true, time.Time{}},
		"the count as text":              {`],"metadata":{"row_count":"3"}`, 10, true, time.Time{}},
		"the count as float":             {`],"metadata":{"row_count":3.0,"truncated":false}`, 10, true, time.Time{}},
		"more rows than were wanted":     {`]`, 1, true, time.Time{}},
		"more rows, said to be all":      {`],"metadata":{"row_count":2,"truncated":false}`, 1, false, time.Time{}},
		"no metadata":                    {`]`, 10, false, time.Time{}},
		"a full answer without metadata": {`]`, 2, true, time.Time{}},
		"a full answer, null metadata":   {`],"metadata":null`, 2, true, time.Time{}},
		"nulls":                          {`],"metadata":{"row_count":null,"truncated":null},"warnings":null,"cachedAt":null`, 10, false, time.Time{}},
		"cached":                         {`],"cachedAt":1779195600000`, 10, false, time.UnixMilli(1779195600000)},
		"cached, as a float":             {`],"cachedAt":1.7791956e12`, 10, false, time.UnixMilli(1779195600000)},
	} {
		t.Run(name, func(t *testing.T) {
			got, _, err := decodeTable(strings.NewReader(tableStart+row+","+row+test.after+`}}`), "hour", test.limit)
			if err != nil || len(got.rows) != 2 || got.truncated != test.truncated || !got.asOf.Equal(test.asOf) {
				t.Errorf("%d rows, truncated: %t, as of %s, %v", len(got.rows), got.truncated, got.asOf, err)
			}
		})
	}
}

func TestDecodeTableDistrusts(t *testing.T) {
	whole := inTable(`{"date__hour":"2026-05-19T13:00:00Z","generation_id":"g","total_usage":1}`)
	for name, text := range map[string]string{
		"nothing": ``, "an HTML page": `<!DOCTYPE html><html></html>`, "a list": `[]`, "null": `null`, "no data": `{"rows":[]}`,
		"data is null": `{"data":null}`, "data is a list": `{"data":[]}`, "no rows": `{"data":{"metadata":{"truncated":false}}}`,
		"rows are null": `{"data":{"data":null}}`, "rows are an object": `{"data":{"data":{}}}`, "more behind": whole + `{}`,
		"data twice": `{"data":{"data":[]},"data":{"data":[]}}`, "rows twice": `{"data":{"data":[],"data":[]}}`,
		"an error": `{"error":{"message":"boom","code":500},"data":{"data":[]}}`, "an error alone": `{"error":"boom"}`,
		"truncated is a text": `{"data":{"data":[],"metadata":{"truncated":"no"}}}`, "a wild cachedAt": `{"data":{"data":[],"cachedAt":"now"}}`,
		"warnings are objects": `{"data":{"data":[],"warnings":[{"code":1}]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			if got, _, err := decodeTable(strings.NewReader(text), "hour", 10); !errors.Is(err, ErrAnswer) || len(got.rows) != 0 {
				t.Errorf("%+v, %v, want ErrAnswer", got, err)
			}
		})
	}
	for cut := range len(whole) {
		if got, _, err := decodeTable(strings.NewReader(whole[:cut]), "hour", 10); !errors.Is(err, ErrAnswer) || len(got.rows) != 0 {
			t.Fatalf("cut at %d: %+v, %v, want ErrAnswer", cut, got, err)
		}
	}
}

// Whatever comes, the decoder returns; and a row without a problem can be billed.
func FuzzDecodeTable(f *testing.F) {
	for _, seed := range []string{
		inTable(`{"date__hour":"2026-05-19T13:00:00.000Z","generation_id":"g","model":"a/b","tokens_total":"1500","total_usage":1.5e-7}`),
		`{"data":{"data":[{"date__minute":"2026-05-19","external_user":1,"request_count":"1"},null,1,[{}]],"metadata":{"row_count":"7","truncated":true},"warnings":["w"],"cachedAt":1e300}}`,
		`{"data":{"cachedAt":-1,"data":[{"total_usage":-0}]},"error":null}`,
		liveModels, liveUsers, liveHours,
		"{\"data\":{\"data\":[{\"generation_id\":\"\xff\",\"model\":\"\\u0000\",\"total_usage\":\"\\u0031\"}]}}",
	} {
		f.Add([]byte(seed), 2)
		f.Add([]byte(seed), 0) // fewer than there are
	}
	f.Fuzz(func(t *testing.T, text []byte, limit int) {
		got, _, err := decodeTable(bytes.NewReader(text), "hour", limit)
		if err != nil && (len(got.rows) > 0 || !errors.Is(err, ErrAnswer)) {
			t.Fatalf("%d rows of an answer that can't be trusted: %v", len(got.rows), err)
		}
		// The server may send more rows than it was asked for, but then it must say itself that they are all.
		var says struct {
			Data struct{ Metadata struct{ Truncated *bool } }
		}
		_ = json.Unmarshal(text, &says)
		whole := says.Data.Metadata.Truncated != nil
		if err == nil && !got.truncated && len(got.rows) >= limit && !whole {
			t.Fatalf("%d rows of %d are taken for all", len(got.rows), limit)
		}
		for _, r := range got.rows {
			if r.problem == "" && (r.bucket.IsZero() || r.cost < 0 || r.cost > maxCost || r.tokens < 0 || r.tokens > maxNumber || r.requests < 0) {
				t.Fatalf("not billable: %+v", r)
			}
		}
	})
}

func BenchmarkDecodeTable(b *testing.B) {
	const rows = 10_000
	all := make([]string, rows)
	for i := range all {
		all[i] = fmt.Sprintf(`{"date__hour":"2026-05-19T13:00:00.000Z","generation_id":"gen-1747659600-%020d","model":"openai/gpt-4.1","tokens_total":"1300","total_usage":0.0025}`, i)
	}
	text := inTable(all...)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if got, _, err := decodeTable(strings.NewReader(text), "hour", rows); err != nil || len(got.rows) != rows || got.truncated {
			b.Fatal(err)
		}
	}
}

// askAny asks for the users of an hour.
func (a *account) askAny(ctx context.Context, options ...ManagementOption) (table, error) {
	return a.management(options...).ask(ctx, []string{sha256Hex(orgKey)}, query{Metrics: []string{"request_count"}, Granularity: "hour",
		Dimensions: []string{"generation_id", "external_user"}, TimeRange: timeRange{now.Add(-time.Hour), now}})
}

func TestWarnings(t *testing.T) {
	for _, warning := range []string{"Could not resolve api_key_id hash 0123: no such API key", "unresolvable api_key_id", "Unknown HASH"} {
		_, err := serveHandler(t, body(`{"data":{"data":[],"warnings":[`+fmt.Sprintf("%q", warning)+`]}}`)).askAny(t.Context())
		if !errors.Is(err, ErrKeyHash) || !errors.Is(err, ErrAnswer) || !strings.Contains(err.Error(), warning) {
			t.Errorf("%s: %v, want ErrKeyHash", warning, err)
		}
	}
	a := serveHandler(t, body(`{"data":{"data":[],"warnings":["this endpoint moves\nsoon `+managementKey+`"]}}`))
	if _, err := a.askAny(t.Context()); err != nil {
		t.Error(err)
	}
	if log := a.logs.String(); !strings.Contains(log, "OpenRouter warns: this endpoint moves soon") || strings.Contains(log, managementKey) {
		t.Errorf("log: %s", log)
	}
	// A real answer of a hash that nobody has.
	b := newAccount(t)
	org := acme()
	org.KeyHash = sha256Hex("someone else")
	if _, err := b.fetch(org, Window{Since: now.Add(-time.Hour), Until: now}, nil); !errors.Is(err, ErrKeyHash) {
		t.Errorf("%v, want ErrKeyHash", err)
	}
}

func TestAskFails(t *testing.T) {
	for name, test := range map[string]struct {
		fault standin.Fault
		want  func(error) bool
	}{
		"HTML":             {standin.Body(200, "text/html", "<!DOCTYPE html><html>Please sign in</html>"), func(err error) bool { return errors.Is(err, ErrAnswer) }},
		"an error":         {standin.Body(200, "application/json", `{"error":{"code":500,"message":"x"}}`), func(err error) bool { return errors.Is(err, ErrAnswer) }},
		"no such":          {standin.Status(404, ""), func(err error) bool { return errors.Is(err, ErrNoSource) }},
		"no such, in HTML": {standin.Body(404, "text/html", "<html>404</html>"), func(err error) bool { return errors.Is(err, ErrNoSource) }},
		"not POST":         {standin.Status(405, ""), func(err error) bool { return errors.Is(err, ErrNoSource) }},
		"forbidden": {standin.Status(403, ""), func(err error) bool {
			var e *APIError
			return errors.As(err, &e) && e.Refused() && e.Key == managementKey
		}},
		"bad query": {standin.Status(400, ""), func(err error) bool { var e *APIError; return errors.As(err, &e) && e.Status == 400 }},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAccount(t)
			a.api.Script(test.fault)
			got, err := a.askAny(t.Context())
			if !test.want(err) || len(got.rows) != 0 || len(a.api.Requests()) != 1 {
				t.Errorf("%d rows, %d requests, %v", len(got.rows), len(a.api.Requests()), err)
			}
		})
	}
	t.Run("passing faults", func(t *testing.T) {
		a := newAccount(t)
		a.api.Script(standin.Status(429, "0"), standin.Status(503, ""), standin.Status(524, ""), standin.CutBody())
		if _, err := a.askAny(t.Context()); err != nil || len(a.api.Requests()) != 5 {
			t.Errorf("%d requests, %v", len(a.api.Requests()), err)
		}
	})
	t.Run("408 asks for less", func(t *testing.T) {
		a := newAccount(t)
		a.api.Script(standin.Status(408, ""))
		if got, err := a.askAny(t.Context()); err != nil || !got.truncated || len(a.api.Requests()) != 1 {
			t.Errorf("truncated: %t, %d requests, %v", got.truncated, len(a.api.Requests()), err)
		}
	})
}

// The management key goes to the configured server and nowhere else, not even to another path of it.
func TestManagementKeyFollowsNoRedirect(t *testing.T) {
	other := newAccount(t)
	for _, status := range []int{301, 302, 303, 307, 308} {
		for name, elsewhere := range map[string]bool{"same server": false, "other server": true} {
			t.Run(fmt.Sprint(status, " ", name), func(t *testing.T) {
				var asked []string
				var base string
				a := serveHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					asked = append(asked, r.URL.Path)
					http.Redirect(w, r, base+"/elsewhere", status)
				}))
				if base = a.http.URL; elsewhere {
					base = other.http.URL
				}
				_, err := a.askAny(t.Context())
				if !errors.Is(err, ErrAnswer) || len(asked) != 1 {
					t.Errorf("POST: %v, asked for %v", err, asked)
				}
				_, err = a.management().FindKeyHash(t.Context(), acme())
				if !errors.Is(err, ErrAnswer) || len(asked) != 2 {
					t.Errorf("GET: %v, asked for %v", err, asked)
				}
			})
		}
	}
	if n := len(other.api.Requests()); n != 0 {
		t.Errorf("%d requests reached the other server", n)
	}
}

// Whatever a server repeats, no key is in a log or an error.
func TestManagementKeyIsNeverShown(t *testing.T) {
	for name, handler := range map[string]http.Handler{
		"message":         answer(403, "application/json", `{"error":{"code":403,"message":"bad key KEY"}}`),
		"retried":         answer(503, "application/json", `{"error":{"code":503,"message":"bad key KEY"}}`),
		"error with 200":  answer(200, "application/json", `{"error":{"code":403,"message":"bad key KEY"}}`),
		"warning":         answer(200, "application/json", `{"data":{"data":[],"warnings":["KEY"]}}`),
		"name of a field": answer(200, "application/json", `{"data":{"KEY":tru}}`),
		"text":            answer(200, "application/json", `{"data":"KEY"}`),
		"metadata":        answer(200, "application/json", `{"data":{"data":[],"metadata":{"truncated":"KEY"}}}`),
		"cachedAt":        answer(200, "application/json", `{"data":{"data":[],"cachedAt":"KEY"}}`),
		"redirect": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "https://"+bearer(r)+".example/")
			w.WriteHeader(307)
		}),
		"redirect to nowhere": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "http://[::1]:"+bearer(r)+"/")
			w.WriteHeader(307)
		}),
		"no HTTP": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				fmt.Fprintf(conn, "%s\r\n\r\n", bearer(r))
				conn.Close()
			}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			// A call ends as one that is too late does when its third attempt has come.
			var attempts int
			var late context.CancelCauseFunc
			a := serveHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if attempts++; attempts == 3 {
					late(context.DeadlineExceeded)
				}
				handler.ServeHTTP(w, r)
			}))
			call := func() (ctx context.Context) {
				attempts = 0
				ctx, late = context.WithCancelCause(t.Context())
				return ctx
			}
			_, err := a.askAny(call())
			_, err2 := a.management().FindKeyHash(call(), acme())
			late(nil)
			if text := fmt.Sprint(err, err2, a.logs); strings.Contains(text, managementKey) || strings.Contains(text, orgKey) {
				t.Errorf("a key is shown: %s", text)
			}
		})
	}
}

func bearer(r *http.Request) string {
	return strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
}

// answer repeats the key of each request where the text says KEY.
func answer(status int, contentType, text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, strings.ReplaceAll(text, "KEY", bearer(r)))
	})
}

func TestPace(t *testing.T) {
	const calls, stretch = 5, 120 * time.Millisecond
	t.Run("never more in a stretch, whoever asks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPace(calls, stretch)
			var mu sync.Mutex
			var let []time.Time
			var group sync.WaitGroup
			for range 4 {
				group.Go(func() {
					for range 4 {
						if err := p.wait(t.Context()); err != nil {
							t.Error(err)
						}
						mu.Lock()
						let = append(let, time.Now())
						mu.Unlock()
					}
				})
			}
			group.Wait()
			for i := calls; i < len(let); i++ {
				if apart := let[i].Sub(let[i-calls]); apart < stretch {
					t.Errorf("calls %d to %d within %s", i-calls, i, apart)
				}
			}
			if took := let[len(let)-1].Sub(let[0]); took != 3*stretch {
				t.Errorf("%d calls took %s, want 3 stretches of %s", len(let), took, stretch)
			}
		})
	})
	t.Run("cancelled", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPace(1, time.Hour)
			stop := errors.New("stop")
			ctx, cancel := context.WithCancelCause(t.Context())
			if err := p.wait(ctx); err != nil {
				t.Fatal(err)
			}
			time.AfterFunc(time.Minute, func() { cancel(stop) })
			start := time.Now()
			if err := p.wait(ctx); !errors.Is(err, stop) || time.Since(start) != time.Minute {
				t.Errorf("%v after %s, want the cause at once", err, time.Since(start))
			}
		})
	})
	t.Run("shared by the sources of a pass", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newAccountInMemory(t)
			m := a.management(func(m *Management) { m.pace = newPace(4, stretch) })
			start := time.Now()
			var group sync.WaitGroup
			for range 3 { // 2 queries each
				source := NewAnalytics(m.client, m, none)
				group.Go(func() {
					window := Window{Since: now.Add(-time.Hour), Until: now}
					err := source.Fetch(t.Context(), acme(), window, func(Page) error { return nil })
					if err != nil || source.Traffic().Requests() != 2 {
						t.Errorf("%d requests, %v", source.Traffic().Requests(), err)
					}
				})
			}
			group.Wait()
			if took := time.Since(start); took != stretch {
				t.Errorf("6 queries took %s at 4 in %s", took, stretch)
			}
		})
	})
	t.Run("stays under the server's limit", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			a := newAccountInMemory(t)
			a.api.AnalyticsPerMinute(64)
			m := NewManagement(a.client(), managementKey)
			q := query{Metrics: []string{"request_count"}, Granularity: "hour", TimeRange: timeRange{now.Add(-time.Hour), now}}
			const minutes = 5
			for start := time.Now(); time.Since(start) < minutes*time.Minute; {
				if _, err := m.ask(t.Context(), []string{sha256Hex(orgKey)}, q); err != nil {
					t.Fatal(err)
				}
			}
			for _, r := range a.api.Requests() {
				if r.Status != 200 {
					t.Fatalf("HTTP %d", r.Status)
				}
			}
			if n := len(a.api.Requests()); n != minutes*queriesPerMinute+1 {
				t.Errorf("%d requests in %d minutes, want %d in each", n, minutes, queriesPerMinute)
			}
		})
	})
}

// TestTrafficTimes: waiting for an answer and reading it is fetching, not decoding.
func TestTrafficTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slow = time.Second
		a := &account{T: t, logs: &logBuffer{}}
		a.mem = answersSlowly{slow, `{"data":[]}`}
		source := NewGenerations(a.client())
		if err := source.Fetch(t.Context(), acme(), Window{Since: now}, func(Page) error { return nil }); err != nil {
			t.Fatal(err)
		}
		// The clock of the bubble stands still while anybody works.
		if got := source.Traffic(); got.Fetch != 3*slow || got.Decode != 0 {
			t.Errorf("fetched for %s, decoded for %s, want %s and nothing", got.Fetch, got.Decode, 3*slow)
		}
	})
}

// answersSlowly pauses before an answer and before each half of its body.
type answersSlowly struct {
	pause time.Duration
	text  string
}

func (a answersSlowly) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(a.pause)
	half := len(a.text) / 2
	body := io.MultiReader(slowReader{a.pause, strings.NewReader(a.text[:half])}, slowReader{a.pause, strings.NewReader(a.text[half:])})
	return &http.Response{StatusCode: 200, Header: http.Header{}, Body: io.NopCloser(body), Request: r}, nil
}

type slowReader struct {
	pause time.Duration
	text  *strings.Reader
}

func (r slowReader) Read(p []byte) (int, error) {
	if r.text.Len() > 0 {
		time.Sleep(r.pause)
	}
	return r.text.Read(p)
}

func TestFindKeyHash(t *testing.T) {
	find := func(t *testing.T, org store.Organisation, keys ...standin.Key) (string, *account, error) {
		t.Helper()
		a := newAccount(t)
		a.api.SetKey(orgKey, standin.Key{Name: "retired", Label: "sk-or-v1-zzz...zzz", Hash: "retired"})
		for i, k := range keys {
			a.api.SetKey(fmt.Sprintf("sk-or-v1-other-%d", i), k)
		}
		key, err := a.management().FindKeyHash(t.Context(), org)
		for _, r := range a.api.Requests() {
			if r.Key != managementKey || (r.Path != "/api/v1/keys" && r.Path != "/api/v1/workspaces") {
				t.Errorf("request to %s", r.Path)
			}
		}
		return key.Hash, a, err
	}
	const own, label = orgKey, "sk-or-v1-0e6...6b7"
	many := func(n int) (keys []standin.Key) {
		for i := range n {
			keys = append(keys, standin.Key{Name: fmt.Sprint("Client ", i), Label: fmt.Sprintf("sk-or-v1-%03x...fff", i+0x100), Hash: fmt.Sprint("h", i)})
		}
		return keys
	}
	for name, test := range map[string]struct {
		keys []standin.Key
		want string
	}{
		"by the SHA-256":               {[]standin.Key{{Label: "x", Hash: sha256Hex(own)}}, sha256Hex(own)},
		"in capitals":                  {[]standin.Key{{Label: "x", Hash: strings.ToUpper(sha256Hex(own))}}, sha256Hex(own)},
		"rather than by a label":       {[]standin.Key{{Label: label, Hash: "h1"}, {Label: "x", Hash: sha256Hex(own)}, {Label: label, Hash: "h2"}}, sha256Hex(own)},
		"by the label":                 {[]standin.Key{{Name: "production", Label: label, Hash: "h1"}}, "h1"},
		"rather than by a name":        {[]standin.Key{{Name: "Acme GmbH", Label: "Acme GmbH", Hash: "h2"}, {Label: label, Hash: "h1"}}, "h1"},
		"by the name":                  {[]standin.Key{{Name: "acme gmbh", Label: "custom", Hash: "h1"}}, "h1"},
		"by the id":                    {[]standin.Key{{Name: "acme", Label: "custom", Hash: "h1"}}, "h1"},
		"never another's":              {[]standin.Key{{Name: "Acme GmbH", Label: "sk-or-v1-123...fff", Hash: "h1"}}, sha256Hex(own)},
		"by a label that says nothing": {[]standin.Key{{Name: "x", Label: "sk-or-v1-...", Hash: "h1"}}, sha256Hex(own)},
		"disabled":                     {[]standin.Key{{Label: label, Hash: "h1", Disabled: true}}, "h1"},
		"none":                         {nil, sha256Hex(own)},
		"on the third page":            {append(many(249), standin.Key{Label: label, Hash: "h-last"}), "h-last"},
		"beyond the third page":        {append([]standin.Key{{Label: label, Hash: "h-first"}}, many(249)...), "h-first"},
	} {
		t.Run(name, func(t *testing.T) {
			hash, a, err := find(t, acme(), test.keys...)
			if err != nil || hash != test.want {
				t.Errorf("got %s, %v, want %s", hash, err, test.want)
			}
			if n := len(a.api.Requests()); n > (len(test.keys)+1)/100+4 {
				t.Errorf("%d requests for %d keys", n, len(test.keys)+1)
			}
		})
	}
	for name, keys := range map[string][]standin.Key{
		"two labels": {{Label: label, Hash: "h1"}, {Label: label, Hash: "h2"}},
		"two names":  {{Name: "Acme GmbH", Label: "custom", Hash: "h1"}, {Name: "acme", Label: "custom", Hash: "h2"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, err := find(t, acme(), keys...)
			if !errors.Is(err, store.ErrOrganisation) || !strings.Contains(err.Error(), "openrouter_key_hash of client_organizations") {
				t.Errorf("%v, want what to set", err)
			}
		})
	}
	t.Run("a server that ignores offset", func(t *testing.T) {
		n := 0
		a := serveHandler(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			n++
			_, _ = io.WriteString(w, `{"data":[{"hash":"h1","label":"`+label+`","name":null}]}`)
		}))
		if key, err := a.management().FindKeyHash(t.Context(), acme()); err != nil || key.Hash != "h1" || n > 3 {
			t.Errorf("%s after %d requests, %v", key.Hash, n, err)
		}
	})
	t.Run("a key comes meanwhile", func(t *testing.T) {
		// The list is newest first: what comes shifts it.
		pages := []string{`{"hash":"h2","label":"sk-or-v1-123...fff"},{"hash":"h1","label":"` + label + `"}`, `{"hash":"h1","label":"` + label + `"}`, ``}
		a := serveHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/api/v1/keys" {
				w.WriteHeader(http.StatusNotFound)
				return
			}
			_, _ = io.WriteString(w, `{"data":[`+pages[0]+`]}`)
			pages = pages[min(1, len(pages)-1):]
		}))
		if key, err := a.management().FindKeyHash(t.Context(), acme()); err != nil || key.Hash != "h1" {
			t.Errorf("%s, %v", key.Hash, err)
		}
	})
	for name, text := range map[string]string{"HTML": `<html></html>`, "an object": `{"data":{}}`, "an error": `{"error":{"message":"x"}}`} {
		t.Run(name, func(t *testing.T) {
			if key, err := serveHandler(t, body(text)).management().FindKeyHash(t.Context(), acme()); !errors.Is(err, ErrAnswer) || key.Hash != "" {
				t.Errorf("%s, %v, want ErrAnswer", key.Hash, err)
			}
		})
	}
}

// The account's key may be in any workspace: GET /keys alone lists those of the default one.
func TestKeysOfAllWorkspaces(t *testing.T) {
	const label = "sk-or-v1-0e6...6b7"
	workspaces := map[string][]string{"": {"d1"}, "default": {"d1"}, "second": {}, "third": nil}
	for i := range 150 {
		workspaces["second"] = append(workspaces["second"], fmt.Sprint("s", i))
	}
	workspaces["third"] = []string{"t1", "own"}
	serve := func(offers, ignores bool) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			query := r.URL.Query()
			offset, err := strconv.Atoi(query.Get("offset"))
			if err != nil || bearer(r) != managementKey {
				t.Errorf("request to %s", r.URL.Path)
			}
			var rows []string
			switch {
			case r.URL.Path == "/api/v1/workspaces" && offers:
				rows = []string{`{"id":"default","name":"Default"}`, `{"id":"second"}`, `{"id":"third"}`}
				rows = rows[min(offset, len(rows)):]
				rows = rows[:min(2, len(rows))]
			case r.URL.Path == "/api/v1/keys" && query.Get("include_disabled") == "true":
				workspace := query.Get("workspace_id")
				if ignores {
					workspace = "default"
				}
				keys := workspaces[workspace]
				keys = keys[min(offset, len(keys)):]
				for _, hash := range keys[:min(100, len(keys))] {
					rows = append(rows, fmt.Sprintf(`{"hash":%q,"name":"n","label":%q,"updated_at":null}`, hash,
						map[bool]string{true: label, false: "sk-or-v1-123...fff"}[hash == "own"]))
				}
			default:
				w.WriteHeader(http.StatusNotFound)
				return
			}
			fmt.Fprintf(w, `{"data":[%s],"total_count":3}`, strings.Join(rows, ","))
		})
	}
	for name, test := range map[string]struct {
		offers, ignores bool
		keys            int
		found           string
	}{
		"three workspaces":               {true, false, 153, "own"},
		"none":                           {false, false, 1, sha256Hex(orgKey)},
		"a server that tells none apart": {true, true, 1, sha256Hex(orgKey)},
	} {
		t.Run(name, func(t *testing.T) {
			m := serveHandler(t, serve(test.offers, test.ignores)).management()
			met := map[string]bool{}
			err := m.Keys(t.Context(), func(k AccountKey) bool {
				if met[k.Hash] {
					t.Errorf("%s is met twice", k.Hash)
				}
				met[k.Hash] = true
				return true
			})
			if err != nil || len(met) != test.keys {
				t.Errorf("%d keys, %v", len(met), err)
			}
			if key, err := m.FindKeyHash(t.Context(), acme()); err != nil || key.Hash != test.found {
				t.Errorf("%s, %v", key.Hash, err)
			}
		})
	}
	t.Run("one that fails", func(t *testing.T) {
		a := serveHandler(t, answer(403, "application/json", `{"error":{"code":403,"message":"Only management keys can perform this operation"}}`))
		var apiErr *APIError
		if key, err := a.management().FindKeyHash(t.Context(), acme()); !errors.As(err, &apiErr) || key.Hash != "" {
			t.Errorf("%s, %v", key.Hash, err)
		}
	})
}
