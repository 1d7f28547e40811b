package monitor

import (
	"bytes"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// TestExposition: Prometheus' own parser reads what is written, whatever labels hold, and so does ours.
func TestExposition(t *testing.T) {
	m := desc("x_total", "A \\ backslash,\nand a line.", "org", "a")
	hostile := []string{"", "plain", `a"b`, `a\`, `\"`, "a\nb", `x",instance="other`, "a,b", "{}", "} 1", "\xff\xfe", "ü€😀", "# HELP x"}
	for _, instance := range hostile {
		p := newPage(instance)
		values := map[string]float64{}
		for i, label := range hostile {
			value := []float64{0, 1, -1, 0.1, 1e300, 5e-324, 1 << 53, math.Inf(1)}[i%8]
			p.add(isCounter, m, value, label, "z")
			values[strings.ToValidUTF8(label, "\uFFFD")] = value
		}
		if p.err != nil {
			t.Fatal(p.err)
		}
		text := p.text()
		parser := expfmt.NewTextParser(model.UTF8Validation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		read := families["usage_sync_x_total"]
		if read.GetHelp() != m.help || len(read.Metric) != len(hostile) {
			t.Errorf("%d samples, help %q", len(read.Metric), read.GetHelp())
		}
		for _, sample := range read.Metric {
			names := []string{sample.Label[0].GetName(), sample.Label[1].GetName(), sample.Label[2].GetName()}
			if !slices.Equal(names, []string{"a", "instance", "org"}) {
				t.Errorf("labels %v", names)
			}
			label := sample.Label[2].GetValue()
			if want, is := values[label]; !is || want != sample.GetCounter().GetValue() {
				t.Errorf("%q: %v, want %v", label, sample.GetCounter().GetValue(), want)
			}
		}
		again := parsePage(instance, text)
		if got := again.families[m.name]; got == nil || !maps.Equal(got.samples, p.families[m.name].samples) || !bytes.Equal(again.text(), text) {
			t.Errorf("read again: %s", again.text())
		}
		if of := parsePage(instance+"x", text); len(of.families) != 0 {
			t.Errorf("another instance has %s", of.text())
		}
	}
	p := newPage("one")
	p.add(isGauge, m, 1, "\xff", "z")
	p.add(isGauge, m, 2, "\xfe", "z")
	if p.err == nil {
		t.Error("the same labels twice")
	}
	for _, text := range []string{"", "\x00", "usage_sync_x{", `usage_sync_x{instance="one"} 1`, "# TYPE usage_sync_x gauge\nusage_sync_x 1",
		"# TYPE usage_sync_x gauge\n" + `usage_sync_x{instance="one"} x`, "# TYPE usage_sync_x gauge\n" + `usage_sync_x{instance="one\"} 1`} {
		if got := parsePage("one", []byte(text)); len(got.families) != 0 {
			t.Errorf("%q says %s", text, got.text())
		}
	}
}
