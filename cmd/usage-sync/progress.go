package main

import (
	"io"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
)

// progress shows on a terminal that a long pass is at work.
type progress struct {
	w     io.Writer // nil where nobody watches
	start time.Time
	mu    sync.Mutex
	rows  int
	bar   *progressbar.ProgressBar
}

// patience is how long a pass may take without a sign.
const patience = time.Second

func newProgress(w io.Writer) *progress {
	p := &progress{start: time.Now()}
	if isTerminal(w) {
		p.w = w
	}
	return p
}

// watched tells whether there is a terminal.
func (p *progress) watched() bool { return p.w != nil }

// Write writes a line of the log in the place of the bar, which the next page draws anew.
func (p *progress) Write(line []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Clear()
	}
	return p.w.Write(line)
}

func (p *progress) add(rows int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows += rows
	if !p.watched() || time.Since(p.start) < patience {
		return
	}
	if p.bar == nil {
		p.bar = progressbar.NewOptions(-1, progressbar.OptionSetWriter(unchecked(p.w)), // which moves the cursor
			progressbar.OptionShowCount(),
			progressbar.OptionClearOnFinish(), progressbar.OptionSetDescription("Generations"),
			progressbar.OptionThrottle(100*time.Millisecond))
	}
	_ = p.bar.Set(p.rows)
}

func (p *progress) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.bar != nil {
		_ = p.bar.Finish()
	}
}
