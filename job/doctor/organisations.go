package doctor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/store"
)

const (
	// cheapest and dearest bound the markup rates that nobody asks about.
	cheapest store.Rate = 1_000_000_000
	dearest  store.Rate = 10_000_000_000
)

func (e *examination) checkOrganisations(ctx context.Context) []Finding {
	orgs, err := e.db.Organisations(ctx, e.Organisations, e.Zone)
	if err != nil {
		findings := []Finding{failed(err, "see client_organizations: id, name, is_active, openrouter_api_key")}
		return append(findings, e.skipped(ctx, nil)...)
	}
	all, err := e.db.AllOrganisations(ctx, e.Zone)
	if err != nil {
		return []Finding{failed(err, "")}
	}
	e.orgs = orgs
	findings := []Finding{ok("%d of %d in client_organizations: %s", len(orgs), len(all), names(orgs))}
	skipped := e.skipped(ctx, orgs)
	findings = append(findings, skipped...)
	// A pass over all leaves these out without a word: they were never synced.
	for _, org := range all {
		chosen := len(e.Organisations) == 0 || slices.ContainsFunc(orgs, func(o store.Organisation) bool { return o.ID == org.ID })
		switch {
		case !chosen || slices.ContainsFunc(skipped, func(f Finding) bool { return f.Organisation == org.Name }):
		case org.Active && org.Key == "":
			findings = append(findings, warning("set openrouter_api_key in client_organizations, or is_active = 0",
				"active, but without a key: no pass bills it").about(org))
		case len(e.Organisations) > 0 && !org.Active:
			findings = append(findings, warning("set is_active = 1 in client_organizations",
				"not active: no pass bills it").about(org))
		}
	}
	return findings
}

// skipped are the organisations that passes skip although they were synced before; of chosen ones, where some are.
func (e *examination) skipped(ctx context.Context, chosen []store.Organisation) (findings []Finding) {
	absences, err := e.db.Absences(ctx, e.Zone)
	if err != nil {
		return []Finding{failed(err, "")}
	}
	for _, a := range absences {
		wanted := len(e.Organisations) == 0 ||
			slices.ContainsFunc(chosen, func(o store.Organisation) bool { return o.ID == a.Organisation.ID })
		if wanted && a.IsLoud() {
			findings = append(findings, warning(a.Advice(), "%s", a.Words()).about(a.Organisation))
		}
	}
	return findings
}

func (e *examination) checkMarkup(context.Context) (findings []Finding) {
	var rates []store.Rate
	for _, org := range e.orgs {
		switch {
		case errors.Is(org.Problem, store.ErrRate):
			findings = append(findings, failed(org.Problem, "").about(org))
		case org.Rate < cheapest:
			findings = append(findings, warning("see markup_rate in client_organizations",
				"%s is less than what OpenRouter charges", org.Rate).about(org))
		case org.Rate > dearest:
			findings = append(findings, warning("see markup_rate in client_organizations: it is a factor, "+
				"1.3 adds 30 %", "%s is uncommon", org.Rate).about(org))
		default:
			rates = append(rates, org.Rate)
		}
	}
	if len(rates) == 0 {
		return findings
	}
	text := slices.Min(rates).String()
	if most := slices.Max(rates).String(); most != text {
		text += " to " + most
	}
	return append([]Finding{ok("%s", text)}, findings...)
}

// checkTakeover finds what a pass would ask about: usage that others have counted.
func (e *examination) checkTakeover(ctx context.Context) (findings []Finding) {
	for _, org := range e.orgs {
		undecided, err := job.UndecidedOf(ctx, e.db, org, e.Now(), 1)
		switch {
		case err != nil:
			findings = append(findings, failed(err, "").about(org))
		case undecided != nil:
			findings = append(findings, failed(undecided, "usage-sync takeover --org "+org.ID).about(org))
		}
	}
	if len(findings) == 0 {
		return []Finding{ok("nothing to decide")}
	}
	return findings
}

var keyHash = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9a-f]{64}$`) })

// checkKeyHashes: the hash is what OpenRouter's own reports are filtered by.
func (e *examination) checkKeyHashes(context.Context) (findings []Finding) {
	known := 0
	for _, org := range e.orgs {
		_, shared := errors.AsType[*store.SharedKeyError](org.Problem)
		switch {
		case shared:
			findings = append(findings, failed(org.Problem, "see openrouter_api_key and openrouter_key_hash "+
				"of client_organizations; "+
				"set a hash that is not known to null").about(org))
		case org.KeyHash == "":
		case !keyHash().MatchString(org.KeyHash):
			findings = append(findings, warning("set openrouter_key_hash to what GET /keys calls hash, or to null",
				"%.20q is not 64 hex digits", org.KeyHash).about(org))
		default:
			known++
		}
	}
	if known > 0 || len(findings) == 0 {
		findings = append([]Finding{ok("%d of %d known; only the source analytics goes by them", known,
			len(e.orgs))}, findings...)
	}
	return findings
}

// checkZone says whose days are counted. What zone the container's own clock has is not in the database.
func (e *examination) checkZone(context.Context) (findings []Finding) {
	zones := map[string]int{}
	for _, org := range e.orgs {
		_, shared := errors.AsType[*store.SharedKeyError](org.Problem)
		switch own := org.Zone != e.Zone; {
		case org.Problem != nil && !shared && !errors.Is(org.Problem, store.ErrRate):
			findings = append(findings, failed(org.Problem, "set timezone in client_organizations to an IANA "+
				"name such as Europe/Warsaw, or to null").about(org))
			continue
		case own && e.Zone.String() != time.UTC.String() && org.Zone.String() != e.Zone.String():
			findings = append(findings, warning("nothing, if that is the client's calendar",
				"its own timezone %s is used, not --timezone %s", org.Zone, e.Zone).about(org))
		}
		zones[org.Zone.String()]++
	}
	if len(zones) == 0 {
		return findings
	}
	var parts []string
	for _, zone := range slices.Sorted(maps.Keys(zones)) {
		parts = append(parts, fmt.Sprintf("%s (%d)", zone, zones[zone]))
	}
	text := "days are those of " + strings.Join(parts, ", ")
	if e.HostZone != "" {
		text += ", this machine has " + e.HostZone
	}
	return append([]Finding{ok("%s; the container's must be the same: docker exec CONTAINER date", text)}, findings...)
}

func (e *examination) checkLastPass(ctx context.Context) (findings []Finding) {
	for _, org := range e.orgs {
		findings = append(findings, e.lastPass(ctx, org).about(org))
	}
	return findings
}

func (e *examination) lastPass(ctx context.Context, org store.Organisation) Finding {
	health, err := e.Health.LookAt(ctx, e.db, org, e.Now())
	if err != nil {
		return failed(err, "")
	}
	finding := Finding{Level: OK, Text: health.Message}
	if health.State != alert.StateOK {
		finding.Level = Warning
		finding.Advice = "mend what is marked above, then run usage-sync; is its timer on? systemctl " +
			"list-timers, crontab -l"
	}
	switch ahead := health.Watermark.Sub(e.Now()); {
	case health.Watermark.IsZero():
	case ahead > clockSlack:
		finding.Level = max(finding.Level, Warning)
		finding.Text += fmt.Sprintf("; recorded up to %s, which is in the future", stamp(health.Watermark))
		finding.Advice = "set the clock right: the next pass does not believe it and fetches the whole window"
	case ahead < -job.MaxDaysBack*24*time.Hour:
		finding.Level = max(finding.Level, Warning)
		finding.Text += fmt.Sprintf("; recorded up to %s, more than %d days ago: what came before those "+
			"can't be fetched", stamp(health.Watermark), job.MaxDaysBack)
	default:
		finding.Text += "; recorded up to " + stamp(health.Watermark)
	}
	return finding
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04Z") }

// names lists the first few.
func names(orgs []store.Organisation) string {
	const most = 5
	var list []string
	for _, org := range orgs[:min(most, len(orgs))] {
		list = append(list, org.Name)
	}
	if len(orgs) > most {
		list = append(list, "…")
	}
	return strings.Join(list, ", ")
}
