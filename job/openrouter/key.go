package openrouter

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"usage-sync/store"
)

// KeyInfo is what OpenRouter says of a key (https://openrouter.ai/docs/api-reference/get-current-key). Amounts are US
// dollars; nil is an amount that the server does not name.
type KeyInfo struct {
	Label          string       // OpenRouter's own is the key itself, shortened: it is shortened further here
	Limit          *store.Money // nil: none
	LimitRemaining *store.Money // nil: no limit
	LimitReset     string       // daily, weekly, monthly, or empty: never

	// Usage is of all time, the others are of the current UTC day, the week from Monday on and the month.
	Usage, UsageDaily, UsageWeekly, UsageMonthly *store.Money

	FreeTier   bool
	Management bool
	ExpiresAt  time.Time // zero: never
}

// Key asks what OpenRouter knows of a key. It is the cheapest proof that one works.
func (c *Client) Key(ctx context.Context, key store.Key) (KeyInfo, error) {
	var info KeyInfo
	err := c.get(ctx, key, "key", nil, func(_ http.Header, body io.Reader) (err error) {
		info, err = decodeKey(body, key)
		return err
	})
	return info, err
}

// keyLimit bounds the answer about one key.
const keyLimit = 64 << 10

func decodeKey(body io.Reader, key store.Key) (KeyInfo, error) {
	text, err := io.ReadAll(io.LimitReader(body, keyLimit))
	if err != nil {
		return KeyInfo{}, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	var answer struct {
		Data *struct {
			Label          *string `json:"label"`
			Limit          amount  `json:"limit"`
			LimitRemaining amount  `json:"limit_remaining"`
			LimitReset     *string `json:"limit_reset"`
			Usage          amount  `json:"usage"`
			UsageDaily     amount  `json:"usage_daily"`
			UsageWeekly    amount  `json:"usage_weekly"`
			UsageMonthly   amount  `json:"usage_monthly"`
			FreeTier       bool    `json:"is_free_tier"`
			Management     bool    `json:"is_management_key"`
			Provisioning   bool    `json:"is_provisioning_key"` // the older name of the same
			ExpiresAt      *string `json:"expires_at"`
		} `json:"data"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return KeyInfo{}, fmt.Errorf("%w: not the expected JSON: %s", ErrAnswer, plain(err.Error(), key))
	}
	data := answer.Data
	if data == nil {
		return KeyInfo{}, fmt.Errorf("%w: no field named data", ErrAnswer)
	}
	info := KeyInfo{Limit: data.Limit.money, LimitRemaining: data.LimitRemaining.money, Usage: data.Usage.money,
		UsageDaily: data.UsageDaily.money, UsageWeekly: data.UsageWeekly.money, UsageMonthly: data.UsageMonthly.money,
		FreeTier: data.FreeTier, Management: data.Management || data.Provisioning}
	if data.Label != nil {
		info.Label = plainLabel(*data.Label, key)
	}
	if data.LimitReset != nil {
		info.LimitReset = plain(*data.LimitReset, key)
	}
	if data.ExpiresAt != nil && *data.ExpiresAt != "" {
		if info.ExpiresAt, err = ParseTime(*data.ExpiresAt, false); err != nil {
			return KeyInfo{}, fmt.Errorf("%w: expires_at %s", ErrAnswer, plain(err.Error(), key))
		}
	}
	return info, nil
}

// plainLabel shortens a label that shows a key's end as well as its start: "sk-or-v1-abc...789".
func plainLabel(label string, key store.Key) string {
	label = plain(label, key)
	if strings.HasPrefix(label, "sk-") {
		label = store.Key(strings.ReplaceAll(label, "...", "")).String()
	}
	return label
}

// amount is a nullable number of dollars, read from its text.
type amount struct{ money *store.Money }

func (a *amount) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		return nil
	}
	money, err := store.ParseMoney(strings.Trim(string(text), `"`))
	a.money = &money
	return err
}
