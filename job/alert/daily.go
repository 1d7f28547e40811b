package alert

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"usage-sync/store"
)

// Daily is how an organisation stands against the ceilings that its host has set for a day. Costs are marked up, as the
// ceilings are.
type Daily struct {
	Limit, UserLimit store.Money // 0 is none
	Over             []string    // today's users who have reached theirs, by id
}

// lateUsage is for how long after a day its ceilings are looked at: so long the usage of its last minutes comes in.
const lateUsage = time.Hour

// daily judges the present day and, within lateUsage of its end, the one before. Each day is told of once, and
// so is each user of it: they are part of the level. Usage of nobody that is named counts for the organisation
// alone.
func (s Settings) daily(ctx context.Context, db *store.Store, org store.Organisation,
	now time.Time) (d Daily, whole, users store.Alert,
	err error) {
	d.Limit, d.UserLimit = s.DailyLimit, s.DailyLimitUser
	whole.Kind, users.Kind = kindDaily, kindDailyUser
	if d.Limit == 0 && d.UserLimit == 0 {
		return d, whole, users, nil
	}
	today, last := store.DayOf(now, org.Zone), store.DayOf(now.Add(-lateUsage), org.Zone)
	usage, err := db.SpanUsage(ctx, org, now, store.Span{First: today, Last: today},
		store.Span{First: last, Last: last})
	if err != nil {
		return d, whole, users, err
	}
	for i, day := range []store.Day{today, last} {
		if cost := usage[i].Total.Cost; d.Limit > 0 && cost >= d.Limit && whole.Message == "" {
			whole.Level = string(day) + " " + levelWarning
			whole.Message = fmt.Sprintf("%s of the daily limit of %s is used on %s (%s)", cost.Dollars(),
				d.Limit.Dollars(), dayWords(day), percentOf(cost, d.Limit))
		}
		over, words := usersOver(usage[i].Users, d.UserLimit)
		if i == 0 {
			d.Over = over
		}
		if len(over) > 0 && users.Message == "" {
			slices.Sort(over)
			users.Level = string(day) + " " + strings.Join(over, " ")
			users.Message = fmt.Sprintf("on %s the daily limit of %s a user is reached by %s", dayWords(day),
				d.UserLimit.Dollars(), words)
		}
	}
	return d, whole, users, nil
}

// usersOver are the users who have reached a limit, the most expensive first, and words for them.
func usersOver(all []store.UserUsage, limit store.Money) (over []string, words string) {
	const named = 5
	var said []string
	for _, u := range all {
		if limit == 0 || u.Cost < limit || u.UserID == store.NoUser {
			continue
		}
		over = append(over, u.UserID)
		if len(over) <= named {
			said = append(said, fmt.Sprintf("%s (%s)", u.UserID, u.Cost.Dollars()))
		}
	}
	if more := len(over) - named; more > 0 {
		said = append(said, fmt.Sprintf("%d more", more))
	}
	return over, strings.Join(said, ", ")
}
