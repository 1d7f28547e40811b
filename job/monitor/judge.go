package monitor

import (
	"context"
	"time"

	"usage-sync/store"
)

// JudgeFunc judges for the metrics file and for status, by the same rules as Watch, and remembers nothing.
func (s Settings) JudgeFunc(now time.Time) JudgeFunc {
	return func(ctx context.Context, db *store.Store, usage store.Usage) (Judgement, error) {
		state, err := db.State(ctx, usage.Organisation.ID)
		if err != nil {
			return Judgement{}, err
		}
		v, err := Judge(ctx, db, usage.Organisation, state, now, s)
		if err != nil {
			return Judgement{}, err
		}
		return v.judgement(), nil
	}
}

func (v Verdict) judgement() Judgement {
	var j Judgement
	if v.Limit.Limit > 0 {
		j.Limit = dollars(v.Limit.Limit)
	}
	if f := v.Limit.Forecast; f.Known {
		j.ForecastLow, j.Forecast, j.ForecastHigh = dollars(f.Low), dollars(f.Mid), dollars(f.High)
	}
	if v.Anomaly.Known {
		score := v.Anomaly.Score()
		if score > v.Anomaly.Spike.Score { // it is a silence
			score = -score
		}
		j.AnomalyScore = &score
	}
	for _, a := range v.Alerts {
		j.Warnings = append(j.Warnings, a.String())
	}
	return j
}

func dollars(m store.Money) *float64 {
	d := m.Float()
	return &d
}
