package openrouter

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
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

	Name  string // what the account calls it; empty where the server says it to the key itself
	label string // as the server says it
}

// usageLag bounds by how much what two answers say of the usage of one key may differ: counters lag a spend by 30 to 40
// seconds (seen live, Sep 2026).
const usageLag = 10 * store.Dollar

// Differs names the first respect in which two answers can't be about the same key: label, limit, limit_reset,
// expires_at or usage. It is empty where they agree.
func (k KeyInfo) Differs(from KeyInfo) string {
	same := func(a, b *store.Money, within store.Money) bool {
		if a == nil || b == nil {
			return a == b
		}
		return *a-*b <= within && *b-*a <= within
	}
	switch {
	case k.label == "" || k.label != from.label:
		return "label"
	case !same(k.Limit, from.Limit, 0):
		return "limit"
	case k.LimitReset != from.LimitReset:
		return "limit_reset"
	case !k.ExpiresAt.Equal(from.ExpiresAt):
		return "expires_at"
	case !same(k.Usage, from.Usage, usageLag):
		return "usage"
	}
	return ""
}

// OwnKey is what the server says to a key of the account's.
func (m *Management) OwnKey(ctx context.Context, key store.Key) (KeyInfo, error) {
	return m.client.Key(ctx, key)
}

// KeyOf is what the server says of the account's key with a hash
// (https://openrouter.ai/docs/api-reference/get-api-key). It is ErrKeyHash where the account has none.
func (m *Management) KeyOf(ctx context.Context, hash string) (info KeyInfo, err error) {
	get := request{method: http.MethodGet, key: m.key, path: "keys/" + url.PathEscape(hash), manages: true}
	err = m.client.send(ctx, get, func(_ http.Header, body io.Reader) (err error) {
		info, err = decodeKey(body, m.key)
		return err
	})
	var apiErr *APIError
	if errors.As(err, &apiErr) && apiErr.NotOffered() {
		return info, fmt.Errorf("%w %s… is not known to %s", ErrKeyHash, shorten(hash), m.client.base.Host)
	}
	return info, err
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
			Name           string  `json:"name"`
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
		Name: Label(data.Name), FreeTier: data.FreeTier, Management: data.Management || data.Provisioning}
	if data.Label != nil {
		info.label, info.Label = *data.Label, plainLabel(*data.Label, key)
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
