package store

import (
	"errors"
	"fmt"
	"math"
)

// ErrBound: a generation that is larger than one can be. One row of a gateway said $171,000 for 1,000 tokens.
var ErrBound = errors.New("larger than a generation can be")

const (
	// mostTokens is how many tokens of one generation are believed. The longest contexts are of a few million.
	mostTokens = 1_000_000_000
	// mostCost is which raw cost of one generation is believed without a word from the host.
	mostCost = 1000 * Dollar
	// mostOfDay bounds what a line of the record holds: the sum of a month of them, of all kinds, is still a number.
	mostOfDay = math.MaxInt64 / 32
)

// AllowCost lets generations cost more than $1,000.
func (s *Store) AllowCost(most Money) { s.most = most }

// CheckBounds returns ErrBound for a generation that costs more, or has more tokens, than is believed of one.
func (s *Store) CheckBounds(g Generation) error {
	most := max(mostCost, s.most)
	switch {
	case g.Tokens > mostTokens || g.Tokens < -mostTokens:
		return fmt.Errorf("%w: %s tokens, at most %s are believed", ErrBound, Grouped(g.Tokens),
			Grouped(int64(mostTokens)))
	case g.Cost > most || g.Cost < -most:
		return fmt.Errorf("%w: $%s for %s tokens, at most $%s is believed (--max-cost)", ErrBound,
			g.Cost, Grouped(g.Tokens), most)
	}
	return nil
}

// outOfBounds tells whether the sum of two totals is more than a day can hold.
func outOfBounds(a, b Totals) bool {
	beyond := func(a, b int64) bool {
		return overflows(Money(a), Money(b)) || a+b > mostOfDay || a+b < -mostOfDay
	}
	return beyond(a.Requests, b.Requests) || beyond(a.Tokens, b.Tokens) || beyond(int64(a.Raw), int64(b.Raw)) ||
		beyond(int64(a.Cost), int64(b.Cost))
}
