package report

import (
	"bytes"
	"fmt"
	"html/template"
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

// draw draws a bar for each day.
func (s Statement) draw(width, height int) (chart, error) {
	costs := make([]float64, len(s.Days))
	labels := make([]string, len(s.Days))
	for i, d := range s.Days {
		costs[i], labels[i] = d.Cost.Float(), s.dayLabel(d.Name)
	}
	theme := charts.MakeTheme(charts.ThemeOption{AxisStrokeColor: axisColor, AxisSplitLineColor: gridColor, TextColor: labelColor,
		SeriesColors: []charts.Color{barColor}, BackgroundColor: charts.ColorTransparent})
	font := charts.FontStyle{FontSize: labelSize, FontColor: labelColor}
	options := charts.NewBarChartOptionWithData([][]float64{costs})
	options.Theme = theme
	options.Padding = charts.NewBoxEqual(4)
	options.CategoryAxis.Labels = labels
	options.CategoryAxis.LabelFontStyle = font
	options.CategoryAxis.LabelCount = min(len(labels), width/60)
	options.ValueAxis = []charts.ValueAxisOption{{LabelFontStyle: font, LabelCount: 5, Min: lowest(costs)}}
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

// lowest lets the axis start at zero, unless corrections make a day negative.
func lowest(costs []float64) *float64 {
	least := 0.0
	for _, cost := range costs {
		least = min(least, cost)
	}
	if least < 0 {
		return nil
	}
	return &least
}

// dayLabel is the day of the month, with the month where there are several.
func (s Statement) dayLabel(day string) string {
	if s.Stated.First.Month() == s.Stated.Last.Month() {
		return strings.TrimPrefix(day[len("2006-01-"):], "0")
	}
	t, err := time.Parse(time.DateOnly, day)
	if err != nil {
		return day
	}
	return t.Format("2 Jan")
}

// axisNumber writes a value of the axis with as many decimals as it needs.
func axisNumber(v float64) string {
	if v > -1e-9 && v < 1e-9 {
		return "0"
	}
	text := strconv.FormatFloat(v, 'f', 9, 64)
	whole, fraction, _ := strings.Cut(text, ".")
	fraction = strings.TrimRight(fraction, "0")
	if fraction != "" {
		fraction = "." + fraction
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
