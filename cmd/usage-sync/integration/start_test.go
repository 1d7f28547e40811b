package integration_test

import (
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Each process of the program pays for what it links: its pages are mapped, and its packages initialised before main.

// linked are the packages of others that the program may link. One more is paid for by each pass and each delivery.
var linked = []string{
	"github.com/alecthomas/kong",
	"github.com/cenkalti/backoff/v4",
	"github.com/go-json-experiment/json/internal",
	"github.com/go-json-experiment/json/internal/jsonflags",
	"github.com/go-json-experiment/json/internal/jsonopts",
	"github.com/go-json-experiment/json/internal/jsonwire",
	"github.com/go-json-experiment/json/jsontext",
	"github.com/gofrs/flock",
	"github.com/golang-jwt/jwt/v5",
	"github.com/google/renameio/v2",
	"github.com/google/uuid",
	"github.com/hashicorp/errwrap",
	"github.com/hashicorp/go-multierror",
	"github.com/mattn/go-sqlite3",
	"github.com/posener/complete",
	"github.com/posener/complete/cmd",
	"github.com/posener/complete/cmd/install",
	"github.com/riywo/loginshell",
	"github.com/rivo/uniseg",
	"github.com/willabides/kongplete",
	"github.com/willabides/kongplete/internal/positionalpredictor",
	"golang.org/x/sync/errgroup",
	"golang.org/x/sys/unix",
	"golang.org/x/term",
	"golang.org/x/text/currency",
	"golang.org/x/text/internal/format",
	"golang.org/x/text/internal/language",
	"golang.org/x/text/internal/language/compact",
	"golang.org/x/text/internal/number",
	"golang.org/x/text/internal/stringset",
	"golang.org/x/text/internal/tag",
	"golang.org/x/text/language",
}

// hot are the packages that a pass and a delivery run, and needless what they must not come to need.
var (
	hot      = []string{"usage-sync/store", "usage-sync/job", "usage-sync/job/alert", "usage-sync/job/monitor", "usage-sync/job/httpapi"}
	needless = regexp.MustCompile(`^(html/template|text/template|golang.org/x/text/.*|` +
		`usage-sync/job/(report|doctor|discover|openrouter/standin))$`)
)

func TestLinked(t *testing.T) {
	list := func(args ...string) []string {
		t.Helper()
		out, err := exec.Command("go", append([]string{"list", "-deps"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))
	}
	for _, name := range list("-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", "..") {
		if !strings.HasPrefix(name, "usage-sync/") && !slices.Contains(linked, name) {
			t.Errorf("%s is linked, and is not in the list", name)
		}
	}
	for _, name := range list(hot...) {
		if needless.MatchString(name) {
			t.Errorf("a pass or a delivery needs %s", name)
		}
	}
}

// TestInitialisation holds what is done before main against a budget, by what it allocates: its time is that of the machine.
func TestInitialisation(t *testing.T) {
	const (
		mostAllocations, mostBytes = 950, 150_000 // 777 and 121,840 in November 2026
		mostOfOurs                 = 60           // allocations of one of our packages: a regular expression is 60
	)
	cmd := exec.Command(command, "--version")
	cmd.Env = []string{"GODEBUG=inittrace=1"}
	var trace strings.Builder
	cmd.Stderr = &trace
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^init (\S+) @.* (\d+) bytes, (\d+) allocs$`)
	bytes, allocations, packages := 0, 0, line.FindAllStringSubmatch(trace.String(), -1)
	for _, p := range packages {
		b, _ := strconv.Atoi(p[2])
		a, _ := strconv.Atoi(p[3])
		bytes, allocations = bytes+b, allocations+a
		if (p[1] == "main" || strings.HasPrefix(p[1], "usage-sync/")) && a > mostOfOurs {
			t.Errorf("%s allocates %d times before main", p[1], a)
		}
	}
	if len(packages) < 20 || bytes > mostBytes || allocations > mostAllocations {
		t.Errorf("%d packages allocate %d times, %d bytes before main, want no more than %d and %d\n%s", len(packages), allocations,
			bytes, mostAllocations, mostBytes, &trace)
	}
}
