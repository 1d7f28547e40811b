package integration_test

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMonitoringIcinga: Icinga's own parser reads from status what is meant, whatever an organisation's id is made of.
func TestMonitoringIcinga(t *testing.T) {
	if !*monitoring {
		t.Skip("make test-monitoring runs it")
	}
	path := newDatabase(t, "WAL")
	exec1(t, mustOpen(t, path), `update client_organizations set monthly_limit = 100, id = 'a ''=b|ü.c_d-e'`)
	out := run(t, 3, path, "http://127.0.0.1:1", "status", "--now", time.Now().Format(time.RFC3339), "--daily-limit", "7")
	text, data, _ := strings.Cut(strings.TrimSpace(out.stdout.String()), " | ")
	if !strings.HasPrefix(text, "USAGE-SYNC UNKNOWN - ") || strings.ContainsAny(data, "|\n") {
		t.Fatalf("status says %q", text)
	}
	want := map[string]string{"tokens": "0 <nil> <nil>", "cost": "0 7 <nil>", "month_cost": "0 80 100"}
	for _, one := range strings.Fields(data) {
		answer, err := exec.Command(program(t, "icinga2"), "console", "--eval", fmt.Sprintf("parse_performance_data(%q)", one)).Output()
		if err != nil {
			t.Fatalf("%s: %v: %s", one, err, answer)
		}
		var parsed struct {
			Label             string
			Value, Warn, Crit any
		}
		if err := json.Unmarshal(answer, &parsed); err != nil {
			t.Fatalf("%s: %v: %s", one, err, answer)
		}
		name, found := strings.CutSuffix(parsed.Label, "_a___b__.c_d-e")
		if got := fmt.Sprint(parsed.Value, " ", parsed.Warn, " ", parsed.Crit); !found || got != want[name] {
			t.Errorf("%s is read as %s %s, want %s", one, parsed.Label, got, want[name])
		}
		delete(want, name)
	}
	if len(want) > 0 {
		t.Errorf("missing: %v", want)
	}
}
