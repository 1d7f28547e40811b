package store

import (
	"context"
	"strings"
	"time"
)

// Hour is what an organisation used in one hour.
type Hour struct {
	Start    time.Time // a full hour of UTC
	Requests int64
	Raw      Money
}

// keepHours is how long hours are kept: as long as the places of their generations.
const keepHours = keepPlaces * 24 * time.Hour

// addToHours adds what a batch changed to the hours in which its generations were made. Adopted ones count,
// because they were used; what was recorded by hand does not, because its time is not that of any use. What has
// changed of a generation goes into the hour that it went into; one from before there were hours makes none.
func addToHours(ctx context.Context, q querier, b Batch, entries []Entry) error {
	hours, fresh := map[int64]Totals{}, map[int64]int64{}
	for _, e := range entries {
		if strings.HasPrefix(e.Generation.ID, manualPrefix) {
			continue
		}
		for _, g := range e.gains() {
			start := g.created.Truncate(time.Hour).Unix()
			hours[start] = hours[start].Add(g.Totals)
		}
		if !e.Settled || e.moved { // a request, or a charge without one
			fresh[e.place.created.Truncate(time.Hour).Unix()] = 1
		}
	}
	if len(hours) == 0 {
		return nil
	}
	rows := make([][4]int64, 0, len(hours))
	for start, gain := range hours {
		rows = append(rows, [4]int64{start, gain.Requests, int64(gain.Raw), fresh[start]})
	}
	const add = `
		insert into usage_sync_hours (client_org_id, hour, requests, raw_cost)
		select ?2, value->>0, value->>1, value->>2 from json_each(?1)
		where value->>3 > 0 or exists (select 1 from usage_sync_hours where client_org_id = ?2 and hour = value->>0)
		on conflict (client_org_id, hour) do update set
			requests = requests + excluded.requests, raw_cost = raw_cost + excluded.raw_cost`
	_, err := q.ExecContext(ctx, add, jsonText(rows), b.Organisation.ID)
	return err
}

func dropOldHours(ctx context.Context, q querier, orgID string, now time.Time) error {
	const query = `delete from usage_sync_hours where client_org_id = ? and hour < ?`
	_, err := q.ExecContext(ctx, query, orgID, now.Add(-keepHours).Unix())
	return err
}

// Hours returns the hours since a time in which an organisation used anything, oldest first.
func (s *Store) Hours(ctx context.Context, orgID string, since time.Time) (hours []Hour, err error) {
	err = s.read(ctx, func(q querier) error {
		hours = nil
		hours, err = collect(ctx, q, func(scan func(...any) error) (h Hour, err error) {
			var start int64
			err = scan(&start, &h.Requests, &h.Raw)
			h.Start = time.Unix(start, 0).UTC()
			return h, err
		}, `select hour, requests, raw_cost from usage_sync_hours where client_org_id = ? and hour >= ? order by hour`,
			orgID, since.Unix())
		return err
	})
	return hours, err
}

// Part is what one user had of an organisation's raw cost with one model.
type Part struct {
	Model, User string
	Raw         Money
}

// Parts returns who had what of the cost of the generations made from one time up to another, as far back as
// their places are kept. It reads every generation of the days in question: not for each pass.
func (s *Store) Parts(ctx context.Context, org Organisation, from, until time.Time) (parts []Part, err error) {
	err = s.read(ctx, func(q querier) error {
		parts = nil
		const query = `
			select g.model_name, g.user_id, cast(round(sum(p.total_cost) * 1e12) as integer)
			from usage_sync_generations g join processed_generations p on p.id = g.id
			where g.client_org_id = ?1 and g.generation_date between ?2 and ?3 and g.created_at >= ?4 and g.created_at < ?5
				and g.id not like '` + manualPrefix + `%'
			group by 1, 2`
		parts, err = collect(ctx, q, func(scan func(...any) error) (p Part, err error) {
			return p, scan(&p.Model, &p.User, &p.Raw)
		}, query, org.ID, DayOf(from, org.Zone), DayOf(until, org.Zone), from.Unix(), until.Unix())
		return err
	})
	return parts, err
}

// DailyCosts returns the marked-up cost of each day from first to last on which an organisation used anything:
// the daily rows and the live counter, as the dashboard sums them.
func (s *Store) DailyCosts(ctx context.Context, orgID string, first, last Day) (costs map[Day]Money, err error) {
	err = s.read(ctx, func(q querier) error {
		rows, err := dailyRows(ctx, q, orgID, first, last)
		if err != nil {
			return err
		}
		costs = make(map[Day]Money, len(rows))
		for day, row := range rows {
			costs[day] = row.Cost
		}
		counter, err := liveCounter(ctx, q, orgID)
		if err != nil || !counter.there || counter.day < first || counter.day > last {
			return err
		}
		live, err := counter.totals()
		if !live.IsZero() {
			costs[counter.day] += live.Cost
		}
		return err
	})
	return costs, err
}
