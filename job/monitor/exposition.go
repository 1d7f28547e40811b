package monitor

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// This is as much of the text format 0.0.4 of metrics as files of gauges and counters need
// (https://prometheus.io/docs/instrumenting/exposition_formats/, read on 25 November 2026). Prometheus' own
// library does the same and more; it and protobuf were a tenth of the program and took a millisecond at each
// start. The tests have its parser and promtool read what is written here.

// definition describes a family of samples: its name, what it means and the names of its labels.
type definition struct {
	name, help string
	labels     []string
}

const namespace = "usage_sync"

func desc(name, help string, labels ...string) *definition {
	return &definition{namespace + "_" + name, help, labels}
}

// kind is the type of a family.
type kind string

const (
	isGauge   kind = "gauge"
	isCounter kind = "counter"
)

// page is the content of a metrics file.
type page struct {
	instance string // the value of the label instance of each sample
	families map[string]*family
	err      error // the first of add
}

// family is the samples of one metric.
type family struct {
	help, kind string            // as they are written
	samples    map[string]string // values by labels, both as they are written
}

func newPage(instance string) *page { return &page{instance: instance, families: map[string]*family{}} }

// add adds a sample. The same labels twice are an error of the whole page: a reader would refuse it.
func (p *page) add(k kind, m *definition, value float64, labels ...string) {
	f := p.families[m.name]
	if f == nil {
		f = &family{help: escapeHelp.Replace(m.help), kind: string(k), samples: map[string]string{}}
		p.families[m.name] = f
	}
	pairs := []string{pair("instance", p.instance)}
	for i, name := range m.labels {
		pairs = append(pairs, pair(name, labels[i]))
	}
	slices.Sort(pairs) // by name, as Prometheus' library writes them
	key := "{" + strings.Join(pairs, ",") + "}"
	if _, twice := f.samples[key]; twice {
		p.err = cmp.Or(p.err, fmt.Errorf("metric %s%s: twice", m.name, key))
	}
	f.samples[key] = strconv.FormatFloat(value, 'g', -1, 64)
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// pair writes a label. What a database holds is not always UTF-8.
func pair(name, value string) string {
	return name + `="` + escapeLabel.Replace(strings.ToValidUTF8(value, "\uFFFD")) + `"`
}

// text is the page as it is written: families in the order of their names, samples in the order of their labels.
func (p *page) text() []byte {
	var text bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(p.families)) {
		f := p.families[name]
		fmt.Fprintf(&text, "# HELP %s %s\n# TYPE %s %s\n", name, f.help, name, f.kind)
		for _, labels := range slices.Sorted(maps.Keys(f.samples)) {
			fmt.Fprintf(&text, "%s%s %s\n", name, labels, f.samples[labels])
		}
	}
	return text.Bytes()
}

// parsePage reads a page that this program has written, as far as it is of the instance: an instance may have taken
// over another's file. A line that is anything else says nothing.
func parsePage(instance string, text []byte) *page {
	own := pair("instance", instance)
	return parseWhere(instance, text, func(pairs []string) bool { return slices.Contains(pairs, own) })
}

// parseWhere is parsePage for the samples whose labels are to be kept.
func parseWhere(instance string, text []byte, kept func(pairs []string) bool) *page {
	p := newPage(instance)
	help, kinds := map[string]string{}, map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		if comment, is := strings.CutPrefix(line, "# "); is {
			word, rest, _ := strings.Cut(comment, " ")
			name, value, _ := strings.Cut(rest, " ")
			switch word {
			case "HELP":
				help[name] = value
			case "TYPE":
				kinds[name] = value
			}
			continue
		}
		start, end := strings.IndexByte(line, '{'), strings.LastIndex(line, "} ")
		if start < 0 || end < start || kinds[line[:start]] == "" || !strings.HasPrefix(line, namespace+"_") {
			continue
		}
		name, labels, value := line[:start], line[start:end+1], line[end+2:]
		if _, err := strconv.ParseFloat(value, 64); err != nil || !kept(pairsOf(labels)) {
			continue
		}
		f := p.families[name]
		if f == nil {
			f = &family{help: help[name], kind: kinds[name], samples: map[string]string{}}
			p.families[name] = f
		}
		f.samples[labels] = value
	}
	return p
}

// pairsOf splits labels as text writes them: a comma within quotes splits nothing.
func pairsOf(labels string) (pairs []string) {
	labels = strings.TrimSuffix(strings.TrimPrefix(labels, "{"), "}")
	start, quoted := 0, false
	for i := 0; i < len(labels); i++ {
		switch c := labels[i]; {
		case c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			pairs = append(pairs, labels[start:i])
			start = i + 1
		}
	}
	return append(pairs, labels[start:])
}

// value returns the value of a metric of the whole instance, or 0.
func (p *page) value(m *definition) float64 {
	if f := p.families[m.name]; f != nil {
		for _, text := range f.samples {
			value, _ := strconv.ParseFloat(text, 64)
			return value
		}
	}
	return 0
}
