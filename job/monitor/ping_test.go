package monitor

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

func TestNewPinger(t *testing.T) {
	for _, good := range []string{"https://hc-ping.com/5bf66975", "http://127.0.0.1:8000/ping/x", "http://localhost/x", "http://[::1]:8000/x", "https://hc.example.com/x?create=1"} {
		if _, err := NewPinger(good, "v1"); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, bad := range []string{"", "hc-ping.com/secret", "http://hc-ping.com/secret", "ftp://localhost/secret", "https:///secret", "https://x/secret\x7f", "https://x/secret#y"} {
		_, err := NewPinger(bad, "v1")
		if !errors.Is(err, errPingURL) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestPingHangs: a service that never answers holds a run up for some time-outs at the most, and is named without its secret.
func TestPingHangs(t *testing.T) {
	var requests atomic.Int64
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		requests.Add(1)
		<-release
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	p, err := NewPinger(server.URL+"/secret", "v1")
	if err != nil {
		t.Fatal(err)
	}
	p.client.Timeout = 100 * time.Millisecond
	started := make(chan error) // without a buffer: a start that waited for its own end would never return
	p.Start(t.Context(), func(err error) { started <- err })
	ended := make(chan error, 1)
	go func() { ended <- p.End(t.Context(), 0, "", "") }()
	startErr := <-started
	err = <-ended
	for _, err := range []error{err, startErr} {
		if err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "ping to 127.0.0.1:") {
			t.Errorf("%v", err)
		}
	}
	if n := requests.Load(); n != 1+endTries {
		t.Errorf("%d requests, want %d", n, 1+endTries)
	}
}

// TestPingRedirected: the log goes nowhere but to the URL.
func TestPingRedirected(t *testing.T) {
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("followed") }))
	t.Cleanup(other.Close)
	server := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
	t.Cleanup(server.Close)
	p, err := NewPinger(server.URL, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.End(t.Context(), 0, "", "the log"); err == nil || !strings.Contains(err.Error(), "redirected") {
		t.Errorf("%v", err)
	}
}

// TestPingAgain: the end is told once more where that failed once.
func TestPingAgain(t *testing.T) {
	var requests atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1) == 1 {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	t.Cleanup(server.Close)
	p, err := NewPinger(server.URL, "v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.End(t.Context(), 75, "", ""); err != nil || requests.Load() != 2 {
		t.Errorf("%d requests, %v", requests.Load(), err)
	}
}

func TestTail(t *testing.T) {
	tail := &Tail{}
	fmt.Fprint(tail, "one\ntwo\n")
	if got := tail.String(); got != "one\ntwo\n" {
		t.Errorf("%q", got)
	}
	for i := range 5000 {
		fmt.Fprintf(tail, "INFO - line %d\n", i)
	}
	got := tail.String()
	if len(got) > tailSize || len(got) < tailSize-100 || !strings.HasPrefix(got, "INFO - line ") || !strings.HasSuffix(got, "INFO - line 4999\n") {
		t.Errorf("%d bytes: %.20q…", len(got), got)
	}
	fmt.Fprint(tail, strings.Repeat("x", 3*tailSize)+"\n")
	if got := tail.String(); len(got) != tailSize || !strings.HasSuffix(got, "x\n") {
		t.Errorf("%d bytes of one long line", len(got))
	}
}
