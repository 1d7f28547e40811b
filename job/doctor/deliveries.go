package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"usage-sync/job/openrouter"
)

// selectKey says how a destination gets to deliver one client's usage alone.
const selectKey = "at OpenRouter, Settings > Observability > the webhook > API keys: select this client's " +
	"key alone, and leave cost " +
	"and identity on"

// checkDeliveries looks at where deliveries come from, where there have been any.
func (e *examination) checkDeliveries(ctx context.Context) []Finding {
	met, err := e.db.HasDeliveries(ctx)
	if err != nil {
		return []Finding{failed(err, "")}
	}
	if !met {
		return nil
	}
	sources, err := e.Sources(ctx, e.db)
	if err != nil {
		return []Finding{failed(err, "")}
	}
	if sources.Account == nil {
		return []Finding{ok("come in; without a management key it is not known which keys their destination "+
			"has selected: %s", selectKey)}
	}
	all, err := sources.Account.Destinations(ctx)
	switch {
	case errors.Is(err, openrouter.ErrNoSource):
		return []Finding{ok("come in; the server does not tell its destinations: %s", selectKey)}
	case err != nil:
		return []Finding{failed(fmt.Errorf("destinations: %w", err), "")}
	}
	var findings []Finding
	webhooks := 0
	for _, d := range all {
		if !d.IsWebhook() {
			continue
		}
		webhooks++
		if lacks := d.Lacks(); len(lacks) > 0 {
			findings = append(findings, warning(selectKey, "the destination %q %s", d.Name, strings.Join(lacks, ", ")))
		}
	}
	if len(findings) == 0 {
		findings = append(findings, ok("%d webhooks of the account, each with keys selected, cost and identity",
			webhooks))
	}
	return findings
}
