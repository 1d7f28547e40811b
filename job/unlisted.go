package job

import (
	"fmt"
	"strings"
	"time"

	"usage-sync/store"
)

const (
	// ListedWithin is after how long what was delivered must be listed: the time that each pass fetches again.
	ListedWithin = overlap
	// edge is by how much a delivery and a list may differ on when a generation was made.
	edge = time.Minute
)

// noteUnlisted names deliveries of the time that a complete pass has listed which the list does not have: the
// generation may be that of another key, or listed under another id and billed twice. Each is told once, and is
// a gap until it is listed, moved or taken away by reconcile, or accepted.
func (s *syncing) noteUnlisted() error {
	if err := s.Store.CloseListedDeliveries(s.ctx, s.org.ID, s.window.to); err != nil {
		return err
	}
	unlisted, err := s.Store.Unlisted(s.ctx, s.org.ID, s.window.since.Add(edge), s.soundUntil().Add(-ListedWithin))
	if err != nil || len(unlisted) == 0 {
		return err
	}
	gaps, err := s.Store.Gaps(s.ctx, store.GapFilter{Organisations: []string{s.org.ID}, Kind: store.GapDelivery})
	if err != nil {
		return err
	}
	told := map[string]bool{}
	for _, g := range gaps {
		if g.IsOpen() || g.Accepted {
			told[g.Subject] = true
		}
	}
	var news []string
	for _, d := range unlisted {
		if told[d.ID] {
			continue
		}
		gap := s.noteGap(store.GapDelivery, d.ID, d.CreatedAt, d.CreatedAt.Add(time.Second), fmt.Sprintf(
			"%s (%s, %s) was delivered, and the complete list of its time does not have it", d.ID, d.Model,
			store.Counted(d.Tokens, "token")))
		cost := d.Cost
		gap.Raw = &cost
		news = append(news, d.ID)
	}
	s.tellUnlisted(news)
	return nil
}

// tellUnlisted names deliveries in the log and in the history.
func (s *syncing) tellUnlisted(ids []string) {
	if len(ids) == 0 {
		return
	}
	const most = 5
	names := strings.Join(ids[:min(most, len(ids))], ", ")
	if len(ids) > most {
		names += fmt.Sprintf(" and %d more", len(ids)-most)
	}
	text := fmt.Sprintf("%s delivered and never listed: %s", store.Counted(len(ids), "generation"), names)
	s.note(text)
	s.Log.Warn(fmt.Sprintf("%s: %s. usage-sync reconcile --org %s shows what they resemble; --fix moves them "+
		"to the listed id", s.org.Name, text, s.org.ID))
}
