package main

import (
	"fmt"
	"io"
	"sync"
	"time"

	"usage-sync/store"
)

// progress shows on a terminal that a long pass is at work.
type progress struct {
	w     io.Writer // nil where nobody watches
	start time.Time
	mu    sync.Mutex
	rows  int64
	drawn time.Time // when the line was last written; zero while it is not there
}

const (
	// patience is how long a pass may take without a sign.
	patience = time.Second
	// drawEvery is how often the line is written anew.
	drawEvery = 100 * time.Millisecond
	// eraseLine puts the cursor at the start of its line and clears that (ECMA-48, 8.3.41).
	eraseLine = "\r\x1b[K"
)

func newProgress(w io.Writer) *progress {
	p := &progress{start: time.Now()}
	if isTerminal(w) {
		p.w = w
	}
	return p
}

// watched tells whether there is a terminal.
func (p *progress) watched() bool { return p.w != nil }

// Write writes a line of the log in the place of the progress, which the next page draws anew.
func (p *progress) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	return p.w.Write(line)
}

func (p *progress) add(rows int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows += int64(rows)
	took := time.Since(p.start)
	if !p.watched() || took < patience || time.Since(p.drawn) < drawEvery {
		return
	}
	p.drawn = time.Now()
	// Past the door, which lets no control character through.
	fmt.Fprintf(unchecked(p.w), "%s%s, %s a second", eraseLine, store.Counted(p.rows, "generation"),
		store.Grouped(int64(float64(p.rows)/took.Seconds())))
}

func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
}

func (p *progress) erase() {
	if !p.drawn.IsZero() {
		fmt.Fprint(unchecked(p.w), eraseLine)
		p.drawn = time.Time{}
	}
}
