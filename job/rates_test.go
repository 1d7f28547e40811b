package job_test

import (
	"fmt"
	"testing"
	"time"

	"usage-sync/job/openrouter/standin"
)

// TestPricesByTheTimeOfUse: what is recorded after a change of the rate, and was used before it, is billed at the rate of then.
func TestPricesByTheTimeOfUse(t *testing.T) {
	raise := func(w *world, rate float64, at time.Time) {
		w.exec(`update client_organizations set markup_rate = ?, updated_at = ?`, rate, at.Unix())
	}
	const billed = `select cast(round(coalesce(sum(markup_cost), 0), 6) as text) from client_model_daily_usage`
	used := func(id, when string) func(*world) {
		return func(w *world) {
			g := generation(id, at(when))
			g.Cost = "100"
			w.api.Add(keyOf("acme"), g)
		}
	}
	october := func(t *testing.T) *world {
		w := newWorld(t, at("2026-10-31T12:00:00Z"), client("acme", ""))
		w.sync()
		used("late", "2026-10-31T18:00:00Z")(w)
		return w
	}
	t.Run("Late", func(t *testing.T) {
		w := october(t)
		raise(w, 2, at("2026-10-01T00:00:00Z")) // which says nothing: a pass has seen the old rate since
		w.at(at("2026-11-01T08:00:00Z")).sync()
		w.want("October", w.text(billed), "130.0")
		w.wantLog("markup rate of The acme was 1.3 and is 2")
		// The new rate holds from the pass that has seen it.
		used("old", "2026-11-01T07:59:59Z")(w)
		used("new", "2026-11-01T08:00:00Z")(w)
		w.later(time.Hour).sync()
		w.want("November", w.text(billed+` where usage_date = '2026-11-01'`), "330.0")
		w.check("acme")
	})
	t.Run("ByTheRowsOwnTime", func(t *testing.T) {
		w := october(t)
		used("after", "2026-10-31T20:00:00Z")(w)
		raise(w, 2, at("2026-10-31T19:00:00Z"))
		w.at(at("2026-11-01T08:00:00Z")).sync()
		w.want("October", w.text(billed), "330.0")
	})
	t.Run("NotOfTheFuture", func(t *testing.T) {
		w := october(t)
		raise(w, 2, at("2030-10-31T19:00:00Z"))
		w.at(at("2026-11-01T08:00:00Z")).sync()
		w.want("October", w.text(billed), "130.0")
	})
	t.Run("SeenByAPassThatFails", func(t *testing.T) {
		w := october(t)
		raise(w, 2, at("2026-10-01T00:00:00Z"))
		w.at(at("2026-11-01T08:00:00Z"))
		refused := standin.Status(401, "")
		w.api.Always(&refused)
		if w.pass().Err == nil {
			t.Error("no failure")
		}
		w.api.Always(nil)
		used("after", "2026-11-01T09:00:00Z")(w)
		w.later(2 * time.Hour).sync()
		w.want("both", w.text(billed), "330.0")
	})
	t.Run("BackAndForth", func(t *testing.T) {
		w := newWorld(t, at("2026-10-31T12:00:00Z"), client("acme", ""))
		w.sync()
		for i, rate := range []float64{2, 1.3, 3} {
			raise(w, rate, at("2026-10-01T00:00:00Z"))
			w.later(time.Hour).sync()
			used(fmt.Sprint(i), fmt.Sprintf("2026-10-31T%d:30:00Z", 13+i))(w)
		}
		w.later(time.Hour).sync()
		w.want("all", w.text(billed), "630.0")
		w.want("rates", w.text(`select count(*) from usage_sync_rates`), "4")
	})
	t.Run("TheDefaultRate", func(t *testing.T) {
		w := newWorld(t, at("2026-10-31T12:00:00Z"), client("acme", ""))
		w.exec(`update client_organizations set markup_rate = null, updated_at = 1`)
		w.exec(`insert into global_settings values ('1', null, 1.3, 'USD', 1, 1)`)
		w.sync()
		used("before", "2026-10-31T18:00:00Z")(w)
		used("after", "2026-10-31T20:00:00Z")(w)
		w.exec(`update global_settings set default_markup_rate = 2, updated_at = ?`, at("2026-10-31T19:00:00Z").Unix())
		w.at(at("2026-11-01T08:00:00Z")).sync()
		w.want("October", w.text(billed), "330.0")
	})
	t.Run("RaisedTogetherWithTheUpgrade", func(t *testing.T) {
		w := october(t)
		w.at(at("2026-10-31T19:00:00Z")).sync()
		w.want("October", w.text(billed), "130.0")
		w.exec(`delete from usage_sync_rates`) // as a version without the table has left it
		raise(w, 2, at("2026-10-01T00:00:00Z"))
		used("later", "2026-10-31T20:00:00Z")(w)
		w.at(at("2026-11-01T08:00:00Z")).sync()
		w.want("October", w.text(billed), "260.0")
	})
	t.Run("DryRun", func(t *testing.T) {
		w := october(t)
		raise(w, 2, at("2026-10-01T00:00:00Z"))
		o := w.at(at("2026-11-01T08:00:00Z")).sync(dryRun)
		w.want("shown", o.Run.Markup.String(), "130.000000")
		w.want("rates", w.text(`select count(*) from usage_sync_rates`), "1")
	})
}
