package alert

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"usage-sync/store"
)

// An hour is compared with the same hour of the week, on the organisation's own clock, in the four weeks
// before, and, because four are few, with the hours and days around those: their medians are what is usual. How
// far usage strays from that by itself is measured by medians of absolute deviations, over all hours and over
// whole days. A day that stood out does not hide the next one.
const (
	weeksBack  = 4
	weekHours  = 7 * 24
	minHistory = 14 * 24 * time.Hour
	// historyBack leaves room for the hours of a day that began four weeks before the present one.
	historyBack = (weeksBack*7 + 2) * 24 * time.Hour

	// madToSigma makes a standard deviation of a median absolute deviation, where deviations are normal.
	madToSigma = 1.4826
)

// The following were chosen on made traffic (evaluate_test.go), on seeds that its tables do not use.
const (
	// A spike is spikeSigmas deviations above the usual and spikeRatio times the usual.
	spikeSigmas = 4.0
	spikeRatio  = 2.8
	// spikeFloor is the raw cost above the usual that nobody needs to hear of, in dollars.
	spikeFloor = 0.03
	// leastSigma is the least deviation, of what is usual then and of a busy hour; dayShare is what days have
	// of theirs in common with their hours.
	leastSigma = 0.15
	dayShare   = 0.7
	// shortestPart of the present hour is judged by itself. What is usual in a part is not in proportion to its length:
	// what starts on the hour may be done long before the next one.
	shortestPart = 0.5
	partPower    = 0.85

	// A silence is silenceFloor hours longer than silenceFactor times the longest usual pause, and longer still
	// by what the longest pauses of weeks differ. One longer than silenceMost hours is not told: who stays away
	// for so long is not always active.
	silenceFactor = 1.3
	silenceFloor  = 3.0
	silenceMost   = 7 * 24.0
)

// deviation is one way in which usage is out of the ordinary, or not.
type deviation struct {
	score       float64   // 1 is the threshold
	from, until time.Time // what was looked at
	words       string    // what is so, without its cause
	usual       []span    // of a spike: the same time in earlier weeks
}

// staysFrom is the score below which a deviation that people know of is over: it must not come and go with each pass.
const staysFrom = 0.5

// stands tells whether a deviation is one to tell of, or one that people know of and that is not over.
func (d deviation) stands(told bool) bool { return d.score >= 1 || (told && d.score >= staysFrom) }

type span struct{ from, until time.Time }

// Anomaly is how far an organisation's usage is out of the ordinary.
type Anomaly struct {
	Known   bool // there is enough history to tell
	Spike   deviation
	Silence deviation
}

// Score says how unusual the usage is: 0 is as always, from 1 on it is an alarm, below zero there is less than usual.
func (a Anomaly) Score() float64 {
	if a.Silence.score > a.Spike.score {
		return -a.Silence.score
	}
	return a.Spike.score
}

// findAnomaly judges an organisation's usage at a time. Hours are those of the last 30 days, and complete from
// begins to covered; a silence is not seen in what may still come in. Sensitivity 1 is the normal one, 2 finds
// what is half as far out, 0 finds nothing.
func findAnomaly(hours []store.Hour, begins, covered, now time.Time, zone *time.Location, sensitivity float64) Anomaly {
	if covered.After(now) {
		covered = now
	}
	if len(hours) > 0 && begins.Before(hours[0].Start) {
		begins = hours[0].Start
	}
	if len(hours) == 0 || sensitivity <= 0 || covered.Sub(begins) < minHistory {
		return Anomaly{}
	}
	h := newHistory(hours, begins, now, zone)
	h.sensitivity = sensitivity
	a := Anomaly{Known: true, Spike: h.spike(covered), Silence: h.silence(covered)}
	// A source that hands hours over when they are complete is judged where it ends; one that lags behind a row that it
	// can't be trusted with, by what there is.
	if at := h.spike(now); at.score > a.Spike.score {
		a.Spike = at
	}
	return a
}

// history is an organisation's usage by hours. Hours of the clock on the wall are counted from 1 January 1970, 00:00,
// whatever the zone: the same hour of another week is a multiple of 168 away, also where clocks change in between.
type history struct {
	zone        *time.Location
	first       int64     // hour of UTC, since 1970
	spent       []float64 // dollars of each hour of UTC, from first to the present one
	active      []bool
	wall        []int64   // the hour on the wall in which each of them starts
	from        int64     // hour on the wall
	byWall      []float64 // dollars of each hour on the wall; NaN where there was none or it is not known
	busy        float64   // what is spent in a usual hour in which something is spent
	unsteady    float64   // deviation of an hour, in relation to the root of usual × busy
	daily       float64   // deviation of a day, in relation to the usual one
	sensitivity float64
	level       float64 // of the last week, in relation to those before; at least 1
}

func hourOf(t time.Time) int64 { return t.Unix() / 3600 }

func newHistory(hours []store.Hour, begins, now time.Time, zone *time.Location) *history {
	h := &history{zone: zone, first: hourOf(begins)}
	n := max(0, hourOf(now)-h.first) + 1
	h.spent, h.active, h.wall = make([]float64, n), make([]bool, n), make([]int64, n)
	for _, hour := range hours {
		if i := hourOf(hour.Start) - h.first; i >= 0 && i < n {
			h.spent[i], h.active[i] = hour.Raw.Float(), hour.Requests > 0
		}
	}
	for i := range h.wall {
		at := time.Unix((h.first+int64(i))*3600, 0).In(zone)
		_, offset := at.Zone()
		h.wall[i] = floorDiv(at.Unix()+int64(offset), 3600)
	}
	h.from = slices.Min(h.wall)
	h.byWall = make([]float64, slices.Max(h.wall)-h.from+1)
	for i := range h.byWall {
		h.byWall[i] = math.NaN()
	}
	for i, w := range h.wall[:n-1] { // the present hour is not complete
		if at := &h.byWall[w-h.from]; math.IsNaN(*at) {
			*at = h.spent[i]
		} else {
			*at = (*at + h.spent[i]) / 2 // clocks went back
		}
	}
	h.learn()
	return h
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// at is what was spent in an hour on the wall, NaN where that is not known.
func (h *history) at(wall int64) float64 {
	if i := wall - h.from; i >= 0 && i < int64(len(h.byWall)) {
		return h.byWall[i]
	}
	return math.NaN()
}

// learn measures what is usual of the organisation as a whole.
func (h *history) learn() {
	// The usual hour is the mean of the hours of the week, weighted by what is spent in them. Who comes and goes as he
	// likes has none, and is measured by the hours in which he came.
	last := h.wall[len(h.wall)-1]
	var sum, squares float64
	for hour := last - weekHours; hour < last; hour++ {
		m := median(h.others(hour, nil, 0, 1, 2, 3))
		sum += m
		squares += m * m
	}
	if sum > 0 {
		h.busy = squares / sum
	}
	var came []float64
	for _, x := range h.spent {
		if x > 0 {
			came = append(came, x)
		}
	}
	h.busy = max(h.busy, median(came))
	if h.busy == 0 {
		return
	}
	var residuals []float64
	buffer := make([]float64, 0, weeksBack)
	for hour := last - weeksBack*weekHours; hour < last; hour++ {
		x := h.at(hour)
		if m := median(h.others(hour, buffer, -3, -2, -1, 1, 2, 3)); m > h.busy/10 && !math.IsNaN(x) {
			residuals = append(residuals, math.Abs(x-m)/math.Sqrt(m*h.busy))
		}
	}
	h.unsteady = madToSigma * median(residuals)

	// Days end where the present hour begins: each is 24 whole hours.
	var usual [7]float64
	for day := range usual {
		var weeks []float64
		for k := range int64(weeksBack) {
			weeks = appendKnown(weeks, h.day(last-int64(day)*24-k*weekHours))
		}
		usual[day] = median(weeks)
	}
	busiest := slices.Max(usual[:])
	var strayed []float64
	var recent, before float64
	for day := range int64(weeksBack * 7) {
		m, total := usual[day%7], h.day(last-day*24)
		if m < busiest/3 || math.IsNaN(total) {
			continue // a day of rest says little
		}
		strayed = append(strayed, math.Abs(total/m-1))
		if day < 7 {
			var weeks []float64
			for k := int64(1); k < weeksBack; k++ {
				weeks = appendKnown(weeks, h.day(last-day*24-k*weekHours))
			}
			m := median(weeks)
			recent += min(total, 2*m) // one wild day is no growth
			before += m
		}
	}
	h.daily = madToSigma * median(strayed)
	h.level = 1
	if before > 0 {
		h.level = max(1, recent/before)
	}
}

// sigma is how far usage strays from what is usual: in few hours by the number and size of requests, in many by what is
// common to a day.
func (h *history) sigma(usual float64) float64 {
	return math.Sqrt(square(h.unsteady)*usual*h.busy + square(max(leastSigma, dayShare*h.daily)*usual) +
		square(leastSigma*h.busy))
}

// others appends what was spent so many weeks before or after an hour on the wall.
func (h *history) others(hour int64, to []float64, weeks ...int64) []float64 {
	for _, k := range weeks {
		to = appendKnown(to, h.at(hour-k*weekHours))
	}
	return to
}

// day is what was spent in the 24 hours before one on the wall. A missing hour, when clocks change, counts as nothing.
func (h *history) day(end int64) float64 {
	sum, known := 0.0, 0
	for hour := end - 24; hour < end; hour++ {
		if x := h.at(hour); !math.IsNaN(x) {
			sum += x
			known++
		}
	}
	if known < 23 {
		return math.NaN()
	}
	return sum
}

func appendKnown(to []float64, x float64) []float64 {
	if math.IsNaN(x) {
		return to
	}
	return append(to, x)
}

// median returns 0 of nothing. It sorts what it is given.
func median(all []float64) float64 {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return (all[len(all)/2] + all[(len(all)-1)/2]) / 2
}

// spike compares the present hour, the last two, and the day so far with what is usual.
func (h *history) spike(at time.Time) deviation {
	now := hourOf(at)
	part := float64(at.Unix()%3600) / 3600
	midnight := hourOf(store.DayOf(at, h.zone).Start(h.zone).Add(time.Hour - time.Second))
	var most deviation
	for _, from := range []int64{now, now - 1, midnight} {
		if from == now && part < shortestPart {
			continue
		}
		if d, ok := h.compare(from, now, part, at); ok && (most.from.IsZero() || d.score > most.score) {
			most = d
		}
	}
	return most
}

// compare judges the hours of UTC from one to another, of which the last has only come to a part of it.
func (h *history) compare(from, to int64, part float64, at time.Time) (deviation, bool) {
	if from < h.first || to >= h.first+int64(len(h.spent)) || from > to {
		return deviation{}, false
	}
	start := time.Unix(from*3600, 0).UTC()
	d := deviation{from: start, until: at}
	actual := 0.0
	for hour := from; hour <= to; hour++ {
		actual += h.spent[hour-h.first]
	}
	var usual, around []float64
	for k := int64(1); k <= weeksBack; k++ {
		sum := h.window(from, to, k*weekHours, part)
		if math.IsNaN(sum) {
			continue
		}
		usual = append(usual, sum)
		d.usual = append(d.usual, span{start.In(h.zone).AddDate(0, 0, -7*int(k)),
			at.In(h.zone).AddDate(0, 0, -7*int(k))})
		around = append(around, sum)
		for _, shift := range []int64{-24, -1, 1, 24} {
			if wall := h.wall[to-h.first]; weekend(wall) == weekend(wall-shift) {
				around = appendKnown(around, h.window(from, to, k*weekHours+shift, part))
			}
		}
	}
	if len(usual) < 2 || h.busy == 0 {
		return deviation{}, false
	}
	expected := median(usual)
	if to-from <= 1 { // four are few: the hours and days around say as much again
		expected = (expected + median(around)) / 2
	}
	expected *= h.level
	above := actual - expected
	d.score = h.sensitivity * above / (spikeSigmas * h.sigma(expected))
	if actual < (1+(spikeRatio-1)/h.sensitivity)*expected || above < spikeFloor {
		d.score = min(d.score, 0.99)
	}
	d.score = max(0, d.score)
	d.words = h.words(start.In(h.zone), at.In(h.zone), actual, expected)
	return d, true
}

// window is what was spent so many hours on the wall before some hours of UTC, of the last of which only a part counts.
func (h *history) window(from, to, back int64, part float64) float64 {
	sum := 0.0
	for hour := from; hour <= to; hour++ {
		x := h.at(h.wall[hour-h.first] - back)
		if hour == to {
			x *= math.Pow(part, partPower)
		}
		sum += x
	}
	return sum
}

// weekend tells whether an hour on the wall is one of a Saturday or Sunday. 1 January 1970 was a Thursday.
func weekend(wall int64) bool {
	day := floorDiv(wall, 24) % 7
	return day == 2 || day == 3
}

func square(x float64) float64 { return x * x }

// words says how much was spent and what is usual, in raw cost.
func (h *history) words(from, until time.Time, actual, expected float64) string {
	weekday, when := until.Weekday(), fmt.Sprintf("from %s to %s", from.Format("15:04"), until.Format("15:04"))
	if store.DayOf(from, h.zone).Start(h.zone).Equal(from) && until.Sub(from) > 2*time.Hour {
		when = "by " + until.Format("15:04")
	}
	if expected < 0.005 && expected < actual/100 {
		return fmt.Sprintf("raw $%.2f %s, usually nothing on a %s", actual, when, weekday)
	}
	return fmt.Sprintf("%.1fx the usual %s %s (raw $%.2f)", actual/expected, weekday, when, actual)
}

// silence compares the time since the last request with the longest pause of each of the last weeks.
func (h *history) silence(until time.Time) deviation {
	end := min(hourOf(until)-h.first, int64(len(h.active))) // hours before it are complete
	var longest [weeksBack]int64
	weeks := min(weeksBack, end/weekHours)
	last := int64(-1)
	for i := range end {
		if !h.active[i] {
			continue
		}
		if week := (end - 1 - i) / weekHours; week < weeks {
			longest[week] = max(longest[week], i-last-1)
		}
		last = i
	}
	if at := end; last < 0 || (at < int64(len(h.active)) && h.active[at]) {
		return deviation{} // never active, or active in the present hour
	}
	pauses := longest[:weeks]
	slices.Sort(pauses)
	usual := pauses[weeks-1]
	if weeks > 1 && usual > 3*pauses[weeks-2]+3 {
		usual = pauses[weeks-2] // a week with an outage of its own
	}
	limit := silenceFloor + silenceFactor*float64(usual) + float64(usual-pauses[0])
	if limit > silenceMost {
		return deviation{}
	}
	gap := end - last - 1
	since := time.Unix((h.first+last+1)*3600, 0).In(h.zone)
	usually := "usually there is one in each hour"
	if usual > 0 {
		usually = fmt.Sprintf("the longest usual pause is %d hours", usual)
	}
	return deviation{score: h.sensitivity * float64(gap) / limit, from: since, until: until,
		words: fmt.Sprintf("no request for %d hours, since before %s; %s", gap, since.Format("Monday 15:04"), usually)}
}

// cause names the model and the user that had most of what was spent above the usual. Before holds the same time of
// some weeks.
func cause(now []store.Part, before [][]store.Part) string {
	var names []string
	for _, of := range []struct {
		label string
		name  func(store.Part) string
	}{
		{"from ", func(p store.Part) string { return p.Model }},
		{"by user ", func(p store.Part) string { return p.User }},
	} {
		excess := map[string]float64{}
		for _, p := range now {
			excess[of.name(p)] += p.Raw.Float()
		}
		for _, week := range before {
			for _, p := range week {
				if _, there := excess[of.name(p)]; there {
					excess[of.name(p)] -= p.Raw.Float() / float64(len(before))
				}
			}
		}
		sum, most := 0.0, ""
		for _, name := range slices.Sorted(maps.Keys(excess)) {
			sum += max(0, excess[name])
			if most == "" || excess[name] > excess[most] {
				most = name
			}
		}
		if share := excess[most] / sum; sum > 0 && share >= 0.3 {
			names = append(names, fmt.Sprintf("%.0f %% of the excess %s%s", 100*share, of.label, most))
		}
	}
	return strings.Join(names, ", ")
}
