package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
)

// The ids of the application's rows are made of organisation, user or model, and day, with colons between.
// Where these hold colons themselves, two organisations may come to the same id. The application looks rows up
// by it, so ours have it where it is free; where it is another organisation's, the row gets one of our own, and
// is found by its organisation, name and day.

// rowID is the id that the application gives to a row of a user or model.
func rowID(orgID, name string, day Day) string { return fmt.Sprintf("%s:%s:%s", orgID, name, day) }

// dailyRowID is the id that the application gives to a daily row.
func dailyRowID(orgID string, day Day) string { return fmt.Sprintf("%s_%s", orgID, day) }

// freeRowID is an id that no application gives to a row.
func freeRowID(orgID, name string, day Day) string {
	sum := sha256.Sum256([]byte(jsonText([]string{orgID, name, string(day)})))
	return "usage-sync-" + hex.EncodeToString(sum[:])
}

// makeWay gives rows another id that would be another organisation's.
func (k *keeper) makeWay(ctx context.Context, q querier, c change) error {
	if c.table == "" {
		return nil
	}
	ids := make([]any, len(c.rows))
	for i, row := range c.rows {
		ids[i] = row[0]
	}
	query := `select id from ` + c.table + ` where id in (select value from json_each(?)) and client_org_id is not ?`
	taken, err := collect(ctx, q, func(scan func(...any) error) (id string, err error) { return id, scan(&id) },
		query, jsonText(ids), k.org.ID)
	if err != nil || len(taken) == 0 {
		return err
	}
	isTaken := make(map[any]bool, len(taken))
	for _, id := range taken {
		isTaken[id] = true
	}
	for _, row := range c.rows {
		if !isTaken[row[0]] {
			continue
		}
		day, name := row[1].(Day), ""
		if c.part != partDay {
			name = row[firstExtra].(string)
		}
		row[0] = freeRowID(k.org.ID, name, day)
		if c.part != partDay {
			l := k.days[day].line(c.part, name)
			l.remember(row[0].(string), l.rowCreated)
		}
	}
	return nil
}

// makeWayBack gives a row that is put back another id where its own has become another organisation's. Values
// are SQL literals.
func makeWayBack(ctx context.Context, q querier, orgID, table string, values map[string]string) error {
	id, there := values["id"]
	if !there || table == ledger || strings.HasPrefix(table, "usage_sync_") {
		return nil
	}
	var taken bool
	query := fmt.Sprintf(`select exists (select 1 from %s where id = %s and client_org_id is not ?)`, table, id)
	if err := q.QueryRowContext(ctx, query, orgID).Scan(&taken); err != nil || !taken {
		return err
	}
	values["id"] = "'" + freeRowID(orgID, id, Day(table)) + "'"
	return nil
}
