package integration_test

import (
	"math/rand/v2"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"
)

// bothJournals runs a test on a database in each journal mode that is met in the field.
func bothJournals(t *testing.T, test func(t *testing.T, journal string)) {
	for _, journal := range []string{"DELETE", "WAL"} {
		t.Run(journal, func(t *testing.T) { test(t, journal) })
	}
}

func TestKilledAtRandomMoments(t *testing.T) {
	kills, count := 6, 4_000
	if *long {
		kills, count = 1000, 20_000
	}
	bothJournals(t, func(t *testing.T, journal string) { killAtRandomMoments(t, journal, kills, count) })
}

func killAtRandomMoments(t *testing.T, journal string, kills, count int) {
	all := generations(count, 1)
	want := truth(all)
	api := newGateway(t, 500, all)
	template := newDatabase(t, journal)

	var undisturbed []time.Duration
	for range 3 {
		path := copyOf(t, template)
		start := time.Now()
		run(t, 0, path, api.url, "sync")
		undisturbed = append(undisturbed, time.Since(start))
		checkTruth(t, path, want)
	}
	slices.Sort(undisturbed)
	whole := undisturbed[1]

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d; an undisturbed pass takes %s", seed, whole)
	random := rand.New(rand.NewPCG(seed, 0))
	killed, looked, halfway, databases := 0, 0, 0, 0
	for killed < kills {
		path := copyOf(t, template)
		databases++
		for killed < kills {
			pass := newChild(path, api.url, "sync")
			pass.start(t)
			timer := time.AfterFunc(time.Duration(random.Int64N(int64(whole))), func() { _ = pass.Process.Kill() })
			_ = pass.Wait()
			timer.Stop()
			if status := pass.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() {
				if status.ExitStatus() != 0 {
					t.Fatalf("a pass after %d kills exits %d\n%s", killed, status.ExitStatus(), &pass.stderr)
				}
				break
			}
			killed++
			// Whoever looks also recovers the file. Every other time that is left to the next pass.
			if random.IntN(2) == 0 {
				continue
			}
			recorded := checkConsistent(t, path)
			looked++
			if recorded > 0 && recorded < int64(count) {
				halfway++
			}
			if recorded == int64(count) {
				break
			}
		}
		run(t, 0, path, api.url, "sync")
		checkTruth(t, path, want)
		checkSound(t, path)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills on %d databases; of %d looked at, %d were halfway through", killed, databases, looked, halfway)
	if halfway < looked/10 {
		t.Errorf("only %d of %d kills have hit a pass at work", halfway, looked)
	}
}
