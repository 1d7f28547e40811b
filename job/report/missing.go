package report

import (
	"fmt"

	"usage-sync/store"
)

// forClients says what is missing without a cause or an amount: both may tell raw costs.
var forClients = map[store.GapKind]string{
	store.GapHistory:  "Usage %s, before recording began, is not included.",
	store.GapOutage:   "Usage %s was not recorded.",
	store.GapRefused:  "A request %s is not included, as its figures are not sound.",
	store.GapKey:      "Usage %s of an earlier key may be missing.",
	store.GapDelivery: "A request %s is not confirmed yet.",
	store.GapLost:     "Usage %s that was recorded has to be restored.",
	store.GapList:     "Usage %s may be incomplete.",
}

// Gaps names what is missing of the period, one sentence each.
func (s Statement) Gaps() (sentences []string) {
	for _, g := range s.Missing {
		if s.For == Client {
			text, known := forClients[g.Kind]
			if !known {
				text = "Usage %s may be missing."
			}
			sentences = append(sentences, fmt.Sprintf(text, g.Period(s.Zone)))
			continue
		}
		number := "Missing"
		if g.ID != 0 {
			number = fmt.Sprintf("Gap %d", g.ID)
		}
		sentences = append(sentences, fmt.Sprintf("%s: %s.", number, plain(g.Words(s.Zone))))
	}
	return sentences
}
