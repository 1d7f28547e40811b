package monitor

import (
	"cmp"
	"context"
	"strings"
	"time"

	"usage-sync/job/reconcile"
	"usage-sync/store"
)

// WriteReconciliation writes what a reconciliation has found into a metrics file of its own, or the one that
// the instances share, in one step. An empty instance is acme of usage-sync-reconcile-acme.prom. Organisations
// that could not be compared are left out. ErrMetricsFile is a file that can't be written.
func WriteReconciliation(ctx context.Context, path, instance string, at time.Time, all []reconcile.Comparison) error {
	p := newPage(cmp.Or(instance, strings.TrimPrefix(instanceOf(path), "reconcile-")))
	for _, c := range all {
		if c.Err != nil || len(c.Rows) == 0 && c.Month == nil {
			continue
		}
		p.add(isGauge, orgDifference, differenceOf(c).Float(), c.Organisation.ID)
		p.add(isGauge, orgReconciled, unix(at), c.Organisation.ID)
	}
	if isShared(path, instance) {
		return p.writeShared(ctx, path, ofReconciliation)
	}
	return p.write(path)
}

// ofReconciliation tells whether a reconciliation writes a metric; passes write the others.
func ofReconciliation(name string) bool {
	return name == orgDifference.name || name == orgReconciled.name
}

var (
	orgDifference = desc("org_reconcile_difference_dollars",
		"By how much the days and models of the last reconciliation differ from OpenRouter's figures, added "+
			"up; raw cost.", "org")
	orgReconciled = desc("org_reconcile_timestamp_seconds", "When the last reconciliation was made.", "org")
)

// differenceOf adds up without regard to sign: what one client is billed too much does not make good for too little.
func differenceOf(c reconcile.Comparison) (sum store.Money) {
	for _, row := range c.Rows {
		if off := row.Difference().Raw; row.Table == "" && row.Differs {
			sum += max(off, -off)
		}
	}
	if c.Month != nil && c.Month.Differs {
		off := c.Month.Ours - c.Month.Theirs
		sum += max(off, -off)
	}
	return sum
}
