package store

import (
	"context"
	"maps"
	"slices"
	"time"
)

// What others write into the application's rows is recognised, not guessed. A record made by the application
// itself adds a request to a per-model row (each build does), mostly to a per-user row too, or makes a row
// under an id of its own. Daily row and live counter are copied, moved, zeroed and replaced by its readers, so
// that they are evidence of nothing. The Python sync, which counts the very generations that we list, adds to
// the per-user row of NoUser and to no per-model row.

// NoUser is the user of generations without one.
const NoUser = "background_sync"

func noExternalUser(orgID string) string { return "bg_sync_" + orgID }

// notice takes into the record what others have written into a day's rows since they were last set.
func (k *keeper) notice(d *dayRecord) error {
	rows := k.rows[d.day]
	rewriting := k.keeping.today == TodayLive // build C replaces rows
	models, users := grown(d, partModel, rows.models, rewriting), grown(d, partUser, rows.users, rewriting)
	byModels, byUsers := sumTotals(models), sumTotals(users)
	background := users[NoUser]
	named := byUsers.Sub(background)
	if byModels.IsZero() && byUsers.IsZero() {
		return nil
	}
	delete(users, NoUser)
	recorded := byModels // what is recorded by the application
	switch {
	case covers(byModels, named):
	case covers(named, byModels): // a per-user row without a per-model row
		models[unknownModel] = models[unknownModel].Add(named.Sub(byModels))
		recorded = named
	default:
		return k.dispute(d, models, users, background)
	}
	if recorded.Requests <= 0 && !recorded.IsZero() { // a record counts a request
		return k.dispute(d, models, users, background)
	}
	if rest := recorded.Sub(named); !rest.IsZero() {
		if covers(background, rest) {
			background = background.Sub(rest)
		}
		users[NoUser] = rest
	}
	if err := k.enterForeign(d, models, users, recorded); err != nil {
		return err
	}
	return k.dispute(d, nil, nil, background)
}

// grown returns by how much the rows of a part hold more than the record.
func grown(d *dayRecord, p part, byName map[string][]row, rewriting bool) map[string]Totals {
	gains := map[string]Totals{}
	for name, rows := range byName {
		l := d.lines[p][name]
		if l == nil {
			l = &line{}
		}
		if gain := l.grown(rows, rewriting); !gain.IsZero() {
			gains[name] = gain
		}
	}
	// What one row has lost and another gained has moved between rows, and is no record.
	if lost := shrunk(d, p, byName); !lost.IsZero() && nearly(lost, sumTotals(gains)) {
		return map[string]Totals{}
	}
	return gains
}

// shrunk returns by how much the rows of a part that were last set from the record hold less than it.
func shrunk(d *dayRecord, p part, byName map[string][]row) (lost Totals) {
	for name, l := range d.lines[p] {
		for _, r := range byName[name] {
			less := Totals{}.Sub(r.beyond(l.total()))
			if r.id == l.row && r.created == l.rowCreated && !r.broken && covers(less, Totals{}) {
				lost = lost.Add(less)
			}
		}
	}
	return lost
}

// grown returns by how much the rows of a line hold more than it. A row that holds less was damaged, and is set
// again. A row that was made anew after it had been removed is a record as a whole; but rewriting says that the
// application rewrites rows when it adds to them, and they are new only where they do not hold more.
func (l *line) grown(rows []row, rewriting bool) (gain Totals) {
	want := l.total()
	known := slices.IndexFunc(rows, func(r row) bool { return r.id == l.row })
	for i, r := range rows {
		moved := known < 0 && l.row != "" && r.created == l.rowCreated // the known row under another id
		anew := i == known && r.created != l.rowCreated
		over := r.beyond(want)
		grew := covers(over, Totals{})
		switch {
		case r.broken:
		case i != known && !moved, anew && (!grew || over.IsZero() || !rewriting):
			gain = gain.Add(r.Totals)
		case grew:
			gain = gain.Add(over)
		}
	}
	return gain
}

// covers tells whether totals are in no respect less than others.
func covers(a, b Totals) bool {
	d := a.Sub(b)
	return d.Requests >= 0 && d.Tokens >= 0 && d.Raw >= 0 && d.Cost >= 0
}

func sumTotals(all map[string]Totals) (sum Totals) {
	for _, t := range all {
		sum = sum.Add(t)
	}
	return sum
}

func (k *keeper) enterForeign(d *dayRecord, models, users map[string]Totals, recorded Totals) error {
	if recorded.IsZero() {
		return nil
	}
	for model, t := range models {
		if err := d.add(partModel, model, KindForeign, t); err != nil {
			return err
		}
	}
	for user, t := range users {
		if err := d.add(partUser, user, KindForeign, t); err != nil {
			return err
		}
		k.nameUser(d, user)
	}
	k.found.Foreign = append(k.found.Foreign, Noticed{d.day, recorded})
	return d.add(partDay, "", KindForeign, recorded)
}

// nameUser notes under which openrouter_user_id a user goes.
func (k *keeper) nameUser(d *dayRecord, user string) {
	l := d.line(partUser, user)
	if l.external != "" {
		return
	}
	if rows := k.rows[d.day].users[user]; len(rows) > 0 {
		l.external = rows[0].external
	}
	if l.external == "" && user == NoUser {
		l.external = noExternalUser(k.org.ID)
	}
}

// dispute notes what has appeared and is not taken into the totals.
func (k *keeper) dispute(d *dayRecord, models, users map[string]Totals, background Totals) error {
	all := sumTotals(users).Add(background)
	if all.IsZero() {
		all = sumTotals(models)
	}
	if all.IsZero() {
		return nil
	}
	if !background.IsZero() {
		if err := d.add(partUser, NoUser, KindDisputed, background); err != nil {
			return err
		}
		k.nameUser(d, NoUser)
	}
	for user, t := range users {
		if err := d.add(partUser, user, KindDisputed, t); err != nil {
			return err
		}
		k.nameUser(d, user)
	}
	for model, t := range models {
		if err := d.add(partModel, model, KindDisputed, t); err != nil {
			return err
		}
	}
	k.found.Disputed = append(k.found.Disputed, Noticed{d.day, all})
	return d.add(partDay, "", KindDisputed, all)
}

// begin starts the record of a day. A day that began after the record as a whole starts empty: whatever the
// rows hold of it was written under our eyes. Of an earlier day the rows are taken over as they stand.
func (k *keeper) begin(ctx context.Context, q querier, d *dayRecord, first bool) error {
	from := time.Unix(k.keeping.from, 0)
	// The container may be a day ahead of the organisation.
	if !first && d.day > DayOf(from, k.org.Zone).Add(1) {
		d.since = k.keeping.from
		return k.notice(d)
	}
	d.since = k.now.Unix()
	ours, err := countedOf(ctx, q, k.org.ID, d.day)
	if err != nil {
		return err
	}
	return k.takeOver(d, ours)
}

// takeOver makes a day's rows its record. Per-user and per-model rows that agree are right, whatever the daily row and
// the live counter hold: nobody copies them. Where they do not agree, the day stays as others have left it.
func (k *keeper) takeOver(d *dayRecord, ours *counted) error {
	rows := k.rows[d.day]
	if k.broken(d.day) {
		return dataErrorf("rows of %s on %s hold something that is no number", k.org.ID, d.day)
	}
	users, models := ours.rest(rows)
	byUsers, byModels := sumTotals(users), sumTotals(models)
	clean := isGain(users) && isGain(models)
	all := sumOfAll(rows.users)
	agree := len(rows.users) > 0 && nearly(all, sumOfAll(rows.models)) || all.IsZero() && k.held(d.day).IsZero()
	kind, rest := KindAdopted, Totals{}
	switch {
	case agree && clean: // beyond our generations, records of the application
		kind, rest = KindForeign, byModels
	case agree, !clean && k.held(d.day).IsZero():
		return k.enterRows(d, KindCounted, sumOfAll(rows.models), rows)
	case clean && byUsers.IsZero() && byModels.Requests > 0: // records that name no user
		kind, rest = KindForeign, byModels
		users[NoUser] = byModels
	case clean:
		rest = k.judged(d.day, ours.total, byUsers, byModels)
	default:
		d.adopted = !ours.total.IsZero()
		return k.enterRows(d, KindAdopted, k.held(d.day), rows)
	}
	for p, part := range map[part]struct{ ours, rest map[string]Totals }{partUser: {ours.users, users},
		partModel: {ours.models, models}} {
		for name, t := range part.ours {
			if err := d.add(p, name, KindCounted, t); err != nil {
				return err
			}
		}
		for name, t := range part.rest {
			if err := d.add(p, name, kind, t); err != nil {
				return err
			}
		}
	}
	for name := range d.lines[partUser] {
		if l := d.line(partUser, name); l.external == "" {
			l.external = ours.external[name]
		}
		k.nameUser(d, name)
	}
	if err := d.add(partDay, "", KindCounted, ours.total); err != nil {
		return err
	}
	if rest.IsZero() {
		return nil
	}
	return d.add(partDay, "", kind, rest)
}

// judged is what others have counted on a day whose models do not add up to its users. Per-user rows tell, and
// beside them per-model rows where the day holds both: a manual record of the application that names no user.
// Where there are none, it is the daily row or the counter.
func (k *keeper) judged(day Day, ours, users, models Totals) Totals {
	rest := onceOf(k.rows[day].daily, k.counter, day).Sub(ours)
	if !users.IsZero() && !nearly(rest, users.Add(models)) {
		return users
	}
	if !covers(rest, Totals{}) {
		return Totals{}
	}
	return rest
}

// enterRows takes the per-user and per-model rows as they stand.
func (k *keeper) enterRows(d *dayRecord, kind Kind, day Totals, rows *rowsOfDay) error {
	for p, byName := range map[part]map[string][]row{partUser: rows.users, partModel: rows.models} {
		for name, named := range byName {
			if err := d.add(p, name, kind, sumOf(named)); err != nil {
				return err
			}
			if p == partUser {
				k.nameUser(d, name)
			}
		}
	}
	return d.add(partDay, "", kind, day)
}

// rest returns what a day's rows hold beyond our generations, by user and by model. Where that is nothing, our amounts
// become those of the rows to the last digit. A correction is an entry of the ledger and no request.
func (c *counted) rest(rows *rowsOfDay) (users, models map[string]Totals) {
	of := func(byName map[string][]row, ours map[string]Totals) map[string]Totals {
		rest := map[string]Totals{}
		names := maps.Clone(ours)
		for name := range byName {
			names[name] = ours[name]
		}
		for name, t := range names {
			held := sumOf(byName[name])
			over := held.Sub(t)
			switch requests := over.Requests; {
			case nearly(over, Totals{Requests: min(0, requests)}):
				ours[name] = held
			default:
				rest[name] = over
			}
		}
		return rest
	}
	users, models = of(rows.users, c.users), of(rows.models, c.models)
	c.total = sumTotals(c.models)
	return users, models
}

// isGain tells whether nothing is less than it was.
func isGain(gains map[string]Totals) bool {
	for _, t := range gains {
		if !covers(t, Totals{}) {
			return false
		}
	}
	return true
}

// counted is what the ledger knows of a day's generations that we have counted.
type counted struct {
	total         Totals
	users, models map[string]Totals
	external      map[string]string
	entries       int64
	exact         bool // it is known of each entry whether it is a request
}

// countedOf adds up a day's generations. The markup is added up in binary fractions, so it is right to a nano-dollar.
func countedOf(ctx context.Context, q querier, orgID string, day Day) (*counted, error) {
	c := &counted{users: map[string]Totals{}, models: map[string]Totals{}, external: map[string]string{}, exact: true}
	type group struct {
		user, external, model string
		Totals
		entries int64
		least   int64 // -1: of some it is not known whether they are requests
	}
	const query = `
		select g.user_id, max(g.openrouter_user_id), g.model_name, sum(iif(g.requests >= 0, g.requests, 1)), sum(p.total_tokens),
			cast(sum(round(p.total_cost * 1e12)) as integer),
			cast(sum(round(p.total_cost * g.markup_rate * 1e12)) as integer), count(*), min(g.requests)
		from usage_sync_generations g join processed_generations p on p.id = g.id and p.client_org_id = g.client_org_id
		where g.client_org_id = ? and g.generation_date = ? and coalesce(g.adopted, 0) = 0
		group by g.user_id, g.model_name`
	groups, err := collect(ctx, q, func(scan func(...any) error) (g group, err error) {
		return g, scan(&g.user, &g.external, &g.model, &g.Requests, &g.Tokens, &g.Raw, &g.Cost, &g.entries, &g.least)
	}, query, orgID, day)
	for _, g := range groups {
		c.total = c.total.Add(g.Totals)
		c.users[g.user] = c.users[g.user].Add(g.Totals)
		c.models[g.model] = c.models[g.model].Add(g.Totals)
		c.external[g.user] = g.external
		c.entries, c.exact = c.entries+g.entries, c.exact && g.least >= 0
	}
	return c, err
}
