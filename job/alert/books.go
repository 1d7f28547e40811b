package alert

import (
	"context"
	"fmt"
	"time"

	"usage-sync/store"
)

// StopPythonSync is the line that switches the container's own sync off, from the deployment guide's rollback plan.
const StopPythonSync = `docker exec CONTAINER python -c "import asyncio; ` +
	`from open_webui.utils.background_sync import organization_usage_sync; ` +
	`asyncio.run(organization_usage_sync.stop_sync_service())"`

// DisputedBack is for how many days a day that was disputed is told of.
const DisputedBack = 62

// AtWork is how long after its last trace another program counts as still running.
const AtWork = 24 * time.Hour

// disputes returns what is to be told of days whose rows another program has added to.
func disputes(ctx context.Context, db *store.Store, org store.Organisation, now time.Time) (words []string, err error) {
	today := store.DayOf(now, org.Zone)
	all, err := db.Differences(ctx, org.ID, today.Add(-DisputedBack), today.Add(1))
	running := false
	for _, d := range all {
		running = running || now.Sub(d.At) < AtWork
		if !d.IsKnown() {
			words = append(words, fmt.Sprintf("books: another program has added %s, which is not billed "+
				"(usage-sync reconcile --fix "+
				"closes it where OpenRouter's figures agree)", d.Noticed))
		}
	}
	if running {
		words = append(words, "books: the Python sync seems to run beside this program; switch it off: "+StopPythonSync)
	}
	return words, err
}
