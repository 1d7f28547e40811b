// Package alert judges what passes have recorded: limits that are near, usage out of the ordinary, and how well
// the passes go. It reads the store alone.
package alert

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

	DailyLimit, DailyLimitUser store.Money // marked-up cost of a day: an organisation's, and that of each of its users; 0 is none
}

// Kinds of alerts.
const (
	kindLimit     = "limit"    // the monthly limit is near or reached
	kindForecast  = "forecast" // it is likely to be reached this month
	kindDaily     = "daily limit"
	kindDailyUser = "daily limit of a user"
	kindSpike     = "spike"
	kindSilence   = "silence"
)

// The levels of an alert, as monitoring plug-ins name them.
const (
	levelWarning  = "warning"
	levelCritical = "critical"
)

// Verdict is what there is to say of an organisation.
type Verdict struct {
	Limit   Limit
	Daily   Daily
	Anomaly Anomaly
	Alerts  []store.Alert // what is out of the ordinary now
	News    store.News    // what of that people do not know yet
}

// Judge judges what is recorded of an organisation; it writes nothing. State is what its last pass has reached.
func (s Settings) Judge(ctx context.Context, db *store.Store, org store.Organisation, state store.State,
	now time.Time) (Verdict, error) {
	today := store.DayOf(now, org.Zone)
	costs, err := db.DailyCosts(ctx, org.ID, min(forecastSince(today), today.FirstOfMonth()), today)
	if err != nil {
		return Verdict{}, err
	}
	hours, err := db.Hours(ctx, org.ID, now.Add(-historyBack))
	if err != nil {
		return Verdict{}, err
	}
	told, err := db.Alerts(ctx, org.ID)
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{
		Limit:   newLimit(costs, today, org.MonthlyLimit),
		Anomaly: findAnomaly(hours, state.CoveredFrom, state.CoveredTo, now, org.Zone, s.Sensitivity),
	}
	limit, forecast := s.limitAlerts(v.Limit, told)
	var daily, dailyUser store.Alert
	if v.Daily, daily, dailyUser, err = s.daily(ctx, db, org, now); err != nil {
		return v, err
	}
	spike, err := spikeAlert(ctx, db, org, v.Anomaly.Spike, told)
	if err != nil {
		return v, err
	}
	silence := silenceAlert(v.Anomaly.Silence, told)
	v.compare(told, now, limit, forecast, daily, dailyUser, spike, silence)
	return v, nil
}

// limitAlerts have no message where there is nothing to tell. The limit of a month is another one than that of
// the month before, so the month is part of the level.
func (s Settings) limitAlerts(l Limit, told map[string]store.Alert) (limit, forecast store.Alert) {
	limit.Kind, forecast.Kind = kindLimit, kindForecast
	if s.LimitCritical == 0 {
		return limit, forecast
	}
	level, words := l.alert(s.LimitWarning, s.LimitCritical)
	limit.Level, limit.Message = l.Month+" "+level, words
	forecast.Level = l.Month + " " + levelWarning
	forecast.Message = l.forecastAlert(told[kindForecast].Level == forecast.Level)
	return limit, forecast
}

// spikeAlert keeps the words of a spike's beginning: finding its cause takes time.
func spikeAlert(ctx context.Context, db *store.Store, org store.Organisation, d deviation,
	told map[string]store.Alert) (store.Alert, error) {
	spike := store.Alert{Kind: kindSpike, Level: levelWarning}
	before, known := told[kindSpike]
	if !d.stands(known) {
		return spike, nil
	}
	if known {
		spike.Message = before.Message
		return spike, nil
	}
	var err error
	spike.Message, err = explain(ctx, db, org, d)
	return spike, err
}

func silenceAlert(d deviation, told map[string]store.Alert) store.Alert {
	silence := store.Alert{Kind: kindSilence, Level: levelWarning}
	if _, known := told[kindSilence]; d.stands(known) {
		silence.Message = d.words
	}
	return silence
}

// compare sorts alerts into those that stand, and what of them is news. One without a message does not stand.
func (v *Verdict) compare(told map[string]store.Alert, now time.Time, found ...store.Alert) {
	for _, a := range found {
		before, known := told[a.Kind]
		switch {
		case a.Message == "" && known:
			v.News.Over = append(v.News.Over, before)
			continue
		case a.Message == "":
			continue
		case known && before.Level == a.Level:
			a.Since = before.Since
		default:
			a.Since = now.UTC().Truncate(time.Second)
			v.News.Raised = append(v.News.Raised, a)
		}
		v.Alerts = append(v.Alerts, a)
	}
}

// explain adds the cause of a spike to its words.
func explain(ctx context.Context, db *store.Store, org store.Organisation, d deviation) (string, error) {
	now, err := db.Parts(ctx, org, d.from, d.until)
	if err != nil {
		return "", err
	}
	var before [][]store.Part
	for _, s := range d.usual {
		week, err := db.Parts(ctx, org, s.from, s.until)
		if err != nil {
			return "", err
		}
		before = append(before, week)
	}
	if c := cause(now, before); c != "" {
		return fmt.Sprintf("%s; %s", d.words, c), nil
	}
	return d.words, nil
}

// Remember writes down that people have been told. It takes the write lock only where something has changed.
func (v Verdict) Remember(ctx context.Context, db *store.Store, org store.Organisation) error {
	if v.News.None() {
		return nil
	}
	return db.SetAlerts(ctx, org.ID, v.Alerts)
}
