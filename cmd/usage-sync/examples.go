package main

// example is a command line and what it is for.
type example struct{ line, meaning string }

// examples are shown in the help of each command and in the manual.
var examples = map[string][]example{
	"sync": {
		{"usage-sync", "one pass over every active organisation"},
		{"usage-sync --org 'Acme GmbH' --days-back 7", "one organisation, and the last week as well"},
		{"usage-sync sync --dry-run", "what a pass would record; writes nothing"},
	},
	"usage": {
		{"usage-sync usage", "every active organisation"},
		{"usage-sync usage --org acme --days 31", "one, with the last 31 days"},
		{"usage-sync usage --org acme --json", "for scripts"},
	},
	"report": {
		{"usage-sync report", "the last complete month of every client, in the terminal"},
		{"usage-sync report --format html --out statements/", "a document for each client"},
		{"usage-sync report --org acme --month 2026-10 --for owner", "with raw cost, markup and margin"},
		{"usage-sync report --close --org acme --month 2026-10", "freezes a statement before it is sent"},
	},
	"rates": {
		{"usage-sync rates", "which markup rate holds since when"},
		{"usage-sync rates --correct 2 --from 2026-11-01T00:00:00Z", "what another time would change"},
		{"usage-sync rates --correct 2 --from 2026-11-01T00:00:00Z --note 'as agreed' --yes", "changes it"},
	},
	"record": {
		{"usage-sync record --model openai/gpt-4.1 --tokens 1000 --cost 0.002",
			"today, for the only active organisation"},
		{"usage-sync record --org acme --model openai/gpt-4.1 --tokens 900 --cost 0.01 --date 2026-05-03 " +
			"--note 'lost on 3 May'",
			"on another day, with a word for the history"},
		{"usage-sync record --org acme --model openai/gpt-4.1 --tokens=-900 --cost=-0.01 --correction",
			"takes it away again"},
	},
	"migrate": {
		{"usage-sync migrate --check", "are the tables there? (78 where they are not)"},
		{"usage-sync migrate", "makes what is missing"},
		{"usage-sync migrate --db webui.db --json", "of another database, for scripts"},
	},
	"doctor": {
		{"usage-sync doctor", "is everything there that a pass needs?"},
		{"usage-sync doctor --org acme --json", "one organisation, for scripts"},
		{"usage-sync doctor --probe --save seen.json", "does OpenRouter answer as this version counts on?"},
	},
	"status": {
		{"usage-sync status", "one line and an exit code of 0 to 3"},
		{"usage-sync status --org acme --json", "one organisation, with everything that is known"},
		{"usage-sync status --warning 30m --critical 2h", "other ages of the last success"},
	},
	"history": {
		{"usage-sync history", "the last 20 passes"},
		{"usage-sync history --failed", "those that failed, with why"},
		{"usage-sync history --org acme --limit 1000 --json", "one organisation's, for scripts"},
	},
	"reconcile": {
		{"usage-sync reconcile", "the month of yesterday, as far as it is over"},
		{"usage-sync reconcile --month 2026-03 --all", "a month, also where both sides are the same"},
		{"usage-sync reconcile --org acme --fix", "records what is missing and compares again"},
	},
	"takeover": {
		{"usage-sync takeover --org acme", "what others have counted, and what each answer makes of the bill"},
		{"usage-sync takeover --org acme --replace", "answers, after a question"},
		{"usage-sync takeover --org acme --undo --yes", "takes the last answer back"},
	},
	"gaps": {
		{"usage-sync gaps", "what is known to be missing, and what closes it"},
		{"usage-sync gaps --org acme --json", "one organisation's, for scripts"},
		{"usage-sync gaps --org acme --accept 3 --note 'billed by hand'", "closes one by hand"},
	},
	"backup": {
		{"usage-sync backup /var/backups/usage-sync/", "the whole database, into a directory"},
		{"usage-sync backup /var/backups/usage-sync/ --usage-only --name acme --keep 14",
			"the usage tables, a series of 14"},
		{"usage-sync backup before-upgrade.db", "into a file"},
	},
	"restore": {
		{"usage-sync restore --usage-only acme-usage-20260310T120000Z.db", "shows what would change, and asks"},
		{"usage-sync restore --usage-only acme-usage-20260310T120000Z.db --yes", "does it"},
		{"usage-sync restore --usage-only acme-usage-20260310T120000Z.db --json",
			"shows what would change, for scripts"},
	},
	"discover": {
		{"usage-sync discover", "which containers have a database, and where it lies"},
		{"usage-sync discover --enable", "makes settings and timers for those that are ready"},
		{"usage-sync discover --socket /run/podman/podman.sock --write",
			"makes the settings alone, of Podman's containers"},
	},
	"ingest": {
		{"usage-sync ingest deliveries.jsonl.gz", "from a file"},
		{"usage-sync ingest --spool", "what has waited for its organisation"},
		{"usage-sync ingest --key-name 'Acme production' --org acme",
			"says whose key that is, and records what has waited"},
	},
	"http": {
		{`printf 'GET /api/v1/usage-tracking/health HTTP/1.0\r\n\r\n' | usage-sync http`, "one request by hand"},
		{"systemd-socket-activate --accept --inetd -l 127.0.0.1:8080 usage-sync http", "on a port, to try it"},
		{"USAGE_SYNC_WEBHOOK_SECRET_FILE=/etc/usage-sync/acme.webhook-secret usage-sync http <request.txt",
			"with a secret"},
	},
	"demo": {
		{"usage-sync demo", "the whole story"},
		{"usage-sync demo --keep", "leaves the database, to try other commands on"},
		{"NO_COLOR=1 usage-sync demo | less", "without colours"},
	},
	"completions": {
		{`eval "$(usage-sync completions bash)"`, "in ~/.bashrc"},
		{`eval "$(usage-sync completions zsh)"`, "in ~/.zshrc"},
		{"usage-sync completions fish | source", "in ~/.config/fish/config.fish"},
	},
}
