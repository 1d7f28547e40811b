package standin

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// activityDays is how many completed days GET /activity reaches back.
const activityDays = 30

// activity answers GET /activity (https://openrouter.ai/docs/api-reference/get-user-activity): the completed
// days of the last 30 in UTC, newest first, one row for each model and provider of a day. Their usage is what
// was charged: that of keys of the client's own stands beside it. A hash that no key has gives no rows.
// Whether runs of server tools count as requests is unproven; here they do not.
func (s *Server) activity(query url.Values) answer {
	now := s.now()
	end := dayOf(now)
	start := end.AddDate(0, 0, -activityDays)
	if query.Has("date") {
		day, err := time.Parse(time.DateOnly, query.Get("date"))
		if err != nil || day.Before(start) || !day.Before(end) {
			return errorAnswer(http.StatusBadRequest, "Date must be within the last 30 (completed) UTC days, "+
				"in YYYY-MM-DD format")
		}
		start, end = day, day.AddDate(0, 0, 1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	accounts := s.ordinary()
	if query.Has("api_key_hash") && !s.quirks.AnyActivity {
		accounts = nil
		if a, ok := s.byHash(query.Get("api_key_hash")); ok {
			accounts = []*account{a}
		}
	}
	layout := time.DateOnly
	if s.otherDates {
		layout = time.DateTime
	}
	rows := slices.DeleteFunc(used(accounts, start, end, now), func(u *usage) bool {
		return s.quirks.ActivityWithout != "" && u.model == s.quirks.ActivityWithout
	})
	listed := make([]string, len(rows))
	for i, u := range rows {
		listed[i] = u.json(layout)
	}
	return jsonAnswer(http.StatusOK, fmt.Appendf(nil, `{"data":[%s]}`, strings.Join(listed, ",")))
}

// usage is a row of GET /activity.
type usage struct {
	day                                     time.Time
	model, permaslug, provider              string
	requests, prompt, completion, reasoning int64
	cost, byok                              sum
}

// used sums generations up by day, permanent name of the model, and provider.
func used(accounts []*account, start, end, now time.Time) []*usage {
	type group struct {
		day                        int64
		model, permaslug, provider string
	}
	const secondsOfDay = 24 * 60 * 60
	groups := map[group]*usage{}
	var all []*usage
	for _, a := range accounts {
		for _, r := range a.between(start, end) {
			if !r.counts(now) {
				continue
			}
			g := group{r.CreatedAt.Unix() / secondsOfDay, r.Model, r.Permaslug, r.Provider}
			u, ok := groups[g]
			if !ok {
				u = &usage{day: dayOf(r.CreatedAt), model: r.Model, permaslug: r.Permaslug, provider: r.Provider,
					cost: sum{}, byok: sum{}}
				groups[g] = u
				all = append(all, u)
			}
			u.requests += r.requests()
			u.prompt += r.PromptTokens
			u.completion += r.CompletionTokens
			u.reasoning += r.reasoning()
			u.cost.add(r.cost)
			u.byok.add(r.upstream)
		}
	}
	slices.SortFunc(all, func(x, y *usage) int {
		return cmp.Or(y.day.Compare(x.day), cmp.Compare(x.model, y.model), cmp.Compare(x.permaslug, y.permaslug),
			cmp.Compare(x.provider, y.provider))
	})
	return all
}

func (u *usage) json(layout string) string {
	endpoint := sha256Hex(u.permaslug + "\n" + u.provider)
	return fmt.Sprintf(`{"date":"%s","model":%s,"model_permaslug":%s,"endpoint_id":"%s-%s-4%s-8%s-%s","provider_name":%s,"usage":%s,`+
		`"byok_usage_inference":%s,"requests":%d,"prompt_tokens":%d,"completion_tokens":%d,"reasoning_tokens":%d}`,
		u.day.Format(layout), quote(u.model), quote(u.permaslug), endpoint[:8], endpoint[8:12],
		endpoint[12:15], endpoint[15:18], endpoint[18:30], quote(u.provider), u.cost, u.byok, u.requests,
		u.prompt, u.completion, u.reasoning)
}
