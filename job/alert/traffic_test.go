package alert

import (
	"math"
	"math/rand/v2"
	"time"

	"usage-sync/store"
)

// step is the time between two passes.
const step = 10 * time.Minute

const stepsPerHour = int(time.Hour / step)

// traffic is what an organisation uses, step by step.
type traffic struct {
	zone     *time.Location
	start    time.Time // a full hour of UTC
	requests []int64   // of each step
	cost     []float64 // raw dollars of each step
	usual    []float64 // what would be usual, without any noise
}

func (t *traffic) at(i int) time.Time { return t.start.Add(time.Duration(i) * step) }

func (t *traffic) end() time.Time { return t.at(len(t.cost)) }

// index is the first step that begins at a time or later.
func (t *traffic) index(at time.Time) int { return int((at.Sub(t.start) + step - 1) / step) }

// hours are those from one step up to another, as a store would have them.
func (t *traffic) hours(from, until int) []store.Hour {
	var all []store.Hour
	for i := max(0, from/stepsPerHour*stepsPerHour); i < until; i += stepsPerHour {
		h := store.Hour{Start: t.at(i)}
		dollars := 0.0
		for j := i; j < min(i+stepsPerHour, until); j++ {
			h.Requests += t.requests[j]
			dollars += t.cost[j]
		}
		if h.Requests > 0 {
			h.Raw = dollarsOf(dollars)
			all = append(all, h)
		}
	}
	return all
}

func dollarsOf(dollars float64) store.Money {
	return store.Money(math.Round(dollars * float64(store.Dollar)))
}

// days are the costs of the organisation's days.
func (t *traffic) days() map[store.Day]store.Money {
	costs := map[store.Day]store.Money{}
	for i, cost := range t.cost {
		if cost > 0 {
			costs[store.DayOf(t.at(i), t.zone)] += dollarsOf(cost)
		}
	}
	return costs
}

// shape is a way in which organisations use models.
type shape struct {
	Name              string
	busy              func(at time.Time) float64 // what an hour on the wall usually has of the busiest one
	requests, dollars float64                    // of the busiest hour
	holiday           float64                    // what is left on a holiday
	growth            float64                    // in a week
	front             bool                       // each hour's work is done in its first forty minutes
}

// shapes are the five shapes.
var shapes = []shape{
	{Name: "office hours", busy: office, requests: 60, dollars: 0.6, holiday: 0.1},
	{Name: "24/7", busy: always, requests: 40, dollars: 0.5, holiday: 0.7},
	{Name: "batch nights", busy: nights, requests: 300, dollars: 2, holiday: 1, front: true},
	{Name: "tiny", busy: office, requests: 20, dollars: 0.05},
	{Name: "growing", busy: always, requests: 30, dollars: 0.3, holiday: 0.7, growth: 0.08},
}

func office(at time.Time) float64 {
	hours := [24]float64{7: 0.2, 8: 0.7, 9: 1, 10: 1, 11: 0.9, 12: 0.6, 13: 0.8, 14: 1, 15: 1, 16: 0.8, 17: 0.4, 18: 0.1, 19: 0.05, 20: 0.03}
	switch at.Weekday() {
	case time.Saturday, time.Sunday:
		return hours[at.Hour()] * 0.03
	case time.Friday:
		return hours[at.Hour()] * 0.8
	}
	return hours[at.Hour()]
}

func always(at time.Time) float64 {
	busy := 0.7 - 0.3*math.Cos(2*math.Pi*(float64(at.Hour())-3)/24)
	if weekday := at.Weekday(); weekday == time.Saturday || weekday == time.Sunday {
		busy *= 0.8
	}
	return busy
}

func nights(at time.Time) float64 {
	if at.Hour() >= 1 && at.Hour() < 4 {
		return 1
	}
	return 0
}

// How normal traffic strays: the level of days, the level of hours, of which the next hour keeps a half, and the cost of
// single requests are log-normal with these deviations of the logarithm; the number of requests is Poisson's; one weekday
// in a month is a holiday. In all, an hour of 40 requests strays by about two fifths.
const (
	dayNoise     = 0.15
	hourNoise    = 0.2
	requestNoise = 0.8
	holidayOdds  = 1.0 / 21
)

// make makes traffic of a shape for some days from a random day of 2025 on.
func (s shape) make(days int, seed uint64) *traffic {
	random := rand.New(rand.NewPCG(seed, 2025))
	zone, err := time.LoadLocation("Europe/Warsaw")
	if err != nil {
		panic(err) // the zone database is in the binary
	}
	start := time.Date(2025, 1, 1+random.IntN(365), 0, 0, 0, 0, time.UTC)
	n := days * 24 * stepsPerHour
	t := &traffic{zone: zone, start: start, requests: make([]int64, n), cost: make([]float64, n), usual: make([]float64, n)}
	ofDay := map[store.Day]float64{}
	hour := 1.0
	drift := 0.0
	for i := range n {
		at := t.at(i).In(zone)
		day := store.DayOf(at, zone)
		if _, known := ofDay[day]; !known {
			ofDay[day] = math.Exp(dayNoise * random.NormFloat64())
			weekend := at.Weekday() == time.Saturday || at.Weekday() == time.Sunday
			if !weekend && random.Float64() < holidayOdds {
				ofDay[day] *= s.holiday
			}
		}
		if i%stepsPerHour == 0 {
			drift = drift/2 + random.NormFloat64()*math.Sqrt(0.75)
			hour = math.Exp(hourNoise * drift)
		}
		share := s.busy(at) / float64(stepsPerHour) * math.Exp(s.growth*float64(i)/float64(7*24*stepsPerHour))
		if s.front {
			share *= map[bool]float64{true: 1.5, false: 0}[i%stepsPerHour < stepsPerHour*2/3]
		}
		t.usual[i] = share * s.dollars
		t.requests[i] = poisson(random, share*ofDay[day]*hour*s.requests)
		t.cost[i] = costs(random, t.requests[i], s.dollars/s.requests)
	}
	return t
}

// costs is what some requests cost in all, of which each costs mean on the average.
func costs(random *rand.Rand, requests int64, mean float64) float64 {
	sum := 0.0
	for range requests {
		sum += mean * math.Exp(requestNoise*random.NormFloat64()-requestNoise*requestNoise/2)
	}
	return sum
}

// poisson draws a number by the times between events.
func poisson(random *rand.Rand, mean float64) int64 {
	n := int64(0)
	for at := random.ExpFloat64(); at < mean; at += random.ExpFloat64() {
		n++
	}
	return n
}

// replay makes traffic of what a store holds. What is usual is the mean of the same hours of the other weeks.
func replay(hours []store.Hour, zone *time.Location) *traffic {
	if len(hours) == 0 {
		return &traffic{zone: zone}
	}
	start := hours[0].Start
	n := int(hours[len(hours)-1].Start.Sub(start)/time.Hour+1) * stepsPerHour
	t := &traffic{zone: zone, start: start, requests: make([]int64, n), cost: make([]float64, n), usual: make([]float64, n)}
	for _, h := range hours {
		i := t.index(h.Start)
		for j := range stepsPerHour {
			t.requests[i+j] = (h.Requests + int64(stepsPerHour) - 1) / int64(stepsPerHour)
			t.cost[i+j] = h.Raw.Float() / float64(stepsPerHour)
		}
	}
	const week = 7 * 24 * stepsPerHour
	for i := range t.usual {
		others := 0.0
		for j := i % week; j < n; j += week {
			if j != i {
				t.usual[i] += t.cost[j]
				others++
			}
		}
		t.usual[i] /= max(1, others)
	}
	return t
}
