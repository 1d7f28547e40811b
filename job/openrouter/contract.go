package openrouter

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"usage-sync/store"
)

// Verdict is what an examination makes of a fact.
type Verdict string

// The verdicts.
const (
	AsExpected Verdict = "as expected"
	Handled    Verdict = "different but handled"
	BillsWrong Verdict = "different: this would bill wrongly"
	NotTold    Verdict = "could not be told"
)

// Whose word a fact is.
const (
	seenLive    = "seen live"     // somebody has published what was answered, from 31 July to 10 September 2026
	vendorsWord = "vendor's word" // description and documentation of 22 August 2026, SDK of 23 September 2026
	unproven    = "unproven"
)

// Fact is something about OpenRouter's API that the program counts on, or that nobody has proved.
type Fact struct {
	Name     string
	Evidence string // whose word it is: seen live, the vendor's, or unproven
	CountsOn string
	// examine tells what was seen, without ids, names, amounts, keys or anybody's words: it may be published.
	examine func(e *evidence) (seen string, verdict Verdict)
}

// FactFinding is what was seen of a fact.
type FactFinding struct {
	Fact
	Seen    string
	Verdict Verdict
}

// Examination is what Examine has found.
type Examination struct {
	Requests int
	Findings []FactFinding
	Shapes   []Shape // of the answers, in the order in which they came
}

// Contract is each fact about OpenRouter that the program relies on, and each that is unproven, in one table.
// The stand-in must pass it, and each fact that is turned wrong in the stand-in must be found:
// contract_test.go.
var Contract = []Fact{
	{"management key", seenLive, "it is told apart by is_management_key",
		examineKey},
	{"metrics", seenLive, "GET /analytics/meta lists the metrics, dimensions and granularities that are asked for",
		examineMeta},
	{"workspaces", seenLive, "GET /keys knows the default workspace alone, so each is asked for its keys",
		examineWorkspaces},
	{"label", seenLive, "the label of a key's hash shows the key's first and last characters",
		examineLabel},
	{"hash", unproven, "the hash of a key is its SHA-256, else the only one whose label fits",
		examineHash},
	{"filter", seenLive, "a filter by hash leaves rows of that key alone",
		examineFilter},
	{"unknown hash", seenLive, "a hash that the account does not know gives no rows, and a warning",
		examineUnresolved},
	{"key in rows", seenLive, "rows show a key's name, which nothing is billed by",
		examineKeyInRows},
	{"time column by generation", seenLive, "created_at__hour; any field that ends in __hour will do",
		examineRawColumn},
	{"time by generation", seenLive, "like 2026-09-02 16:00:00, in UTC",
		examineRawTime},
	{"time column rolled up", seenLive, "date__hour; any field that ends in __hour will do",
		examineRolledColumn},
	{"time rolled up", seenLive, "hours like 2026-09-02 16:00:00, days like 2026-09-02, both in UTC",
		examineRolledTime},
	{"UTC", seenLive, "the second in an id lies in its row's hour",
		examineZone},
	{"range", vendorsWord, "start is in a range, and end is not",
		examineRange},
	{"fractions", unproven, "whole seconds are sent; whether fractions are taken is unproven",
		examineFractions},
	{"cost", seenLive, "total_usage is the exact cost, rounded to six decimals",
		examineCost},
	{"rounding", unproven, "how the last decimal comes about makes no difference",
		examineRounding},
	{"keys of the client's own", vendorsWord, "total_usage is what was charged and what was paid with keys " +
		"of the client's own", examineBYOK},
	{"counts", seenLive, "whole numbers, as text or as numbers, or null",
		examineCounts},
	{"tokens", seenLive, "tokens_total is the provider's own count, prompt and completion",
		examineTokens},
	{"rows without a request", vendorsWord, "a row of 0 requests with a cost is a server tool's, and is billed",
		examineTools},
	{"rows of a generation", unproven, "several rows of one id are one generation",
		examineRepeated},
	{"absent user", unproven, "null, empty or none",
		examineAbsentUser},
	{"models", seenLive, "dated permanent names, or names without a date",
		examineModels},
	{"second in an id", seenLive, "within two seconds of created_at",
		examineSeconds},
	{"single generations", seenLive, "GET /generation takes the management key",
		examineSingles},
	{"limit", vendorsWord, "10,000 rows are given, or truncated says that some are missing",
		examineLimit},
	{"truncated", seenLive, "true where limit leaves rows out",
		examineTruncated},
	{"rolled-up totals", unproven, "those of a day that is over are the sum of its generations",
		examineTotals},
	{"cachedAt", seenLive, "when the answer was made, in milliseconds",
		examineCachedAt},
	{"lag", unproven, "rows may come up to 96 hours late",
		examineLag},
	{"activity", vendorsWord, "GET /activity of yesterday shows no more than the analytics",
		examineActivity},
	{"rate limit", vendorsWord, "64 queries a minute; an answer need not say how many are left",
		examineRateLimit},
	{"Broadcast", vendorsWord, "deliveries are early news, polling is the truth",
		examineDestinations},
}

// failure tells why there is no answer to judge by.
func (x *exchange) failure() string {
	switch {
	case x == nil || x.err == errNotAsked:
		return "not asked"
	case x.status == http.StatusOK:
		return "an answer that can't be read"
	case x.status != 0:
		return fmt.Sprintf("HTTP %d", x.status)
	}
	return "no answer"
}

// answered tells whether there is an answer to judge by.
func (x *exchange) answered() bool { return x != nil && x.err == nil }

// unanswered is the verdict on a fact where the requests that would tell it failed. What passes can't do
// without must not fail for good.
func unanswered(x *exchange, vital bool) (string, Verdict) {
	if vital && x != nil && x.status != 0 && x.status != http.StatusTooManyRequests && x.status < 500 {
		return x.failure(), BillsWrong
	}
	return x.failure(), NotTold
}

const noUsage = "nothing was used since yesterday"

func examineKey(e *evidence) (string, Verdict) {
	data := e.key.data()
	if len(data) != 1 {
		return "no description of the key", NotTold
	}
	for _, name := range []string{"is_management_key", "is_provisioning_key"} {
		if is, ok := data[0][name].(bool); ok && is {
			return name, AsExpected
		}
	}
	return "an ordinary key", BillsWrong
}

// needed are what a pass, a reconciliation and the squaring of a day ask for.
var needed = map[string][]string{
	"metrics":       {"request_count", "tokens_total", "total_usage"},
	"dimensions":    {"generation_id", "model", "external_user", "api_key_id"},
	"granularities": {"minute", "hour", "day"},
}

func examineMeta(e *evidence) (string, Verdict) {
	data := e.meta.data()
	if len(data) != 1 {
		return unanswered(e.meta, false)
	}
	var missing []string
	for kind, names := range needed {
		listed := objects(data[0][kind])
		for _, name := range names {
			if !slices.ContainsFunc(listed, func(o object) bool { return o.text("name") == name }) {
				missing = append(missing, name)
			}
		}
	}
	if slices.Sort(missing); len(missing) > 0 {
		return "without " + strings.Join(missing, ", "), BillsWrong
	}
	metrics, dimensions := objects(data[0]["metrics"]), objects(data[0]["dimensions"])
	return fmt.Sprintf("%d metrics and %d dimensions", len(metrics), len(dimensions)), AsExpected
}

func examineWorkspaces(e *evidence) (string, Verdict) {
	if !e.workspaces.answered() {
		return e.workspaces.failure() + ": the keys of the default one alone are found", NotTold
	}
	counts := make([]string, len(e.keys))
	for i, x := range e.keys {
		if !x.answered() {
			return unanswered(x, true)
		}
		counts[i] = fmt.Sprint(len(x.data()))
	}
	seen := fmt.Sprintf("%d workspaces; keys in those looked at: %s", len(e.workspaces.data()),
		strings.Join(counts, ", "))
	return seen, AsExpected
}

// keyOf returns what the account says of a hash.
func (e *evidence) keyOf(hash string) (object, bool) {
	for _, k := range e.accountKeys() {
		if strings.EqualFold(k.text("hash"), hash) {
			return k, true
		}
	}
	return nil, false
}

func examineLabel(e *evidence) (string, Verdict) {
	k, known := e.keyOf(e.org.KeyHash)
	fits, masked := labelFits(k.text("label"), e.org.Key)
	switch {
	case !known:
		return "the key is not among those looked at", NotTold
	case fits:
		return formOf(k.text("label")), AsExpected
	case masked:
		return "the label of another key", BillsWrong
	}
	return "a label that shows nothing of the key", Handled
}

func examineHash(e *evidence) (string, Verdict) {
	fits, equal := 0, 0
	for _, org := range e.orgs {
		sum := sha256.Sum256([]byte(org.Key))
		own := hex.EncodeToString(sum[:])
		for _, k := range e.accountKeys() {
			same := strings.EqualFold(k.text("hash"), own)
			if ok, _ := labelFits(k.text("label"), org.Key); ok || same {
				fits++
			}
			if same {
				equal++
			}
		}
	}
	switch {
	case fits == 0:
		return "no key of the account fits an organisation's", NotTold
	case equal == 0:
		return fmt.Sprintf("none of %d hashes is the SHA-256", fits), Handled
	}
	return fmt.Sprintf("%d of %d are the SHA-256", equal, fits), AsExpected
}

func examineFilter(e *evidence) (string, Verdict) {
	rows := e.hours.rows()
	if len(rows) == 0 {
		return noRows(e.hours)
	}
	names := map[string]bool{}
	for _, row := range rows {
		names[row.text("api_key_id")] = true
	}
	k, known := e.keyOf(e.org.KeyHash)
	name := rows[0].text("api_key_id")
	switch {
	case len(names) > 1:
		return fmt.Sprintf("rows of %d keys", len(names)), BillsWrong
	case known && name != k.text("name") && !strings.EqualFold(name, e.org.KeyHash):
		return "rows of a key of another name", BillsWrong
	}
	return "rows of one key", AsExpected
}

// noRows is the verdict where an answer has none.
func noRows(x *exchange) (string, Verdict) {
	if !x.answered() {
		return unanswered(x, true)
	}
	return noUsage, NotTold
}

func examineUnresolved(e *evidence) (string, Verdict) {
	if !e.unresolved.answered() {
		return e.unresolved.failure() + ": the pass ends", Handled
	}
	warnings, _ := e.unresolved.part("warnings")
	list, _ := warnings.([]any)
	speaks := slices.ContainsFunc(list, func(w any) bool {
		text, _ := w.(string)
		lower := strings.ToLower(text)
		return strings.Contains(lower, "key") || strings.Contains(lower, "hash")
	})
	switch rows := len(e.unresolved.rows()); {
	case rows > 0:
		return fmt.Sprintf("%d rows of other keys", rows), BillsWrong
	case !speaks:
		return "no rows and no warning: a key under a wrong hash would be billed nothing", BillsWrong
	}
	return "no rows and a warning", AsExpected
}

func examineKeyInRows(e *evidence) (string, Verdict) {
	rows := e.hours.rows()
	if len(rows) == 0 {
		return noRows(e.hours)
	}
	if formOf(rows[0]["api_key_id"]) == "64 hex digits" {
		return "its hash", Handled
	}
	return "its name", AsExpected
}

func examineRawColumn(e *evidence) (string, Verdict) {
	return examineColumn(e.raw, "hour", "created_at__hour")
}

func examineRolledColumn(e *evidence) (string, Verdict) {
	return both(e, func(x *exchange, granularity string) (string, Verdict) {
		return examineColumn(x, granularity, "date__"+granularity)
	})
}

// both examines the hours and the day that are rolled up, and tells the worse of them.
func both(e *evidence, examine func(x *exchange, granularity string) (string, Verdict)) (string, Verdict) {
	seen, verdict := examine(e.hours, "hour")
	if verdict != AsExpected || len(e.day.rows()) == 0 {
		return seen, verdict
	}
	day, verdict := examine(e.day, "day")
	return seen + "; " + day, verdict
}

func examineColumn(x *exchange, granularity, expected string) (string, Verdict) {
	rows := x.rows()
	if len(rows) == 0 {
		return noRows(x)
	}
	name, _ := rows[0].time(granularity)
	switch {
	case name == expected:
		return name, AsExpected
	case name != "" && fieldName().MatchString(name):
		return name, Handled
	}
	return "no field that ends in __" + granularity, BillsWrong
}

func examineRawTime(e *evidence) (string, Verdict) {
	return examineTimes(e.raw, "hour", "time 0000-00-00 00:00:00")
}

func examineRolledTime(e *evidence) (string, Verdict) {
	forms := map[string]string{"hour": "time 0000-00-00 00:00:00", "day": "time 0000-00-00"}
	return both(e, func(x *exchange, granularity string) (string, Verdict) {
		return examineTimes(x, granularity, forms[granularity])
	})
}

func examineTimes(x *exchange, granularity, expected string) (string, Verdict) {
	rows := x.rows()
	if len(rows) == 0 {
		return noRows(x)
	}
	verdict, seen := AsExpected, expected
	for _, row := range rows {
		_, value := row.time(granularity)
		if _, ok := row.bucket(granularity); !ok {
			return formOf(value) + ", which is no time", BillsWrong
		}
		if form := formOf(value); form != expected {
			seen, verdict = form, Handled
		}
	}
	return seen, verdict
}

func examineZone(e *evidence) (string, Verdict) {
	inside, outside, timeless := 0, 0, 0
	for _, row := range e.raw.rows() {
		at, ok := IDTime(row.text("generation_id"))
		start, dated := row.bucket("hour")
		switch {
		case !ok || !dated:
			timeless++
		case at.Before(start.Add(-idSlack)) || at.After(start.Add(time.Hour+idSlack)):
			outside++
		default:
			inside++
		}
	}
	switch {
	case inside+outside == 0 && timeless == 0:
		return noRows(e.raw)
	case outside > inside:
		return fmt.Sprintf("%d of %d seconds lie outside", outside, inside+outside), BillsWrong
	case outside > 0 || timeless > inside:
		return fmt.Sprintf("%d inside, %d outside, %d ids without a second", inside, outside, timeless), Handled
	}
	return fmt.Sprintf("%d inside, %d ids without a second", inside, timeless), AsExpected
}

func examineRange(e *evidence) (string, Verdict) {
	rows := e.minutes.rows()
	if len(rows) == 0 {
		return noRows(e.minutes)
	}
	ids := map[string]bool{}
	for _, row := range rows {
		at, ok := row.bucket("minute")
		if !ok || at.Before(e.minutesOf.Start) || !at.Before(e.minutesOf.End) {
			return "rows from outside", BillsWrong
		}
		ids[row.text("generation_id")] = true
	}
	if e.minutes.truncated() || e.raw.truncated() {
		return "an answer that was cut off", NotTold
	}
	missing := 0
	for _, row := range e.raw.rows() {
		if at, ok := row.bucket("hour"); ok && at.Equal(e.minutesOf.Start) && !ids[row.text("generation_id")] {
			missing++
		}
	}
	if missing > 0 {
		return fmt.Sprintf("%d rows of the hour are missing from its range", missing), BillsWrong
	}
	return "an hour asked for by the minute has the rows of that hour", AsExpected
}

func examineFractions(e *evidence) (string, Verdict) {
	switch {
	case e.fraction.answered():
		return "milliseconds are taken", Handled
	case e.fraction != nil && e.fraction.status == http.StatusBadRequest:
		return "milliseconds are refused", AsExpected
	}
	return unanswered(e.fraction, false)
}

// sample is a generation as the analytics and as GET /generation have it.
type sample struct {
	rows   []object // of the analytics
	single object
}

func (e *evidence) sampled() (all []sample) {
	for _, x := range e.singles {
		for _, single := range x.data() {
			s := sample{single: single}
			for _, row := range e.raw.rows() {
				if row.text("generation_id") == single.text("id") {
					s.rows = append(s.rows, row)
				}
			}
			if len(s.rows) > 0 {
				all = append(all, s)
			}
		}
	}
	return all
}

// costs returns what both say of the cost.
func (s sample) costs() (coarse, exact store.Money, ok bool) {
	exact, ok = s.single.money("total_cost")
	if byok, _ := s.single["is_byok"].(bool); byok {
		upstream, _ := s.single.money("upstream_inference_cost")
		exact += upstream
	}
	for _, row := range s.rows {
		cost, priced := row.money("total_usage")
		coarse, ok = coarse+cost, ok && priced
	}
	return coarse, exact, ok
}

// micro is what the analytics round to (seen live on 31 Jul and 2 Sep 2026).
const micro = store.Dollar / 1_000_000

func examineCost(e *evidence) (string, Verdict) {
	compared, finer := 0, 0
	for _, s := range e.sampled() {
		coarse, exact, ok := s.costs()
		if !ok {
			continue
		}
		compared++
		switch off := max(coarse-exact, exact-coarse); {
		case off >= micro*store.Money(len(s.rows)):
			return fmt.Sprintf("of %d generations one costs something else in GET /generation", compared), BillsWrong
		case coarse%micro != 0:
			finer++
		}
	}
	switch {
	case compared == 0:
		return noUsage, NotTold
	case finer > 0:
		return "more than six decimals", Handled
	}
	return fmt.Sprintf("%d of %d agree to six decimals", compared, compared), AsExpected
}

func examineRounding(e *evidence) (string, Verdict) {
	fits := map[string]bool{"half up": true, "half to even": true, "cut off": true}
	told := false
	for _, s := range e.sampled() {
		coarse, exact, ok := s.costs()
		if !ok || len(s.rows) != 1 || exact%micro == 0 || exact < 0 {
			continue
		}
		told = true
		down, rest := exact-exact%micro, exact%micro
		up := down + micro
		is := func(name string, want store.Money) { fits[name] = fits[name] && coarse == want }
		is("cut off", down)
		switch {
		case rest*2 < micro:
			is("half up", down)
			is("half to even", down)
		case rest*2 > micro:
			is("half up", up)
			is("half to even", up)
		default:
			is("half up", up)
			if down/micro%2 == 0 {
				up = down
			}
			is("half to even", up)
		}
	}
	if !told {
		return "no cost with more than six decimals", NotTold
	}
	var names []string
	for name, ok := range fits {
		if ok {
			names = append(names, name)
		}
	}
	if slices.Sort(names); len(names) == 0 {
		return "neither half up, nor half to even, nor cut off", Handled
	}
	return strings.Join(names, " or "), AsExpected
}

func examineBYOK(e *evidence) (string, Verdict) {
	own := false
	for _, row := range e.hours.rows() {
		total, ok := row.money("total_usage")
		charged, hasCharged := row.money("credits_usage")
		byok, hasBYOK := row.money("byok_usage")
		if !ok || !hasCharged || !hasBYOK {
			return "no such parts", NotTold
		}
		own = own || byok > 0
		if off := total - charged - byok; byok > 0 && (off > 2*micro || off < -2*micro) {
			return "it is not the sum of both", BillsWrong
		}
	}
	if !own {
		return "none were used", NotTold
	}
	for _, s := range e.sampled() {
		if byok, _ := s.single["is_byok"].(bool); byok {
			coarse, exact, ok := s.costs()
			if off := max(coarse-exact, exact-coarse); !ok || off >= micro*store.Money(len(s.rows)) {
				return "GET /generation has other parts", BillsWrong
			}
			return "it is the sum of both, also in GET /generation", AsExpected
		}
	}
	return "it is the sum of both", AsExpected
}

func examineCounts(e *evidence) (string, Verdict) {
	rows := append(e.raw.rows(), e.hours.rows()...)
	if len(rows) == 0 {
		return noRows(e.raw)
	}
	seen, verdict := map[string]bool{}, AsExpected
	for _, row := range rows {
		for _, name := range []string{"request_count", "tokens_total"} {
			form := formOf(row[name])
			seen[form] = true
			switch form {
			case "digits", "null":
			case "whole number":
				verdict = Handled
			default:
				return name + ": " + form, BillsWrong
			}
		}
	}
	var forms []string
	for form := range seen {
		forms = append(forms, form)
	}
	slices.Sort(forms)
	return strings.Join(forms, ", "), verdict
}

func examineTokens(e *evidence) (string, Verdict) {
	compared, differ := 0, 0
	for _, s := range e.sampled() {
		prompt, ok := s.single.count("native_tokens_prompt")
		completion, also := s.single.count("native_tokens_completion")
		sum, counted := int64(0), false
		for _, row := range s.rows {
			if n, ok := row.count("tokens_total"); ok {
				sum, counted = sum+n, true
			}
		}
		if ok && also && counted {
			compared++
			if sum != prompt+completion {
				differ++
			}
		}
	}
	switch {
	case compared == 0:
		return noUsage, NotTold
	case differ > 0:
		return fmt.Sprintf("%d of %d differ from GET /generation; costs do not follow from them",
			differ, compared), Handled
	}
	return fmt.Sprintf("%d of %d agree with GET /generation", compared, compared), AsExpected
}

func examineTools(e *evidence) (string, Verdict) {
	rows := e.raw.rows()
	free, dear := 0, 0
	for _, row := range rows {
		n, ok := row.count("request_count")
		cost, priced := row.money("total_usage")
		switch {
		case !ok || n < 0:
			return "a row that does not say how many requests it is", BillsWrong
		case n > 1:
			return "a row of a generation that is several requests", Handled
		case n == 0 && priced && cost > 0:
			dear++
		case n == 0:
			free++
		}
	}
	if free+dear == 0 {
		if len(rows) == 0 {
			return noRows(e.raw)
		}
		return fmt.Sprintf("none among %d rows", len(rows)), NotTold
	}
	return fmt.Sprintf("%d with a cost, %d without", dear, free), AsExpected
}

func examineRepeated(e *evidence) (string, Verdict) {
	rows := e.raw.rows()
	if len(rows) == 0 {
		return noRows(e.raw)
	}
	count := map[string]int{}
	for _, row := range rows {
		count[row.text("generation_id")]++
	}
	several := 0
	for _, n := range count {
		if n > 1 {
			several++
		}
	}
	return fmt.Sprintf("%d generations of %d have several", several, len(count)), AsExpected
}

func examineAbsentUser(e *evidence) (string, Verdict) {
	if !e.users.answered() {
		return unanswered(e.users, true)
	}
	users := map[string]object{}
	for _, row := range e.users.rows() {
		users[row.text("generation_id")] = row
	}
	read, _, err := decodeTable(bytes.NewReader(e.users.text), "hour", mostRows)
	if err != nil {
		return "an answer that can't be read", BillsWrong
	}
	for _, x := range e.singles {
		for _, single := range x.data() {
			row, ok := users[single.text("id")]
			if !ok || single.text("external_user") != "" {
				continue
			}
			i := slices.IndexFunc(read.rows, func(r tableRow) bool { return r.id == single.text("id") })
			form := formOf(row["external_user"])
			if i < 0 || read.rows[i].user != "" {
				return form + ", taken for a user", BillsWrong
			}
			return form, AsExpected
		}
	}
	return "no generation without a user was looked up", NotTold
}

func examineModels(e *evidence) (string, Verdict) {
	rows := e.raw.rows()
	if len(rows) == 0 {
		return noRows(e.raw)
	}
	forms := map[string]int{}
	for _, row := range rows {
		forms[formOf(row["model"])]++
	}
	dated, undated := forms["author/model-date"], forms["author/model"]
	seen := fmt.Sprintf("%d dated, %d undated, %d other", dated, undated, len(rows)-dated-undated)
	if dated == 0 || dated+undated < len(rows) {
		return seen, Handled
	}
	return seen, AsExpected
}

func examineSeconds(e *evidence) (string, Verdict) {
	compared, far := 0, time.Duration(0)
	for _, x := range e.singles {
		for _, single := range x.data() {
			at, ok := IDTime(single.text("id"))
			created, err := ParseTime(single.text("created_at"), false)
			if !ok || err != nil {
				continue
			}
			compared++
			far = max(far, created.Sub(at).Abs())
		}
	}
	seen := fmt.Sprintf("%d within %s", compared, max(far.Round(time.Second), time.Second))
	switch {
	case compared == 0:
		return "no id with a second was looked up", NotTold
	case far > time.Minute:
		return seen, BillsWrong
	case far > idSlack:
		return seen, Handled
	}
	return seen, AsExpected
}

func examineSingles(e *evidence) (string, Verdict) {
	if len(e.singles) == 0 {
		return noUsage, NotTold
	}
	for _, x := range e.singles {
		if !x.answered() {
			if seen, verdict := unanswered(x, false); x.status < 400 || x.status >= 500 {
				return seen, verdict
			}
			return x.failure(), Handled
		}
	}
	return fmt.Sprintf("%d of %d are shown", len(e.singles), len(e.singles)), AsExpected
}

func examineLimit(e *evidence) (string, Verdict) {
	rows := len(e.raw.rows())
	switch {
	case !e.raw.answered():
		return unanswered(e.raw, true)
	case rows > mostRows:
		return "more rows than asked for", Handled
	case e.raw.truncated() && rows < mostRows:
		return fmt.Sprintf("cut off at %d rows, and said so", rows), Handled
	case e.raw.truncated():
		return "cut off at 10,000 rows, and said so", AsExpected
	}
	return fmt.Sprintf("%d rows, all there are", rows), AsExpected
}

func examineTruncated(e *evidence) (string, Verdict) {
	if !e.small.answered() {
		return unanswered(e.small, false)
	}
	there, got, says := len(e.raw.rows()), len(e.small.rows()), e.small.truncated()
	switch {
	case there <= got || !e.raw.answered():
		return "too little was used", NotTold
	case !says:
		return fmt.Sprintf("false, with %d of %d rows", got, there), BillsWrong
	}
	return fmt.Sprintf("true, with %d of %d rows", got, there), AsExpected
}

func examineTotals(e *evidence) (string, Verdict) {
	switch {
	case !e.day.answered():
		return unanswered(e.day, true)
	case e.raw.truncated():
		return "too many generations to add up here", NotTold
	}
	yesterday := e.yesterday()
	var sum, total store.Money
	var requests, counted int64
	rows := 0
	for _, row := range e.raw.rows() {
		if at, ok := row.bucket("hour"); ok && at.Before(yesterday.End) {
			cost, _ := row.money("total_usage")
			n, _ := row.count("request_count")
			sum, requests, rows = sum+cost, requests+n, rows+1
		}
	}
	for _, row := range e.day.rows() {
		cost, _ := row.money("total_usage")
		n, _ := row.count("request_count")
		total, counted = total+cost, counted+n
	}
	off := max(sum-total, total-sum)
	switch most := micro*store.Money(rows+len(e.day.rows())) + 1; {
	case rows == 0 && counted == 0:
		return "nothing was used yesterday", NotTold
	case requests != counted || off > most:
		return fmt.Sprintf("%d requests rolled up, %d by generation, and costs within $%s", counted, requests,
			tenfold(off)), BillsWrong
	}
	return "they are, to within the rounding of each generation", AsExpected
}

// tenfold is the power of ten above an amount: enough to tell how far off something is, and nobody's amount.
func tenfold(m store.Money) store.Money {
	return store.Money(math.Pow10(int(math.Ceil(math.Log10(max(1, float64(m)))))))
}

func examineCachedAt(e *evidence) (string, Verdict) {
	if !e.raw.answered() {
		return unanswered(e.raw, true)
	}
	value, ok := e.raw.part("cachedAt")
	if !ok {
		return "absent: the answer's Date is taken", Handled
	}
	number, isNumber := value.(json.Number)
	ms, err := number.Float64()
	if !isNumber || err != nil {
		return formOf(value), BillsWrong
	}
	age := e.now.Sub(time.UnixMilli(int64(ms)))
	switch {
	case age < -5*time.Minute:
		return "in the future: rows would be taken for complete that are not", BillsWrong
	case age > 366*24*time.Hour:
		return "not in milliseconds: nothing would ever be taken for complete", Handled
	case age > time.Hour:
		return "more than an hour old", Handled
	}
	return fmt.Sprintf("within %s", max(age.Abs().Round(time.Second), time.Second)), AsExpected
}

func examineLag(e *evidence) (string, Verdict) {
	newest := time.Time{}
	for _, row := range e.raw.rows() {
		if at, ok := IDTime(row.text("generation_id")); ok && at.After(newest) {
			newest = at
		}
	}
	switch age := e.now.Sub(newest).Round(time.Second); {
	case newest.IsZero():
		return "no id with a second", NotTold
	case age < -5*time.Minute:
		return "a row from the future", BillsWrong
	default:
		return fmt.Sprintf("the newest row is %s old", max(0, age)), AsExpected
	}
}

func examineActivity(e *evidence) (string, Verdict) {
	if !e.activity.answered() {
		return e.activity.failure() + ": the analytics are asked", Handled
	}
	if !e.day.answered() {
		return unanswered(e.day, true)
	}
	shown := func(x *exchange) (sum store.Money) {
		for _, row := range x.data() {
			usage, _ := row.money("usage")
			byok, _ := row.money("byok_usage_inference")
			sum += usage + byok
		}
		return sum
	}
	activity, whole := shown(e.activity), shown(e.anyActivity)
	var analytics store.Money
	for _, row := range e.day.rows() {
		cost, _ := row.money("total_usage")
		analytics += cost
	}
	most := micro*store.Money(len(e.day.rows())+len(e.activity.data())) + 1
	switch off := activity - analytics; {
	case len(e.day.rows()) == 0 && len(e.activity.data()) == 0:
		return "nothing was used yesterday", NotTold
	case off > most && activity == whole:
		return "it shows every key's usage, whatever hash it is asked for: the analytics are asked", Handled
	case off > most:
		return "it shows more than the analytics", BillsWrong
	case off < -most:
		return "it leaves something out that the analytics have", Handled
	}
	return "it shows what the analytics have", AsExpected
}

func examineRateLimit(e *evidence) (string, Verdict) {
	if !e.raw.answered() {
		return unanswered(e.raw, false)
	}
	if names := limitHeaders(e.raw); len(names) > 0 {
		return strings.Join(names, ", "), Handled
	}
	return "no header says", AsExpected
}

func examineDestinations(e *evidence) (string, Verdict) {
	var all []string
	verdict := AsExpected
	for _, x := range e.destinations {
		if !x.answered() {
			return unanswered(x, false)
		}
		for _, d := range x.data() {
			text, sound := destination(d)
			if all = append(all, text); !sound {
				verdict = Handled
			}
		}
	}
	if len(all) == 0 {
		return "no destination", AsExpected
	}
	return strings.Join(all, "; "), verdict
}

// destination describes a destination of Broadcast without naming it, and tells whether all that it sends is
// of use.
func destination(d object) (text string, sound bool) {
	kind := d.text("type")
	if !fieldName().MatchString(kind) {
		kind = "other"
	}
	if enabled, ok := d["enabled"].(bool); ok && !enabled {
		return kind + ", switched off", true
	}
	parts, sound := []string{kind}, true
	say := func(is bool, text string) {
		if is {
			parts, sound = append(parts, text), false
		}
	}
	hashes, selected := d["api_key_hashes"].([]any)
	if selected {
		parts = append(parts, fmt.Sprintf("%d keys selected", len(hashes)))
	}
	say(!selected, "all keys of its workspace")
	rate, isNumber := d["sampling_rate"].(json.Number)
	full, err := rate.Float64()
	say(isNumber && (err != nil || full < 1), "a sample alone")
	say(d["filter_rules"] != nil, "filtered")
	off := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { on, ok := d[name].(bool); return ok && !on })
	}
	say(off("broadcast_generation_cost"), "without cost")
	say(off("broadcast_generation_identity", "broadcast_identity"), "without identity")
	return strings.Join(parts, ", "), sound
}
