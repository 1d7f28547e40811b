package store

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// Earlier makes a question of a decision that an earlier version has carried out, which put no rows aside: the
// record of days tells what others had counted, and these rows are put aside now. So it can be decided again,
// or taken back. Days before oldest are left as they are. Without such a decision it returns false.
func (s *Store) Earlier(ctx context.Context, org Organisation, oldest Day,
	now time.Time) (u Question, found bool, err error) {
	err = s.write(ctx, func(q querier) error {
		u, found = Question{By: "an earlier version"}, false
		all, err := questions(ctx, q, org.ID)
		if err != nil || len(all) > 0 {
			return err
		}
		const adopted = `
			select usage_date from usage_sync_days
			where client_org_id = ? and usage_date >= ? and part = 'day' and name = '' and kind = 'adopted'
				and (requests <> 0 or tokens <> 0 or raw <> 0)
			order by 1`
		u.Days, err = collect(ctx, q, func(scan func(...any) error) (day Day,
			err error) {
			return day, scan(&day)
		}, adopted, org.ID, oldest)
		if err != nil || len(u.Days) == 0 {
			return err
		}
		k, err := readKeeping(ctx, q, org.ID)
		if err != nil {
			return err
		}
		u.AnsweredAt, u.From = time.Unix(k.from, 0), u.Days[0].Start(org.Zone)
		if u.Answer, u.LastWrite, err = answerOf(ctx, q, org.ID, u); err != nil {
			return err
		}
		found = true
		if err := storeQuestion(ctx, q, org.ID, &u, now); err != nil {
			return err
		}
		return putEarlierAside(ctx, q, org.ID, u)
	})
	return u, found, err
}

// answerOf tells what an earlier version was answered, and up to when others had counted. Where it counted in
// full, it has not kept that time: zero.
func answerOf(ctx context.Context, q querier, orgID string, u Question) (answer Answer, until time.Time, err error) {
	const query = `
		select coalesce(max(created_at), 0) from usage_sync_generations
		where client_org_id = ? and generation_date in (select value from json_each(?)) and adopted <> 0`
	var last int64
	if err := q.QueryRowContext(ctx, query, orgID, jsonText(u.Days)).Scan(&last); err != nil {
		return "", until, err
	}
	if last == 0 {
		return AnswerNone, until, nil
	}
	return AnswerAdopt, time.Unix(last, 0), nil
}

// putEarlierAside puts aside what there was before a decision of an earlier version: the rows of others, and the ledger
// entries that they have made. What we have recorded since is listed again.
func putEarlierAside(ctx context.Context, q querier, orgID string, u Question) error {
	const (
		amounts = `'total_tokens', quote(sum(tokens)), 'total_requests', quote(sum(requests)), 'raw_cost', quote(sum(raw) / 1e12),
			'markup_cost', quote(sum(markup) / 1e12), 'created_at', quote(?3), 'updated_at', quote(?3)`
		counted = ` from usage_sync_days
			where client_org_id = ?1 and usage_date >= ?4 and part = '%s' and kind in ('adopted', 'foreign')
			group by usage_date, name having sum(requests) <> 0 or sum(tokens) <> 0 or sum(raw) <> 0`
		insert = `insert into usage_sync_put_aside (takeover, source_table, body) select ?2, `
	)
	statements := []string{
		`'client_daily_usage', json_object('id', quote(client_org_id || '_' || usage_date), 'client_org_id', quote(client_org_id),
			'usage_date', quote(usage_date), ` + amounts + `)` + fmt.Sprintf(counted, partDay),
		`'client_user_daily_usage', json_object('id', quote(client_org_id || ':' || name || ':' || usage_date),
			'client_org_id', quote(client_org_id), 'user_id', quote(name), 'openrouter_user_id', quote(max(openrouter_user_id)),
			'usage_date', quote(usage_date), ` + amounts + `)` + fmt.Sprintf(counted, partUser),
		`'client_model_daily_usage', json_object('id', quote(client_org_id || ':' || name || ':' || usage_date),
			'client_org_id', quote(client_org_id), 'model_name', quote(name), 'usage_date', quote(usage_date), ` +
			amounts + `)` + fmt.Sprintf(counted, partModel),
	}
	for _, statement := range statements {
		if _, err := q.ExecContext(ctx, insert+statement, orgID, u.ID, max(0, u.LastWrite.Unix()),
			u.Days[0]); err != nil {
			return err
		}
	}
	others := slices.Clone(asideTables)
	others = slices.DeleteFunc(others, func(t asideTable) bool { return t.name != ledger && t.name != "usage_sync_hours" })
	for i := range others {
		switch others[i].name {
		case ledger:
			others[i].where += ` and id not in (select id from usage_sync_generations where client_org_id = ?1)`
		default: // of the day before, which is put back with them
			others[i].where += ` and hour < unixepoch(?2)`
		}
	}
	return putTablesAside(ctx, q, others, orgID, u, u.Days[0])
}
