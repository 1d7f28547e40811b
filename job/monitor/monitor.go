// Package monitor tells others how passes went: a metrics file for Prometheus, and pings for those without it.
// The alert rules and the dashboard that read the metrics lie beside it.
package monitor

import (
	"slices"
	"time"

	"usage-sync/job"
	"usage-sync/job/alert"
)

// Run is one run of a pass, as monitoring sees it: whatever became of it, also where it came to no organisation.
type Run struct {
	StartedAt, EndedAt time.Time
	ExitCode           int
	Err                error // nil where the pass is complete
	Report             job.Report
}

// outcome returns what became of an organisation in this very run.
func (r Run) outcome(id string) (job.Outcome, bool) {
	i := slices.IndexFunc(r.Report.Organisations, func(o job.Outcome) bool { return o.Organisation.ID == id })
	if i < 0 {
		return job.Outcome{}, false
	}
	return r.Report.Organisations[i], true
}

// verdicts returns how the usage of organisations was judged in this very run.
func (r Run) verdicts() map[string]alert.Verdict {
	all := map[string]alert.Verdict{}
	for _, o := range r.Report.Organisations {
		if o.Verdict != nil {
			all[o.Organisation.ID] = *o.Verdict
		}
	}
	return all
}
