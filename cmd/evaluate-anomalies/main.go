// Command evaluate-anomalies prints what the search for anomalies and the forecast are worth: on made traffic of five
// shapes, and on what a database holds of its organisations.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"time"
	_ "time/tzdata" // the made traffic has a calendar with summer time

	"usage-sync/job/monitor/evaluation"
	"usage-sync/store"
)

// heldOut starts random numbers that the constants of package monitor were not chosen by: that was done on seeds from 1 and
// from 1,000,000 on.
const heldOut = 2_000_000

func main() {
	months := flag.Int("months", 20, "months of normal traffic of each shape")
	spikes := flag.Int("spikes", 200, "spikes planted in each shape")
	seed := flag.Uint64("seed", heldOut, "start of the random numbers")
	sensitivity := flag.Float64("sensitivity", 1, "to anomalies; 1 is normal")
	db := flag.String("db", "", "replay what this database holds of its organisations")
	flag.Parse()
	if err := evaluate(context.Background(), *months, *spikes, *seed, *sensitivity, *db); err != nil {
		fmt.Fprintln(os.Stderr, "evaluate-anomalies:", err)
		os.Exit(1)
	}
}

func evaluate(ctx context.Context, months, spikes int, seed uint64, sensitivity float64, path string) error {
	var results []evaluation.Result
	if path != "" {
		db, err := store.Open(ctx, path, store.ReadOnly)
		if err != nil {
			return err
		}
		defer db.Close()
		orgs, err := db.Organisations(ctx, nil, time.UTC)
		if err != nil {
			return err
		}
		for _, org := range orgs {
			hours, err := db.Hours(ctx, org.ID, time.Time{})
			if err != nil {
				return err
			}
			result, said := evaluation.Replay(org.Name, hours, org.Zone, spikes, sensitivity, seed)
			for _, words := range said {
				fmt.Printf("%s: %s\n", org.Name, words)
			}
			results = append(results, result)
		}
		return evaluation.Print(os.Stdout, results)
	}
	size := evaluation.Size{Months: months, Pass: 10 * time.Minute, Spikes: spikes, Silences: spikes / 5}
	for _, shape := range evaluation.Shapes {
		results = append(results, evaluation.Evaluate(shape, size, sensitivity, seed))
	}
	return evaluation.Print(os.Stdout, results)
}
