package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"usage-sync/store"
)

// chart is a drawing of the cost per day, in the pixels of its size. The template makes an svg element of it; the
// stylesheet gives it its colours, in light and dark.
type chart struct {
	Class         string // what the stylesheet shows and hides by the width of the screen
	Width, Height int
	Left, Right   float64 // of the lines
	Lines         []chartLine
	Weekends      []chartBar // behind the bars
	Bars          []chartBar
	Labels        []chartLabel
}

type chartLine struct {
	Y     float64
	Label string // the value that it stands for
	Zero  bool
}

type chartBar struct{ X, Y, Width, Height float64 }

type chartLabel struct {
	X    float64
	Text string
}

const (
	topRoom    = 10 // half a line of text stands above the highest value
	bottomRoom = 26 // for the labels of the days
	rightRoom  = 8
	digitWidth = 7 // of the widest fonts, at the 12 px of the stylesheet's class label
	// widestBar bounds the bars of a few days, and barShare what a bar takes of its day.
	widestBar = 48.0
	barShare  = 0.7
	// labelRoom is the width of the longest label of a day, and of the space beside it.
	labelRoom = 48
)

// draw draws a bar for each day with a cost.
func (s Statement) draw(class string, width, height int) chart {
	least, most := 0.0, 0.0
	for _, d := range s.Days {
		least, most = min(least, d.Cost.Float()), max(most, d.Cost.Float())
	}
	low, high, lines := scale(least, most)
	bottom := float64(height - bottomRoom)
	y := func(value float64) float64 { return tenth(bottom - (bottom-topRoom)*(value-low)/(high-low)) }

	c := chart{Class: class, Width: width, Height: height, Right: float64(width - rightRoom)}
	longest := 0
	for i := range lines {
		value := low + (high-low)*float64(i)/float64(lines-1)
		line := chartLine{Y: y(value), Label: axisNumber(value), Zero: math.Abs(value) < (high-low)/1e9}
		if i == lines-1 {
			line.Label = s.Currency.Code + " " + line.Label
		}
		longest = max(longest, len(line.Label))
		c.Lines = append(c.Lines, line)
	}
	c.Left = float64(longest*digitWidth + 8)
	slot := (c.Right - c.Left) / float64(len(s.Days))
	wide := min(barShare*slot, widestBar)
	labels := s.dayLabels(int(c.Right - c.Left))
	for i, d := range s.Days {
		middle := c.Left + (float64(i)+0.5)*slot
		if labels[i] != "" {
			c.Labels = append(c.Labels, chartLabel{tenth(middle), labels[i]})
		}
		if d.weekend() {
			c.Weekends = append(c.Weekends, chartBar{tenth(middle - slot/2), topRoom, max(0.1, tenth(slot)),
				bottom - topRoom})
		}
		if d.Cost == 0 {
			continue
		}
		top, foot := y(max(0, d.Cost.Float())), y(min(0, d.Cost.Float()))
		c.Bars = append(c.Bars, chartBar{tenth(middle - wide/2), top, max(0.1, tenth(wide)), tenth(foot - top)})
	}
	return c
}

// weekend tells whether a day is a Saturday or a Sunday.
func (p Part) weekend() bool {
	t, err := time.Parse(time.DateOnly, p.Name)
	return err == nil && (t.Weekday() == time.Saturday || t.Weekday() == time.Sunday)
}

// weekday is the name of a day in short.
func (p Part) weekday() string {
	t, err := time.Parse(time.DateOnly, p.Name)
	if err != nil {
		return ""
	}
	return t.Format("Mon")
}

// tenth rounds to a tenth of a pixel.
func tenth(pixels float64) float64 { return math.Round(10*pixels) / 10 }

// scale chooses an axis from zero, or below it where corrections make days negative, with lines at round numbers.
func scale(least, most float64) (low, high float64, lines int) {
	if least == most {
		return 0, 1, 2
	}
	const steps = 5
	power := math.Pow(10, math.Floor(math.Log10((most-least)/steps)))
	step := 10 * power
	for _, round := range []float64{1, 2, 2.5, 5} {
		if (most-least)/(round*power) <= steps {
			step = round * power
			break
		}
	}
	low, high = math.Floor(least/step), math.Ceil(most/step)
	return low * step, high * step, int(high-low) + 1
}

// dayLabels are the labels below the bars, as many as there is room for: days of the month, with the month
// where there are two, and the first days of months where there are more.
func (s Statement) dayLabels(width int) []string {
	labels := make([]string, len(s.Days))
	months := s.Stated.Days()/31 + 1
	room := func(count int) int { return (count*labelRoom + width - 1) / width }
	everyDay, everyMonth, month := room(len(s.Days)), room(months), 0
	for i, d := range s.Days {
		t, err := time.Parse(time.DateOnly, d.Name)
		switch {
		case err != nil:
		case months > 3 && t.Day() == 1:
			if month%everyMonth == 0 {
				labels[i] = t.Format("Jan")
			}
			month++
		case months > 3 || i%everyDay != 0:
		case s.Stated.First.Month() == s.Stated.Last.Month():
			labels[i] = t.Format("2")
		default:
			labels[i] = t.Format("2 Jan")
		}
	}
	return labels
}

// axisNumber writes a value of the axis with as many decimals as it needs.
func axisNumber(v float64) string {
	text := strconv.FormatFloat(v, 'f', 12, 64)
	whole, fraction, _ := strings.Cut(text, ".")
	fraction = strings.TrimRight(fraction, "0")
	if fraction != "" {
		fraction = "." + fraction
	}
	if whole == "-0" && fraction == "" {
		whole = "0"
	}
	return store.GroupDigits(whole) + fraction
}

// description says in words what the chart shows.
func (s Statement) description() string {
	highest := s.highest()
	return fmt.Sprintf("Bar chart of %s. The highest day is %s with %s %s. The table “Per day” has the same figures.",
		days(s.Stated), highest.Name, s.Currency.Code, s.billed().shown(highest.Cost))
}

// days counts the days of a span in words.
func days(span store.Span) string { return store.Counted(span.Days(), "day") }
