package monitor

import (
	"cmp"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"usage-sync/job/reconcile"
	"usage-sync/store"
)

// WriteReconciliation writes what a reconciliation has found into a metrics file of its own, in one step. An empty
// instance is acme of usage-sync-reconcile-acme.prom. Organisations that could not be compared are left out. ErrMetricsFile
// is a file that can't be written.
func WriteReconciliation(path, instance string, at time.Time, all []reconcile.Comparison) error {
	registry := prometheus.NewRegistry()
	labels := prometheus.Labels{"instance": cmp.Or(instance, strings.TrimPrefix(instanceOf(path), "reconcile-"))}
	gauge := func(name, help string) *prometheus.GaugeVec {
		vec := prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help, ConstLabels: labels}, []string{"org"})
		registry.MustRegister(vec)
		return vec
	}
	difference := gauge("org_reconcile_difference_dollars",
		"By how much the days and models of the last reconciliation differ from OpenRouter's figures, added up; raw cost.")
	made := gauge("org_reconcile_timestamp_seconds", "When the last reconciliation was made.")
	for _, c := range all {
		if c.Err != nil || len(c.Rows) == 0 && c.Month == nil {
			continue
		}
		org := valid(c.Organisation.ID)[0]
		difference.WithLabelValues(org).Set(differenceOf(c).Float())
		made.WithLabelValues(org).Set(unix(at))
	}
	families, err := registry.Gather()
	if err != nil {
		return err
	}
	return writeFamilies(path, families)
}

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
