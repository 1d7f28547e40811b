package systemd_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestLongAlert sends a message that is longer than an argument may be, in both formats, through the script itself. Systemd
// and its journal are played; curl is the machine's own.
func TestLongAlert(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("left out: no curl on this machine")
	}
	dir := t.TempDir()
	for name, script := range map[string]string{
		"systemctl":  "#!/bin/sh\necho failed\n",
		"journalctl": "#!/bin/sh\ncase $1 in --sync) exit;; esac\nawk 'BEGIN { for (i = 0; i < 3000; i++) { printf \"%04d %0100d\\n\", i, i } print \"the \\\"last\\\" line\" }'\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, format := range []string{"text", "json"} {
		var body []byte
		hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { body, _ = io.ReadAll(r.Body) }))
		cmd := exec.Command("sh", "usage-sync-alert", "usage-sync@acme.service")
		cmd.Env = append(os.Environ(), "PATH="+dir+":"+os.Getenv("PATH"), "ALERT_URL="+hook.URL+"/secret", "ALERT_FORMAT="+format)
		out, err := cmd.CombinedOutput()
		hook.Close()
		if err != nil {
			t.Fatalf("%s: %v\n%s", format, err, out)
		}
		text := string(body)
		if format == "json" {
			var message struct{ Text string }
			if err := json.Unmarshal(body, &message); err != nil {
				t.Fatalf("%v in %.100s", err, body)
			}
			text = message.Text
		}
		if len(text) < 300_000 || !strings.HasPrefix(text, "usage-sync@acme.service failed on ") || !strings.HasSuffix(strings.TrimSpace(text), `the "last" line`) {
			t.Errorf("%s: %d bytes came, from %.60q to %q", format, len(text), text, text[max(0, len(text)-40):])
		}
	}
}
