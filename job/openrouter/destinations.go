package openrouter

import (
	"context"
	"net/url"
)

// Destination is where OpenRouter broadcasts what keys of a workspace are used for
// (https://openrouter.ai/docs/api-reference/observability/list-observability-destinations, 22 Aug 2026).
type Destination struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Enabled *bool    `json:"enabled"`        // nil is on
	Hashes  []string `json:"api_key_hashes"` // nil is all keys of the workspace
	Rate    *float64 `json:"sampling_rate"`  // nil is 1: everything
	// The switches for cost and identity; nil is on. The second has been seen under two names.
	Cost        *bool `json:"broadcast_generation_cost"`
	Identity    *bool `json:"broadcast_generation_identity"`
	IdentityToo *bool `json:"broadcast_identity"`
	FilterRules any   `json:"filter_rules"`
}

// IsWebhook tells whether it delivers to a webhook, and is on.
func (d Destination) IsWebhook() bool { return d.Type == "webhook" && !isOff(d.Enabled) }

// Lacks says what keeps deliveries from being whole, or telling whose they are; empty is nothing.
func (d Destination) Lacks() (lacks []string) {
	for _, fault := range []struct {
		is   bool
		text string
	}{
		{d.Hashes == nil, "delivers the usage of all keys of its workspace, other clients' included"},
		{isOff(d.Identity) || isOff(d.IdentityToo), "does not say whose usage it is: identity is off"},
		{isOff(d.Cost), "does not say what it cost"},
		{d.Rate != nil && *d.Rate < 1, "delivers a sample alone"},
		{d.FilterRules != nil, "is filtered"},
	} {
		if fault.is {
			lacks = append(lacks, fault.text)
		}
	}
	return lacks
}

func isOff(on *bool) bool { return on != nil && !*on }

// Destinations returns those of all workspaces of the account. A server that does not offer the list is ErrNoSource.
func (m *Management) Destinations(ctx context.Context) (all []Destination, err error) {
	workspaces, err := m.workspaces(ctx)
	if err != nil {
		return nil, err
	}
	for _, workspace := range workspaces {
		query := url.Values{}
		if workspace != "" {
			query.Set("workspace_id", workspace)
		}
		var some []Destination
		if _, err := m.list(ctx, "observability/destinations", query, &some); err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}
