package job

import (
	"context"
	"errors"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// tried is how much of the past a trial asks for: a page is enough.
const tried = time.Hour

// errEnough ends a trial at the first page.
var errEnough = errors.New("enough")

// Try asks the source that a pass would use now for an organisation's last hour. It returns the source's name, also where
// that fails.
func (s Sources) Try(ctx context.Context, db *store.Store, org store.Organisation, now time.Time) (source string, err error) {
	window := openrouter.Window{Since: now.Add(-tried), Until: now}
	source, _, err = s.Read(ctx, db, org, now, window, func(openrouter.Page) error { return errEnough })
	if errors.Is(err, errEnough) {
		err = nil
	}
	return source, err
}
