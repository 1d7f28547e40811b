package monitor

import (
	"context"
	"fmt"
	"time"

	"usage-sync/store"
)

// Settings say when people want to be told. The zero Settings tell nothing.
type Settings struct {
	LimitWarning, LimitCritical float64 // percent of the monthly limit
	Sensitivity                 float64 // to anomalies: 1 is normal, 2 finds what is half as far out, 0 finds nothing
}

// Kinds of alerts.
const (
	KindLimit    = "limit"    // the monthly limit is near or reached
	KindForecast = "forecast" // it is likely to be reached this month
	KindSpike    = "spike"
	KindSilence  = "silence"
)

// Verdict is what there is to say of an organisation.
type Verdict struct {
	Limit   Limit
	Anomaly Anomaly
	Alerts  []store.Alert // what is out of the ordinary now
	News    store.News    // what of that people do not know yet
}

// Judge looks at what is recorded of an organisation; it writes nothing. State is what its last pass has reached.
func Judge(ctx context.Context, db *store.Store, org store.Organisation, state store.State, now time.Time, settings Settings) (Verdict, error) {
	var v Verdict
	today := store.DayOf(now, org.Zone)
	costs, err := db.DailyCosts(ctx, org.ID, min(forecastSince(today), today.FirstOfMonth()), today)
	if err != nil {
		return v, err
	}
	hours, err := db.Hours(ctx, org.ID, now.Add(-historyBack))
	if err != nil {
		return v, err
	}
	told, err := db.Alerts(ctx, org.ID)
	if err != nil {
		return v, err
	}
	v.Limit = NewLimit(costs, today, org.MonthlyLimit)
	v.Anomaly = FindAnomaly(hours, state.CoveredFrom, state.CoveredTo, now, org.Zone, settings.Sensitivity)

	found := []store.Alert{
		{Kind: KindLimit}, {Kind: KindForecast}, {Kind: KindSpike, Level: LevelWarning}, {Kind: KindSilence, Level: LevelWarning},
	}
	// The limit of a month is another one than that of the month before.
	if settings.LimitCritical > 0 {
		level, words := v.Limit.alert(settings.LimitWarning, settings.LimitCritical)
		found[0].Level, found[0].Message = v.Limit.Month+" "+level, words
		found[1].Level = v.Limit.Month + " " + LevelWarning
		found[1].Message = v.Limit.forecastAlert(told[KindForecast].Level == found[1].Level)
	}
	if _, known := told[KindSpike]; v.Anomaly.Spike.Stands(known) {
		// The words of a spike are those of its beginning: finding its cause takes time.
		if found[2].Message = told[KindSpike].Message; !known {
			if found[2].Message, err = explain(ctx, db, org, v.Anomaly.Spike); err != nil {
				return v, err
			}
		}
	}
	if _, known := told[KindSilence]; v.Anomaly.Silence.Stands(known) {
		found[3].Message = v.Anomaly.Silence.Words
	}
	for _, a := range found {
		before, known := told[a.Kind]
		switch same := known && before.Level == a.Level; {
		case a.Message == "" && known:
			v.News.Over = append(v.News.Over, before)
			continue
		case a.Message == "":
			continue
		case same:
			a.Since = before.Since
		default:
			a.Since = now.UTC().Truncate(time.Second)
			v.News.Raised = append(v.News.Raised, a)
		}
		v.Alerts = append(v.Alerts, a)
	}
	return v, nil
}

// explain adds the cause of a spike to its words.
func explain(ctx context.Context, db *store.Store, org store.Organisation, d Deviation) (string, error) {
	now, err := db.Parts(ctx, org, d.From, d.Until)
	if err != nil {
		return d.Words, err
	}
	var before [][]store.Part
	for _, s := range d.usual {
		week, err := db.Parts(ctx, org, s.from, s.until)
		if err != nil {
			return d.Words, err
		}
		before = append(before, week)
	}
	if c := cause(now, before); c != "" {
		return fmt.Sprintf("%s; %s", d.Words, c), nil
	}
	return d.Words, nil
}

// Remember writes down that people have been told. It takes the write lock only where something has changed.
func (v Verdict) Remember(ctx context.Context, db *store.Store, org store.Organisation) error {
	if v.News.None() {
		return nil
	}
	return db.SetAlerts(ctx, org.ID, v.Alerts)
}

// Watch returns what a pass does when it has recorded: it judges an organisation, remembers the news, and returns them.
func (s Settings) Watch(db *store.Store) func(context.Context, store.Organisation, store.State, time.Time) (store.News, error) {
	return func(ctx context.Context, org store.Organisation, state store.State, now time.Time) (store.News, error) {
		v, err := Judge(ctx, db, org, state, now, s)
		if err == nil {
			err = v.Remember(ctx, db, org)
		}
		return v.News, err
	}
}
