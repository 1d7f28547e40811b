package job_test

import (
	"context"
	"fmt"
	"testing"

	"usage-sync/job"
	"usage-sync/store"
)

// TestTakeoverOfSeveralAtOnce: organisations whose answer is carried out by the same pass do not take away each other's copy of
// the tables as they were.
func TestTakeoverOfSeveralAtOnce(t *testing.T) {
	var orgs []store.NewOrganisation
	for i := range 8 {
		orgs = append(orgs, client(fmt.Sprint("org-", i), ""))
	}
	w := newWorld(t, noon, orgs...)
	for _, org := range orgs {
		w.exec(`insert into client_daily_usage values (?1 || '_2026-05-14', ?1, '2026-05-14', 100, 1, 0.01, 0.013, 'x', 1, 1, 1)`, org.ID)
		w.exec(`insert into client_user_daily_usage values (?1 || ':background_sync:2026-05-14', ?1, 'background_sync', 'bg', '2026-05-14',
			100, 1, 0.01, 0.013, 1, 1)`, org.ID)
	}
	report, err := w.run(context.Background(), func(p *job.Pass) { p.Answer = store.AnswerNone })
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range report.Organisations {
		if o.Err != nil {
			t.Errorf("%s: %v", o.Organisation.ID, o.Err)
		}
	}
}
