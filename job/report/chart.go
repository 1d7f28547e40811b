package report

import (
	"bytes"
	"fmt"
	"html/template"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/go-analyze/charts"

	"usage-sync/store"
)

// chart is a drawing of the cost per day.
type chart struct {
	Width, Height int
	Drawing       template.HTML // what belongs into an svg element of that size
}

// The chart library writes fixed colours into style attributes. Ours stand for classes, so that the document's stylesheet
// can draw the chart in light and dark, and its content security policy can do without style attributes.
var (
	axisColor  = charts.Color{R: 1, A: 255}
	gridColor  = charts.Color{R: 2, A: 255}
	labelColor = charts.Color{R: 3, A: 255}
	barColor   = charts.Color{R: 4, A: 255}
)

var (
	classes = map[string]string{
		axisColor.String():  "axis",
		gridColor.String():  "grid",
		labelColor.String(): "label",
		barColor.String():   "bar",
	}
	styles = regexp.MustCompile(`style="([^"]*)"`)
	paint  = regexp.MustCompile(`rgb\([^)]*\)`)
)

// labelSize is the size of a chart's text in points: 12 px, as the stylesheet says of the class label.
const labelSize = 9

// widestBar bounds the bars of a few days.
const widestBar = 48

// labelRoom is the width of the longest label of a day, and of the space beside it.
const labelRoom = 48

// draw draws a bar for each day.
func (s Statement) draw(width, height int) (chart, error) {
	costs := make([]float64, len(s.Days))
	least, most := 0.0, 0.0
	for i, d := range s.Days {
		costs[i] = d.Cost.Float()
		least, most = min(least, costs[i]), max(most, costs[i])
		if d.Cost == 0 {
			costs[i] = charts.GetNullValue() // no bar at all, in the place of a hair
		}
	}
	least, most, lines := scale(least, most)
	theme := charts.MakeTheme(charts.ThemeOption{AxisStrokeColor: axisColor, AxisSplitLineColor: gridColor, TextColor: labelColor,
		SeriesColors: []charts.Color{barColor}, BackgroundColor: charts.ColorTransparent})
	font := charts.FontStyle{FontSize: labelSize, FontColor: labelColor}
	options := charts.NewBarChartOptionWithData([][]float64{costs})
	options.Theme = theme
	options.Padding = charts.NewBox(2, 8, 8, 2) // half a line of text stands above the highest value
	options.BarSize = min(0.7, float64(widestBar*len(costs))/float64(width))
	options.CategoryAxis.Labels = s.dayLabels(width)
	options.CategoryAxis.BoundaryGap = charts.Ptr(true) // each label below its bar
	options.CategoryAxis.LabelFontStyle = font
	options.CategoryAxis.LabelCount = len(s.Days) // as many as there are, but most are empty
	options.ValueAxis = []charts.ValueAxisOption{{LabelFontStyle: font, Min: &least, Max: &most, LabelCount: lines,
		RangeValuePaddingScale: new(float64), PreferNiceIntervals: charts.Ptr(false)}}
	options.ValueFormatter = axisNumber
	painter := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: width, Height: height, Theme: theme})
	if err := painter.BarChart(options); err != nil {
		return chart{}, fmt.Errorf("chart: %w", err)
	}
	svg, err := painter.Bytes()
	if err != nil {
		return chart{}, fmt.Errorf("chart: %w", err)
	}
	drawing, err := classed(svg)
	return chart{Width: width, Height: height, Drawing: drawing}, err
}

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

// dayLabels are the labels below the bars, as many as there is room for: days of the month, with the month where there are
// two, and the first days of months where there are more.
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
	text := strconv.FormatFloat(v, 'f', moneyDigits, 64)
	whole, fraction, _ := strings.Cut(text, ".")
	fraction = strings.TrimRight(fraction, "0")
	if fraction != "" {
		fraction = "." + fraction
	}
	if whole == "-0" && fraction == "" {
		whole = "0"
	}
	return grouped(whole) + fraction
}

// classed takes the svg element's content out of a drawing, with classes in the place of style attributes. The text in it
// is ours: days and numbers.
func classed(svg []byte) (template.HTML, error) {
	_, content, found := bytes.Cut(svg, []byte(">"))
	if !found {
		return "", fmt.Errorf("chart: no drawing but %.40q", svg)
	}
	content = bytes.TrimSuffix(content, []byte("</svg>"))
	var unknown []byte
	content = styles.ReplaceAllFunc(content, func(style []byte) []byte {
		color := paint.Find(style)
		if color == nil {
			return []byte(`class="nothing"`)
		}
		class, known := classes[string(color)]
		if !known {
			unknown = style
		}
		return fmt.Appendf(nil, "class=%q", class)
	})
	if unknown != nil {
		return "", fmt.Errorf("chart: unknown colour in %q", unknown)
	}
	return template.HTML(bytes.ReplaceAll(content, []byte("\n"), []byte(" "))), nil
}

// description says in words what the chart shows.
func (s Statement) description() string {
	highest := s.highest()
	return fmt.Sprintf("Bar chart of %s. The highest day is %s with %s %s. The table “Per day” has the same figures.",
		days(s.Stated), highest.Name, s.Currency.Code, s.Currency.shown(highest.Cost))
}

// days counts the days of a span in words.
func days(span store.Span) string {
	if n := span.Days(); n != 1 {
		return fmt.Sprintf("%d days", n)
	}
	return "1 day"
}
