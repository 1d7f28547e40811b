package doctor

import (
	"context"
	"fmt"

	"usage-sync/job"
	"usage-sync/job/alert"
	"usage-sync/store"
)

// booksBack is how many days before today the books are looked at.
const booksBack = 31

// checkBooks compares the rows that the application reads with the record of days.
func (e *examination) checkBooks(ctx context.Context) (findings []Finding) {
	for _, org := range e.orgs {
		findings = append(findings, e.books(ctx, org)...)
	}
	if len(findings) == 0 {
		findings = append(findings, ok("the last %d days agree", booksBack+1))
	}
	return findings
}

// books returns what is wrong with the books of an organisation.
func (e *examination) books(ctx context.Context, org store.Organisation) (findings []Finding) {
	if org.Problem != nil {
		return nil
	}
	state, err := e.db.State(ctx, org.ID)
	if err != nil {
		return []Finding{failed(err, "").about(org)}
	}
	if state.CoveredTo.IsZero() {
		return nil
	}
	now := e.Now()
	today := store.DayOf(now, org.Zone)
	var days []store.Day
	for day := today.Add(-booksBack); day <= today; day = day.Add(1) {
		days = append(days, day)
	}
	found, err := e.db.CheckBooks(ctx, org, now, days)
	if err != nil {
		return []Finding{failed(err, "").about(org)}
	}
	const most = 3
	for i, c := range found.Corrections {
		if i == most {
			findings = append(findings, warning("usage-sync history says what passes put right", "and %d more",
				len(found.Corrections)-most).about(org))
			break
		}
		advice := "the next pass puts it right"
		if c.Day < today.Add(-1) {
			advice = fmt.Sprintf("usage-sync reconcile --fix --from %s --to %s puts it right", c.Day, c.Day)
		}
		findings = append(findings, warning(advice, "%s", c).about(org))
	}
	ledger, err := e.ledger(ctx, org, days)
	if err != nil {
		return []Finding{failed(err, "").about(org)}
	}
	findings = append(findings, ledger...)
	differences, err := e.db.Differences(ctx, org.ID, days[0], today.Add(1))
	if err != nil {
		return []Finding{failed(err, "").about(org)}
	}
	const advice = "switch the Python sync off: " + alert.StopPythonSync +
		"; usage-sync reconcile --fix closes the day where " +
		"OpenRouter's figures agree"
	for _, d := range differences {
		running := now.Sub(d.At) < alert.AtWork
		switch {
		case running && d.IsKnown():
			findings = append(findings, failed(fmt.Errorf("%w: it has counted usage of %s that is counted here",
				job.ErrOldSync, d.Day),
				"switch the Python sync off: "+alert.StopPythonSync).about(org))
		case running:
			findings = append(findings, failed(fmt.Errorf("%w: another program has added %s, which is not "+
				"billed", job.ErrOldSync, d.Noticed), advice).about(org))
		case !d.IsKnown():
			findings = append(findings, warning(advice, "another program has added %s, which is not billed",
				d.Noticed).about(org))
		}
	}
	return findings
}

// checkGaps names the usage that is known to be missing.
func (e *examination) checkGaps(ctx context.Context) (findings []Finding) {
	for _, org := range e.orgs {
		gaps, err := e.db.Gaps(ctx, store.GapFilter{Organisations: []string{org.ID}, Open: true})
		if err != nil {
			return []Finding{failed(err, "").about(org)}
		}
		for i, g := range gaps {
			const most = 5
			if i == most {
				findings = append(findings, warning("usage-sync gaps shows all", "and %d more",
					len(gaps)-most).about(org))
				break
			}
			findings = append(findings, warning(job.GapAdvice(g, org.Zone, e.Now()), "%s",
				g.Words(org.Zone)).about(org))
		}
	}
	if len(findings) == 0 {
		findings = append(findings, ok("no usage is known to be missing"))
	}
	return findings
}

// ledger returns on which days record and ledger differ. What is lost ends passes, until somebody has said what
// becomes of it.
func (e *examination) ledger(ctx context.Context, org store.Organisation,
	days []store.Day) (findings []Finding, err error) {
	now := e.Now()
	differing, err := e.db.CheckLedger(ctx, org, now, days, store.ByEntry)
	if err != nil {
		return nil, err
	}
	gaps, err := e.db.Gaps(ctx, store.GapFilter{Organisations: []string{org.ID}, Kind: store.GapLost})
	if err != nil {
		return nil, err
	}
	lost, open := store.Lost(org, differing, gaps, now)
	for _, g := range lost {
		findings = append(findings, failed(fmt.Errorf("%w: %s", job.ErrLost, g.Why),
			"usage-sync gaps lists it after the next pass: --rebuild NUMBER makes it anew from what is left, "+
				"--accept NUMBER lets it be").about(org))
	}
	for _, d := range open {
		if !d.LedgerLost() && !d.RecordLost() {
			findings = append(findings, warning(fmt.Sprintf("usage-sync reconcile --from %s --to %s says why",
				d.Day, d.Day), "%s", d).about(org))
		}
	}
	return findings, nil
}

// checkCalendars says where today is written, and whether the container's days are those of the organisation.
func (e *examination) checkCalendars(ctx context.Context) (findings []Finding) {
	where := map[store.TodayIn]string{store.TodayLive: "today is in the live counter",
		store.TodayDaily: "today is in a daily row"}
	text := "no pass has written today yet"
	for _, org := range e.orgs {
		c, err := e.db.Calendars(ctx, org)
		if err != nil {
			return []Finding{failed(err, "")}
		}
		if c.Today != "" {
			text = where[c.Today]
		}
		if c.Offset != nil {
			findings = append(findings, warning(fmt.Sprintf("set TZ=%s in the container's environment and "+
				"make the container anew", org.Zone),
				"the container keeps the days of %s, the organisation those of %s: between the two midnights the dashboard shows "+
					"another today", c.Offset, org.Zone).about(org))
		}
	}
	if len(findings) == 0 {
		findings = append(findings, ok("%s; nothing tells that the container has other days", text))
	}
	return findings
}

// checkReaders names values that the application's own readers can't digest.
func (e *examination) checkReaders(ctx context.Context) (findings []Finding) {
	found, err := e.db.Unreadable(ctx)
	if err != nil {
		return []Finding{failed(err, "")}
	}
	for _, u := range found {
		findings = append(findings, warning(u.Statement+";",
			"%s: builds that read it then show no client at all", u.What))
	}
	if len(findings) == 0 {
		findings = append(findings, ok("client_organizations can be read by the application"))
	}
	return findings
}
