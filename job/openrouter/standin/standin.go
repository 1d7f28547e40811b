// Package standin answers like OpenRouter, from memory. The demo and the tests ask it in place of the real
// service, so neither needs a key, an account or a network.
//
// It offers what OpenRouter documents (https://openrouter.ai/docs/api-reference/overview) of GET /generation,
// /key, /keys, /workspaces, /credits, /activity, /analytics/meta, /observability/destinations and POST
// /analytics/query, and, where it plays a compatible gateway, GET /generations; OpenRouter itself has no such
// list. All of them answer from the same generations, those given to Add: a row that changes or arrives late
// does so everywhere.
//
// Nothing in it knows the client: what it answers was written from recordings of the live service (31 July to
// 10 September 2026), else from the vendor's description of 22 August 2026 and its SDK of 23 September 2026,
// which is run against it in sdk/.
package standin

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path"
	"slices"
	"sort"
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
	workspaces   []Workspace         // besides the default one
	destinations []Destination
	inOrder      []*account // the same in the order in which they came
	pageLimit    int
	ignoreOffset bool
	noList       int // the status of a list that is not offered, or 0
	otherDates   bool
	quirks       Quirks
	perMinute    int
	onPage       func(key string, offset int)
	onRequest    func(Request)
	faults       map[string]*faults // by endpoint; those for any endpoint are under ""
	requests     []Request
}

// New returns OpenRouter without keys. Its clock dates every answer and decides what a late row or a day is;
// it is called by several goroutines at once.
func New(now func() time.Time) *Server {
	s := NewGateway(now)
	s.noList = http.StatusNotFound
	return s
}

// NewGateway returns a compatible gateway: OpenRouter with GET /generations besides.
func NewGateway(now func() time.Time) *Server {
	return &Server{now: now, accounts: map[string]*account{}, pageLimit: defaultPageLimit,
		perMinute: defaultPerMinute, faults: map[string]*faults{}}
}

// account is what the server knows of one key.
type account struct {
	Key
	valid      bool // false until AddKey: generations may come first
	management bool
	createdAt  time.Time
	queries    []time.Time // of the last minute to POST /analytics/query, in real time

	byID  map[string]*row
	rows  []*row // newest first
	added []*row // not yet sorted into rows, so that adding many is one sort
	// partial: the list does not show all of the rows: one is late, or a part of another.
	partial bool
	shared  bool // some rows are of one generation
	ended   bool // some rows stand in lists where they ended
}

// account returns the account of a key. The caller holds the lock.
func (s *Server) account(key string) *account {
	a, ok := s.accounts[key]
	if !ok {
		a = &account{byID: map[string]*row{}}
		s.accounts[key] = a
		s.inOrder = append(s.inOrder, a)
	}
	return a
}

// Add puts generations into the list of a key, newest first. Those of the same time stay in the order in
// which they were added, and an id that was there before is listed twice; everything but the list then counts
// the newer one alone.
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
		r.workspace = a.Workspace
		a.partial = a.partial || !r.VisibleFrom.IsZero()
		a.ended = a.ended || !r.Ended.IsZero()
		before, known := a.byID[r.ID]
		switch {
		case known && r.ID != "" && r.Tool && !before.Tool:
			before.add(r)
			a.partial, a.shared = true, true
			continue
		case known && r.ID != "":
			before.superseded = true
		}
		a.byID[r.ID] = r
		if s.noList == 0 {
			r.json() // now, so that no page waits for it
		}
	}
}

// SetCost changes what a generation costs, as OpenRouter does where it settles a price later. It panics where
// no key has such a generation: the caller has mistaken the id.
func (s *Server) SetCost(id, cost string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := false
	for _, a := range s.accounts {
		if r, ok := a.byID[id]; ok {
			g := r.Generation
			g.Cost = cost
			changed := newRow(g)
			changed.workspace, changed.tools = r.workspace, r.tools
			*r = *changed
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

// NoList takes GET /generations away: with 404 it answers with an HTML page, as the live service does, and
// with any other status, such as 405, with an error in JSON. 0 offers the list again. Generations that are
// added without a list take a fifth of the memory.
func (s *Server) NoList(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noList = status
}

// OtherDates spells the dates of POST /analytics/query and GET /activity as the vendor's description does.
// Usually a minute or an hour is 2026-05-19 13:00:00, and a day, a week or a month 2026-05-19; the other way
// they are 2026-05-19T13:00:00.000Z and 2026-05-19T00:00:00.000Z, and a day of GET /activity is 2026-05-19
// 00:00:00.
func (s *Server) OtherDates(other bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.otherDates = other
}

// OnRequest sets a function to call for each request before anything else happens to it, or none if it is
// nil: what it adds is in the answer, and a fault that it scripts meets this very request. The request has no
// Status yet. The function may call the server's methods, and may be called by several goroutines at once.
func (s *Server) OnRequest(f func(Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onRequest = f
}

// OnPage sets a function to call for each page of a list, or none if it is nil. It runs when the rows of the
// page are settled and before they are sent: what it adds is missing from this page and sure to shift the
// next. It may call the server's methods.
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
	Body      string // as far as bodyLimit
	Status    int    // of the answer; 0 where none was sent
}

// bodyLimit is how much of a request is read: a query with 20 filters is a few KB.
const bodyLimit = 1 << 20

// Requests returns all requests so far, oldest first. A request is in it before its answer is sent.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

func (s *Server) record(r Request, status int) {
	r.Status = status
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, r)
}

// ServeHTTP answers a request, or does to it what the next fault says. To break a connection off it panics
// with http.ErrAbortHandler, which net/http takes without a word.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	key, hasKey := bearer(r)
	body, _ := io.ReadAll(io.LimitReader(r.Body, bodyLimit)) // half a query is a bad one, and answered as such
	request := Request{Method: r.Method, Path: r.URL.Path, Query: r.URL.Query(), Key: key,
		UserAgent: r.UserAgent(), Body: string(body)}
	s.mu.Lock()
	onRequest := s.onRequest
	s.mu.Unlock()
	if onRequest != nil {
		onRequest(request)
	}
	at, hash := endpoint(r.URL.Path)
	fault := s.nextFault(at)
	if fault.kind == hang {
		s.record(request, 0)
		waitForEnd(r)
		panic(http.ErrAbortHandler)
	}
	a := fault.answer
	if fault.kind != replace {
		a = s.answer(at, hash, request, hasKey)
	}
	s.record(request, a.status)
	header := w.Header()
	for name, values := range a.header {
		header[name] = values
	}
	s.date(header)
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

// date says what time it is, unless that is a quirk: net/http then adds none of its own.
func (s *Server) date(header http.Header) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.quirks.NoDate {
		header["Date"] = nil
		return
	}
	header.Set("Date", now.UTC().Format(http.TimeFormat))
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

// methods are those of the endpoints that the server knows.
var methods = map[string]string{
	"/generations":     http.MethodGet,
	"/generation":      http.MethodGet,
	"/key":             http.MethodGet,
	"/auth/key":        http.MethodGet, // the older name of /key
	"/keys":            http.MethodGet,
	"/keys/{hash}":     http.MethodGet,
	"/activity":        http.MethodGet,
	"/analytics/query": http.MethodPost,
	"/analytics/meta":  http.MethodGet,
	"/workspaces":      http.MethodGet,
	"/credits":         http.MethodGet,

	"/observability/destinations": http.MethodGet,
}

// answer answers a request that meets no fault.
func (s *Server) answer(at, hash string, r Request, hasKey bool) answer {
	if a, missing := s.missingList(at); missing {
		return a
	}
	switch method, known := methods[at]; {
	case !known:
		return page404()
	case r.Method != method:
		a := errorAnswer(http.StatusMethodNotAllowed, "Method Not Allowed")
		a.header.Set("Allow", method)
		return a
	}
	valid, management := s.kind(r.Key)
	switch {
	case !hasKey:
		return errorAnswer(http.StatusUnauthorized, "No auth credentials found")
	case !valid:
		return errorAnswer(http.StatusUnauthorized, "User not found.")
	}
	switch at {
	case "/generations":
		return s.list(r.Key, r.Query)
	case "/generation":
		return s.generation(r.Key, management, r.Query.Get("id"))
	case "/key", "/auth/key":
		return s.currentKey(r.Key)
	}
	if !management {
		return errorAnswer(http.StatusForbidden, messages[http.StatusForbidden])
	}
	switch at {
	case "/keys":
		return s.keys(r.Query)
	case "/keys/{hash}":
		return s.keyOf(hash)
	case "/activity":
		return s.activity(r.Query)
	case "/workspaces":
		return s.listWorkspaces(r.Query)
	case "/observability/destinations":
		return s.listDestinations(r.Query)
	case "/credits":
		return s.credits()
	case "/analytics/meta":
		return s.meta()
	default:
		return s.analytics(r.Key, r.Body)
	}
}

// endpoint is what follows OpenRouter's /api/v1, or the end of the path where a gateway has another prefix. A
// key's hash in it is returned on its own.
func endpoint(urlPath string) (at, hash string) {
	_, at, ok := strings.Cut(urlPath, "/api/v1/")
	if !ok {
		dir, last := path.Split(path.Clean("/" + urlPath))
		at = path.Join(path.Base(dir), last)
		if _, known := methods["/"+at]; !known && path.Base(dir) != "keys" {
			at = last
		}
	}
	if hash, ok := strings.CutPrefix(at, "keys/"); ok && hash != "" && !strings.Contains(hash, "/") {
		return "/keys/{hash}", hash
	}
	return "/" + at, ""
}

func bearer(r *http.Request) (key string, ok bool) {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	key = strings.TrimSpace(key)
	if !strings.EqualFold(scheme, "Bearer") || key == "" {
		return "", false
	}
	return key, true
}

// missingList answers in place of the list where it is taken away: to anyone, as a server does that has no
// such path.
func (s *Server) missingList(at string) (a answer, missing bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case at != "/generations" || s.noList == 0:
		return answer{}, false
	case s.noList == http.StatusNotFound:
		return page404(), true
	}
	return errorAnswer(s.noList, http.StatusText(s.noList)), true
}

// page404 is what the live service answers on a path that it does not have: a page for people.
func page404() answer {
	return answer{status: http.StatusNotFound, header: http.Header{"Content-Type": {"text/html; charset=utf-8"}},
		body: []byte(`<!DOCTYPE html><html lang="en"><head><title>Not Found | OpenRouter</title></head><body>404</body></html>`)}
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
	if s.quirks.LooseTies {
		rows = loosened(rows)
	}
	rows = rows[min(offset, len(rows)):]
	rows = rows[:min(limit, s.pageLimit, len(rows))]
	size := len(`{"data":[]}`)
	for _, r := range rows {
		size += len(r.json()) + 1
	}
	body = append(make([]byte, 0, size), `{"data":[`...)
	for i, r := range rows {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, r.json()...)
	}
	return append(body, `]}`...), s.onPage
}

// Remove takes generations out of everything that the server shows of a key, as a service does that keeps them
// for a while.
func (s *Server) Remove(key string, ids ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(key)
	a.sort()
	a.rows = slices.DeleteFunc(slices.Clone(a.rows), func(r *row) bool { return slices.Contains(ids, r.ID) })
	for _, id := range ids {
		delete(a.byID, id)
	}
}

// loosened returns the rows with those of one second in any order.
func loosened(rows []*row) []*row {
	rows = slices.Clone(rows)
	for start := 0; start < len(rows); {
		end := start + 1
		for end < len(rows) && rows[end].CreatedAt.Unix() == rows[start].CreatedAt.Unix() {
			end++
		}
		tie := rows[start:end]
		rand.Shuffle(len(tie), func(i, j int) { tie[i], tie[j] = tie[j], tie[i] })
		start = end
	}
	return rows
}

// listed returns the rows that a list shows, newest first.
func (a *account) listed(now time.Time) []*row {
	a.sort()
	if !a.partial && !a.ended {
		return a.rows
	}
	shown := make([]*row, 0, len(a.rows))
	for _, r := range a.rows {
		if r.visible(now) && r.partOf == nil {
			shown = append(shown, r)
		}
	}
	if a.ended {
		slices.SortStableFunc(shown, func(x, y *row) int { return y.listedAt().Compare(x.listedAt()) })
	}
	return shown
}

// sort merges the added rows into the others: one arrival between two pages of a long list is no reason to
// sort it anew.
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

// between returns the rows created from start on and before end, newest first, also those that are not to be
// counted.
func (a *account) between(start, end time.Time) []*row {
	a.sort()
	before := func(t time.Time) int {
		return sort.Search(len(a.rows), func(i int) bool { return a.rows[i].CreatedAt.Before(t) })
	}
	return a.rows[before(end):before(start)]
}

// generation answers GET /generation (https://openrouter.ai/docs/api-reference/get-a-generation). A
// management key sees the generations of all keys.
func (s *Server) generation(key string, management bool, id string) answer {
	if id == "" {
		return errorAnswer(http.StatusBadRequest, "Invalid input: expected id to be a text")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	accounts := []*account{s.account(key)}
	if management {
		accounts = s.ordinary()
	}
	for _, a := range accounts {
		if r, ok := a.byID[id]; ok {
			return jsonAnswer(http.StatusOK, fmt.Appendf(nil, `{"data":%s}`, r.single()))
		}
	}
	return errorAnswer(http.StatusNotFound, "Generation not found")
}
