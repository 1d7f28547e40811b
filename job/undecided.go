package job

import (
	"context"
	"errors"
	"time"

	"usage-sync/store"
)

// Undecided returns which organisations the next pass would refuse with a TakeoverError, if it began now. It only reads.
func Undecided(ctx context.Context, db *store.Store, now time.Time, daysBack int) (undecided []*TakeoverError, err error) {
	orgs, err := db.Organisations(ctx, nil, time.UTC)
	if errors.Is(err, store.ErrOrganisation) {
		return nil, nil // there is none to sync
	} else if err != nil {
		return nil, err
	}
	p := &Pass{Store: db}
	for _, org := range orgs {
		if org.Problem != nil {
			continue
		}
		st, err := db.State(ctx, org.ID)
		if err != nil {
			return nil, err
		}
		_, err = p.takeOver(ctx, org, st, newWindow(st, org.Zone, now, daysBack, false))
		if takeover, ok := errors.AsType[*TakeoverError](err); ok {
			undecided = append(undecided, takeover)
		} else if err != nil {
			return nil, err
		}
	}
	return undecided, nil
}
