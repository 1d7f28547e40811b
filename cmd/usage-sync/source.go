package main

import (
	"context"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// sourceFlags choose where usage is read from.
type sourceFlags struct {
	managementFlag
	BaseURL string `name:"base-url" placeholder:"URL" env:"OPENROUTER_BASE_URL" default:"https://openrouter.ai/api/v1" help:"OpenRouter, or a compatible gateway; https, or http to a loopback address."`
	Source  string `enum:"auto,generations,analytics" env:"USAGE_SYNC_SOURCE" default:"auto" help:"Where usage is read from: generations (a gateway's list), analytics (OpenRouter's own, with a management key), or auto."`
}

// sources are the ways to usage: the analytics are one of them where there is a management key.
func (f sourceFlags) sources(ctx context.Context, client *openrouter.Client, db *store.Store) (job.Sources, error) {
	sources := job.Sources{Choice: f.Source, OpenRouter: client.IsOpenRouter(),
		Generations: func() job.Source { return openrouter.NewGenerations(client) }}
	key, _, err := f.managementKey(ctx, db)
	if key != "" {
		management := openrouter.NewManagement(client, key)
		sources.Account = management
		sources.Analytics = func() job.AnalyticsSource { return openrouter.NewAnalytics(client, management, db.Unrecorded) }
	}
	return sources, err
}
