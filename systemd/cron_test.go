package systemd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sendmail stands for the mail system: it keeps one file a mail.
const sendmail = `#!/bin/sh
exec cat >"$(mktemp /var/mail/XXXXXX)"
`

// TestCron has a real cron fire the lines of the example: only their minutes and names are changed.
func TestCron(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.serve(gatewayAddress, g)
	acme, busy, refused := b.addContainer(g, "acme", 40), b.addContainer(g, "busy", 10), b.addContainer(g, "refused", 10)
	defer busy.holdLock(t)()
	refused.sql(t, `update client_organizations set openrouter_api_key = 'sk-or-v1-host-unknown'`)
	text, err := os.ReadFile("../cron/usage-sync.cron")
	must(t, err)
	const entry = "\n#3-59/10 * * * * root "
	head, line, found := strings.Cut(string(text), entry)
	if !found {
		t.Fatalf("the example has no line %q", entry)
	}
	table := head + "\n"
	for _, name := range []string{"acme", "busy", "refused"} {
		table += "* * * * * root " + strings.ReplaceAll(line, "NAME", name)
	}
	b.write("/usr/sbin/sendmail", sendmail)
	must(t, os.Chmod(b.inside("/usr/sbin/sendmail"), 0o755))
	must(t, os.MkdirAll(b.inside("/var/mail"), 0o777))
	b.write("/etc/cron.d/usage-sync", table)
	b.must("systemctl", "start", "cron.service")
	mails := func() (all []string) {
		files, err := filepath.Glob(b.inside("/var/mail/*"))
		must(t, err)
		for _, file := range files {
			text, err := os.ReadFile(file)
			must(t, err)
			all = append(all, string(text))
		}
		return all
	}
	waitUntil(t, "cron has run every line", func() bool {
		return acme.recorded(t).Requests == acme.want.Requests && strings.Count(b.journal("cron.service"), "usage-sync sync") >= 3 && strings.Contains(strings.Join(mails(), ""), "HTTP 401")
	})
	acme.check(t)
	b.must("systemctl", "stop", "cron.service")
	for _, mail := range mails() {
		if !strings.Contains(mail, "To: root\n") || !strings.Contains(mail, "refused.env") || !strings.Contains(mail, "ERROR - Failed to sync usage for refused: HTTP 401") {
			t.Errorf("a mail that should not be, or says too little:\n%s", mail)
		}
	}
}
