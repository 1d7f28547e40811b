package doctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

const (
	// clockSlack is how far a clock may be wrong without a word, as in a pass.
	clockSlack = 5 * time.Minute
	// soon is when to renew what runs out.
	soon = 14 * 24 * time.Hour
	// slow is an answer that a pass of many pages would suffer from.
	slow = 3 * time.Second
	// mostTried bounds the organisations whose source is tried. Each takes two of the 64 queries that the
	// analytics allow in a minute, and a pass may need the others.
	mostTried = 10
	// atOnce bounds the requests under way.
	atOnce = 4
)

func (e *examination) checkBaseURL(context.Context) []Finding {
	if e.ClientErr != nil {
		return []Finding{failed(e.ClientErr, "")}
	}
	return []Finding{ok("%s", e.Client.BaseURL())}
}

func (e *examination) checkName(ctx context.Context) []Finding {
	host, addresses, err := e.Client.Resolve(ctx)
	switch {
	case err != nil:
		return []Finding{failed(err, "check the network and /etc/resolv.conf of this machine: getent hosts "+host)}
	case len(addresses) == 1 && addresses[0] == host:
		return []Finding{ok("%s is an address", host)}
	}
	if host != e.Client.BaseURL().Hostname() {
		return []Finding{ok("through the proxy %s, %s", host, abbreviate(addresses))}
	}
	return []Finding{ok("%s is %s", host, abbreviate(addresses))}
}

func abbreviate(addresses []string) string {
	const most = 2
	if len(addresses) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(addresses[:most], ", "), len(addresses)-most)
	}
	return strings.Join(addresses, ", ")
}

func (e *examination) checkConnection(ctx context.Context) []Finding {
	connection, err := e.Client.Probe(ctx)
	if err != nil {
		return []Finding{e.noConnection(err)}
	}
	e.connection, e.askedAt = connection, e.Now()
	took := rounded(connection.Connect)
	switch {
	case connection.TLS == 0:
		return []Finding{ok("plain http to this machine, %s", took)}
	case connection.Certificate.Sub(e.Now()) < soon:
		return []Finding{warning("have whoever runs it renew the certificate",
			"%s, the certificate is valid until %s only, %s", tls.VersionName(connection.TLS),
			stamp(connection.Certificate), took)}
	}
	return []Finding{ok("%s, certificate valid until %s, %s", tls.VersionName(connection.TLS),
		stamp(connection.Certificate), took)}
}

func rounded(d time.Duration) time.Duration { return max(d.Round(time.Millisecond), time.Millisecond) }

// noConnection says what to do where no answer came.
func (e *examination) noConnection(err error) Finding {
	invalid, badCertificate := errors.AsType[x509.CertificateInvalidError](err)
	_, badAuthority := errors.AsType[x509.UnknownAuthorityError](err)
	_, badHost := errors.AsType[x509.HostnameError](err)
	advice := "check route, firewall and proxy (HTTPS_PROXY) of this machine: curl -v " + e.Client.BaseURL().String()
	switch {
	case badCertificate && invalid.Reason == x509.Expired:
		advice = fmt.Sprintf("check this machine's clock, else have the certificate renewed: it is valid from %s to %s",
			stamp(invalid.Cert.NotBefore), stamp(invalid.Cert.NotAfter))
	case badAuthority:
		advice = "install ca-certificates; where a proxy opens TLS, name its certificate in SSL_CERT_FILE"
	case badHost:
		advice = "check --base-url, and what this machine takes the name for: someone else answers"
	}
	return failed(err, advice)
}

func (e *examination) checkAnswer(context.Context) []Finding {
	c := e.connection
	took := rounded(c.Answer)
	switch {
	case c.Status >= 500:
		return []Finding{failed(fmt.Errorf("%w: it answers HTTP %d %s", openrouter.ErrUnreachable, c.Status,
			http.StatusText(c.Status)),
			"wait, passes catch up by themselves; see https://status.openrouter.ai")}
	case c.Status == http.StatusTooManyRequests:
		return []Finding{warning("let passes be further apart", "HTTP %d, it wants fewer requests", c.Status)}
	case c.Answer > slow:
		return []Finding{warning("see whether the network is busy", "HTTP %d after %s", c.Status, took)}
	}
	return []Finding{ok("HTTP %d without a key, as it should be, after %s", c.Status, took)}
}

func (e *examination) checkClock(context.Context) []Finding {
	if e.connection.ServerTime.IsZero() {
		return []Finding{warning("compare it yourself: timedatectl", "the server does not say what time it is")}
	}
	off := e.askedAt.Sub(e.connection.ServerTime).Round(time.Second)
	if off > clockSlack || off < -clockSlack {
		return []Finding{warning("set it right, days depend on it: timedatectl set-ntp true",
			"%s the server's", job.Off(off))}
	}
	return []Finding{ok("within %s of the server's", max(off.Abs(), time.Second))}
}

func (e *examination) checkKeys(ctx context.Context) []Finding {
	findings := make([]Finding, len(e.orgs))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, org := range e.orgs {
		group.Go(func() error {
			findings[i] = e.checkKey(ctx, org).about(org)
			return nil
		})
	}
	_ = group.Wait()
	for i, org := range e.orgs {
		if findings[i].Level == Failed {
			e.refused[org.ID] = true
		}
	}
	return findings
}

func (e *examination) checkKey(ctx context.Context, org store.Organisation) Finding {
	if org.Key == "" {
		return failed(fmt.Errorf("%w: none is set", ErrConfig), "set openrouter_api_key in client_organizations")
	}
	info, err := e.Client.Key(ctx, org.Key)
	if err != nil {
		return keyError(org.Key, err, "set a valid openrouter_api_key in client_organizations")
	}
	finding := e.judgeKey(org.Key, info)
	if finding.Level == OK && info.Management {
		return warning("make an ordinary key for the client: this one sees every client's usage",
			"%s is a management key", org.Key)
	}
	if advice, text := judgeLimit(org, info); finding.Level == OK && text != "" {
		return warning(advice, "%s", finding.Text+"; "+text)
	}
	return finding
}

// judgeLimit holds an organisation's monthly_limit against the limit of its key. The first stops nobody: the
// key's, which OpenRouter holds against raw cost, is the only one that ends spending.
func judgeLimit(org store.Organisation, info openrouter.KeyInfo) (advice, text string) {
	if org.MonthlyLimit <= 0 || org.Rate <= 0 {
		return "", ""
	}
	raw := org.MonthlyLimit.Float() / org.Rate.Float()
	advice = fmt.Sprintf("set the key's limit to $%.2f, reset monthly: https://openrouter.ai/settings/keys", raw)
	if info.Limit == nil || info.LimitReset != "monthly" {
		return advice, fmt.Sprintf("monthly_limit $%s stops nobody, for the key has no monthly limit",
			org.MonthlyLimit.Rounded(2))
	}
	stopsAt, err := org.Rate.Markup(*info.Limit)
	if err != nil {
		return advice, fmt.Sprintf("the key's limit of $%s is out of range", info.Limit.Rounded(2))
	}
	if apart := stopsAt - org.MonthlyLimit; apart > limitSlack || apart < -limitSlack {
		return advice, fmt.Sprintf("the key stops at $%s marked up, and monthly_limit is $%s",
			stopsAt.Rounded(2), org.MonthlyLimit.Rounded(2))
	}
	return "", ""
}

// limitSlack is by how much a limit that was rounded to cents may be off.
const limitSlack = store.Dollar / 20

// keyError says what to do about a key of which OpenRouter says nothing.
func keyError(key store.Key, err error, refused string) Finding {
	apiErr, answered := errors.AsType[*openrouter.APIError](err)
	switch {
	case answered && apiErr.NotOffered():
		return warning("nothing, if the source answers", "%s can't be checked: the server does not offer GET /key", key)
	case answered && apiErr.Status == http.StatusPaymentRequired:
		return failed(err, "add credit: https://openrouter.ai/settings/credits")
	case answered && apiErr.Refused():
		return failed(err, refused)
	case answered && apiErr.RateLimited():
		return failed(err, "try again in a minute")
	}
	return failed(err, "")
}

// judgeKey says what a key still allows.
func (e *examination) judgeKey(key store.Key, info openrouter.KeyInfo) Finding {
	text := key.String()
	if info.Label != "" && !strings.HasPrefix(info.Label, "sk-") { // else it is the key again
		text += " (" + info.Label + ")"
	}
	left := time.Duration(1<<63 - 1)
	if !info.ExpiresAt.IsZero() {
		left = info.ExpiresAt.Sub(e.Now())
	}
	limited := info.Limit != nil && info.LimitRemaining != nil
	switch {
	case left <= 0:
		return failed(fmt.Errorf("%w: %s expired on %s", errKey, text, stamp(info.ExpiresAt)),
			"make a new key: https://openrouter.ai/settings/keys")
	case limited && *info.LimitRemaining <= 0:
		return failed(fmt.Errorf("%w: %s has spent its limit of $%s", errKey, text, *info.Limit),
			"raise its limit: https://openrouter.ai/settings/keys")
	case left < soon:
		return warning("make a new key: https://openrouter.ai/settings/keys", "%s expires on %s",
			text, stamp(info.ExpiresAt))
	case limited && *info.LimitRemaining < *info.Limit/10:
		return warning("raise its limit: https://openrouter.ai/settings/keys", "%s has $%s left of $%s", text,
			*info.LimitRemaining, *info.Limit)
	}
	switch {
	case limited:
		text += fmt.Sprintf(" is valid, $%s left of $%s", *info.LimitRemaining, *info.Limit)
	case info.Limit != nil:
		text += fmt.Sprintf(" is valid, its limit is $%s", *info.Limit)
	default:
		text += " is valid, no limit"
	}
	if info.Limit != nil && info.LimitReset != "" {
		text += " " + info.LimitReset
	}
	if !info.ExpiresAt.IsZero() {
		text += ", expires on " + stamp(info.ExpiresAt)
	}
	if info.FreeTier {
		text += ", free tier"
	}
	return ok("%s", text)
}

func (e *examination) checkManagementKey(ctx context.Context) []Finding {
	key, from, err := e.ManagementKey(ctx, e.db)
	switch {
	case err != nil:
		return []Finding{failed(err, "")}
	case key == "":
		return []Finding{ok("none is set; the source generations needs none")}
	}
	info, err := e.Client.Key(ctx, key)
	if err != nil {
		return []Finding{keyError(key, err, "set a valid one: "+from)}
	}
	if !info.Management {
		err := fmt.Errorf("%w: %s of %s is an ordinary key", ErrConfig, key, from)
		return []Finding{failed(err, "make a management key: https://openrouter.ai/settings/management-keys")}
	}
	finding := e.judgeKey(key, info)
	finding.Text += ", from " + from
	return []Finding{finding}
}

func (e *examination) checkSource(ctx context.Context) []Finding {
	sources, err := e.Sources(ctx, e.db)
	if err != nil {
		return []Finding{failed(err, "")}
	}
	tried := e.orgs[:min(mostTried, len(e.orgs))]
	findings := make([]Finding, len(tried))
	var group errgroup.Group
	group.SetLimit(atOnce)
	for i, org := range tried {
		if e.refused[org.ID] {
			findings[i] = Finding{Level: Skipped, Text: "depends on key"}.about(org)
			continue
		}
		group.Go(func() error {
			findings[i] = e.trySource(ctx, sources, org).about(org)
			return nil
		})
	}
	_ = group.Wait()
	if rest := len(e.orgs) - len(tried); rest > 0 {
		findings = append(findings, ok("%d more are not tried, to leave queries of this minute to passes: "+
			"--org tries one", rest))
	}
	return findings
}

// errEnough ends a trial at the first page.
var errEnough = errors.New("enough")

// trySource asks the source that a pass would use now for an organisation's last day. A page is enough, but its
// rows must be such that a pass would record them: a server that answers may answer in a way that nothing can
// be recorded of.
func (e *examination) trySource(ctx context.Context, sources job.Sources, org store.Organisation) Finding {
	const past = 24 * time.Hour
	now := e.Now()
	var first openrouter.Page
	fetched, err := sources.Fetch(ctx, e.db, job.Request{Organisation: org, Now: now,
		Window: openrouter.Window{Since: now.Add(-past), Until: now},
		Page: func(_ string, page openrouter.Page) error {
			first = page
			return errEnough
		}})
	if err != nil && !errors.Is(err, errEnough) {
		return failed(fmt.Errorf("%s: %w", fetched.Source, err), "")
	}
	if refused := len(first.Refused); refused > 0 {
		return failed(fmt.Errorf("%s: %w %d of %d rows: %s", fetched.Source, job.ErrRefused, refused,
			refused+len(first.Generations), first.Refused[0]), "")
	}
	switch n := len(first.Generations); n {
	case 0:
		return ok("%s answers; nothing was used for a day, so that there are no rows to judge", fetched.Source)
	case 1:
		return ok("%s answers, 1 row can be recorded", fetched.Source)
	default:
		return ok("%s answers, %s can be recorded", fetched.Source, store.Counted(n, "row"))
	}
}
