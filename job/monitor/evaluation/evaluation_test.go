package evaluation

import (
	"bytes"
	"testing"
	"time"
	_ "time/tzdata"
)

// TestTargets is a small evaluation: the command evaluate-anomalies makes a large one.
func TestTargets(t *testing.T) {
	size := Size{Months: 2, Pass: 30 * time.Minute, Spikes: 30, Silences: 4}
	var all Result
	var results []Result
	for i, shape := range Shapes {
		r := Evaluate(shape, size, 1, 5_000_000+uint64(i)*10_000)
		results = append(results, r)
		all.Months += r.Months
		all.FalseSpikes += r.FalseSpikes
		all.FalseSilences += r.FalseSilences
		all.Spikes += r.Spikes
		all.Caught += r.Caught
		all.Forecasts += r.Forecasts
		all.InRange += r.InRange
		if r.NeverHeard > 0 {
			t.Errorf("%s: %d of %d silences are never heard", shape.Name, r.NeverHeard, r.Silences)
		}
	}
	var table bytes.Buffer
	if err := Print(&table, results); err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s", table.String())
	if all.FalseAlarms() >= MostFalseAlarms {
		t.Errorf("%.2f false alarms of an organisation in a month, want less than %.0f", all.FalseAlarms(), MostFalseAlarms)
	}
	if all.CaughtShare() < LeastCaught {
		t.Errorf("%.1f %% of the spikes are caught within an hour, want %.0f %%", 100*all.CaughtShare(), 100*LeastCaught)
	}
	if share := float64(all.InRange) / float64(all.Forecasts); share < 0.75 || share > 0.98 {
		t.Errorf("%.0f %% of the months come to what was forecast, want about 80 %%", 100*share)
	}
}

// TestSameSeed: the same seed gives the same result, and a deaf detector catches nothing.
func TestSameSeed(t *testing.T) {
	size := Size{Months: 0, Spikes: 5}
	shape := Shapes[1]
	a, b, deaf := Evaluate(shape, size, 1, 7), Evaluate(shape, size, 1, 7), Evaluate(shape, size, 0, 7)
	if a.Caught != b.Caught || len(a.Delays) != len(b.Delays) || a.Caught == 0 {
		t.Errorf("%d and %d of %d are caught", a.Caught, b.Caught, a.Spikes)
	}
	if deaf.Caught != 0 {
		t.Errorf("who is deaf catches %d", deaf.Caught)
	}
}

// TestReplay: what a store holds is judged as made traffic is.
func TestReplay(t *testing.T) {
	made := Shapes[1].make(45, 3)
	hours := made.hours(0, len(made.cost))
	quiet, _ := Replay("Acme", hours, made.zone, 20, 1, 1)
	if quiet.Spikes == 0 || quiet.CaughtShare() < LeastCaught {
		t.Errorf("%d of %d spikes are caught", quiet.Caught, quiet.Spikes)
	}
	hours[len(hours)-30].Raw *= 20
	if loud, said := Replay("Acme", hours, made.zone, 0, 1, 1); loud.FalseSpikes != quiet.FalseSpikes+1 || len(said) != loud.FalseSpikes+loud.FalseSilences {
		t.Errorf("%d alarms in place of %d: %q", loud.FalseSpikes, quiet.FalseSpikes, said)
	}
	if short, _ := Replay("Acme", hours[:100], made.zone, 5, 1, 1); short.Months+short.Spikes != 0 {
		t.Errorf("four days are judged: %+v", short)
	}
}
