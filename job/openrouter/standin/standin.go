// Package standin answers like OpenRouter, from memory. The demo and the tests ask it in place of the real service, so
// neither needs a key, an account or a network.
//
// It offers GET /generation and GET /key as OpenRouter documents them (https://openrouter.ai/docs/api-reference/overview),
// and GET /generations as compatible gateways do; OpenRouter itself does not publish that list.
package standin

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// defaultLimit is how many rows a page has where the request does not say.
	defaultLimit = 50
	// defaultPageLimit is the most rows of a page, whatever the request says.
	defaultPageLimit = 100
)

// Server is an http.Handler that answers like OpenRouter. It may be used by several goroutines.
type Server struct {
	now func() time.Time

	mu           sync.Mutex
	accounts     map[string]*account // by key
	pageLimit    int
	ignoreOffset bool
	onPage       func(key string, offset int)
	script       []Fault
	always       Fault
	requests     []Request
}

// New returns a server without keys. Its clock dates every answer and decides what a late row or a day is; it is called
// by several goroutines at once.
func New(now func() time.Time) *Server {
	return &Server{now: now, accounts: map[string]*account{}, pageLimit: defaultPageLimit}
}

// account is what the server knows of one key.
type account struct {
	valid bool // false until AddKey: generations may come first
	label string
	byID  map[string]*row
	rows  []*row // newest first
	added []*row // not yet sorted into rows, so that adding many is one sort
	late  bool   // some row has a VisibleFrom
}

// account returns the account of a key. The caller holds the lock.
func (s *Server) account(key string) *account {
	a, ok := s.accounts[key]
	if !ok {
		a = &account{byID: map[string]*row{}}
		s.accounts[key] = a
	}
	return a
}

// AddKey makes a key valid: an ordinary one, without a spending limit.
func (s *Server) AddKey(key, label string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(key)
	a.valid, a.label = true, label
}

// Add puts generations into the list of a key, newest first. Those of the same time stay in the order in which they were
// added, and an id that was there before is listed twice.
func (s *Server) Add(key string, generations ...Generation) {
	rows := make([]*row, len(generations))
	for i, g := range generations {
		rows[i] = newRow(g)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(key)
	a.added = append(a.added, rows...)
	for _, r := range rows {
		a.byID[r.ID] = r
		a.late = a.late || !r.VisibleFrom.IsZero()
	}
}

// SetCost changes what a generation costs, as OpenRouter does where it settles a price later. It panics where no key has
// such a generation: the caller has mistaken the id.
func (s *Server) SetCost(id, cost string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for _, a := range s.accounts {
		if r, ok := a.byID[id]; ok {
			g := r.Generation
			g.Cost = cost
			*r = *newRow(g)
			found = true
		}
	}
	if !found {
		panic("standin: SetCost of the unknown generation " + id)
	}
}

// PageLimit sets how many rows a page holds at most. A request for more gets that many, without an error.
func (s *Server) PageLimit(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pageLimit = n
}

// IgnoreOffset makes every list start at the newest row, as a server does that knows no offset.
func (s *Server) IgnoreOffset(ignore bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ignoreOffset = ignore
}

// OnPage sets a function to call for each page of a list, or none if it is nil. It runs when the rows of the page are
// settled and before they are sent: what it adds is missing from this page and sure to shift the next. It may call the
// server's methods.
func (s *Server) OnPage(f func(key string, offset int)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onPage = f
}

// Request is one request that the server has met. Keys are whole here, and must not be printed.
type Request struct {
	Method    string
	Path      string
	Query     url.Values
	Key       string // empty without an Authorization header
	UserAgent string
	Status    int // of the answer; 0 where none was sent
}

// Requests returns all requests so far, oldest first. A request is in it before its answer is sent.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *Server) record(r *http.Request, status int) {
	key, _ := bearer(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, Request{
		Method: r.Method, Path: r.URL.Path, Query: r.URL.Query(), Key: key, UserAgent: r.UserAgent(), Status: status,
	})
}

// ServeHTTP answers a request, or does to it what the next fault says. To break a connection off it panics with
// http.ErrAbortHandler, which net/http takes without a word.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	fault := s.nextFault()
	if fault.kind == hang {
		s.record(r, 0)
		waitForEnd(r)
		panic(http.ErrAbortHandler)
	}
	a := fault.answer
	if fault.kind != replace {
		a = s.answer(r)
	}
	s.record(r, a.status)
	header := w.Header()
	for name, values := range a.header {
		header[name] = values
	}
	header.Set("Date", s.now().UTC().Format(http.TimeFormat))
	header.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	if fault.kind != cut {
		_, _ = w.Write(a.body) // a client that went away needs no answer
		return
	}
	_, _ = w.Write(a.body[:len(a.body)/2])
	_ = http.NewResponseController(w).Flush() // else the half would be dropped along with the connection
	panic(http.ErrAbortHandler)
}

// answer is a whole HTTP answer, made before anything of it is sent.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func jsonAnswer(status int, body []byte) answer {
	return answer{status: status, header: http.Header{"Content-Type": {"application/json"}}, body: body}
}

// errorAnswer is worded as in https://openrouter.ai/docs/api-reference/errors.
func errorAnswer(status int, message string) answer {
	return jsonAnswer(status, fmt.Appendf(nil, `{"error":{"message":%s,"code":%d}}`, quote(message), status))
}

// methods are those of the endpoints that the server knows. The last four want a management key, which it has none of.
var methods = map[string]string{
	"/generations":     http.MethodGet,
	"/generation":      http.MethodGet,
	"/key":             http.MethodGet,
	"/auth/key":        http.MethodGet, // the older name of /key
	"/keys":            http.MethodGet,
	"/credits":         http.MethodGet,
	"/activity":        http.MethodGet,
	"/analytics/query": http.MethodPost,
}

// answer answers a request that meets no fault.
func (s *Server) answer(r *http.Request) answer {
	at := endpoint(r.URL.Path)
	switch method, known := methods[at]; {
	case !known:
		return errorAnswer(http.StatusNotFound, "Not Found")
	case r.Method != method:
		a := errorAnswer(http.StatusMethodNotAllowed, "Method Not Allowed")
		a.header.Set("Allow", method)
		return a
	}
	key, ok := bearer(r)
	switch {
	case !ok:
		return errorAnswer(http.StatusUnauthorized, "No auth credentials found")
	case !s.isValid(key):
		return errorAnswer(http.StatusUnauthorized, "User not found.")
	}
	switch at {
	case "/generations":
		return s.list(key, r.URL.Query())
	case "/generation":
		return s.generation(key, r.URL.Query().Get("id"))
	case "/key", "/auth/key":
		return s.key(key)
	}
	return errorAnswer(http.StatusForbidden, "Only management keys can perform this operation")
}

// endpoint is what follows OpenRouter's /api/v1, or the last element of the path where a gateway has another prefix.
func endpoint(urlPath string) string {
	if _, after, ok := strings.Cut(urlPath, "/api/v1/"); ok {
		return "/" + after
	}
	return "/" + path.Base(urlPath)
}

func bearer(r *http.Request) (key string, ok bool) {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	key = strings.TrimSpace(key)
	if !strings.EqualFold(scheme, "Bearer") || key == "" {
		return "", false
	}
	return key, true
}

func (s *Server) isValid(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.accounts[key]
	return ok && a.valid
}

// list answers GET /generations.
func (s *Server) list(key string, query url.Values) answer {
	limit, ok := number(query, "limit", defaultLimit)
	if !ok || limit < 1 {
		return errorAnswer(http.StatusBadRequest, "Invalid input: expected limit to be a whole number above 0")
	}
	offset, ok := number(query, "offset", 0)
	if !ok || offset < 0 {
		return errorAnswer(http.StatusBadRequest, "Invalid input: expected offset to be a whole number from 0 on")
	}
	body, onPage := s.page(key, limit, offset)
	if onPage != nil {
		onPage(key, offset)
	}
	return jsonAnswer(http.StatusOK, body)
}

func number(query url.Values, name string, standard int) (n int, ok bool) {
	if !query.Has(name) {
		return standard, true
	}
	n, err := strconv.Atoi(query.Get(name))
	return n, err == nil
}

func (s *Server) page(key string, limit, offset int) (body []byte, onPage func(string, int)) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ignoreOffset {
		offset = 0
	}
	rows := s.account(key).listed(now)
	rows = rows[min(offset, len(rows)):]
	rows = rows[:min(limit, s.pageLimit, len(rows))]
	size := len(`{"data":[]}`)
	for _, r := range rows {
		size += len(r.json) + 1
	}
	body = append(make([]byte, 0, size), `{"data":[`...)
	for i, r := range rows {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, r.json...)
	}
	return append(body, `]}`...), s.onPage
}

// listed returns the rows that a list shows, newest first.
func (a *account) listed(now time.Time) []*row {
	a.sort()
	if !a.late {
		return a.rows
	}
	shown := make([]*row, 0, len(a.rows))
	for _, r := range a.rows {
		if r.visible(now) {
			shown = append(shown, r)
		}
	}
	return shown
}

// sort merges the added rows into the others: one arrival between two pages of a long list is no reason to sort it anew.
func (a *account) sort() {
	if len(a.added) == 0 {
		return
	}
	slices.SortStableFunc(a.added, func(x, y *row) int { return y.CreatedAt.Compare(x.CreatedAt) })
	merged := make([]*row, 0, len(a.rows)+len(a.added))
	before := a.rows
	for _, r := range a.added {
		n := 0
		for n < len(before) && !before[n].CreatedAt.Before(r.CreatedAt) {
			n++
		}
		merged = append(append(merged, before[:n]...), r)
		before = before[n:]
	}
	a.rows, a.added = append(merged, before...), nil
}

// generation answers GET /generation (https://openrouter.ai/docs/api-reference/get-a-generation).
func (s *Server) generation(key, id string) answer {
	if id == "" {
		return errorAnswer(http.StatusBadRequest, "Invalid input: expected id to be a text")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.account(key).byID[id]
	if !ok {
		return errorAnswer(http.StatusNotFound, "Generation not found")
	}
	return jsonAnswer(http.StatusOK, fmt.Appendf(nil, `{"data":%s}`, r.json))
}

// key answers GET /key (https://openrouter.ai/docs/api-reference/get-current-key). Days, weeks from Monday on and months
// are those of UTC. A generation counts from its creation on, also before lists show it.
func (s *Server) key(key string) answer {
	now := s.now().UTC()
	year, month, day := now.Date()
	today := time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
	monday := today.AddDate(0, 0, -(int(today.Weekday())+6)%7)
	first := time.Date(year, month, 1, 0, 0, 0, 0, time.UTC)
	ever, daily, weekly, monthly := sum{}, sum{}, sum{}, sum{}

	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(key)
	for _, rows := range [][]*row{a.rows, a.added} {
		for _, r := range rows {
			if r.CreatedAt.After(now) && !r.visible(now) {
				continue
			}
			ever.add(r.cost)
			for _, period := range []struct {
				start time.Time
				sum   sum
			}{{today, daily}, {monday, weekly}, {first, monthly}} {
				if !r.CreatedAt.Before(period.start) {
					period.sum.add(r.cost)
				}
			}
		}
	}
	return jsonAnswer(http.StatusOK, fmt.Appendf(nil, `{"data":{"label":%s,"limit":null,"limit_remaining":null,`+
		`"limit_reset":null,"include_byok_in_limit":false,"usage":%s,"usage_daily":%s,"usage_weekly":%s,"usage_monthly":%s,`+
		`"byok_usage":0,"byok_usage_daily":0,"byok_usage_weekly":0,"byok_usage_monthly":0,"is_free_tier":false,`+
		`"is_management_key":false,"is_provisioning_key":false,"creator_user_id":null,"expires_at":null,`+
		`"rate_limit":{"requests":-1,"interval":"10s","note":"This field is deprecated and safe to ignore."}}}`,
		quote(a.label), ever, daily, weekly, monthly))
}
