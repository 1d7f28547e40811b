// Package standin answers like OpenRouter: for the tests, and for `usage-sync demo`. It serves the guide's list of
// generations beside the published endpoints, and meets requests with faults where a script says so.
package standin

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Generation is a row of a key's list.
type Generation struct {
	ID               string
	CreatedAt        time.Time
	Model            string
	ExternalUser     string // empty: null
	PromptTokens     int64
	CompletionTokens int64
	Cost             string    // in US dollars, the text of a JSON number
	Raw              string    // if set, the row itself, as JSON
	VisibleFrom      time.Time // until then no list shows it: it appears late
}

type row struct {
	Generation
	json []byte
}

type account struct {
	label  string
	rows   []*row
	sorted bool
}

// Request is a request that was met.
type Request struct {
	Method, Path, Key, UserAgent string
	Query                        url.Values
	Status                       int // 0 where none was sent
}

// Server is the stand-in, a handler that may be used by several goroutines.
type Server struct {
	now func() time.Time

	mu           sync.Mutex
	accounts     map[string]*account
	byID         map[string]*row
	pageLimit    int
	script       []Fault
	always       *Fault
	ignoreOffset bool
	onPage       func(key string, offset int)
	requests     []Request
}

// defaultPageLimit is the most rows of a page.
const defaultPageLimit = 100

// New returns a stand-in with a clock of its own, which it also shows in the header Date.
func New(now func() time.Time) *Server {
	return &Server{now: now, accounts: map[string]*account{}, byID: map[string]*row{}, pageLimit: defaultPageLimit}
}

// AddKey makes an ordinary key valid.
func (s *Server) AddKey(key, label string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accounts[key] = &account{label: label}
}

// Add lists generations under a key, which it makes valid if it is not.
func (s *Server) Add(key string, generations ...Generation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.accounts[key]
	if !ok {
		a = &account{}
		s.accounts[key] = a
	}
	for _, g := range generations {
		r := &row{Generation: g, json: render(g)}
		a.rows = append(a.rows, r)
		s.byID[g.ID] = r
	}
	a.sorted = false
}

// SetCost changes the cost of a generation: OpenRouter settles some of them late.
func (s *Server) SetCost(id, cost string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.byID[id]
	r.Cost = cost
	r.json = render(r.Generation)
}

// PageLimit sets the most rows of a page, whatever limit is asked for.
func (s *Server) PageLimit(rows int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pageLimit = rows
}

// IgnoreOffset makes the list answer with its first page for ever.
func (s *Server) IgnoreOffset(ignore bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ignoreOffset = ignore
}

// OnPage is called after each page of a list: new rows may arrive while a client pages.
func (s *Server) OnPage(f func(key string, offset int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onPage = f
}

// Script makes the next requests meet faults, one each, in order.
func (s *Server) Script(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = append(s.script, faults...)
}

// Always makes every request meet a fault, once the script is through; nil ends that.
func (s *Server) Always(f *Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.always = f
}

// Requests returns the requests met so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// ServeHTTP answers below any base path, such as /api/v1.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Date", s.now().UTC().Format(http.TimeFormat))
	key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	recorder := &statusRecorder{ResponseWriter: w}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.requests = append(s.requests, Request{Method: r.Method, Path: r.URL.Path, Key: key, UserAgent: r.UserAgent(),
			Query: r.URL.Query(), Status: recorder.status})
	}()
	if fault := s.nextFault(); fault.serve != nil {
		fault.serve(recorder, r, s.answer)
		return
	}
	s.answer(recorder, r)
}

func (s *Server) nextFault() Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.script) > 0 {
		fault := s.script[0]
		s.script = s.script[1:]
		return fault
	}
	if s.always != nil {
		return *s.always
	}
	return OK()
}

// answer is what the service sends where nothing is wrong.
func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	handlers := map[string]func(http.ResponseWriter, *http.Request, string){
		"generations": s.list, "generation": s.generation, "key": s.key,
	}
	handler, known := handlers[path]
	key := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	s.mu.Lock()
	_, valid := s.accounts[key]
	s.mu.Unlock()
	switch {
	case !known:
		sendError(w, http.StatusNotFound, "Not Found")
	case r.Method != http.MethodGet:
		sendError(w, http.StatusMethodNotAllowed, "Method Not Allowed")
	case key == "":
		sendError(w, http.StatusUnauthorized, "No auth credentials found")
	case !valid:
		sendError(w, http.StatusUnauthorized, "User not found.")
	default:
		handler(w, r, key)
	}
}

func (s *Server) list(w http.ResponseWriter, r *http.Request, key string) {
	limit, limitErr := number(r, "limit", 50)
	offset, offsetErr := number(r, "offset", 0)
	if limitErr != nil || offsetErr != nil || limit < 1 {
		sendError(w, http.StatusBadRequest, "limit and offset must be whole numbers")
		return
	}
	s.mu.Lock()
	if s.ignoreOffset {
		offset = 0
	}
	rows := s.visible(key)
	rows = rows[min(offset, len(rows)):]
	rows = rows[:min(limit, s.pageLimit, len(rows))]
	size := len(`{"data":[]}`) + max(0, len(rows)-1)
	for _, row := range rows {
		size += len(row.json)
	}
	body := append(make([]byte, 0, size), `{"data":[`...)
	for i, row := range rows {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, row.json...)
	}
	body = append(body, `]}`...)
	onPage := s.onPage
	s.mu.Unlock()
	send(w, http.StatusOK, body)
	if onPage != nil {
		onPage(key, offset)
	}
}

// visible returns a key's rows, newest first. The caller holds the mutex.
func (s *Server) visible(key string) []*row {
	a := s.accounts[key]
	if !a.sorted {
		slices.SortStableFunc(a.rows, func(a, b *row) int { return b.CreatedAt.Compare(a.CreatedAt) })
		a.sorted = true
	}
	hidden := func(r *row) bool { return r.VisibleFrom.After(s.now()) }
	if !slices.ContainsFunc(a.rows, func(r *row) bool { return !r.VisibleFrom.IsZero() }) {
		return a.rows
	}
	return slices.DeleteFunc(slices.Clone(a.rows), hidden)
}

func number(r *http.Request, name string, otherwise int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, 10, 31)
	return int(n), err
}

func (s *Server) generation(w http.ResponseWriter, r *http.Request, _ string) {
	id := r.URL.Query().Get("id")
	s.mu.Lock()
	row, found := s.byID[id]
	s.mu.Unlock()
	if !found {
		sendError(w, http.StatusNotFound, fmt.Sprintf("Generation %s not found", id))
		return
	}
	send(w, http.StatusOK, fmt.Appendf(nil, `{"data":%s}`, row.json))
}

// key answers as https://openrouter.ai/docs/api-reference/get-current-key does.
func (s *Server) key(w http.ResponseWriter, _ *http.Request, key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now().UTC()
	midnight := now.Truncate(24 * time.Hour)
	monday := midnight.AddDate(0, 0, -(int(now.Weekday())+6)%7)
	month := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	var all, daily, weekly, monthly float64
	for _, row := range s.visible(key) {
		cost, _ := strconv.ParseFloat(cmp.Or(row.Cost, "0"), 64)
		for since, sum := range map[time.Time]*float64{{}: &all, midnight: &daily, monday: &weekly, month: &monthly} {
			if !row.CreatedAt.Before(since) {
				*sum += cost
			}
		}
	}
	body, _ := json.Marshal(map[string]any{"data": map[string]any{
		"label": s.accounts[key].label, "limit": nil, "limit_remaining": nil, "limit_reset": nil, "usage": all,
		"usage_daily": daily, "usage_weekly": weekly, "usage_monthly": monthly, "byok_usage": 0, "byok_usage_daily": 0,
		"byok_usage_weekly": 0, "byok_usage_monthly": 0, "is_free_tier": false, "is_management_key": false,
	}})
	send(w, http.StatusOK, body)
}

// render writes a row with the fields of https://openrouter.ai/docs/api-reference/get-a-generation.
func render(g Generation) []byte {
	if g.Raw != "" {
		return []byte(g.Raw)
	}
	text := func(s string) string {
		quoted, _ := json.Marshal(s)
		return string(quoted)
	}
	user := "null"
	if g.ExternalUser != "" {
		user = text(g.ExternalUser)
	}
	provider, _, _ := strings.Cut(g.Model, "/")
	return fmt.Appendf(nil, `{"id":%s,"upstream_id":null,"total_cost":%s,"cache_discount":null,"upstream_inference_cost":0,`+
		`"provider_name":%s,"created_at":"%s","model":%s,"app_id":null,"external_user":%s,"streamed":true,"cancelled":false,`+
		`"latency":840,"moderation_latency":null,"generation_time":2100,"tokens_prompt":%[7]d,"tokens_completion":%[8]d,`+
		`"native_tokens_prompt":%[7]d,"native_tokens_completion":%[8]d,"native_tokens_reasoning":0,"native_tokens_cached":0,`+
		`"native_tokens_completion_images":null,"num_media_prompt":null,"num_media_completion":null,"num_search_results":null,`+
		`"num_input_audio_prompt":null,"origin":"","usage":%[2]s,"is_byok":false,"finish_reason":"stop",`+
		`"native_finish_reason":"stop","api_type":"completions","router":null,"request_id":null,"session_id":null,`+
		`"http_referer":null,"user_agent":null,"web_search_engine":null}`,
		text(g.ID), cmp.Or(g.Cost, "0"), text(provider), g.CreatedAt.UTC().Format("2006-01-02T15:04:05.000000-07:00"), text(g.Model),
		user, g.PromptTokens, g.CompletionTokens)
}

func sendError(w http.ResponseWriter, status int, message string) {
	body, _ := json.Marshal(map[string]any{"error": map[string]any{"message": message, "code": status}})
	send(w, status, body)
}

func send(w http.ResponseWriter, status int, body []byte) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *statusRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
