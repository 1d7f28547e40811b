package monitor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"usage-sync/job/openrouter"
)

const (
	// pingTimeout bounds one request.
	pingTimeout = 5 * time.Second
	// endTries is how often the end of a run is told, endPause how long after a failed try.
	endTries = 2
	endPause = 500 * time.Millisecond
	// tailSize bounds the body: the first 100 kB of one are kept (https://healthchecks.io/docs/attaching_logs/).
	tailSize = 10_000
)

// errPingURL: a URL that can't be pinged.
var errPingURL = errors.New("ping URL")

// Pinger tells a service such as healthchecks.io that a run starts, and how it ended
// (https://healthchecks.io/docs/http_api/): a request to URL/start, and one to URL, or URL/<exit code> of a
// failure. Both carry the same id, so that runs side by side are told apart. The URL is a secret, and in no
// error.
type Pinger struct {
	base    *url.URL
	id      string
	agent   string
	client  *http.Client
	started sync.WaitGroup
}

// NewPinger returns a pinger for one run. The URL is https, or plain http to a loopback address.
func NewPinger(text, version string) (*Pinger, error) {
	base, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: not a URL", errPingURL) // its own words would repeat it
	case base.Host == "" || base.Fragment != "":
		return nil, fmt.Errorf("%w: want something like https://hc-ping.com/UUID", errPingURL)
	case base.Scheme != "https" && (base.Scheme != "http" || !openrouter.Loopback(base.Hostname())):
		return nil, fmt.Errorf("%w: want https, plain http is for loopback addresses alone", errPingURL)
	}
	// A redirect would carry the log to another place.
	stay := func(*http.Request, []*http.Request) error { return errors.New("redirected") }
	return &Pinger{base: base, id: uuid.NewString(), agent: "usage-sync/" + version,
		client: &http.Client{Transport: openrouter.Transport(), Timeout: pingTimeout, CheckRedirect: stay}}, nil
}

// Start tells that the run starts, while the run goes on. What is wrong with that is handed to failed.
func (p *Pinger) Start(ctx context.Context, failed func(error)) {
	p.started.Go(func() {
		if err := p.send(ctx, "start", ""); err != nil {
			failed(err)
		}
	})
}

// End tells how the run ended, with the reason and the end of its log, after Start is through. It takes some seconds at
// the most.
func (p *Pinger) End(ctx context.Context, exitCode int, reason, log string) error {
	p.started.Wait()
	path := ""
	if exitCode != 0 {
		path = strconv.Itoa(exitCode)
	}
	body := strings.TrimSpace(fmt.Sprintf("%s\n%s", reason, log))
	var err error
	for try := 1; try <= endTries; try++ {
		if err = p.send(ctx, path, body); err == nil || ctx.Err() != nil {
			return err
		}
		if try < endTries {
			time.Sleep(endPause)
		}
	}
	return err
}

func (p *Pinger) send(ctx context.Context, path, body string) error {
	target := p.base.JoinPath(path)
	query := target.Query()
	query.Set("rid", p.id)
	target.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), strings.NewReader(body))
	if err != nil {
		return fmt.Errorf("ping to %s: not sent", p.base.Host)
	}
	request.Header.Set("User-Agent", p.agent)
	request.Header.Set("Content-Type", "text/plain; charset=utf-8")
	response, err := p.client.Do(request)
	if err != nil {
		var urlErr *url.Error
		if errors.As(err, &urlErr) {
			err = urlErr.Err // without the URL
		}
		return fmt.Errorf("ping to %s: %w", p.base.Host, err)
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("ping to %s: HTTP %d", p.base.Host, response.StatusCode)
	}
	return nil
}

// Tail keeps the last whole lines of a log that is written to it.
type Tail struct {
	mu   sync.Mutex
	text []byte
}

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if cut := len(t.text) - tailSize; cut > 0 {
		if end := bytes.IndexByte(t.text[cut:len(t.text)-1], '\n'); end >= 0 {
			cut += end + 1
		}
		t.text = append(t.text[:0], t.text[cut:]...)
	}
	return len(p), nil
}

// String returns the lines.
func (t *Tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}
