package store

import (
	"context"
	"database/sql"
	"time"
)

// Reasons why a pass over all organisations skips one.
const (
	absentNoKey     = "no_key"    // active, and without a key
	absentInactive  = "inactive"  // is_active says so
	absentUndecided = "undecided" // is_active is null
	AbsentGone      = "gone"      // no row of client_organizations has its id
)

// Absence is an organisation that passes over all skip, although it was synced before.
type Absence struct {
	Organisation Organisation // of one that is gone the id, the last known name and the asked zone
	Reason       string
	CoveredTo    time.Time // its watermark; zero where no pass was complete
	EndedAt      time.Time // since when its usage is known to be over: nobody needs to be told any more
}

// IsLoud tells whether people need to be told.
func (a Absence) IsLoud() bool { return a.EndedAt.IsZero() }

// Words say what is the matter.
func (a Absence) Words() string {
	until := "no pass over it was complete"
	if !a.CoveredTo.IsZero() {
		until = "its usage is recorded up to " + a.CoveredTo.Format(time.RFC3339)
	}
	switch a.Reason {
	case absentNoKey:
		return "skipped: it has no openrouter_api_key, and " + until
	case absentInactive:
		return "skipped: it is not active, and " + until
	case absentUndecided:
		return "skipped: is_active is null, and " + until
	}
	return "there is usage under its id, and no row of client_organizations has that; " + until
}

// Advice says what to do about it.
func (a Absence) Advice() string {
	end := "usage-sync sync --org " + a.Organisation.ID
	switch a.Reason {
	case absentNoKey:
		return "set openrouter_api_key in client_organizations; or, if the client has left, is_active = 0, " +
			"and then: " + end
	case absentInactive:
		return "if the client has left, record the rest of its usage: " + end
	case absentUndecided:
		return "set is_active in client_organizations to 1; or, if the client has left, to 0, and then: " + end
	}
	return "put the row back; or, if its usage is over: " + end
}

// Absences returns the organisations that passes over all skip, although they were synced before, and those of which
// is_active is null. Zone is for those that have none of their own.
func (s *Store) Absences(ctx context.Context, zone *time.Location) (absences []Absence, err error) {
	err = s.read(ctx, func(q querier) error {
		absences = nil
		all, err := s.organisations(ctx, q, zone)
		if err != nil {
			return err
		}
		known, err := syncedBefore(ctx, q)
		if err != nil {
			return err
		}
		for _, org := range all {
			a, synced := known[org.ID]
			delete(known, org.ID)
			a.Organisation = org
			switch {
			case org.Undecided:
				a.Reason = absentUndecided
			case !synced:
				continue
			case !org.Active:
				a.Reason = absentInactive
			case org.Key == "":
				a.Reason = absentNoKey
			default:
				continue
			}
			absences = append(absences, a)
		}
		for _, id := range sortedKeys(known) {
			a := known[id]
			a.Reason, a.Organisation.Zone, a.Organisation.Gone, a.Organisation.Rate = AbsentGone, zone,
				true, DefaultRate
			absences = append(absences, a)
		}
		return nil
	})
	return absences, err
}

// syncedBefore returns the ids under which passes have run to their end, or usage is counted. It hops from
// organisation to organisation: of days there are more each day.
func syncedBefore(ctx context.Context, q querier) (map[string]Absence, error) {
	const query = `
		with recursive counted(id) as (
			select min(client_org_id) from client_daily_usage
			union all
			select (select min(client_org_id) from client_daily_usage where client_org_id > counted.id)
			from counted where counted.id is not null),
		ids(id) as (
			select client_org_id from usage_sync_state where covered_to is not null
			union select id from counted
			union select client_org_id from client_live_counters where today_requests <> 0 or today_tokens <> 0)
		select id, coalesce(
				(select organization from usage_sync_runs where client_org_id = ids.id and organization is not null
					order by started_at desc limit 1),
				(select client from usage_sync_keys where client_org_id = ids.id order by since desc limit 1), id),
			(select covered_to from usage_sync_state where client_org_id = ids.id),
			(select ended_at from usage_sync_absences where client_org_id = ids.id)
		from ids where id is not null`
	rows, err := collect(ctx, q, func(scan func(...any) error) (a Absence, err error) {
		var covered, ended sql.NullInt64
		err = scan(&a.Organisation.ID, &a.Organisation.Name, &covered, &ended)
		a.CoveredTo, a.EndedAt = fromUnix(covered), fromUnix(ended)
		return a, err
	}, query)
	known := make(map[string]Absence, len(rows))
	for _, a := range rows {
		known[a.Organisation.ID] = a
	}
	return known, err
}

// Orphans are organisations without a row of client_organizations, under whose ids there is usage. Each has the id, its
// last known name, and the zone.
func (s *Store) Orphans(ctx context.Context, zone *time.Location) (orphans []Organisation, err error) {
	absences, err := s.Absences(ctx, zone)
	for _, a := range absences {
		if a.Reason == AbsentGone {
			orphans = append(orphans, a.Organisation)
		}
	}
	return orphans, err
}

// End notes that the usage of an organisation is over.
func (s *Store) End(ctx context.Context, orgID string, now time.Time) error {
	return s.write(ctx, func(q querier) error {
		const query = `insert or replace into usage_sync_absences (client_org_id, ended_at) values (?, ?)`
		_, err := q.ExecContext(ctx, query, orgID, now.Unix())
		return err
	})
}

// Resume takes back what End has noted, where it has noted anything.
func (s *Store) Resume(ctx context.Context, orgID string) error {
	var ended bool
	err := s.read(ctx, func(q querier) (err error) {
		ended, err = hasEnded(ctx, q, orgID)
		return err
	})
	if err != nil || !ended {
		return err
	}
	return s.write(ctx, func(q querier) error {
		_, err := q.ExecContext(ctx, `delete from usage_sync_absences where client_org_id = ?`, orgID)
		return err
	})
}

func hasEnded(ctx context.Context, q querier, orgID string) (ended bool, err error) {
	const query = `select exists (select 1 from usage_sync_absences where client_org_id = ?)`
	return ended, q.QueryRowContext(ctx, query, orgID).Scan(&ended)
}

// RecentUse returns the end of the last hour in which an organisation has used anything, zero where there is
// none, and how many requests are recorded from the hour of a time on.
func (s *Store) RecentUse(ctx context.Context, orgID string,
	since time.Time) (last time.Time, requests int, err error) {
	err = s.read(ctx, func(q querier) error {
		var end sql.NullInt64
		const query = `
			select (select max(hour) + 3600 from usage_sync_hours where client_org_id = ?1 and requests > 0),
				(select coalesce(sum(requests), 0) from usage_sync_hours where client_org_id = ?1 and hour > ?2 - 3600)`
		err := q.QueryRowContext(ctx, query, orgID, since.Unix()).Scan(&end, &requests)
		last = fromUnix(end)
		return err
	})
	return last, requests, err
}
