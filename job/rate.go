package job

import (
	"fmt"
	"log/slog"

	"usage-sync/store"
)

// LogRate tells of a change of an organisation's markup rate, if there is one. It is noted when it is first seen, so it is told
// once.
func LogRate(log *slog.Logger, org store.Organisation, change *store.RateChange) {
	if change != nil {
		log.Warn(rateLine(org, *change))
	}
}

func rateLine(org store.Organisation, change store.RateChange) string {
	return fmt.Sprintf("The markup rate of %s %s", org.Name, change)
}
