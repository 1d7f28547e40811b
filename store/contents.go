package store

import (
	"context"
	"errors"
	"slices"
	"time"
)

// Contents is what a database holds of usage tracking.
type Contents struct {
	Tables        []string // the usage tables that are there
	Missing       []string // the guide's tables that are not, or that lack a column
	Awaited       bool     // the application's own migration is to make them
	Organisations []string // names of the active ones that have a key
}

// Contents looks into a database of which nothing is known yet: missing tables are no error.
func (s *Store) Contents(ctx context.Context) (c Contents, err error) {
	err = s.read(ctx, func(q querier) (err error) {
		c = Contents{}
		if c.Tables, err = usageTables(ctx, q, "main"); err != nil {
			return err
		}
		err = checkTables(ctx, q, guideTables, neededColumns)
		if schema, ok := errors.AsType[*SchemaError](err); ok {
			c.Missing = slices.Concat(schema.Missing, sortedKeys(schema.Lacking),
				sortedKeys(schema.Foreign), sortedKeys(schema.Others))
			c.Awaited = schema.Awaited
			slices.Sort(c.Missing)
			c.Missing, err = slices.Compact(c.Missing), nil
		}
		if err != nil || slices.Contains(c.Missing, "client_organizations") ||
			slices.Contains(c.Missing, "global_settings") {
			return err
		}
		all, err := s.organisations(ctx, q, time.UTC)
		for _, o := range all {
			if o.Active && o.Key != "" {
				c.Organisations = append(c.Organisations, o.Name)
			}
		}
		return err
	})
	return c, err
}
