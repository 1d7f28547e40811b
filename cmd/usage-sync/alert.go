package main

import (
	"errors"
	"time"

	"usage-sync/job/alert"
	"usage-sync/store"
)

// alertFlags say when people want to be told of limits and of usage out of the ordinary.
type alertFlags struct {
	LimitWarning   float64 `placeholder:"PERCENT" env:"USAGE_SYNC_LIMIT_WARNING" default:"80" help:"Warn when so much of a monthly limit is used."`
	LimitCritical  float64 `placeholder:"PERCENT" env:"USAGE_SYNC_LIMIT_CRITICAL" default:"100" help:"Warn again when so much of it is used."`
	DailyLimit     dollars `placeholder:"USD" env:"USAGE_SYNC_DAILY_LIMIT" help:"Warn, once a day, when an organisation has used so much on it, marked up."`
	DailyLimitUser dollars `placeholder:"USD" env:"USAGE_SYNC_DAILY_LIMIT_USER" help:"The same of each user."`
	Sensitivity    string  `enum:"off,low,normal,high" env:"USAGE_SYNC_SENSITIVITY" default:"normal" help:"To usage out of the ordinary: off, low, normal or high."`
}

// check refuses limits that could never be told apart.
func (f alertFlags) check() error {
	if !(f.LimitWarning > 0 && f.LimitWarning <= f.LimitCritical) {
		return errors.New("--limit-warning: must be above 0 and not above --limit-critical")
	}
	return nil
}

func (f alertFlags) settings() alert.Settings {
	sensitivity := map[string]float64{"off": 0, "low": 0.7, "normal": 1, "high": 1.4}
	return alert.Settings{LimitWarning: f.LimitWarning, LimitCritical: f.LimitCritical,
		Sensitivity: sensitivity[f.Sensitivity], DailyLimit: store.Money(f.DailyLimit),
		DailyLimitUser: store.Money(f.DailyLimitUser)}
}

// rule is the one by which health is judged, for passes as often as the interval says.
func (f alertFlags) rule(a *app) alert.Rule {
	return alert.NewRule(time.Duration(a.cli.Interval)*time.Second, f.settings())
}
