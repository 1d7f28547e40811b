package alert

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"text/tabwriter"
	"time"

	"usage-sync/store"
)

// The targets: what normal traffic may cost in false alarms, and which share of spikes is caught within an hour.
const (
	mostFalseAlarms = 1.0 // of an organisation in a month
	leastCaught     = 0.95
)

const (
	// daysBefore is what the traffic has before it is judged, and daysJudged how long it then is.
	daysBefore = 30
	daysJudged = 30
	// remembered is how far back a pass looks, in steps.
	remembered = 30 * 24 * stepsPerHour
	// spikeFactor is how many times the usual a planted spike is, for spikeLength.
	spikeFactor = 5
	spikeLength = 3 * time.Hour
	inTime      = time.Hour
	// busyShare of its busiest hour an organisation must usually have where a spike is planted: five times nearly
	// nothing is nothing.
	busyShare = 0.5
)

// result is what an evaluation of one shape has found.
type result struct {
	Name                 string
	Months               int
	FalseSpikes          int
	FalseSilences        int
	Spikes               int
	Caught               int             // within an hour
	Delays               []time.Duration // of those that were caught at all
	Silences, NeverHeard int
	Quiet                []time.Duration // from the last request to the alarm
	Forecasts, InRange   int
}

// falseAlarms is their number in a month.
func (r result) falseAlarms() float64 {
	return float64(r.FalseSpikes+r.FalseSilences) / float64(max(1, r.Months))
}

// caughtShare is the share of planted spikes that was caught within an hour.
func (r result) caughtShare() float64 { return float64(r.Caught) / float64(max(1, r.Spikes)) }

// size says how much is tried of each shape.
type size struct {
	Months   int           // of normal traffic
	Pass     time.Duration // between two passes over it; a multiple of ten minutes
	Spikes   int           // planted, in all
	Silences int
}

// evaluate judges made traffic of a shape. The same seed gives the same result.
func evaluate(shape shape, size size, sensitivity float64, seed uint64) result {
	r := result{Name: shape.Name}
	for i := range size.Months {
		t := shape.make(daysBefore+daysJudged, seed+uint64(i))
		r.normal(t, size.Pass, sensitivity)
	}
	for i := range size.Spikes {
		r.plant(shape.make(daysBefore+7, seed+1000+uint64(i)), sensitivity, seed+uint64(i))
	}
	for i := range size.Silences {
		r.silence(shape.make(daysBefore+14, seed+2000+uint64(i)), sensitivity, seed+uint64(i))
	}
	for i := range size.Silences {
		r.forecast(shape.make(100, seed+3000+uint64(i)))
	}
	return r
}

// judgeReplay judges what a store holds of an organisation: what passes would have said, and what they would have caught.
func judgeReplay(name string, hours []store.Hour, zone *time.Location, spikes int, sensitivity float64, seed uint64) (result, []string) {
	t := replay(hours, zone)
	r := result{Name: name}
	if t.end().Sub(t.start) < (daysBefore/2+1)*24*time.Hour {
		return r, nil
	}
	said := r.normal(t, step, sensitivity)
	for i := range spikes {
		r.plant(t, sensitivity, seed+uint64(i))
	}
	return r, said
}

// judge is what a pass at the end of a step says.
func judge(t *traffic, i int, sensitivity float64) Anomaly {
	now := t.at(i)
	return findAnomaly(t.hours(i-remembered, i), t.start, now, now, t.zone, sensitivity)
}

// normal counts the alarms of traffic in which nothing is planted, and returns them.
func (r *result) normal(t *traffic, pass time.Duration, sensitivity float64) (said []string) {
	spike, silence := false, false
	r.Months++
	for i := min(daysBefore, len(t.cost)/(24*stepsPerHour)/2) * 24 * stepsPerHour; i <= len(t.cost); i += int(pass / step) {
		a := judge(t, i, sensitivity)
		if stands := a.Spike.stands(spike); stands != spike {
			if spike = stands; spike {
				r.FalseSpikes++
				said = append(said, fmt.Sprintf("%s spike: %s", t.at(i).In(t.zone).Format("2006-01-02 15:04"), a.Spike.words))
			}
		}
		if stands := a.Silence.stands(silence); stands != silence {
			if silence = stands; silence {
				r.FalseSilences++
				said = append(said, fmt.Sprintf("%s silence: %s", t.at(i).In(t.zone).Format("2006-01-02 15:04"), a.Silence.words))
			}
		}
	}
	return said
}

// plant lets a program run wild for some hours, at one rate that makes five times the usual of the hour in which it starts,
// and looks when that is seen.
func (r *result) plant(t *traffic, sensitivity float64, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 5))
	from, length := len(t.cost)*4/5, int(spikeLength/step)
	busiest := 0.0
	for i := from; i < len(t.cost); i += stepsPerHour {
		busiest = max(busiest, hourly(t.usual, i))
	}
	start := -1
	for range 10_000 {
		if i := from + random.IntN(len(t.cost)-from-length); hourly(t.usual, i) >= busyShare*busiest {
			start = i
			break
		}
	}
	if start < 0 || judge(t, start, sensitivity).Spike.score >= 1 {
		return // nowhere to plant it, or traffic already stands out there
	}
	with := *t
	with.cost, with.requests = slices.Clone(t.cost), slices.Clone(t.requests)
	rate := (spikeFactor - 1) * hourly(t.usual, start) / float64(stepsPerHour)
	for i := start; i < start+length; i++ {
		with.cost[i] += rate
		with.requests[i] += 10
	}
	r.Spikes++
	for i := start + 1; i <= start+length; i++ {
		if judge(&with, i, sensitivity).Spike.score >= 1 {
			delay := with.at(i).Sub(with.at(start))
			r.Delays = append(r.Delays, delay)
			if delay <= inTime {
				r.Caught++
			}
			return
		}
	}
}

// hourly is the sum over the hour that a step belongs to.
func hourly(of []float64, i int) float64 {
	sum := 0.0
	for j := i / stepsPerHour * stepsPerHour; j < min(len(of), (i/stepsPerHour+1)*stepsPerHour); j++ {
		sum += of[j]
	}
	return sum
}

// silence lets the organisation fall silent at a random time of its week, and looks when that is heard.
func (r *result) silence(t *traffic, sensitivity float64, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 7))
	stop := daysBefore*24*stepsPerHour + random.IntN(7*24*stepsPerHour)
	with := *t
	with.cost, with.requests = slices.Clone(t.cost), slices.Clone(t.requests)
	last := 0
	for i := range with.cost {
		if i >= stop {
			with.cost[i], with.requests[i] = 0, 0
		} else if with.requests[i] > 0 {
			last = i + 1
		}
	}
	r.Silences++
	for i := last; i <= len(with.cost); i++ {
		if judge(&with, i, sensitivity).Silence.score >= 1 {
			r.Quiet = append(r.Quiet, with.at(i).Sub(with.at(last)))
			return
		}
	}
	r.NeverHeard++
}

// forecast makes forecasts on several days of a month, and holds them against what became of it.
func (r *result) forecast(t *traffic) {
	costs := t.days()
	first := store.DayOf(t.start, t.zone).Add(1)
	last := store.DayOf(t.end(), t.zone).Add(-1)
	start := last.FirstOfMonth().Add(-1).FirstOfMonth() // of the last whole month
	if start < first.Add(14) {
		return
	}
	month := newLimit(costs, last.FirstOfMonth().Add(-1), 0).Spent
	for _, day := range []int{4, 9, 14, 19, 24} {
		today := start.Add(day)
		known := map[store.Day]store.Money{}
		for d, cost := range costs {
			if d < today && d >= first {
				known[d] = cost
			}
		}
		f := newLimit(known, today, 0).Forecast
		if !f.Known {
			continue
		}
		r.Forecasts++
		if f.Low <= month && month <= f.High {
			r.InRange++
		}
	}
}

// printResults writes the results as a table.
func printResults(w io.Writer, results []result) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "TRAFFIC\tMONTHS\tFALSE SPIKES\tFALSE SILENCES\tA MONTH\tSPIKES\tCAUGHT IN 1 H\tMEDIAN\tSILENCES\tHEARD AFTER\tAT THE MOST\tNEVER\tFORECASTS\tIN RANGE\t")
	for _, r := range results {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%.2f\t%d\t%s\t%s\t%d\t%s\t%s\t%d\t%d\t%s\t\n", r.Name, r.Months, r.FalseSpikes, r.FalseSilences,
			r.falseAlarms(), r.Spikes, percent(r.Caught, r.Spikes), middle(r.Delays), r.Silences, middle(r.Quiet), longest(r.Quiet), r.NeverHeard,
			r.Forecasts, percent(r.InRange, r.Forecasts))
	}
	return table.Flush()
}

func percent(part, whole int) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f %%", 100*float64(part)/float64(whole))
}

func middle(all []time.Duration) string {
	if len(all) == 0 {
		return "-"
	}
	return brief(slices.Sorted(slices.Values(all))[len(all)/2])
}

func longest(all []time.Duration) string {
	if len(all) == 0 {
		return "-"
	}
	return brief(slices.Max(all))
}

// brief is minutes below two hours, and hours from there on.
func brief(d time.Duration) string {
	if d < 2*time.Hour {
		return fmt.Sprintf("%.0f min", d.Minutes())
	}
	return fmt.Sprintf("%.1f h", d.Hours())
}
