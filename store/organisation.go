package store

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"
	"time"
)

// Key is an OpenRouter key. Printed or logged in any way it shows its first characters only.
type Key string

// shownKey is how much of a key may ever be seen, anywhere.
const shownKey = 12

// String returns "sk-or-v1-xxx...". At least four characters stay hidden, even of a key too short to be one.
func (k Key) String() string { return string(k[:max(0, min(shownKey, len(k)-4))]) + "..." }

// GoString keeps the key out of %#v.
func (k Key) GoString() string { return k.String() }

// LogValue keeps the key out of logs.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText keeps the key out of JSON.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Organisation is a client: a row of client_organizations.
type Organisation struct {
	ID      string
	Name    string // one line
	Key     Key
	KeyHash string // 64 hex digits, or empty
	// FormerHashes are of keys that the organisation had before, and that may still be in use.
	FormerHashes []string
	Active       bool
	Undecided    bool           // is_active is null: it is not active, and nobody has said so
	Gone         bool           // no row of client_organizations has its id
	MonthlyLimit Money          // marked-up cost; 0 is none
	Zone         *time.Location // the client's own calendar
	Rate         Rate           // of now; Prices are by the time of use
	// Problem is why the organisation can't be synced (a bad rate, an unknown time zone): the error of its pass.
	Problem error
}

// Hashes are those of all keys by which the organisation's usage is asked for, the present one's first.
func (o Organisation) Hashes() []string { return append([]string{o.KeyHash}, o.FormerHashes...) }

// ErrOrganisation is returned where the organisations asked for can't be chosen.
var ErrOrganisation = errors.New("organisation")

// Organisations returns those named by id or by name, or all active ones. Zone is for those that have none of
// their own. An unknown or ambiguous name, and no active organisation at all, is ErrOrganisation.
func (s *Store) Organisations(ctx context.Context, names []string, zone *time.Location) ([]Organisation, error) {
	var all []Organisation
	err := s.read(ctx, func(q querier) (err error) {
		all, err = s.organisations(ctx, q, zone)
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(names) > 0 {
		return choose(all, names)
	}
	active := slices.DeleteFunc(slices.Clone(all), func(o Organisation) bool { return !o.Active || o.Key == "" })
	if len(active) == 0 {
		return nil, fmt.Errorf("%w: none of %d in client_organizations is active and has a key",
			ErrOrganisation, len(all))
	}
	return active, nil
}

func choose(all []Organisation, names []string) ([]Organisation, error) {
	var chosen []Organisation
	for _, name := range names {
		found := matching(all, name)
		switch len(found) {
		case 0:
			return nil, fmt.Errorf("%w: no id or name %q among: %s", ErrOrganisation, name, describe(all))
		case 1:
			if !slices.ContainsFunc(chosen, func(o Organisation) bool { return o.ID == found[0].ID }) {
				chosen = append(chosen, found[0])
			}
		default:
			return nil, fmt.Errorf("%w: the name %q is not unique, use an id: %s", ErrOrganisation,
				name, describe(found))
		}
	}
	return chosen, nil
}

// matching prefers an id over a name, and a name in the same case over one in another.
func matching(all []Organisation, name string) []Organisation {
	for _, same := range []func(Organisation) bool{
		func(o Organisation) bool { return o.ID == name },
		func(o Organisation) bool { return o.Name == name },
		func(o Organisation) bool { return strings.EqualFold(o.Name, name) },
	} {
		if found := slices.DeleteFunc(slices.Clone(all),
			func(o Organisation) bool { return !same(o) }); len(found) > 0 {
			return found
		}
	}
	return nil
}

func describe(all []Organisation) string {
	const most = 20
	var parts []string
	for _, o := range all[:min(most, len(all))] {
		parts = append(parts, fmt.Sprintf("%s (%s)", o.ID, o.Name))
	}
	if len(all) > most {
		parts = append(parts, fmt.Sprintf("and %d more", len(all)-most))
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}

func (s *Store) organisations(ctx context.Context, q querier, zone *time.Location) ([]Organisation, error) {
	columns, err := tableColumns(ctx, q, "client_organizations")
	if err != nil {
		return nil, err
	}
	optional := func(name string) string {
		if hasColumn(columns, name) {
			return name
		}
		return "null"
	}
	// Costs and rates are read as text: a column's type says little about what a set-up tool has put there.
	// is_active is read as people and tools write it.
	query := fmt.Sprintf(`
		select id, name, coalesce(openrouter_api_key, ''), coalesce(%s, ''),
			lower(trim(cast(is_active as text))) in ('1', '1.0', 'true', 't', 'yes') is true, is_active is null,
			%s, coalesce(%s, ''), %s as rate
		from client_organizations order by name, id`,
		optional("openrouter_key_hash"), optional("monthly_limit"), optional("timezone"), rateColumn)
	all, err := collect(ctx, q, func(scan func(...any) error) (Organisation, error) {
		var o Organisation
		var rate, limit any
		var timezone string
		if err := scan(&o.ID, &o.Name, &o.Key, &o.KeyHash, &o.Active, &o.Undecided, &limit,
			&timezone, &rate); err != nil {
			return o, err
		}
		o.Name = strings.ReplaceAll(o.Name, "\n", " ") // it stands in lines
		o.Key = Key(strings.TrimSpace(string(o.Key)))
		o.KeyHash = strings.TrimSpace(o.KeyHash)
		o.Zone = zone
		if timezone != "" {
			own, err := time.LoadLocation(timezone)
			if err != nil {
				o.Problem = fmt.Errorf("%w: time zone %q of %s: %v", ErrOrganisation, timezone, o.ID, err)
			} else {
				o.Zone = own
			}
		}
		var err error
		if o.Rate, err = s.rateOf(rate); err != nil {
			o.Problem = rateProblem(o.ID, rate, err)
		}
		if limit != nil {
			// A limit that makes no sense is no limit: it only serves warnings.
			o.MonthlyLimit, _ = MoneyFromFloat(number(limit))
		}
		return o, nil
	}, query, DefaultRate.Float())
	refuseShared(all)
	return all, err
}

// SharedKeyError is the Problem of an organisation whose key, or its hash, is that of another one, too. It is an
// ErrOrganisation.
type SharedKeyError struct {
	Column    string // of client_organizations
	ID, Other string // of the organisations
}

func (e *SharedKeyError) Error() string {
	return fmt.Sprintf("%v: %s has the %s of %s: nothing tells whose its usage is, so neither is synced; "+
		"give each its own", ErrOrganisation, e.ID, e.Column, e.Other)
}

// Is makes the error an ErrOrganisation.
func (e *SharedKeyError) Is(target error) bool { return target == ErrOrganisation }

// refuseShared gives organisations a Problem that have their key, or the hash of their key, in common with another one,
// active or not: nothing tells whose its usage is.
func refuseShared(all []Organisation) {
	for column, identity := range map[string]func(Organisation) string{
		"openrouter_api_key":  func(o Organisation) string { return string(o.Key) },
		"openrouter_key_hash": func(o Organisation) string { return strings.ToLower(o.KeyHash) },
	} {
		byIdentity := map[string][]int{}
		for i, o := range all {
			if id := identity(o); id != "" {
				byIdentity[id] = append(byIdentity[id], i)
			}
		}
		for _, sharing := range byIdentity {
			for n, i := range sharing {
				if len(sharing) > 1 && all[i].Problem == nil {
					other := all[sharing[(n+1)%len(sharing)]]
					all[i].Problem = &SharedKeyError{Column: column, ID: all[i].ID, Other: other.ID}
				}
			}
		}
	}
}

// userMapping returns the Open WebUI user of each external user of an organisation.
func userMapping(ctx context.Context, q querier, orgID string) (map[string]string, error) {
	type pair struct{ external, user string }
	pairs, err := collect(ctx, q, func(scan func(...any) error) (p pair, err error) {
		return p, scan(&p.external, &p.user)
	}, `select openrouter_user_id, user_id from user_client_mapping
		where client_org_id = ? and is_active = 1 order by updated_at, id`, orgID)
	mapping := make(map[string]string, len(pairs))
	for _, p := range pairs {
		mapping[p.external] = p.user
	}
	return mapping, err
}

// number reads a value that should be a number; what is none becomes NaN.
func number(v any) float64 {
	var n sql.NullFloat64
	if err := n.Scan(v); err != nil || !n.Valid {
		return math.NaN()
	}
	return n.Float64
}
