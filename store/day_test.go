package store

import (
	"testing"
	"time"
	_ "time/tzdata"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestDayStart(t *testing.T) {
	for _, test := range []struct {
		zone string
		day  Day
		want string
	}{
		{"UTC", "2026-11-23", "2026-11-23T00:00:00Z"},
		{"Europe/Warsaw", "2026-03-29", "2026-03-28T23:00:00Z"},
		{"Europe/Warsaw", "2026-03-30", "2026-03-29T22:00:00Z"},
		{"America/New_York", "2026-11-01", "2026-11-01T04:00:00Z"},
		{"Asia/Kolkata", "2026-06-01", "2026-05-31T18:30:00Z"},
		{"America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00:00Z"}, // no midnight on this day
		{"America/Havana", "2026-11-01", "2026-11-01T04:00:00Z"},    // two midnights: the first
		{"Asia/Amman", "2000-09-29", "2000-09-28T21:00:00Z"},        // the same, and time.Date returns the second
		{"Antarctica/Casey", "2023-03-09", "2023-03-08T13:00:00Z"},  // three hours twice
	} {
		t.Run(test.zone+" "+string(test.day), func(t *testing.T) {
			loc := zone(t, test.zone)
			got := test.day.Start(loc)
			if s := got.UTC().Format(time.RFC3339); s != test.want {
				t.Errorf("got %s, want %s", s, test.want)
			}
			if DayOf(got, loc) != test.day || DayOf(got.Add(-time.Nanosecond), loc) != test.day.Add(-1) {
				t.Errorf("%s is not the first instant of %s", got, test.day)
			}
		})
	}
}

func TestParseDay(t *testing.T) {
	for text, want := range map[string]Day{
		"2026-02-28": "2026-02-28", "2025-08-24T00:00:00.000Z": "2025-08-24", "2025-08-24 00:00:00": "2025-08-24",
		"2026-02-30": "", "23.11.2026": "", "": "", "2026-11-231": "",
	} {
		if got, err := ParseDay(text); got != want || (err == nil) != (want != "") {
			t.Errorf("ParseDay(%q) = %q, %v", text, got, err)
		}
	}
}
