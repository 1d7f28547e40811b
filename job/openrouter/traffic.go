package openrouter

import (
	"io"
	"maps"
	"strconv"
	"sync"
	"time"
)

// NoAnswer stands in Traffic.Statuses for requests without an answer: refused, timed out, cut short.
const NoAnswer = "none"

// Traffic is what has passed between a source and its server.
type Traffic struct {
	Statuses map[string]int64 // requests by HTTP status, retries included
	Retries  int64            // requests that repeat one that failed
	// How long was spent waiting for answers and reading them, and how long understanding them. Requests may run side
	// by side, and each counts.
	Fetch, Decode time.Duration
	// ServerTime is what the server's clock showed in the last answer; zero where no answer says.
	ServerTime time.Time
}

// Requests is how many were sent.
func (t Traffic) Requests() int64 {
	var sum int64
	for _, count := range t.Statuses {
		sum += count
	}
	return sum
}

// Add adds other traffic.
func (t *Traffic) Add(other Traffic) {
	if t.Statuses == nil {
		t.Statuses = map[string]int64{}
	}
	for status, count := range other.Statuses {
		t.Statuses[status] += count
	}
	t.Retries += other.Retries
	t.Fetch += other.Fetch
	t.Decode += other.Decode
	t.ServerTime = later(t.ServerTime, other.ServerTime)
}

// meter keeps the traffic of clients that count together.
type meter struct {
	mu      sync.Mutex
	traffic Traffic
}

// add counts one request; status 0 is no answer.
func (m *meter) add(status int, fetch, decode time.Duration, server time.Time) {
	name := NoAnswer
	if status != 0 {
		name = strconv.Itoa(status)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.traffic.Add(Traffic{Statuses: map[string]int64{name: 1}, Fetch: fetch, Decode: decode, ServerTime: server})
}

func (m *meter) retried() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.traffic.Retries++
}

func (m *meter) read() Traffic {
	m.mu.Lock()
	defer m.mu.Unlock()
	traffic := m.traffic
	traffic.Statuses = maps.Clone(traffic.Statuses)
	return traffic
}

// timedReader measures how long reading takes.
type timedReader struct {
	io.Reader
	took time.Duration
}

func (r *timedReader) Read(p []byte) (int, error) {
	start := time.Now()
	n, err := r.Reader.Read(p)
	r.took += time.Since(start)
	return n, err
}
