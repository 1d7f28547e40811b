package standin

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Key is what is known of an ordinary key besides the key itself.
type Key struct {
	Name  string
	Label string // empty is the key with its middle left out, as OpenRouter shows it
	// Hash is what GET /keys calls the key by, and what filters want; empty is the SHA-256 of the key in hex.
	// With any other hash the server does not know the key by its SHA-256.
	Hash string
	// Limit is how many USD the key may spend, as the text of a JSON number, and LimitReset when it starts
	// anew: "daily", "weekly" or "monthly". Empty is no limit, or one that never starts anew. The server adds
	// up and refuses nothing.
	Limit, LimitReset string
	ExpiresAt         time.Time // zero is never
	Disabled          bool      // no longer let in, and listed only with include_disabled
	// Deleted is neither let in nor listed, and GET /keys/{hash} does not know it. Its past usage stays in
	// the analytics.
	Deleted   bool
	Workspace string // the id of one that was added; empty is the default one
}

// AddKey makes a key valid: an ordinary one, without a spending limit. The label is its name, too.
func (s *Server) AddKey(key, label string) { s.SetKey(key, Key{Name: label, Label: label}) }

// SetKey makes an ordinary key valid, or changes what is known of it.
func (s *Server) SetKey(key string, k Key) {
	if k.Label == "" {
		k.Label = masked(key)
	}
	if k.Hash == "" {
		k.Hash = sha256Hex(key)
	}
	s.register(key, k, false)
}

// AddManagementKey makes a key valid that sees all keys and their generations, and has none itself.
func (s *Server) AddManagementKey(key string) {
	s.register(key, Key{Name: "Management", Label: masked(key), Hash: sha256Hex(key)}, true)
}

// KeyHash returns the hash of a key that was added, and nothing for any other.
func (s *Server) KeyHash(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.accounts[key]; ok {
		return a.Hash
	}
	return ""
}

// KeyName returns the name of a key that was added, and nothing for any other.
func (s *Server) KeyName(key string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.accounts[key]; ok {
		return a.Name
	}
	return ""
}

func (s *Server) register(key string, k Key, management bool) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(key)
	if !a.valid {
		a.createdAt = now
	}
	a.Key, a.valid, a.management = k, true, management
}

func sha256Hex(key string) string {
	hash := sha256.Sum256([]byte(key))
	return hex.EncodeToString(hash[:])
}

// masked shows as much of a key as OpenRouter's labels do.
func masked(key string) string {
	const first, last = len("sk-or-v1-") + 3, 3
	if len(key) <= first+last {
		return "sk-or-v1-..."
	}
	return key[:first] + "..." + key[len(key)-last:]
}

// kind tells whether a key is let in, and whether it is a management key.
func (s *Server) kind(key string) (valid, management bool) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.accounts[key]
	if !ok || !a.valid || a.Disabled || a.Deleted || !a.ExpiresAt.IsZero() && !now.Before(a.ExpiresAt) {
		return false, false
	}
	return true, a.management
}

// spending is what the generations of a key have cost. Days, weeks from Monday on and months are those of
// UTC.
type spending struct {
	ever, daily, weekly, monthly periodSpending
}

// periodSpending is what was charged, and what was paid with keys of the client's own.
type periodSpending struct{ charged, byok sum }

func (p periodSpending) add(r *row) {
	p.charged.add(r.cost)
	p.byok.add(r.upstream)
}

// spending adds up the generations of an account. One counts from its creation on, also before lists show it.
func (a *account) spending(now time.Time) spending {
	today, monday, first := dayOf(now), mondayOf(now), firstOf(now)
	none := func() periodSpending { return periodSpending{sum{}, sum{}} }
	spent := spending{none(), none(), none(), none()}
	for _, rows := range [][]*row{a.rows, a.added} {
		for _, r := range rows {
			if r.superseded || r.CreatedAt.After(now) && !r.visible(now) {
				continue
			}
			spent.ever.add(r)
			for _, period := range []struct {
				start time.Time
				sum   periodSpending
			}{{today, spent.daily}, {monday, spent.weekly}, {first, spent.monthly}} {
				if !r.CreatedAt.Before(period.start) {
					period.sum.add(r)
				}
			}
		}
	}
	return spent
}

// dayOf returns the midnight in UTC before a time.
func dayOf(t time.Time) time.Time {
	year, month, day := t.UTC().Date()
	return time.Date(year, month, day, 0, 0, 0, 0, time.UTC)
}

// mondayOf returns the midnight in UTC at which a time's week began.
func mondayOf(t time.Time) time.Time {
	day := dayOf(t)
	return day.AddDate(0, 0, -(int(day.Weekday())+6)%7)
}

// firstOf returns the midnight in UTC at which a time's month began.
func firstOf(t time.Time) time.Time {
	year, month, _ := t.UTC().Date()
	return time.Date(year, month, 1, 0, 0, 0, 0, time.UTC)
}

// remaining returns what is left of a limit, below 0 where more was spent, or null without one.
func (k Key) remaining(spent spending) string {
	if k.Limit == "" {
		return "null"
	}
	period, ok := map[string]sum{"daily": spent.daily.charged, "weekly": spent.weekly.charged,
		"monthly": spent.monthly.charged}[k.LimitReset]
	if !ok {
		period = spent.ever.charged
	}
	left := sum{}
	left.add(parseAmount(k.Limit))
	left.subtract(period.total())
	return left.String()
}

// usageFields are those that a key has wherever it is described. Its usage is without bring-your-own-key
// usage.
func (a *account) usageFields(spent spending) string {
	limit := "null"
	if a.Limit != "" {
		limit = a.Limit
	}
	return fmt.Sprintf(`"label":%s,"limit":%s,"limit_remaining":%s,"limit_reset":%s,"include_byok_in_limit":false,"usage":%s,`+
		`"usage_daily":%s,"usage_weekly":%s,"usage_monthly":%s,"byok_usage":%s,"byok_usage_daily":%s,"byok_usage_weekly":%s,`+
		`"byok_usage_monthly":%s,"creator_user_id":null,"expires_at":%s,"workspace_id":%s`,
		quote(a.Label), limit, a.remaining(spent), orNull(a.LimitReset), spent.ever.charged, spent.daily.charged,
		spent.weekly.charged, spent.monthly.charged, spent.ever.byok, spent.daily.byok,
		spent.weekly.byok, spent.monthly.byok, timeOrNull(a.ExpiresAt), quote(cmp.Or(a.Workspace, DefaultWorkspace)))
}

func orNull(text string) string {
	if text == "" {
		return "null"
	}
	return quote(text)
}

func timeOrNull(t time.Time) string {
	if t.IsZero() {
		return "null"
	}
	return `"` + t.UTC().Format(milliseconds) + `"`
}

// milliseconds is how the service writes a time.
const milliseconds = "2006-01-02T15:04:05.000Z"

// currentKey answers GET /key (https://openrouter.ai/docs/api-reference/get-current-key).
func (s *Server) currentKey(key string) answer {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.account(key)
	return jsonAnswer(http.StatusOK, fmt.Appendf(nil, `{"data":{%s,"is_free_tier":false,"is_management_key":%t,`+
		`"is_provisioning_key":%t,"organization_id":null,"allowed_data_regions":["global"],`+
		`"free_model_daily_requests":{"limit":1000,"remaining":1000,"used":0},`+
		`"rate_limit":{"requests":-1,"interval":"10s","note":"This field is deprecated and safe to ignore."}}}`,
		a.usageFields(a.spending(now)), a.management, a.management))
}

// keysPerPage is how many keys a page of GET /keys holds.
const keysPerPage = 100

// keys answers GET /keys (https://openrouter.ai/docs/api-reference/list-api-keys): the ordinary keys of a
// workspace, of the default one where the request names none. The one that was added last comes first.
func (s *Server) keys(query url.Values) answer {
	offset, ok := number(query, "offset", 0)
	if !ok || offset < 0 {
		return errorAnswer(http.StatusBadRequest, "Invalid input: expected offset to be a whole number from 0 on")
	}
	disabled := query.Get("include_disabled")
	if disabled != "" && disabled != "true" && disabled != "false" {
		return errorAnswer(http.StatusBadRequest, "Invalid input: expected include_disabled to be true or false")
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	workspace, ok := s.workspace(query)
	if !ok {
		return errorAnswer(http.StatusNotFound, "Workspace not found")
	}
	var listed []string
	for _, a := range slices.Backward(s.ordinary()) {
		if !a.Deleted && a.Workspace == workspace && (!a.Disabled || disabled == "true") {
			if offset--; offset < 0 && len(listed) < keysPerPage {
				listed = append(listed, a.json(now))
			}
		}
	}
	return jsonAnswer(http.StatusOK, fmt.Appendf(nil, `{"data":[%s]}`, strings.Join(listed, ",")))
}

// keyOf answers GET /keys/{hash} (https://openrouter.ai/docs/api-reference/get-api-key).
func (s *Server) keyOf(hash string) answer {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	a, ok := s.byHash(hash)
	if !ok || a.Deleted {
		return errorAnswer(http.StatusNotFound, "API key not found")
	}
	return jsonAnswer(http.StatusOK, fmt.Appendf(nil, `{"data":%s}`, a.json(now)))
}

// byHash finds an ordinary key. The caller holds the lock.
func (s *Server) byHash(hash string) (*account, bool) {
	for _, a := range s.ordinary() {
		if a.Hash == hash {
			return a, true
		}
	}
	return nil, false
}

// ordinary returns the accounts of the keys that a management key sees, those that came first before the
// others. The caller holds the lock.
func (s *Server) ordinary() []*account {
	return slices.DeleteFunc(slices.Clone(s.inOrder), func(a *account) bool { return !a.valid || a.management })
}

// json describes a key as GET /keys does: the 21 fields of the recordings of 31 July 2026, and external_user,
// which the vendor's SDK of 23 September 2026 does not do without.
func (a *account) json(now time.Time) string {
	return fmt.Sprintf(`{"hash":%s,"name":%s,%s,"disabled":%t,"created_at":%s,"updated_at":null,"external_user":null}`,
		quote(a.Hash), quote(a.Name), a.usageFields(a.spending(now)), a.Disabled, timeOrNull(a.createdAt))
}

// credits answers GET /credits (https://openrouter.ai/docs/api-reference/get-credits): what the account has
// bought and used.
func (s *Server) credits() answer {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	used := sum{}
	for _, a := range s.ordinary() {
		used.add(a.spending(now).ever.charged.total())
	}
	return jsonAnswer(http.StatusOK, fmt.Appendf(nil, `{"data":{"total_credits":100000,"total_usage":%s}}`, used))
}
