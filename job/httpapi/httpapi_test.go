package httpapi_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"usage-sync/job"
	"usage-sync/job/httpapi"
	"usage-sync/job/webhook"
	"usage-sync/store"
)

const (
	secretKey   = "webui-secret-key-of-the-tests"
	hookSecret  = "hook-secret"
	staticToken = "static-token"
)

var now = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

// server answers each connection as a process of its own would.
type server struct {
	t        testing.TB
	api      *httpapi.API
	db       string
	addr     string
	log      *lockedBuffer
	mu       sync.Mutex
	failures []error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var acme = store.NewOrganisation{ID: "acme", Name: "Acme GmbH", Key: "sk-or-v1-acme", Rate: 1.3}

func start(t testing.TB, organisations ...store.NewOrganisation) *server {
	t.Helper()
	if len(organisations) == 0 {
		organisations = []store.NewOrganisation{acme}
	}
	ctx := context.Background()
	s := &server{t: t, db: filepath.Join(t.TempDir(), "webui.db"), log: &lockedBuffer{}}
	if err := store.CreateDemo(ctx, s.db, organisations, now); err != nil {
		t.Fatal(err)
	}
	s.exec(`create table "user" (id VARCHAR PRIMARY KEY, name VARCHAR, role VARCHAR)`)
	s.exec(`insert into "user" values ('root', 'Root', 'admin'), ('ann', 'Ann', 'user'), ('new', 'New', 'pending'), ('odd', 'Odd', null)`)
	s.api = &httpapi.API{
		Log: slog.New(slog.NewTextHandler(s.log, nil)), Now: func() time.Time { return now }, Zone: time.UTC,
		AcceptUnnamed: true,
		Open:          func(ctx context.Context, mode store.Mode) (*store.Store, error) { return store.Open(ctx, s.db, mode) },
		Spool:         func() (webhook.Spool, error) { return webhook.Spool{Dir: s.db + ".spool"}, nil },
		Secrets: func() (httpapi.Secrets, error) {
			return httpapi.Secrets{WebUI: secretKey, Tokens: []string{staticToken}, Webhook: []string{"old-secret", hookSecret}}, nil
		},
		Sync:   func(int) (job.Report, error) { return job.Report{}, nil },
		Usage:  func(u store.Usage) any { return map[string]any{"tokens": u.Live.Tokens} },
		Health: func() httpapi.Health { return httpapi.Health{Well: true, Status: "OK"} },
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = listener.Addr().String()
	var connections sync.WaitGroup
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Go(func() {
				defer conn.Close()
				err := s.api.Serve(ctx, conn)
				s.mu.Lock()
				defer s.mu.Unlock()
				s.failures = append(s.failures, err)
			})
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		connections.Wait()
	})
	return s
}

func (s *server) exec(query string, args ...any) {
	s.t.Helper()
	db, err := sql.Open("sqlite3", s.db)
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query, args...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *server) value(query string) (v int64) {
	s.t.Helper()
	db, err := sql.Open("sqlite3", s.db)
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	if err := db.QueryRow(query).Scan(&v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

// do sends a request and returns status and body.
func (s *server) do(method, path string, body string, header ...string) (int, string, http.Header) {
	s.t.Helper()
	r, err := http.NewRequest(method, "http://"+s.addr+httpapi.Prefix+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	answer, err := client.Do(r)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	if !answer.Close {
		s.t.Errorf("%s %s: the answer keeps the connection", method, path)
	}
	return answer.StatusCode, string(text), answer.Header
}

// raw sends bytes, half-closes where it may, and returns all that comes back.
func (s *server) raw(text string) string {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, text)
	_ = conn.(*net.TCPConn).CloseWrite()
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	answer, err := io.ReadAll(conn)
	if err != nil && !strings.Contains(err.Error(), "reset") {
		s.t.Errorf("%.60q: %v", text, err)
	}
	return string(answer)
}

// session signs a session as Open WebUI does.
func session(t testing.TB, method jwt.SigningMethod, key any, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestAuth(t *testing.T) {
	s := start(t)
	hs := func(claims jwt.MapClaims) string {
		return session(t, jwt.SigningMethodHS256, []byte(secretKey), claims)
	}
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: x509.MarshalPKCS1PublicKey(&private.PublicKey)})
	none := session(t, jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, jwt.MapClaims{"id": "root"})
	admin := hs(jwt.MapClaims{"id": "root"})
	tampered := admin[:len(admin)-4] + "AAAA"
	for name, c := range map[string]struct {
		header        string
		read, command int // expected status
	}{
		"none":                     {"X-Nothing: x", 401, 401},
		"admin":                    {"Authorization: Bearer " + admin, 200, 200},
		"admin, lower-case scheme": {"Authorization: bearer " + admin, 200, 200},
		"admin, cookie":            {"Cookie: token=" + admin, 200, 200},
		"admin, another cookie":    {"Cookie: session=" + admin, 401, 401},
		"user":                     {"Authorization: Bearer " + hs(jwt.MapClaims{"id": "ann"}), 200, 403},
		"pending":                  {"Authorization: Bearer " + hs(jwt.MapClaims{"id": "new"}), 403, 403},
		"no role":                  {"Authorization: Bearer " + hs(jwt.MapClaims{"id": "odd"}), 403, 403},
		"unknown user":             {"Authorization: Bearer " + hs(jwt.MapClaims{"id": "gone"}), 401, 401},
		"no user":                  {"Authorization: Bearer " + hs(jwt.MapClaims{"sub": "root"}), 401, 401},
		"user as a number":         {"Authorization: Bearer " + hs(jwt.MapClaims{"id": 1}), 401, 401},
		"role in the claims":       {"Authorization: Bearer " + hs(jwt.MapClaims{"id": "ann", "role": "admin"}), 200, 403},
		"not yet expired":          {"Authorization: Bearer " + hs(jwt.MapClaims{"id": "root", "exp": now.Add(time.Minute).Unix()}), 200, 200},
		"expired":                  {"Authorization: Bearer " + hs(jwt.MapClaims{"id": "root", "exp": now.Add(-time.Second).Unix()}), 401, 401},
		"not yet valid":            {"Authorization: Bearer " + hs(jwt.MapClaims{"id": "root", "nbf": now.Add(time.Minute).Unix()}), 401, 401},
		"forged":                   {"Authorization: Bearer " + session(t, jwt.SigningMethodHS256, []byte("another key"), jwt.MapClaims{"id": "root"}), 401, 401},
		"tampered":                 {"Authorization: Bearer " + tampered, 401, 401},
		"alg none":                 {"Authorization: Bearer " + none, 401, 401},
		"HS384":                    {"Authorization: Bearer " + session(t, jwt.SigningMethodHS384, []byte(secretKey), jwt.MapClaims{"id": "root"}), 401, 401},
		"RS256":                    {"Authorization: Bearer " + session(t, jwt.SigningMethodRS256, private, jwt.MapClaims{"id": "root"}), 401, 401},
		"public key as the secret": {"Authorization: Bearer " + session(t, jwt.SigningMethodHS256, public, jwt.MapClaims{"id": "root"}), 401, 401},
		"empty secret":             {"Authorization: Bearer " + session(t, jwt.SigningMethodHS256, []byte{}, jwt.MapClaims{"id": "root"}), 401, 401},
		"no token":                 {"Authorization: Bearer ", 401, 401},
		"basic":                    {"Authorization: Basic " + staticToken, 401, 401},
		"static":                   {"Authorization: Bearer " + staticToken, 200, 200},
		"static in part":           {"Authorization: Bearer " + staticToken[:5], 401, 401},
		"webhook secret":           {"Authorization: Bearer " + hookSecret, 401, 401},
		"garbage":                  {"Authorization: Bearer a.b.c", 401, 401},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			if status, body, _ := s.do("GET", "/usage/real-time/acme", "", c.header); status != c.read {
				t.Errorf("reading: %d, want %d: %s", status, c.read, body)
			}
			status, body, _ := s.do("POST", "/usage/manual-record?model=m&tokens=1&cost=0", "", c.header)
			if status != c.command {
				t.Errorf("recording: %d, want %d: %s", status, c.command, body)
			}
			if status, _, _ := s.do("POST", "/sync/openrouter-usage", "", c.header); status != c.command {
				t.Errorf("syncing: %d, want %d", status, c.command)
			}
			if status >= 400 && body != `{"detail":"Not authenticated"}`+"\n" && body != `{"detail":"Not allowed"}`+"\n" {
				t.Errorf("the answer tells: %s", body)
			}
		})
	}
	s.t = t
	t.Run("FromAnotherSite", func(t *testing.T) {
		status, _, _ := s.do("POST", "/sync/openrouter-usage", "", "Cookie: token="+admin, "Origin: https://evil.example")
		if status != 403 {
			t.Errorf("status %d", status)
		}
		status, _, _ = s.do("POST", "/sync/openrouter-usage", "", "Cookie: token="+admin, "Origin: http://"+s.addr)
		if status != 200 {
			t.Errorf("from our own site: status %d", status)
		}
	})
	t.Run("Webhook", func(t *testing.T) {
		for header, want := range map[string]int{
			"X-Nothing: x": 401, "X-Webhook-Secret: " + hookSecret: 200, "Authorization: Bearer " + hookSecret: 200,
			"X-Webhook-Secret: old-secret": 200, "X-Webhook-Secret: hook-secre": 401, "X-Webhook-Secret: hook-secret2": 401,
			"Authorization: Bearer " + admin: 401, "Authorization: Bearer " + staticToken: 401,
		} {
			if status, body, _ := s.do("POST", "/webhook/openrouter-usage", "{}", header, "Content-Type: application/json"); status != want {
				t.Errorf("%s: %d, want %d: %s", header, status, want, body)
			}
		}
	})
	t.Run("AnotherOrganisation", func(t *testing.T) {
		s := start(t, acme, store.NewOrganisation{ID: "globex", Name: "Globex", Key: "sk-or-v1-globex", Rate: 1.5})
		s.exec(`insert into user_client_mapping values ('1', 'ann', 'globex', 'ext-ann', 1, 0, 0)`)
		ann := "Authorization: Bearer " + hs(jwt.MapClaims{"id": "ann"})
		for organisation, want := range map[string]int{"acme": 403, "globex": 200, "nobody": 404} {
			if status, _, _ := s.do("GET", "/usage/real-time/"+organisation, "", ann); status != want {
				t.Errorf("%s: %d, want %d", organisation, status, want)
			}
		}
	})
	if text := s.log.String(); strings.Contains(text, admin) || strings.Contains(text, hookSecret) || strings.Contains(text, secretKey) {
		t.Errorf("a secret is in the log:\n%s", text)
	}
	if text := s.log.String(); !strings.Contains(text, "from 127.0.0.1: HTTP 401") {
		t.Errorf("refusals are not logged with the remote address:\n%s", text)
	}
}

func delivery(id string) string {
	return fmt.Sprintf(`{"resourceSpans":[{"scopeSpans":[{"spans":[{"startTimeUnixNano":"%d","attributes":[
		{"key":"span.type","value":{"stringValue":"generation"}},{"key":"gen_ai.response.id","value":{"stringValue":%q}},
		{"key":"gen_ai.usage.total_tokens","value":{"intValue":10}},{"key":"gen_ai.usage.total_cost","value":{"doubleValue":0.001}}]}]}]}]}`,
		now.Add(-time.Minute).UnixNano(), id)
}

const deliver = "/webhook/openrouter-usage"

var hook = []string{"X-Webhook-Secret: " + hookSecret, "Content-Type: application/json"}

// TestReader: whatever comes over the wire gets a proper answer or none, and ends.
func TestReader(t *testing.T) {
	s := start(t)
	target := httpapi.Prefix + deliver
	head := "POST " + target + " HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: " + hookSecret + "\r\nContent-Type: application/json\r\n"
	body := delivery("gen-raw")
	for name, c := range map[string]struct{ text, want string }{
		"nothing":            {"", ""},
		"TLS":                {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 500), "HTTP/1.1 400 "},
		"garbage":            {"what is this\r\n\r\n", "HTTP/1.1 400 "},
		"HTTP/2":             {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1 505 "},
		"HTTP/1.0":           {"GET " + httpapi.Prefix + "/health HTTP/1.0\r\n\r\n", "HTTP/1.0 200 "},
		"no host":            {"GET " + httpapi.Prefix + "/health HTTP/1.1\r\n\r\n", "HTTP/1.1 400 "},
		"sound":              {head + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body), "HTTP/1.1 200 "},
		"chunked":            {head + fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body), "HTTP/1.1 200 "},
		"broken chunks":      {head + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 400 "},
		"both lengths":       {head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 200 "},
		"two lengths":        {head + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}", "HTTP/1.1 400 "},
		"negative length":    {head + "Content-Length: -1\r\n\r\n{}", "HTTP/1.1 400 "},
		"too short":          {head + "Content-Length: 500\r\n\r\n{}", "HTTP/1.1 400 "},
		"pipelined":          {head + fmt.Sprintf("Content-Length: %d\r\n\r\n%sDELETE / HTTP/1.1\r\n\r\n", len(body), body), "HTTP/1.1 200 "},
		"half a header":      {"POST " + target + " HTTP/1.1\r\nHost: x\r\nX-Webh", "HTTP/1.1 400 "},
		"unknown encoding":   {head + "Transfer-Encoding: gzip\r\n\r\n", "HTTP/1.1 501 "},
		"long header":        {head + "X-Long: " + strings.Repeat("x", 17<<10) + "\r\n\r\n", "HTTP/1.1 431 "},
		"beyond every limit": {head + "Content-Length: 62914560\r\n\r\n" + strings.Repeat("x", 60<<20), "HTTP/1.1 413 "},
		"announced too long": {head + "Content-Length: 9000000\r\n\r\n", "HTTP/1.1 413 "},
		"long URL":           {"GET /" + strings.Repeat("x", 17<<10) + " HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 431 "},
		"header with a line": {"GET / HTTP/1.1\r\nHost: x\r\nX: a\nb\r\n\r\n", "HTTP/1.1 400 "},
		"proxy request":      {"GET http://elsewhere.example/ HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 "},
		"CONNECT":            {"CONNECT elsewhere.example:443 HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 "},
		"expects 100":        {head + fmt.Sprintf("Expect: 100-continue\r\nContent-Length: %d\r\n\r\n%s", len(body), body), "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 "},
		"empty length":       {head + "Content-Length: \r\n\r\n", "HTTP/1.1 400 "},
		"path that goes up":  {"GET " + httpapi.Prefix + "/../../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 404 "},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			got := s.raw(c.text)
			if !strings.HasPrefix(got, c.want) || (c.want == "") != (got == "") {
				t.Errorf("got %.200q, want %q", got, c.want)
			}
			if strings.Count(got, "HTTP/1.1 200") > 1 {
				t.Errorf("more than one answer: %q", got)
			}
		})
	}
	s.t = t
	if n := s.value("select count(*) from processed_generations"); n != 1 {
		t.Errorf("%d generations are recorded, want 1", n)
	}
}

func TestWebhookStatus(t *testing.T) {
	s := start(t)
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte(delivery("gen-zip")))
	_ = w.Close()
	var bomb bytes.Buffer
	w = gzip.NewWriter(&bomb)
	_, _ = w.Write([]byte(`{"x":"` + strings.Repeat("x", 9<<20) + `"}`))
	_ = w.Close()
	guide := func(key, cost string) string {
		return fmt.Sprintf(`{"api_key":%q,"model":"m","tokens_used":1,"cost":%s,"timestamp":"2026-03-10T11:00:00Z"}`, key, cost)
	}
	for name, c := range map[string]struct {
		body   string
		header []string
		want   int
	}{
		"sound":                   {delivery("gen-1"), hook, 200},
		"known":                   {delivery("gen-1"), hook, 200},
		"guide":                   {guide("sk-or-v1-acme", "0.001"), hook, 200},
		"guide, another key":      {guide("sk-or-v1-nobody", "0.001"), hook, 403},
		"guide, negative":         {guide("sk-or-v1-acme", "-1"), hook, 422},
		"no JSON":                 {"{", hook, 400},
		"another JSON":            {`{"foo":1}`, hook, 422},
		"an array":                {"[" + delivery("gen-1") + "]", hook, 422},
		"in the future":           {strings.Replace(delivery("gen-2"), `"startTimeUnixNano":"1`, `"startTimeUnixNano":"2`, 1), hook, 422},
		"test":                    {delivery("gen-3"), append(hook, "X-Test-Connection: true"), 200},
		"no type":                 {delivery("gen-1"), hook[:1], 415},
		"form":                    {delivery("gen-1"), []string{hook[0], "Content-Type: application/x-www-form-urlencoded"}, 415},
		"with a charset":          {delivery("gen-1"), []string{hook[0], "Content-Type: application/json; charset=utf-8"}, 200},
		"too long":                {`{"x":"` + strings.Repeat("x", 9<<20) + `"}`, hook, 413},
		"gzip":                    {zipped.String(), append(hook, "Content-Encoding: gzip"), 200},
		"gzip in capitals":        {zipped.String(), append(hook, "Content-Encoding: GZip"), 200},
		"x-gzip":                  {zipped.String(), append(hook, "Content-Encoding: x-gzip"), 200},
		"identity in capitals":    {delivery("gen-1"), append(hook, "Content-Encoding: Identity"), 200},
		"byte order mark":         {"\uFEFF" + delivery("gen-1"), hook, 200},
		"a mark and nothing":      {"\uFEFF", hook, 200},
		"two marks":               {"\uFEFF\uFEFF" + delivery("gen-1"), hook, 400},
		"gzip that is none":       {"{}", append(hook, "Content-Encoding: gzip"), 400},
		"gzip, too long unpacked": {bomb.String(), append(hook, "Content-Encoding: gzip"), 413},
		"br":                      {"{}", append(hook, "Content-Encoding: br"), 415},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			if status, body, _ := s.do("POST", deliver, c.body, c.header...); status != c.want {
				t.Errorf("status %d, want %d: %s", status, c.want, body)
			}
		})
	}
	s.t = t
	if n := s.value("select count(*) from processed_generations where id = 'gen-3'"); n != 0 {
		t.Error("a connection test was recorded")
	}
	if n := s.value("select count(*) from processed_generations"); n != 3 {
		t.Errorf("%d generations are recorded, want 3", n)
	}
}

// TestSessionAge: a session that is older than the host allows is refused, and so is one that does not say how old it is.
func TestSessionAge(t *testing.T) {
	s := start(t)
	s.api.MaxSessionAge = time.Hour
	for name, c := range map[string]struct {
		claims jwt.MapClaims
		want   int
	}{
		"of age":      {jwt.MapClaims{"id": "root", "iat": now.Add(-time.Hour).Unix()}, 200},
		"too old":     {jwt.MapClaims{"id": "root", "iat": now.Add(-time.Hour - time.Second).Unix()}, 401},
		"without age": {jwt.MapClaims{"id": "root", "exp": now.Add(time.Minute).Unix()}, 401},
	} {
		token := session(t, jwt.SigningMethodHS256, []byte(secretKey), c.claims)
		if status, body, _ := s.do("GET", "/usage/real-time/acme", "", "Authorization: Bearer "+token); status != c.want {
			t.Errorf("%s: HTTP %d, want %d: %s", name, status, c.want, body)
		}
	}
	s.do("GET", "/usage/real-time/acme", "", "Authorization: Bearer "+session(t, jwt.SigningMethodHS256, []byte("other"), jwt.MapClaims{"id": "root"}))
	for _, want := range []string{"without the time of its beginning", "older than 1h0m0s", "where that is so of every session"} {
		if text := s.log.String(); !strings.Contains(text, want) {
			t.Errorf("the log does not say %q:\n%s", want, text)
		}
	}
}

// TestAnswerToExporters: an exporter of OTLP finds in an answer what it looks for, beside what has always been there.
func TestAnswerToExporters(t *testing.T) {
	s := start(t)
	for name, body := range map[string]string{"recorded": delivery("gen-1"), "nothing": `{"resourceSpans":[]}`} {
		_, answer, _ := s.do("POST", deliver, body, hook...)
		var found struct {
			Status         *string
			PartialSuccess map[string]any `json:"partialSuccess"`
		}
		if err := json.Unmarshal([]byte(answer), &found); err != nil || found.Status == nil || found.PartialSuccess == nil || len(found.PartialSuccess) > 0 {
			t.Errorf("%s: %v: %s", name, err, answer)
		}
	}
}

// TestForwarded: whom a proxy names last is who has sent a request, in however many lines the client has made up others.
func TestForwarded(t *testing.T) {
	s := start(t)
	s.do("POST", deliver, "{}", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 192.0.2.2, 198.51.100.7")
	if text := s.log.String(); !strings.Contains(text, "from 198.51.100.7: HTTP 401") {
		t.Errorf("the log names another one:\n%s", text)
	}
}

// TestSlow: who sends too slowly, or not at all, is cut after ten seconds.
func TestSlow(t *testing.T) {
	s := start(t)
	head := "POST " + httpapi.Prefix + deliver + " HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: " + hookSecret +
		"\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
	for name, c := range map[string]struct{ text, want string }{
		"silent": {"", ""}, "in the header": {head, ""}, "in the body": {head + "\r\n{", "HTTP/1.1 408 "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // the seconds take no time
				near, far := net.Pipe()
				served := make(chan error, 1)
				go func() { served <- s.api.Serve(t.Context(), far) }()
				ended := make(chan struct{})
				go func() { // a byte now and then does not help
					_, _ = io.WriteString(near, c.text)
					for len(c.text) > 0 {
						select {
						case <-ended:
							return
						case <-time.After(time.Second):
							_, _ = near.Write([]byte{' '})
						}
					}
				}()
				started := time.Now()
				text, _ := io.ReadAll(near)
				line, _, _ := strings.Cut(string(text), "\n")
				if took := time.Since(started); took < 10*time.Second || took > 13*time.Second {
					t.Errorf("cut after %s", took)
				}
				if !strings.HasPrefix(line, c.want) || (c.want == "") != (line == "") {
					t.Errorf("got %q, want %q", line, c.want)
				}
				close(ended)
				near.Close()
				if err := <-served; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestHangs: whatever hangs, the client gets an answer.
func TestHangs(t *testing.T) {
	s := start(t)
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		s.api.Health = func() httpapi.Health { <-end; return httpapi.Health{} }
		near, far := net.Pipe()
		served := make(chan error, 1)
		go func() { served <- s.api.Serve(t.Context(), far) }()
		go func() { _, _ = io.WriteString(near, "GET "+httpapi.Prefix+"/health HTTP/1.1\r\nHost: x\r\n\r\n") }()
		text, _ := io.ReadAll(near)
		if !strings.HasPrefix(string(text), "HTTP/1.1 504 ") {
			t.Errorf("answer %q", text)
		}
		near.Close()
		if err := <-served; job.KindOf(err) != job.KindTimedOut {
			t.Errorf("the process ends with %v", err)
		}
		close(end)
	})
}

// TestPanic: a bug answers 500, and is a bug to who has called.
func TestPanic(t *testing.T) {
	s := start(t)
	s.api.Health = func() httpapi.Health { panic("a bug") }
	near, far := net.Pipe()
	go func() {
		_, _ = io.WriteString(near, "GET "+httpapi.Prefix+"/health HTTP/1.1\r\nHost: x\r\n\r\n")
	}()
	answer := make(chan string)
	go func() {
		line, _ := bufio.NewReader(near).ReadString('\n')
		answer <- line
		_, _ = io.Copy(io.Discard, near)
	}()
	var bug any
	func() {
		defer func() { bug = recover() }()
		_ = s.api.Serve(context.Background(), far)
	}()
	if line := <-answer; !strings.HasPrefix(line, "HTTP/1.1 500 ") {
		t.Errorf("answer %q", line)
	}
	if bug == nil || !strings.Contains(fmt.Sprint(bug), "a bug") {
		t.Errorf("recovered %v", bug)
	}
}

// FuzzRequest: no bytes make it panic, hang or admit anybody.
func FuzzRequest(f *testing.F) {
	s := start(f)
	for _, seed := range []string{
		"GET " + httpapi.Prefix + "/health HTTP/1.1\r\nHost: x\r\n\r\n", "\x16\x03\x01",
		"POST " + httpapi.Prefix + deliver + " HTTP/1.1\r\nHost: x\r\nX-Webhook-Secret: wrong\r\nContent-Length: 2\r\n\r\n{}",
		"POST " + httpapi.Prefix + "/sync/openrouter-usage HTTP/1.0\r\nCookie: token=a.b.c\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"GET " + httpapi.Prefix + "/usage/real-time/%2e%2e HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	s.api.Log = slog.New(slog.DiscardHandler)
	f.Fuzz(func(t *testing.T, text []byte) {
		near, far := net.Pipe()
		ended := make(chan error, 1)
		go func() { ended <- s.api.Serve(context.Background(), far) }()
		go func() {
			_, _ = near.Write(text)
			time.Sleep(5 * time.Millisecond)
			_ = near.Close()
		}()
		_ = near.SetReadDeadline(time.Now().Add(5 * time.Second))
		answer, err := io.ReadAll(near)
		if err != nil && err != io.ErrClosedPipe {
			t.Fatalf("no end: %v", err)
		}
		if strings.HasPrefix(string(answer), "HTTP/1.1 200") && !strings.Contains(string(text), "/health") {
			t.Errorf("admitted: %q: %q", text, answer)
		}
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Fatal("it does not end")
		}
	})
}
