//go:build chromium

// These tests need Debian's chromium. They have a build tag of their own, so that the other tests do without the browser's
// protocol; make test-report runs them.

package report

import (
	"bytes"
	"context"
	_ "embed"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"usage-sync/store"
)

var pictures = flag.String("pictures", "", "keep screenshots and prints in this `directory`")

//go:embed testdata/audit.js
var audit string

// axe is what the accessibility engine says against a page: rules that it breaks, and where.
func axe(t *testing.T, ctx context.Context) []string {
	t.Helper()
	const engine = "testdata/axe/node_modules/axe-core/axe.min.js"
	program, err := os.ReadFile(engine)
	if err != nil {
		t.Fatalf("%v: npm ci in testdata/axe brings it", err)
	}
	if _, err := chromedp.Run(ctx, chromedp.Evaluate[string](string(program)+"; axe.version")); err != nil {
		t.Fatal(err)
	}
	const run = `axe.run().then(r => r.violations.flatMap(v => v.nodes.map(n => v.id + ": " + n.html.slice(0, 120))))`
	found, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](run, chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// audited is what audit.js finds in a page.
type audited struct {
	Faults     []string // against the rules of accessible documents
	Scripts    int      // and whatever else a name might smuggle in
	Loaded     int      // resources other than the document
	Overflow   int      // pixels that the page is wider than the screen
	Cut        int      // tables that must be scrolled to be seen as a whole
	Narrow     bool     // the chart for small screens is shown, and not the other one
	Wide       bool
	Background string
	MaxWidth   string // of the body: that the stylesheet counts at all
	Names      []string
}

// browser is one running Chromium.
func browser(t *testing.T) context.Context {
	t.Helper()
	// As root, which a container's tests run as, Chromium has no sandbox. It sees nothing but our own documents.
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]), chromedp.NoSandbox)
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = context.WithTimeout(ctx, 8*time.Minute)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	return ctx
}

// messages are what a page has written to the console.
type messages struct {
	mu    sync.Mutex
	texts []string
}

func listen(t *testing.T, ctx context.Context) *messages {
	t.Helper()
	m := &messages{}
	err := chromedp.Listen(ctx, func(event any) {
		m.mu.Lock()
		defer m.mu.Unlock()
		switch e := event.(type) {
		case *log.EventEntryAdded:
			m.texts = append(m.texts, e.Entry.Text)
		case *runtime.EventConsoleAPICalled:
			m.texts = append(m.texts, fmt.Sprint(e.Type))
		case *runtime.EventExceptionThrown:
			m.texts = append(m.texts, e.ExceptionDetails.Text)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// take returns the messages since it was last called.
func (m *messages) take() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	texts := m.texts
	m.texts = nil
	return texts
}

// show opens a page on a screen of some width in light or dark.
func show(t *testing.T, ctx context.Context, page string, width int64, scheme string) audited {
	t.Helper()
	viewport := chromedp.EmulateViewport(width, 844)
	if width < 600 {
		viewport = chromedp.EmulateViewport(width, 844, chromedp.EmulateScale(2), chromedp.EmulateMobile)
	}
	media := chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return err
	})
	if err := chromedp.Do(ctx, viewport, media, chromedp.Navigate("file://"+page)); err != nil {
		t.Fatal(err)
	}
	found, err := chromedp.Run(ctx, chromedp.Evaluate[audited](audit))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// keep writes a picture for people to look at.
func keep(t *testing.T, name string, picture []byte) {
	t.Helper()
	if *pictures == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(*pictures, name), picture, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestBrowser: documents render in a browser at any width, in light and dark, without a message, and are accessible.
func TestBrowser(t *testing.T) {
	ctx := browser(t)
	console := listen(t, ctx)
	b := office(t)
	evil := hostile(t)
	many := crowd(t)
	corrected := office(t)
	corrected.sql(`update client_daily_usage set raw_cost = -3, markup_cost = -4 where usage_date = '2026-10-20'`)
	for name, document := range map[string]string{
		"client":    b.written(HTML, Request{For: Client}),
		"owner":     b.written(HTML, Request{For: Owner}),
		"running":   b.written(HTML, Request{Period: Asked{Month: "2026-11"}, For: Owner}),
		"year":      b.written(HTML, Request{Period: Asked{From: "2025-11-10"}}),
		"one-day":   b.written(HTML, Request{Period: Asked{From: "2026-10-15", To: "2026-10-15"}}),
		"nothing":   b.written(HTML, Request{Period: Asked{Month: "2020-01"}}),
		"week":      b.written(HTML, Request{Period: Asked{From: "2026-10-26", To: "2026-11-01"}}),
		"crowd":     many.written(HTML, Request{Organisations: []string{"acme"}}),
		"corrected": corrected.written(HTML, Request{For: Owner}),
		"hostile":   evil.written(HTML, Request{For: Owner}),
	} {
		page := filepath.Join(t.TempDir(), name+".html")
		if err := os.WriteFile(page, []byte(document), 0o600); err != nil {
			t.Fatal(err)
		}
		backgrounds := map[string]bool{}
		for _, width := range []int64{390, 1280} {
			for _, scheme := range []string{"light", "dark"} {
				t.Run(fmt.Sprintf("%s-%d-%s", name, width, scheme), func(t *testing.T) {
					found := show(t, ctx, page, width, scheme)
					picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
					if err != nil {
						t.Fatal(err)
					}
					keep(t, fmt.Sprintf("%s-%d-%s.png", name, width, scheme), picture)
					backgrounds[found.Background] = true
					if said := console.take(); len(said) > 0 {
						t.Errorf("the console says: %q", said)
					}
					if len(found.Faults) > 0 {
						t.Errorf("not accessible:\n%s", strings.Join(found.Faults, "\n"))
					}
					if found.Scripts+found.Loaded > 0 || found.Overflow > 0 || found.MaxWidth != "896px" {
						t.Errorf("%+v", found)
					}
					if width == 390 && (scheme == "light" || len(document) < 50_000) { // it takes seconds for a long page
						if against := axe(t, ctx); len(against) > 0 {
							t.Errorf("axe finds:\n%s", strings.Join(against, "\n"))
						}
					}
					console.take()
					if found.Cut > 0 && name != "hostile" {
						t.Errorf("%d tables are wider than the screen", found.Cut)
					}
					if drawn := name != "nothing" && name != "one-day"; found.Narrow != (drawn && width == 390) || found.Wide != (drawn && width == 1280) {
						t.Errorf("the chart for small screens is shown: %v, the other one: %v", found.Narrow, found.Wide)
					}
					if name == "hostile" && !slices.Equal(found.Names, hostileNames(evil.statements(Request{For: Owner})[0])) {
						t.Errorf("names: %q", found.Names)
					}
				})
			}
		}
		if len(backgrounds) != 2 {
			t.Errorf("%s: light and dark have the backgrounds %v", name, backgrounds)
		}
		t.Run(name+"-print", func(t *testing.T) {
			pdf, err := chromedp.Run(ctx, chromedp.PrintToPDF(chromedp.PDFPaper(chromedp.PaperA4), chromedp.PDFPreferCSSPageSize()))
			if err != nil {
				t.Fatal(err)
			}
			keep(t, name+".pdf", pdf)
			pages := regexp.MustCompile(`/Type\s*/Page\b`).FindAll(pdf, -1)
			boxes := regexp.MustCompile(`/MediaBox\s*\[0 0 59[45][.\d]* 84[12][.\d]*\]`).FindAll(pdf, -1)
			if len(pages) == 0 || len(boxes) != len(pages) {
				t.Errorf("%d pages, %d of A4", len(pages), len(boxes))
			}
			if (name == "client" || name == "owner") && len(pages) > 2 {
				t.Errorf("a month with four models takes %d pages", len(pages))
			}
		})
	}
}

// TestBrowserSeesFaults: what TestBrowser looks for is found where it is.
func TestBrowserSeesFaults(t *testing.T) {
	ctx := browser(t)
	console := listen(t, ctx)
	document := office(t).written(HTML, Request{})
	for name, change := range map[string][2]string{
		"style attribute": {"<main>", `<main style="color:red">`},
		"script":          {"<main>", `<main><script>document.title = "mine"</script>`},
		"picture":         {"<main>", `<main><img src="https://example.com/pixel.png" alt="">`},
		"other style":     {"--paper: #ffffff", "--paper: #eeeeee"},
	} {
		page := filepath.Join(t.TempDir(), "page.html")
		if err := os.WriteFile(page, bytes.Replace([]byte(document), []byte(change[0]), []byte(change[1]), 1), 0o600); err != nil {
			t.Fatal(err)
		}
		show(t, ctx, page, 1280, "light")
		if said := console.take(); len(said) == 0 {
			t.Errorf("%s: nothing is said", name)
		}
	}
	for name, change := range map[string][2]string{
		"contrast": {`lang="en"`, `lang="en" id="faint"`}, // see audit.js
		"language": {`<html lang="en">`, `<html>`},
		"caption":  {"<caption>", "<!-- "},
		"scope":    {`scope="row"`, ""},
		"title":    {"<title id=", "<desc data-id="},
	} {
		page := filepath.Join(t.TempDir(), "page.html")
		if err := os.WriteFile(page, []byte(strings.ReplaceAll(document, change[0], change[1])), 0o600); err != nil {
			t.Fatal(err)
		}
		if found := show(t, ctx, page, 1280, "light"); len(found.Faults) == 0 {
			t.Errorf("%s: no fault is found", name)
		}
		console.take()
	}
}

// hostileNames are what a reader sees of them, from the top of the document to its end.
func hostileNames(s Statement) []string {
	names := []string{plain(s.Name), plain(s.ID)}
	for _, m := range s.Models {
		names = append(names, plain(m.Name))
	}
	for _, u := range s.Users {
		names = append(names, plain(s.shown(u)))
		if u.Detail != u.Name {
			names = append(names, plain(u.Detail))
		}
	}
	for _, d := range s.Days {
		names = append(names, d.Name)
	}
	return names
}

// crowd are books with 400 models and users of UUIDs, of which not all is recorded.
func crowd(t *testing.T) *books {
	t.Helper()
	b := newBooks(t, t.TempDir(), acme)
	var all []store.Generation
	for i := range 400 {
		all = append(all, store.Generation{Day: "2026-10-12", Model: fmt.Sprintf("vendor-%d/model-%d-instruct", i%17, i),
			User: fmt.Sprintf("7b1e7a3e-52a0-4a87-b9cc-3c9a3e0e6%03d", i%40), Tokens: int64(i * 7), Cost: store.Dollar / store.Money(100*i+1)})
	}
	b.record("acme", all...)
	b.sql(`insert into usage_sync_gaps (client_org_id, kind, subject, gap_from, gap_until, why, noticed_at, accepted, closed_by, note)
		values ('acme', 'outage', '', unixepoch('2026-10-03'), unixepoch('2026-10-05'), 'test', unixepoch('2026-10-06'), 0, '', '')`)
	return b
}

// TestBrowserPicture makes the picture that README.md shows, where -pictures says so.
func TestBrowserPicture(t *testing.T) {
	ctx := browser(t)
	page := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(page, []byte(office(t).written(HTML, Request{})), 0o600); err != nil {
		t.Fatal(err)
	}
	show(t, ctx, page, 800, "light")
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(800, 860, chromedp.EmulateScale(0.6))); err != nil {
		t.Fatal(err)
	}
	picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err != nil {
		t.Fatal(err)
	}
	if most := 60_000; len(picture) > most {
		t.Errorf("%d bytes, at most %d suit a page", len(picture), most)
	}
	keep(t, "statement.png", picture)
}
