package openrouter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"usage-sync/store"
)

// ActivityDays is how many completed UTC days GET /activity reaches back.
const ActivityDays = 30

// DayModel is what OpenRouter itself says was used of one model on one day. One model may have two, under
// another Dated each.
type DayModel struct {
	Day      store.Day
	Model    string // as store.ModelName has it; empty where the server does not say
	Dated    string // as the server calls it: its permanent name, e.g. openai/gpt-4.1-2025-04-14, or a name for people
	Requests int64
	Tokens   int64
	Cost     store.Money // in all: what was paid with keys of the account's own is part of it
	// Resolution is what Cost was rounded by in all: the steps of its parts, each rounded by itself, added up.
	// Zero is not known.
	Resolution store.Money
}

// Activity returns what was used with a key on a UTC day, or without a day on each that GET /activity reaches: the
// completed ones of the last 30 (https://openrouter.ai/docs/api-reference/get-user-activity). It tells a hash that the
// account does not know from a key that was not used. A server that does not offer it is ErrNoSource.
func (m *Management) Activity(ctx context.Context, hash string, day store.Day) (used []DayModel, err error) {
	query := url.Values{"api_key_hash": {hash}}
	if day != "" {
		query.Set("date", string(day))
	}
	get := request{method: http.MethodGet, key: m.key, path: "activity", query: query, rows: func() int { return len(used) }}
	err = m.client.send(ctx, get, func(_ http.Header, body io.Reader) (err error) {
		used, err = decodeActivity(body)
		return err
	})
	var apiErr *APIError
	switch {
	case errors.As(err, &apiErr) && apiErr.NotOffered():
		return nil, fmt.Errorf("%w: %s does not offer GET /activity: %w", ErrNoSource, m.client.base.Host, err)
	case err == nil && len(used) == 0:
		err = m.knows(ctx, hash)
	}
	return used, err
}

// knows is ErrKeyHash where the account has no key with a hash (https://openrouter.ai/docs/api-reference/get-api-key).
func (m *Management) knows(ctx context.Context, hash string) error {
	_, err := m.KeyOf(ctx, hash)
	return err
}

// decodeActivity reads {"data":[row, …]}, and adds up the rows of a day and model: there is one for each endpoint.
func decodeActivity(body io.Reader) ([]DayModel, error) {
	d := newDecoder(body)
	sums := dayModels{}
	err := d.answer(func() error {
		return d.array(func(i int) error {
			used, err := d.activityRow()
			if err != nil {
				return fmt.Errorf("row %d: %w", i+1, err)
			}
			return sums.add(used)
		})
	})
	return sums.sorted(), err
}

const (
	activityDate = 1 << iota
	activityModel
	activityDated
	activityUsage
	activityBYOK
	activityRequests
	activityPrompt
	activityCompletion
)

// activityFields are the fields of a row that are read.
var activityFields = fieldsOf("date", "model", "model_permaslug", "usage", "byok_usage_inference",
	"requests", "prompt_tokens",
	"completion_tokens").withLabels(activityModel | activityDated)

// activityRow reads one row. A total has no use where any of it can't be trusted, so whatever is wrong is an error.
func (d *decoder) activityRow() (used DayModel, err error) {
	met, problem, err := d.scalars(activityFields, func(field int, token jsontext.Token) error { return used.read(d, field, token) })
	if needed := activityDate | activityUsage | activityRequests; problem == "" && met&needed != needed {
		problem = "no date, usage or requests"
	}
	if problem != "" && err == nil {
		err = fmt.Errorf("%w: %s", ErrAnswer, problem)
	}
	return used, err
}

// read takes one field. Reasoning tokens are part of the completion.
func (used *DayModel) read(d *decoder, field int, token jsontext.Token) (err error) {
	var amount store.Money
	var count int64
	switch field {
	case activityDate:
		var at time.Time
		at, err = instant(token)
		used.Day = store.DayOf(at, time.UTC)
	case activityModel:
		used.Model = d.model(token)
	case activityDated:
		used.Dated = d.label(token)
	case activityUsage, activityBYOK:
		amount, err = cost(token)
		used.Cost += amount
	case activityRequests:
		used.Requests, err = tokenCount(token)
	case activityPrompt, activityCompletion:
		count, err = tokenCount(token)
		used.Tokens += count
	}
	return err
}

// dayModels adds up by day and model.
type dayModels map[dayModel]DayModel

type dayModel struct {
	day          store.Day
	model, dated string
}

func (sums dayModels) add(used DayModel) error {
	key := dayModel{used.Day, used.Model, used.Dated}
	sum := sums[key]
	sum.Day, sum.Model, sum.Dated = used.Day, used.Model, used.Dated
	sum.Requests += used.Requests
	sum.Tokens += used.Tokens
	sum.Cost += used.Cost
	sum.Resolution += used.Resolution
	if sum.Cost < 0 { // each amount is bounded, so a sum can't leave the range unseen
		return fmt.Errorf("%w: the cost of %s is absurd", ErrAnswer, used.Day)
	}
	sums[key] = sum
	return nil
}

func (sums dayModels) sorted() []DayModel {
	all := make([]DayModel, 0, len(sums))
	for _, sum := range sums {
		all = append(all, sum)
	}
	slices.SortFunc(all, func(a, b DayModel) int {
		return cmp.Or(cmp.Compare(a.Day, b.Day), cmp.Compare(a.Model, b.Model), cmp.Compare(a.Dated, b.Dated))
	})
	return all
}

// Used returns what an organisation used from its day first to its day last, up to now, by POST
// /analytics/query: rolled up by day, and so rounded once for each day and model, where its days are those of
// UTC; else by the hour, and rounded once for each hour and model. Either takes one request. Hours in which a
// midnight of the organisation lies are read by the minute: no client lives by a calendar whose midnight lies
// within one. The organisation has a KeyHash.
func (m *Management) Used(ctx context.Context, org store.Organisation, first, last store.Day,
	now time.Time) ([]DayModel, error) {
	u := &usedBy{Management: m, org: org, first: first, last: last, sums: dayModels{}, slugs: map[string]string{}}
	whole := timeRange{first.Start(org.Zone).UTC(), last.Add(1).Start(org.Zone).UTC()}
	if until := now.UTC().Truncate(time.Second).Add(time.Second); until.Before(whole.End) {
		whole.End = until
	}
	inUTC, split := true, map[time.Time]bool{} // split are hours
	for day := first; day <= last.Add(1); day = day.Add(1) {
		midnight := day.Start(org.Zone).UTC()
		inUTC = inUTC && midnight.Equal(day.Start(time.UTC))
		hour := midnight.Truncate(time.Hour)
		if !hour.Equal(midnight) && hour.Before(whole.End) {
			split[hour] = true
		}
	}
	unit := time.Hour
	if inUTC {
		unit = oneDay
	}
	hours := timeRange{whole.Start.Truncate(time.Hour), whole.End}
	err := u.read(ctx, hours, unit, func(bucket time.Time) bool { return !split[bucket.Truncate(time.Hour)] })
	for hour := range split {
		if err == nil {
			end := earliest(hour.Add(time.Hour), whole.End)
			err = u.read(ctx, timeRange{hour, end}, time.Minute, func(time.Time) bool { return true })
		}
	}
	if err != nil {
		return nil, err
	}
	return u.sums.sorted(), nil
}

const oneDay = 24 * time.Hour

// usedBy is the work on one organisation.
type usedBy struct {
	*Management
	org         store.Organisation
	first, last store.Day
	sums        dayModels
	slugs       map[string]string // by the name that the server shows in place of a model's slug
}

// read adds up the wanted buckets of a range.
func (u *usedBy) read(ctx context.Context, r timeRange, unit time.Duration, wanted func(bucket time.Time) bool) error {
	granularity := map[time.Duration]string{oneDay: "day", time.Hour: "hour", time.Minute: "minute"}[unit]
	return inParts(r, func(part timeRange) (bool, error) {
		t, err := u.ask(ctx, u.org.Hashes(), query{Metrics: []string{"request_count", "tokens_total", "total_usage"},
			Dimensions: []string{"model"}, Granularity: granularity, TimeRange: part})
		if err != nil || t.truncated {
			return false, err
		}
		for _, row := range t.rows {
			if row.problem == "" && !row.priced && (row.requests != 0 || row.tokens != 0) {
				row.problem = "no total_usage"
			}
			if row.problem != "" {
				return false, fmt.Errorf("%w: the totals of %s: %s", ErrAnswer, part, plain(row.problem, u.key))
			}
			if wanted(row.bucket) {
				if err := u.add(ctx, row, unit); err != nil {
					return false, err
				}
			}
		}
		return true, nil
	}, func(part timeRange) ([]timeRange, error) {
		switch {
		case part.length() > unit:
			return halves(part, unit), nil
		case unit == oneDay:
			return nil, u.read(ctx, part, time.Hour, wanted)
		default:
			return nil, fmt.Errorf("%w: more models than one answer can hold in the %s from %s",
				ErrAnswer, granularity, part)
		}
	})
}

// add adds a row of a bucket of some length.
func (u *usedBy) add(ctx context.Context, row tableRow, unit time.Duration) error {
	day := store.DayOf(row.bucket, u.org.Zone)
	if day < u.first || day > u.last {
		return nil
	}
	slug, err := u.slug(ctx, row, unit)
	if err != nil {
		return err
	}
	return u.sums.add(DayModel{Day: day, Model: slug, Dated: row.dated, Requests: row.requests,
		Tokens: row.tokens, Cost: row.cost, Resolution: analyticsResolution})
}

// IsSlug tells whether a model is called as in "provider/model". The analytics may show a name for people in its place.
func IsSlug(model string) bool { return strings.Contains(model, "/") }

// slug returns a model as generations name it: one of those under a name for people is looked up.
func (u *usedBy) slug(ctx context.Context, row tableRow, unit time.Duration) (string, error) {
	name := row.model
	if name == "" || IsSlug(name) {
		return name, nil
	}
	if slug, known := u.slugs[name]; known {
		return slug, nil
	}
	t, err := u.ask(ctx, u.org.Hashes(), query{Metrics: []string{"request_count"},
		Dimensions: []string{"generation_id", "model"}, Granularity: "hour",
		TimeRange: timeRange{row.bucket, row.bucket.Add(unit)}})
	if err != nil {
		return "", err
	}
	slug := "" // not known
	if i := slices.IndexFunc(t.rows, func(one tableRow) bool { return one.model == name && one.id != "" }); i >= 0 {
		single, err := u.generation(ctx, t.rows[i].id)
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if err == nil {
			slug = single.Model
		}
	}
	u.slugs[name] = slug
	return slug, nil
}
