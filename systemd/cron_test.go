package systemd_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
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
	stale := b.addContainer(g, "stale", 10)
	b.must("sh", "-c", "for name in busy stale; do (set -a; . /etc/usage-sync/$name.env; usage-sync sync) || exit; done")
	b.configure("stale", "USAGE_SYNC_NOW="+now.Add(time.Hour).Format(time.RFC3339)) // six intervals later
	defer busy.holdLock(t)()
	defer stale.holdLock(t)()
	refused.sql(t, `update client_organizations set openrouter_api_key = 'sk-or-v1-host-unknown'`)
	text, err := os.ReadFile("../cron/usage-sync.cron")
	must(t, err)
	const entry = "\n#3-59/10 * * * * root "
	head, line, found := strings.Cut(string(text), entry)
	if !found {
		t.Fatalf("the example has no line %q", entry)
	}
	table := head + "\n"
	for _, name := range []string{"acme", "busy", "refused", "stale"} {
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
		sent := strings.Join(mails(), "")
		return acme.recorded(t).Requests == acme.want.Requests && strings.Count(b.journal("cron.service"), "usage-sync sync") >= 4 &&
			strings.Contains(sent, "HTTP 401") && strings.Contains(sent, "stale.env")
	})
	acme.check(t)
	b.must("systemctl", "stop", "cron.service")
	for _, mail := range mails() {
		refused := strings.Contains(mail, "refused.env") && strings.Contains(mail, "ERROR - Failed to sync usage for refused: HTTP 401")
		stale := strings.Contains(mail, "stale.env") && strings.Contains(mail, "another pass is running") &&
			strings.Contains(mail, "USAGE-SYNC CRITICAL - ")
		if !strings.Contains(mail, "To: root\n") || !refused && !stale {
			t.Errorf("a mail that should not be, or says too little:\n%s", mail)
		}
	}
}
