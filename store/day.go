package store

import (
	"fmt"
	"time"
)

// Day is a calendar day of an organisation in ISO form, YYYY-MM-DD: days compare as texts, and DATE columns hold them
// as texts because the Python side can't parse anything else.
type Day string

// DayOf returns the day on which an instant falls in a time zone.
func DayOf(t time.Time, zone *time.Location) Day { return Day(t.In(zone).Format(time.DateOnly)) }

// ParseDay reads an ISO date. What follows the date, as in 2025-08-24T00:00:00, is ignored.
func ParseDay(text string) (Day, error) {
	if len(text) > len(time.DateOnly) && (text[len(time.DateOnly)] == 'T' || text[len(time.DateOnly)] == ' ') {
		text = text[:len(time.DateOnly)]
	}
	if _, err := time.Parse(time.DateOnly, text); err != nil {
		return "", fmt.Errorf("%.40q is not a date of the form YYYY-MM-DD", text)
	}
	return Day(text), nil
}

// Add returns the day n days later.
func (d Day) Add(n int) Day {
	t, err := time.Parse(time.DateOnly, string(d))
	if err != nil {
		panic(fmt.Sprintf("invalid day %q", string(d)))
	}
	return Day(t.AddDate(0, 0, n).Format(time.DateOnly))
}

// Month returns the day's month, YYYY-MM.
func (d Day) Month() string { return string(d[:len("2006-01")]) }

// FirstOfMonth returns the first day of the day's month.
func (d Day) FirstOfMonth() Day { return Day(d.Month() + "-01") }

// Start returns the first instant of the day in a time zone. Where clocks change at midnight there may be none or two
// instants that read 00:00, and time.Date does not say which it returns (https://pkg.go.dev/time#Date).
func (d Day) Start(zone *time.Location) time.Time {
	t, err := time.ParseInLocation(time.DateOnly, string(d), zone)
	if err != nil {
		panic(fmt.Sprintf("invalid day %q", string(d)))
	}
	const step = 15 * time.Minute
	for DayOf(t, zone) < d {
		t = t.Add(step)
	}
	for DayOf(t.Add(-step), zone) >= d {
		t = t.Add(-step)
	}
	return t
}
