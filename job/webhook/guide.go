package webhook

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// guide is the payload of the deployment guide: {"api_key", "user_id"?, "model", "tokens_used", "cost", "timestamp",
// "external_user"?, "request_id"?}.
type guide struct {
	usage     Usage
	user      string // user_id
	problem   string // why it can't be billed
	met       map[string]bool
	fields    int // that it knows
	others    int
	hasTokens bool
	hasCost   bool
}

// guideLabels are the fields that only say what a charge is called.
var guideLabels = []string{"user_id", "external_user", "model"}

func (*guide) knows(name string) bool {
	switch name {
	case "api_key", "user_id", "model", "tokens_used", "cost", "timestamp", "external_user", "request_id":
		return true
	}
	return false
}

func (d *decoder) guideField(g *guide, name string) error {
	g.fields++
	if g.met == nil {
		g.met = map[string]bool{}
	}
	if g.met[name] && !slices.Contains(guideLabels, name) {
		g.refuse("%s is given twice", name)
	}
	g.met[name] = true
	v, err := d.scalar()
	if err != nil || !v.given() {
		return err
	}
	var problem error
	switch name {
	case "api_key":
		var key string
		key, problem = v.asText()
		g.usage.Key = store.Key(key)
	case "user_id":
		g.user = v.asLabel()
	case "external_user":
		g.usage.User = v.asLabel()
	case "model":
		g.usage.Model = v.asLabel()
	case "request_id":
		g.usage.ID, problem = v.asText()
	case "tokens_used":
		g.usage.Tokens, problem = v.asTokens()
		g.hasTokens = true
	case "cost":
		g.usage.Cost, problem = v.asCost()
		g.hasCost = true
	case "timestamp":
		g.usage.CreatedAt, problem = v.asTime()
	}
	if problem != nil {
		g.refuse("%s %v", name, problem)
	}
	return nil
}

func (g *guide) refuse(format string, args ...any) {
	if g.problem == "" {
		g.problem = fmt.Sprintf(format, args...)
	}
}

// into adds the payload's one generation to what is usable or refused.
func (g *guide) into(p *Payload) {
	u := g.usage
	if u.User == "" {
		u.User = g.user
	}
	switch {
	case u.Key == "":
		g.refuse("no api_key")
	case !g.hasTokens:
		g.refuse("no tokens_used")
	case !g.hasCost:
		g.refuse("no cost")
	case u.CreatedAt.IsZero():
		g.refuse("no timestamp")
	}
	if g.problem != "" {
		id := u.ID
		if id == "" {
			id = "without a request_id"
		}
		p.Refused = append(p.Refused, openrouter.Refusal{ID: openrouter.Plain(id, u.Key), CreatedAt: u.CreatedAt,
			Reason: openrouter.Plain(g.problem, u.Key)})
		return
	}
	if u.ID == "" {
		u.ID = hashID(string(u.Key), u.User, u.Model, strconv.FormatInt(u.Tokens, 10),
			strconv.FormatInt(int64(u.Cost), 10), u.CreatedAt.UTC().Format(time.RFC3339Nano))
	}
	u.Model = store.ModelName(u.Model)
	p.Usage = append(p.Usage, u)
}

// hashID is the ledger id of usage that comes without one: the same for each repetition, however it is spelled.
func hashID(parts ...string) string {
	h := sha256.New()
	for _, part := range parts {
		fmt.Fprintf(h, "%d:%s", len(part), part)
	}
	return fmt.Sprintf("webhook-%x", h.Sum(nil)[:16])
}

// asTime reads a time in any way in which one comes from outside.
func (v value) asTime() (time.Time, error) {
	switch {
	case v.long:
		return time.Time{}, errTooLong
	case v.kind == '0', v.kind == '"':
		return openrouter.ParseTime(v.text, v.kind == '0')
	}
	return time.Time{}, errNotTime
}
