package job

import (
	"context"
	"errors"
	"time"

	"usage-sync/store"
)

// Undecided returns which organisations the next pass would refuse with a TakeoverError, if it began now. It
// only reads.
func Undecided(ctx context.Context, db *store.Store, now time.Time,
	daysBack int) (undecided []*TakeoverError, err error) {
	orgs, err := db.Organisations(ctx, nil, time.UTC)
	if errors.Is(err, store.ErrOrganisation) {
		return nil, nil // there is none to sync
	} else if err != nil {
		return nil, err
	}
	for _, org := range orgs {
		takeover, err := UndecidedOf(ctx, db, org, now, daysBack)
		if err != nil {
			return nil, err
		}
		if takeover != nil {
			undecided = append(undecided, takeover)
		}
	}
	return undecided, nil
}

// UndecidedOf returns the TakeoverError with which the next pass would refuse an organisation, or nil. It only reads.
func UndecidedOf(ctx context.Context, db *store.Store, org store.Organisation, now time.Time,
	daysBack int) (*TakeoverError, error) {
	if org.Problem != nil {
		return nil, nil
	}
	st, err := db.State(ctx, org.ID)
	if err != nil {
		return nil, err
	}
	found, err := inquire(ctx, db, org, st, newWindow(st, org.Zone, now, daysBack, false))
	if err != nil || !found.open || found.Answer != "" {
		return nil, err
	}
	return found.error(org), nil
}
