package main

import (
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
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
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		p.w = w
	}
	return p
}

func (p *progress) add(rows int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rows += rows
	if p.w == nil || time.Since(p.start) < patience {
		return
	}
	if p.bar == nil {
		p.bar = progressbar.NewOptions(-1, progressbar.OptionSetWriter(p.w), progressbar.OptionShowCount(),
			progressbar.OptionShowIts(), progressbar.OptionSetItsString("generations"), progressbar.OptionClearOnFinish(),
			progressbar.OptionSetDescription("Recording"), progressbar.OptionThrottle(100*time.Millisecond))
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
