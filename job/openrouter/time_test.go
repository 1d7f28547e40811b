package openrouter

import (
	"strings"
	"testing"
	"time"
)

// Times as they have been seen or may come, whoever sends them.
func TestParseTime(t *testing.T) {
	at := time.Date(2026, 9, 2, 16, 43, 15, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-09-02T16:43:15.364Z":            at.Add(364 * time.Millisecond), // GET /generation, seen live on 2 Sep 2026
		"2024-07-15T23:33:19.433273+00:00":    time.Date(2024, 7, 15, 23, 33, 19, 433273000, time.UTC),
		"2026-09-02 16:00:00":                 at.Truncate(time.Hour), // analytics, seen live on 2 Sep 2026
		"2026-09-09":                          time.Date(2026, 9, 9, 0, 0, 0, 0, time.UTC),
		"2026-05-19T00:00:00.000Z":            time.Date(2026, 5, 19, 0, 0, 0, 0, time.UTC), // the vendor's OpenAPI example
		"2026-08-24 22:00:18.189":             time.Date(2026, 8, 24, 22, 0, 18, 189e6, time.UTC),
		"2026-09-02T16:43:15":                 at,
		"2026-09-02T18:43:15+02:00":           at,
		"2026-09-02 18:43:15+02:00":           at,
		"2026-09-02 16:43:15.123456789Z":      at.Add(123456789),
		"2026-09-02 16:43:15.5+0000":          at.Add(500 * time.Millisecond),
		"2026-09-02 16:43:15.364+00":          at.Add(364 * time.Millisecond), // PostgreSQL
		"2026-09-02T16:43:15.364123456+05:30": at.Add(364123456 - 330*time.Minute),
		"2026-09-02T16:43Z":                   at.Truncate(time.Minute),
		"2026-09-02 16:43":                    at.Truncate(time.Minute),
	} {
		got, err := ParseTime(text, false)
		if err != nil || !got.Equal(want) || got.Location() != time.UTC {
			t.Errorf("%s is %s, %v; want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]time.Time{
		"1788367395": at, "1788367395.0": at, "1.788367395e9": at, "1788367395.5": at.Add(500 * time.Millisecond),
	} {
		if got, err := ParseTime(text, true); err != nil || !got.Equal(want) {
			t.Errorf("%s seconds are %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "soon", "2026-13-02T16:43:15Z", "2026-09-31", "16:43:15", "2026-09-02T16", "1788367395",
		"1788367395000000000", "0001-01-01T00:00:00Z", "9999-12-31", "2026-09-02T16:43:15Z and more", "02.09.2026", "2026-09-02_16:43:15"} {
		if got, err := ParseTime(text, false); err == nil || !got.IsZero() || !strings.Contains(err.Error(), "is not a time: "+text) {
			t.Errorf("%s is taken for %s, %v", text, got, err)
		}
	}
	for _, number := range []string{"0", "-1", "1788367395000", "1e300", "946684799"} {
		if got, err := ParseTime(number, true); err == nil || !got.IsZero() {
			t.Errorf("%s seconds are taken for %s", number, got)
		}
	}
}

func TestParseNanoseconds(t *testing.T) {
	if got, err := ParseNanoseconds("1788367395364123456"); err != nil || !got.Equal(time.Unix(1788367395, 364123456)) {
		t.Errorf("%s, %v", got, err)
	}
	for _, text := range []string{"", "soon", "1788367395", "2026-09-02T16:43:15Z", "1.5e18", "-1", "99999999999999999999"} {
		if got, err := ParseNanoseconds(text); err == nil || !got.IsZero() {
			t.Errorf("%s nanoseconds are taken for %s", text, got)
		}
	}
}

func TestIDTime(t *testing.T) {
	if got, ok := IDTime("gen-1788367395-AbCdEfGhIjKlMnOpQrSt"); !ok || !got.Equal(time.Date(2026, 9, 2, 16, 43, 15, 0, time.UTC)) {
		t.Errorf("%s, %v", got, ok)
	}
	for _, id := range []string{"", "gen-", "gen-1788367395", "gen-1788367395-", "gen-batch-1788367395-Ab", "1788367395-Ab", "gen--788367395-Ab",
		"gen-+788367395-Ab", "gen-17883673950-Ab", "gen-178836739-Ab", "gen-1788367x95-Ab", "chatcmpl-1788367395-Ab", "g-1"} {
		if got, ok := IDTime(id); ok {
			t.Errorf("%q tells %s", id, got)
		}
	}
}
