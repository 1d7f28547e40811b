package monitor

import (
	"context"

	"usage-sync/store"
)

// JudgeLimit knows the limit of the month alone: client_organizations.monthly_limit.
func JudgeLimit(_ context.Context, _ *store.Store, usage store.Usage) (Judgement, error) {
	if usage.Organisation.MonthlyLimit <= 0 {
		return Judgement{}, nil
	}
	limit := usage.Organisation.MonthlyLimit.Float()
	return Judgement{Limit: &limit}, nil
}
