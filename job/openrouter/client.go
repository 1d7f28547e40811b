// Package openrouter asks OpenRouter, or a compatible gateway, what an organisation used.
package openrouter

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v4"

	"usage-sync/store"
)

// DefaultBaseURL is OpenRouter's own (https://openrouter.ai/docs/api-reference/overview).
const DefaultBaseURL = "https://openrouter.ai/api/v1"

const (
	// attemptTimeout bounds one request, its body included.
	attemptTimeout = 30 * time.Second
	// bodyLimit bounds one answer, in bytes. A thousand generations with every field filled are about 1 MB, the
	// analytics' largest answer less than 3 MB. Of the shortest rows 8 MB make a process of 58 MB, and the
	// units allow 64.
	bodyLimit = 8 << 20
	// firstWait and longestWait bound the pauses between two attempts, but for what Retry-After asks.
	firstWait   = 500 * time.Millisecond
	longestWait = 30 * time.Second
)

// ErrBaseURL is returned for a base URL to which a key must not be sent.
var ErrBaseURL = errors.New("base URL")

// Client talks to one server. It may be used by several goroutines.
type Client struct {
	base      *url.URL
	http      *http.Client
	userAgent string
	log       *slog.Logger
	firstWait time.Duration
	meter     *meter
	waiting   func() (done func()) // called before each request; may be nil
}

// Option changes a Client.
type Option func(*Client)

// WithFirstWait sets the pause after the first failed attempt; those after it grow from there.
func WithFirstWait(d time.Duration) Option { return func(c *Client) { c.firstWait = d } }

// New returns a client for a base URL: https, or plain http to a loopback address.
func New(baseURL, version string, log *slog.Logger, options ...Option) (*Client, error) {
	base, err := ParseBaseURL(baseURL)
	if err != nil {
		return nil, err
	}
	c := &Client{
		base:      base,
		userAgent: "usage-sync/" + version,
		log:       log,
		firstWait: firstWait,
		meter:     &meter{},
		http:      &http.Client{Transport: Transport(), Timeout: attemptTimeout, CheckRedirect: sameServer},
	}
	for _, option := range options {
		option(c)
	}
	return c, nil
}

// ParseBaseURL checks that a key may be sent to a base URL.
func ParseBaseURL(text string) (*url.URL, error) {
	base, err := url.Parse(strings.TrimRight(text, "/"))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrBaseURL, withoutURL(err)) // the URL may hold a password
	case base.User != nil:
		return nil, fmt.Errorf("%w of %s: it must not hold a user or password", ErrBaseURL, base.Host)
	case base.Host == "" || base.RawQuery != "" || base.Fragment != "":
		return nil, fmt.Errorf("%w %q: want something like %s", ErrBaseURL, text, DefaultBaseURL)
	case base.Scheme == "https" || (base.Scheme == "http" && Loopback(base.Hostname())):
		return base, nil
	}
	return nil, fmt.Errorf("%w %q: want https, plain http is for loopback addresses alone", ErrBaseURL, text)
}

// withoutRedirects returns the same client, for requests that must reach the configured server or none.
func (c *Client) withoutRedirects() *Client {
	own, strict := *c, *c.http
	strict.CheckRedirect = func(next *http.Request, _ []*http.Request) error {
		return fmt.Errorf("%w to %s, where this key is not sent", errRedirect, next.URL.Host)
	}
	own.http = &strict
	return &own
}

// Loopback tells whether a host name or address stays on this machine.
func Loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// errRedirect keeps a key from following a redirect.
var errRedirect = errors.New("redirected")

func sameServer(next *http.Request, before []*http.Request) error {
	first := before[0].URL
	if next.URL.Scheme != first.Scheme || next.URL.Host != first.Host {
		return fmt.Errorf("%w to another server, %s", errRedirect, next.URL.Host)
	}
	if len(before) > 5 {
		return errors.New("redirected too often")
	}
	return nil
}

// WhileWaiting has wait called before each request and the pauses that follow it, and what it returns when that
// is over.
func (c *Client) WhileWaiting(wait func() (done func())) { c.waiting = wait }

// Counting returns the same client with a count of its traffic of its own.
func (c *Client) Counting() *Client {
	own := *c
	own.meter = &meter{}
	return &own
}

// Traffic returns what the client has sent and got so far.
func (c *Client) Traffic() Traffic { return c.meter.read() }

// request is what one call asks for. It may be sent several times.
type request struct {
	method  string
	key     store.Key
	path    string
	query   url.Values
	body    []byte                      // JSON, or nil
	pace    func(context.Context) error // called before each attempt; may be nil
	narrows bool                        // 408 asks for less, not for patience
	manages bool                        // it wants a management key
	tries   int                         // how often it is sent at most; 0 is until ctx's deadline
	rows    func() int                  // counts what decode has read, for the log; nil where the answer is no list
}

// get sends a GET request with a key.
func (c *Client) get(ctx context.Context, key store.Key, path string, query url.Values,
	decode func(http.Header, io.Reader) error) error {
	return c.send(ctx, request{method: http.MethodGet, key: key, path: path, query: query}, decode)
}

// send sends a request until decode has had a whole answer, the error is one that won't pass, or the next attempt would
// come after ctx's deadline.
func (c *Client) send(ctx context.Context, r request, decode func(http.Header, io.Reader) error) error {
	if c.waiting != nil {
		defer c.waiting()()
	}
	policy := &patientBackOff{ctx: ctx, ExponentialBackOff: backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(c.firstWait), backoff.WithMaxInterval(longestWait), backoff.WithMaxElapsedTime(0))}
	var last error // of an attempt that was not cut short
	tries := 0
	err := backoff.RetryNotify(func() error {
		if last != nil {
			c.meter.retried()
		}
		tries++
		request, err := c.request(ctx, r)
		if err == nil {
			start := time.Now()
			response, failed := c.http.Do(request)
			err = c.read(ctx, r, response, failed, time.Since(start), decode)
		}
		if err == nil {
			return nil
		}
		err = withoutKey(err, r.key)
		if ctx.Err() != nil {
			return backoff.Permanent(err)
		}
		last = err
		var apiErr *APIError
		switch {
		case tries == r.tries:
			return backoff.Permanent(err)
		case errors.As(err, &apiErr) && apiErr.Temporary() && !(r.narrows && apiErr.TooMuch()):
			policy.least = apiErr.RetryAfter
			return err
		case errors.Is(err, ErrUnreachable):
			policy.least = 0
			return err
		}
		return backoff.Permanent(err)
	}, backoff.WithContext(policy, ctx), func(err error, wait time.Duration) {
		c.log.Info(fmt.Sprintf("%v; trying again in %s", err, wait.Round(time.Millisecond)))
	})
	switch {
	case err == nil:
		return nil
	case ctx.Err() == context.Canceled || last == nil:
		return err // cancelled, or out of time in the first attempt
	}
	return last // also where the deadline ended the retries: what failed until then is the cause
}

// patientBackOff waits at least as long as the server has asked for, and stops where that reaches beyond the deadline.
type patientBackOff struct {
	*backoff.ExponentialBackOff
	ctx   context.Context
	least time.Duration
}

func (b *patientBackOff) NextBackOff() time.Duration {
	wait := max(b.ExponentialBackOff.NextBackOff(), b.least)
	if deadline, ok := b.ctx.Deadline(); ok && time.Until(deadline) < wait {
		return backoff.Stop
	}
	return wait
}

// request returns what is sent, once it is time for it.
func (c *Client) request(ctx context.Context, r request) (*http.Request, error) {
	if strings.ContainsFunc(string(r.key), func(c rune) bool { return c <= ' ' || c == 0x7f }) {
		return nil, fmt.Errorf("%w %s holds a blank or a control character", ErrKey, r.key)
	}
	if r.pace != nil {
		if err := r.pace(ctx); err != nil {
			return nil, err
		}
	}
	target := c.base.JoinPath(r.path)
	target.RawQuery = r.query.Encode()
	request, err := http.NewRequestWithContext(ctx, r.method, target.String(), bytes.NewReader(r.body))
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Authorization", "Bearer "+string(r.key))
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", c.userAgent)
	return request, nil
}

// read reads what has come after waited: a response, or the error failed of having none.
func (c *Client) read(ctx context.Context, r request, response *http.Response, failed error, waited time.Duration,
	decode func(http.Header, io.Reader) error) error {
	if failed != nil {
		c.meter.add(0, waited, 0, time.Time{})
		c.logRequest(ctx, r, 0, waited)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(failed, errRedirect) {
			return fmt.Errorf("%w: %w", ErrAnswer, withoutURL(failed)) // a server may repeat the key in it
		}
		return &connectionError{cause: withoutURL(failed)}
	}
	defer response.Body.Close()
	timed := &timedReader{Reader: response.Body}
	body := &limitedBody{reader: timed, left: bodyLimit}
	reading := time.Now()
	defer func() {
		c.meter.add(response.StatusCode, waited+timed.took, max(0, time.Since(reading)-timed.took),
			date(response.Header))
		c.logRequest(ctx, r, response.StatusCode, waited+timed.took)
	}()
	if response.StatusCode/100 != 2 {
		return apiError(response, body, r)
	}
	err := decode(response.Header, body)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case body.err != nil && !isGarbled(body.err):
		return &connectionError{cause: withoutURL(body.err)}
	}
	return err
}

// logRequest tells one request, and nothing of a body; status 0 is no answer.
func (c *Client) logRequest(ctx context.Context, r request, status int, took time.Duration) {
	if !c.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	answer, rows := strconv.Itoa(status), ""
	if status == 0 {
		answer = "no answer"
	}
	if r.rows != nil && status/100 == 2 {
		rows = ", " + store.Counted(r.rows(), "row")
	}
	c.log.Debug(fmt.Sprintf("%s /%s: %s, %d ms%s", r.method, r.path, answer, took.Milliseconds(), rows))
}

// isGarbled tells whether a body could not be unpacked: it came, and is no answer. Any other error of reading it is the
// connection's, which was reset or ended before the answer did.
func isGarbled(err error) bool {
	var corrupt flate.CorruptInputError
	return errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) || errors.As(err, &corrupt)
}

// withoutURL drops the method and URL that net/http puts before each error.
func withoutURL(err error) error {
	var urlErr *url.Error
	if errors.As(err, &urlErr) {
		return urlErr.Err
	}
	return err
}

// errTooLong ends the reading of an endless answer.
var errTooLong = fmt.Errorf("%w: longer than %d MB", ErrAnswer, bodyLimit>>20)

// keylessError words an error without the key: a server may repeat it anywhere, in a header, a field's name, an error.
type keylessError struct {
	cause error
	key   store.Key
}

func (e *keylessError) Error() string {
	return strings.ReplaceAll(e.cause.Error(), string(e.key), e.key.String())
}

func (e *keylessError) Unwrap() error { return e.cause }

func withoutKey(err error, key store.Key) error {
	if err == nil || key == "" || !strings.Contains(err.Error(), string(key)) {
		return err
	}
	return &keylessError{err, key}
}

// limitedBody reads an answer up to a limit and remembers why reading ended: a decoder does not tell.
type limitedBody struct {
	reader io.Reader
	left   int64
	err    error
}

func (b *limitedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooLong
	}
	n, err := b.reader.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// apiError reads OpenRouter's error body, {"error":{"code":N,"message":"…"}}, if it is one.
func apiError(response *http.Response, body io.Reader, r request) error {
	e := &APIError{Key: r.key, Management: r.manages, Status: response.StatusCode,
		RetryAfter: retryAfter(response.Header)}
	text, _ := io.ReadAll(io.LimitReader(body, 64<<10)) // half a message is better than none
	var answer struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(text, &answer) == nil {
		e.Message = plain(answer.Error.Message, r.key)
	}
	return e
}

// retryAfter reads seconds or a date (RFC 9110, section 10.2.3).
func retryAfter(header http.Header) time.Duration {
	text := header.Get("Retry-After")
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(max(0, seconds), int64(math.MaxInt64/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}
