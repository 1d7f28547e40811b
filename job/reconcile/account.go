package reconcile

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// Recorded is what an organisation of an instance has recorded, by days of UTC. Hosts of one account tell each
// other in JSON.
type Recorded struct {
	Instance string                `json:"instance"`
	ID       string                `json:"client_org_id"`
	Name     string                `json:"name"`
	Hashes   []string              `json:"key_hashes"` // under which OpenRouter may know its usage
	Days     map[store.Day]float64 `json:"raw_cost_by_day"`
}

// raw is what was recorded from first to last.
func (r Recorded) raw(first, last store.Day) (sum store.Money, err error) {
	for day, cost := range r.Days {
		if day < first || day > last {
			continue
		}
		m, err := store.MoneyFromFloat(cost)
		if err != nil {
			return 0, err
		}
		sum += m
	}
	return sum, nil
}

// RecordedOf reads what the organisations of a database have recorded since a day, also of those that are not
// active: by the hours in which generations were made, as far back as they are kept.
func RecordedOf(ctx context.Context, db *store.Store, instance, keyHash string,
	first store.Day) (all []Recorded, err error) {
	orgs, err := db.AllOrganisations(ctx, time.UTC)
	if err != nil {
		return nil, err
	}
	spans, err := db.KeySpans(ctx)
	if err != nil {
		return nil, err
	}
	for _, org := range orgs {
		hours, err := db.Hours(ctx, org.ID, first.Start(time.UTC))
		if err != nil {
			return nil, err
		}
		r := Recorded{Instance: instance, ID: org.ID, Name: org.Name,
			Hashes: hashesOf(org, keyHash, spans[org.ID]), Days: map[store.Day]float64{}}
		days := map[store.Day]store.Money{}
		for _, h := range hours {
			days[store.DayOf(h.Start, time.UTC)] += h.Raw
		}
		for day, cost := range days {
			r.Days[day] = cost.Float()
		}
		if org.Key != "" || len(r.Days) > 0 {
			all = append(all, r)
		}
	}
	return all, nil
}

// hashesOf are the hashes by which OpenRouter may know an organisation's usage: its column's, its key's, the
// host's word, and those of the keys that it has had.
func hashesOf(org store.Organisation, keyHash string, spans []store.KeySpan) []string {
	hashes := []string{strings.ToLower(org.KeyHash), strings.ToLower(keyHash)}
	for _, k := range spans {
		hashes = append(hashes, k.Hash)
	}
	if org.Key != "" {
		sum := sha256.Sum256([]byte(org.Key))
		hashes = append(hashes, hex.EncodeToString(sum[:]))
	}
	slices.Sort(hashes)
	return slices.DeleteFunc(slices.Compact(hashes), func(h string) bool { return h == "" })
}

// Account is what all keys of an account were charged, and what hosts have recorded of it.
type Account struct {
	First, Last store.Day // days of UTC
	Total       store.Money
	Keys        []KeyUsage  // the most expensive first
	Clients     []Captured  // the least captured first
	Residual    store.Money // charged to no key that the account lists: deleted ones, and what OpenRouter charges by itself
	Recorded    store.Money
	Tolerance   store.Money
}

// KeyUsage is what one key was charged.
type KeyUsage struct {
	Name, Label, Hash string
	Disabled          bool
	Raw               store.Money
	Owners            []string // organisations that have it; none is nobody's
}

// Captured is how much of what its keys were charged an organisation has recorded.
type Captured struct {
	Recorded
	Charged store.Money
	Ours    store.Money
	NoKey   bool // the account lists none of its keys
}

// Rate is the part of the charges that was recorded; 1 where there were none.
func rateOf(ours, charged store.Money) float64 {
	if charged == 0 {
		return 1
	}
	return ours.Float() / charged.Float()
}

// Rate is the part of what the organisation's keys were charged that it has recorded.
func (c Captured) Rate() float64 { return rateOf(c.Ours, c.Charged) }

// Rate is the part of what the account was charged that is recorded.
func (a Account) Rate() float64 { return rateOf(a.Recorded, a.Total) }

// Differs tells whether more or less is recorded than charged, anywhere.
func (a Account) Differs() bool {
	apart := func(x, y store.Money) bool { return x-y > a.Tolerance || y-x > a.Tolerance }
	return apart(a.Recorded, a.Total) || slices.ContainsFunc(a.Clients, func(c Captured) bool { return apart(c.Ours, c.Charged) })
}

// AccountSource tells what an account was charged.
type AccountSource interface {
	Keys(ctx context.Context, take func(openrouter.AccountKey) (more bool)) error
	CostPerDay(ctx context.Context, hash string, first, last store.Day,
		now time.Time) (map[store.Day]store.Money, error)
}

// CompareAccount adds up what every key of the account was charged, over all workspaces, and holds it against what was
// recorded. Days are those of UTC; tolerance is that of one day and key, whose charge OpenRouter rounds.
func CompareAccount(ctx context.Context, source AccountSource, recorded []Recorded, p Period, now time.Time,
	tolerance store.Money) (Account, error) {
	a := Account{}
	a.First, a.Last = p.days(store.DayOf(now, time.UTC))
	if a.Last < a.First {
		return a, fmt.Errorf("%w: no day of the period is over", ErrBeyondReach)
	}
	charged := func(hash string) (sum store.Money, err error) {
		costs, err := source.CostPerDay(ctx, hash, a.First, a.Last, now)
		for cost := range maps.Values(costs) {
			sum += cost
		}
		return sum, err
	}
	var err error
	if a.Total, err = charged(""); err != nil {
		return a, err
	}
	var keys []openrouter.AccountKey
	if err := source.Keys(ctx, func(k openrouter.AccountKey) bool { keys = append(keys, k); return true }); err != nil {
		return a, err
	}
	a.Tolerance = tolerance * store.Money(store.Span{First: a.First, Last: a.Last}.Days()*(len(keys)+1))
	a.Residual = a.Total
	byHash := map[string]store.Money{}
	for _, k := range keys {
		raw, err := charged(k.Hash)
		if err != nil {
			return a, fmt.Errorf("key %s: %w", k.Name, err)
		}
		byHash[strings.ToLower(k.Hash)] = raw
		a.Residual -= raw
		a.Keys = append(a.Keys, KeyUsage{Name: k.Name, Label: k.Label, Hash: k.Hash, Disabled: k.Disabled, Raw: raw,
			Owners: ownersOf(recorded, k.Hash)})
	}
	for _, r := range recorded {
		c := Captured{Recorded: r, NoKey: true}
		if c.Ours, err = r.raw(a.First, a.Last); err != nil {
			return a, fmt.Errorf("%s: %w", r.ID, err)
		}
		for _, hash := range r.Hashes {
			raw, listed := byHash[hash]
			c.Charged += raw
			c.NoKey = c.NoKey && !listed
		}
		a.Recorded += c.Ours
		a.Clients = append(a.Clients, c)
	}
	slices.SortStableFunc(a.Keys, func(x, y KeyUsage) int { return cmp.Compare(y.Raw, x.Raw) })
	slices.SortStableFunc(a.Clients, func(x, y Captured) int { return cmp.Compare(x.Rate(), y.Rate()) })
	return a, nil
}

func ownersOf(recorded []Recorded, hash string) (owners []string) {
	for _, r := range recorded {
		if slices.Contains(r.Hashes, strings.ToLower(hash)) {
			owners = append(owners, r.Instance+"/"+r.ID)
		}
	}
	return owners
}
