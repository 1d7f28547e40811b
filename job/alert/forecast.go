package alert

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"usage-sync/store"
)

const (
	// forecastWeeks is how many past weeks a forecast looks at, and forecastLeast the least that it needs.
	forecastWeeks = 8
	forecastLeast = 2
	// simulations is how many ends of a month are made up.
	simulations = 1000
	// Of them lowEnd lie below the forecast's range, and 1 - highEnd above.
	lowEnd, highEnd = 0.1, 0.9
)

// Limit is how an organisation stands in its month. Costs are marked up, as the limit is.
type Limit struct {
	Month    string      // YYYY-MM of its calendar
	Spent    store.Money // so far
	Limit    store.Money // 0 is none
	Forecast Forecast    // of the month's end
}

// percentOf says how much of a limit is spent. It is never rounded up: less than a limit is not all of it.
func percentOf(spent, limit store.Money) string {
	return fmt.Sprintf("%.0f %%", math.Floor(100*spent.Float()/limit.Float()))
}

// percent is how much of the limit is spent; 0 without a limit.
func (l Limit) percent() float64 {
	if l.Limit <= 0 {
		return 0
	}
	return 100 * l.Spent.Float() / l.Limit.Float()
}

// Forecast is what a month is likely to come to. In four of five months the truth should lie between Low and High.
type Forecast struct {
	Known          bool // there are at least two weeks of history
	Low, Mid, High store.Money
	Reaches        store.Day // on which the middle one reaches the limit; empty where it does not this month
}

// String says the range to the cent, or why there is none.
func (f Forecast) String() string {
	if !f.Known {
		return "too little history for a forecast"
	}
	return fmt.Sprintf("$%.2f to $%.2f by the end of the month, most likely about $%.2f", f.Low.Float(),
		f.High.Float(), f.Mid.Float())
}

// newLimit judges a month by the cost of each day of the last weeks and of the month so far. Days without usage are
// absent; today counts as far as it has come. The same days always give the same forecast.
func newLimit(costs map[store.Day]store.Money, today store.Day, limit store.Money) Limit {
	l := Limit{Month: today.Month(), Limit: limit}
	for day, cost := range costs {
		if day.Month() == l.Month && day <= today {
			l.Spent += cost
		}
	}
	l.Forecast = forecast(costs, today, l)
	return l
}

// forecastSince is the first day that a forecast looks at.
func forecastSince(today store.Day) store.Day { return today.Add(-7 * forecastWeeks) }

// forecast makes up many ends of the month: each coming week goes as one of the past weeks went, day by day, drawn at
// random, with the trend that two other weeks drawn at random had between them. So weekdays keep their ways, and the
// range grows with what the weeks differ by.
func forecast(costs map[store.Day]store.Money, today store.Day, l Limit) Forecast {
	weeks := pastWeeks(costs, today)
	if len(weeks) < forecastLeast {
		return Forecast{}
	}
	totals := make([]float64, len(weeks))
	for i, week := range weeks {
		for _, cost := range week {
			totals[i] += cost
		}
	}
	left := daysLeft(today)
	random := newRandom(string(today), totals)
	so := costs[today].Float()
	before := l.Spent.Float() - so
	ends := make([]float64, simulations)
	courses := make([]float64, left+1) // the sum over all of what each day comes to
	for i := range ends {
		growth := trend(totals, random)
		sum := before
		week := 0
		for d := range left + 1 {
			if d%7 == 0 {
				week = random.IntN(len(weeks))
			}
			cost := weeks[week][d%7] * math.Exp(growth*float64(week+1+d/7))
			if d == 0 {
				cost = max(cost, so)
			}
			sum += cost
			courses[d] += sum / simulations
		}
		ends[i] = sum
	}
	slices.Sort(ends)
	// A handful of weeks shows less than there is: the fewer, the wider.
	mid := quantile(ends, 0.5)
	widen := 1 + 2/float64(len(weeks))
	low := max(l.Spent.Float(), mid-(mid-quantile(ends, lowEnd))*widen)
	f := Forecast{Known: true, Low: money(low), Mid: money(mid), High: money(mid + (quantile(ends, highEnd)-mid)*widen)}
	for d, cost := range courses {
		// to the cent: means of a thousand floats are no exact ones
		if l.Limit > 0 && money(cost) >= l.Limit-store.Dollar/200 {
			f.Reaches = today.Add(d)
			break
		}
	}
	return f
}

// pastWeeks returns whole weeks that ended yesterday, newest first, each from today's weekday on. They begin
// with the first day on which anything was used: what came before is not known to have been nothing.
func pastWeeks(costs map[store.Day]store.Money, today store.Day) [][7]float64 {
	oldest := today
	for day := range costs {
		if day >= forecastSince(today) && day < oldest {
			oldest = day
		}
	}
	var weeks [][7]float64
	for start := today.Add(-7); start >= oldest && len(weeks) < forecastWeeks; start = start.Add(-7) {
		var week [7]float64
		for i := range week {
			week[i] = costs[start.Add(i)].Float()
		}
		weeks = append(weeks, week)
	}
	return weeks
}

// trend is by how much usage grows in a week, as a logarithm: what two weeks drawn at random say, held back,
// because two weeks differ by chance as well.
func trend(totals []float64, random *rand.Rand) float64 {
	if len(totals) < 4 {
		return 0
	}
	const pairs, heldBack, most = 5, 1.0, 0.25
	var slopes []float64
	for range pairs {
		newer := random.IntN(len(totals) - 2)
		older := newer + 2 + random.IntN(len(totals)-newer-2)
		if totals[newer] > 0 && totals[older] > 0 {
			slopes = append(slopes, math.Log(totals[newer]/totals[older])/float64(older-newer))
		}
	}
	return max(-most, min(most, heldBack*median(slopes)))
}

// daysLeft is how many days of the month follow a day.
func daysLeft(day store.Day) int {
	n := 0
	for day.Add(n+1).Month() == day.Month() {
		n++
	}
	return n
}

// newRandom draws the same numbers whenever the same weeks are judged on the same day.
func newRandom(today string, totals []float64) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprint(h, today, totals)
	return rand.New(rand.NewPCG(h.Sum64(), 1))
}

func quantile(sorted []float64, q float64) float64 { return sorted[int(q*float64(len(sorted)-1)+0.5)] }

// money rounds to the pico-dollar; what is beyond Money's range is its end.
func money(dollars float64) store.Money {
	m, err := store.MoneyFromFloat(dollars)
	if err != nil {
		return math.MaxInt64
	}
	return m
}

// alert returns the level of the limit and the words for it; none where it is not near.
func (l Limit) alert(warning, critical float64) (level, words string) {
	switch percent := l.percent(); {
	case l.Limit <= 0 || percent < min(warning, critical):
		return "", ""
	case percent >= critical:
		level = levelCritical
	default:
		level = levelWarning
	}
	return level, fmt.Sprintf("$%.2f of the monthly limit of $%.2f is used (%s); %s", l.Spent.Float(), l.Limit.Float(),
		percentOf(l.Spent, l.Limit), l.Forecast)
}

// forecastAlert tells that the limit is likely to be reached this month, as long as it has not been. Once told,
// it stands until the forecast is well below.
func (l Limit) forecastAlert(told bool) (words string) {
	f := l.Forecast
	enough := l.Limit
	if told {
		enough = l.Limit / 10 * 9
	}
	if l.Limit <= 0 || !f.Known || l.Spent >= l.Limit || f.Mid < enough {
		return ""
	}
	when := "this month"
	if f.Reaches != "" {
		when = "about " + dayWords(f.Reaches)
	}
	return fmt.Sprintf("the monthly limit of $%.2f is likely to be reached %s: %s", l.Limit.Float(), when, f)
}

func dayWords(day store.Day) string {
	t, err := time.Parse(time.DateOnly, string(day))
	if err != nil {
		return string(day)
	}
	return t.Format("2 January")
}
