package job_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
	"usage-sync/job/reconcile"
	"usage-sync/store"
)

const replacement = "sk-or-v1-fedc3210-acme-anew"

var replacementHash = strings.Repeat("d0e1", 16)

// rotationWorld has one organisation whose key was used for a quarter of a dollar, which a pass has recorded.
func rotationWorld(t *testing.T, options ...option) *world {
	t.Helper()
	w := newWorld(t, noon, client("acme", "")).manage()
	w.api.SetKey(keyOf("acme"), standin.Key{Name: "Acme", Hash: hash})
	w.use(keyOf("acme"), "before", 25)
	w.sync(options...)
	w.wantTotal("acme", 2500, 25, 0.25)
	return w
}

// use has a key be used for some cents within the last minutes.
func (w *world) use(key, prefix string, cents int) {
	w.api.Add(key, generations(prefix, cents, w.now().Add(-time.Second), time.Second)...)
}

// rotate has the organisation have another key.
func (w *world) rotate(key, hash string) {
	if w.api.KeyHash(key) == "" {
		w.api.SetKey(key, standin.Key{Name: "Acme, new", Hash: hash})
	}
	w.exec(`update client_organizations set openrouter_api_key = ? where id = 'acme'`, key)
}

func (w *world) openGaps() string {
	w.Helper()
	return w.text(`select coalesce(group_concat(kind || ' ' || substr(subject, 1, 4) || ' ' || (gap_until - gap_from)), '')
		from usage_sync_gaps where closed_at is null`)
}

// TestRotation: what both keys were used for is billed, whatever comes first.
func TestRotation(t *testing.T) {
	analytics := from(job.SourceAnalytics)
	t.Run("the column is left behind", func(t *testing.T) {
		w := newWorld(t, noon, client("acme", "")).manage()
		w.api.SetKey(keyOf("acme"), standin.Key{Name: "Acme", Hash: hash})
		w.exec(`update client_organizations set openrouter_key_hash = ?`, hash)
		w.use(keyOf("acme"), "old", 1)
		w.sync(analytics)
		w.rotate(replacement, replacementHash)
		w.later(10 * time.Minute)
		w.use(replacement, "new", 50)
		w.sync(analytics)
		w.wantTotal("acme", 5100, 51, 0.51)
		w.wantLog("openrouter_key_hash of The acme is the hash of a former key")
		w.want("gaps", w.openGaps(), "")
	})
	t.Run("the host's word is left behind, and follows", func(t *testing.T) {
		w := rotationWorld(t, analytics)
		pinned := func(p *job.Pass) { p.Sources.HostKeyHash = hash }
		w.later(time.Minute).sync(analytics, pinned)
		w.rotate(replacement, replacementHash)
		w.later(10 * time.Minute)
		w.use(replacement, "new", 50)
		w.sync(analytics, pinned)
		w.wantTotal("acme", 7500, 75, 0.75)
		w.wantLog("USAGE_SYNC_KEY_HASH of The acme is the hash of a former key")
		w.later(time.Minute).wantAsked("analytics", analyticsAlone, analytics, pinned)
		w.later(time.Minute).wantAsked("analytics", analyticsAlone, analytics, func(p *job.Pass) { p.Sources.HostKeyHash = replacementHash })
		w.wantTotal("acme", 7500, 75, 0.75)
	})
	t.Run("the host names another hash of the same key", func(t *testing.T) {
		w := rotationWorld(t, analytics)
		w.api.SetKey(replacement, standin.Key{Name: "Acme, too", Hash: replacementHash})
		w.use(replacement, "new", 50)
		w.use(keyOf("acme"), "tail", 5)
		w.later(2*time.Hour).sync(analytics, func(p *job.Pass) { p.Sources.HostKeyHash = replacementHash })
		w.wantTotal("acme", 8000, 80, 0.8)
	})
	t.Run("between the last pass and the change", func(t *testing.T) {
		w := rotationWorld(t, analytics)
		w.later(5 * time.Minute)
		w.use(keyOf("acme"), "tail", 26)
		w.api.SetKey(keyOf("acme"), standin.Key{Name: "Acme", Hash: hash, Deleted: true})
		w.rotate(replacement, replacementHash)
		w.later(5 * time.Minute)
		w.use(replacement, "new", 25)
		w.sync(analytics)
		w.wantTotal("acme", 7600, 76, 0.76)
		w.want("gaps", w.openGaps(), "")
	})
	t.Run("both in use for days, before the change and after it", func(t *testing.T) {
		w := rotationWorld(t, analytics)
		w.api.SetKey(replacement, standin.Key{Name: "Acme, new", Hash: replacementHash})
		for range 30 { // traffic moves while the row still has the old key
			w.later(time.Hour)
			w.use(replacement, fmt.Sprint("early-", w.now().Unix()), 1)
			w.sync(analytics)
		}
		w.wantTotal("acme", 2500, 25, 0.25)
		w.rotate(replacement, replacementHash)
		for range 30 {
			w.later(time.Hour)
			w.use(keyOf("acme"), fmt.Sprint("late-", w.now().Unix()), 1)
			w.sync(analytics)
		}
		w.wantTotal("acme", 8500, 85, 0.85)
	})
	t.Run("twice in a day, and back", func(t *testing.T) {
		w := rotationWorld(t, analytics)
		third := "sk-or-v1-3333-acme-third"
		for i, key := range []string{replacement, third, keyOf("acme"), third} {
			w.later(time.Hour)
			w.use(keyOf("acme"), fmt.Sprint("a-", i), 1)
			w.rotate(key, strings.Repeat(fmt.Sprint(i), 64))
			w.use(key, fmt.Sprint("b-", i), 2)
			w.sync(analytics)
		}
		w.wantTotal("acme", 3700, 37, 0.37)
		w.want("gaps", w.openGaps(), "")
	})
	t.Run("a pass that fails with the new key", func(t *testing.T) {
		w := rotationWorld(t, analytics)
		w.rotate(replacement, replacementHash)
		w.use(replacement, "new", 5)
		w.later(10 * time.Minute)
		broken := standin.Status(403, "")
		w.api.AlwaysAt("/analytics/query", &broken)
		if o := w.pass(analytics); o.Err == nil {
			t.Fatal("want an error")
		}
		w.api.AlwaysAt("/analytics/query", nil)
		w.later(3 * time.Hour).sync(analytics)
		w.wantTotal("acme", 3000, 30, 0.3)
	})
}

// TestReconcileAfterRotation: OpenRouter's own figures are those of all keys of the organisation. Asked by the new key alone
// they would show too much recorded, and by the former one that nothing is missing.
func TestReconcileAfterRotation(t *testing.T) {
	w := rotationWorld(t, from(job.SourceAnalytics))
	w.rotate(replacement, replacementHash)
	w.later(10 * time.Minute)
	w.use(keyOf("acme"), "tail", 5)
	w.use(replacement, "new", 50)
	w.sync(from(job.SourceAnalytics))
	w.at(noon.Add(24 * time.Hour)).sync(from(job.SourceAnalytics))
	c := w.compare(period(reconcile.Period{From: "2026-05-14", To: "2026-05-14"}))
	if c.Err != nil || len(c.Rows) == 0 || c.Differences() > 0 {
		t.Errorf("%v, %+v", c.Err, c.Rows)
	}
	w.exec(`delete from processed_generations where id like 'new%'`)
	w.exec(`delete from usage_sync_generations where id like 'new%'`)
	w.exec(`update client_model_daily_usage set total_requests = total_requests - 50, raw_cost = raw_cost - 0.5`)
	if c := w.compare(period(reconcile.Period{From: "2026-05-14", To: "2026-05-14"})); c.Differences() == 0 {
		t.Errorf("no difference: %+v", c.Rows)
	}
}

// TestRotationCostsNoRequest: two keys take as many requests as one, and the former one is dropped when it was quiet for as
// long as any query reaches.
func TestRotationCostsNoRequest(t *testing.T) {
	w := rotationWorld(t, from(job.SourceAnalytics))
	w.rotate(replacement, replacementHash)
	w.use(replacement, "new", 1)
	w.later(time.Minute).wantAsked("analytics", "workspaces keys keys key keys/"+replacementHash+" "+analyticsAlone,
		from(job.SourceAnalytics))
	for range 3 {
		w.later(time.Minute).wantAsked("analytics", analyticsAlone, from(job.SourceAnalytics))
	}
	body := w.api.Requests()[len(w.api.Requests())-1].Body
	if !strings.Contains(body, `"operator":"in"`) || !strings.Contains(body, hash) || !strings.Contains(body, replacementHash) {
		t.Errorf("asked %s", body)
	}
	w.later(10 * 24 * time.Hour)
	w.use(keyOf("acme"), "late", 1) // somewhere it is still in use
	w.sync(from(job.SourceAnalytics))
	w.wantTotal("acme", 2700, 27, 0.27)
	for day := range 40 {
		w.later(24 * time.Hour).sync(from(job.SourceAnalytics))
		dropped := w.text(`select count(*) from usage_sync_keys where dropped_at is not null`)
		if (day < 30 && dropped != "0") || (day > 31 && dropped != "1") {
			t.Fatalf("%d days after its last use %s keys are dropped", day+1, dropped)
		}
	}
	w.want("history", w.text(`select count(*) from usage_sync_runs where note like '%former key 4a5e4a5e… was not used since%'`), "1")
	w.later(time.Minute).wantAsked("analytics", analyticsAlone, from(job.SourceAnalytics))
	if body := w.api.Requests()[len(w.api.Requests())-1].Body; strings.Contains(body, hash) {
		t.Errorf("the former key is still asked for: %s", body)
	}
	w.want("gaps", w.openGaps(), "")
	// It is back after all.
	w.use(keyOf("acme"), "again", 3)
	w.rotate(keyOf("acme"), hash)
	w.later(time.Minute).sync(from(job.SourceAnalytics))
	w.wantTotal("acme", 3000, 30, 0.3)
}

// TestRotationWithoutSight: where nothing shows the former key's usage, it is known to be missing.
func TestRotationWithoutSight(t *testing.T) {
	t.Run("the list", func(t *testing.T) {
		w := rotationWorld(t)
		w.later(5 * time.Minute)
		w.use(keyOf("acme"), "tail", 26)
		w.rotate(replacement, replacementHash)
		w.later(5 * time.Minute)
		w.use(replacement, "new", 25)
		w.sync()
		w.wantTotal("acme", 5000, 50, 0.5)
		mark := store.KeyMark(store.Key(keyOf("acme")))
		w.want("gaps", w.openGaps(), fmt.Sprintf("key %s %d", mark[:4], (36*60+10)*60))
		w.wantLog("may be missing")
		w.later(10 * time.Minute).sync()
		w.want("gaps", w.openGaps(), fmt.Sprintf("key %s %d", mark[:4], (36*60+10)*60))
		// The old key comes back, and with it what was missing.
		w.rotate(keyOf("acme"), hash)
		w.later(10 * time.Minute).sync()
		w.wantTotal("acme", 7600, 76, 0.76)
		w.want("gaps", w.openGaps(), fmt.Sprintf("key %s %d", store.KeyMark(replacement)[:4], (36*60+30)*60))
	})
	t.Run("a deleted key that the analytics forget", func(t *testing.T) {
		w := rotationWorld(t, from(job.SourceAnalytics))
		w.later(5 * time.Minute)
		w.use(keyOf("acme"), "tail", 26)
		w.rotate(replacement, replacementHash)
		w.api.SetKey(keyOf("acme"), standin.Key{Name: "Acme", Hash: hash, Deleted: true})
		w.api.Play(standin.Quirks{ForgetDeleted: true})
		w.later(5 * time.Minute)
		w.use(replacement, "new", 25)
		w.sync(from(job.SourceAnalytics))
		w.wantTotal("acme", 5000, 50, 0.5)
		w.want("gaps", w.openGaps(), fmt.Sprintf("key 4a5e %d", (36*60+10)*60))
		w.later(time.Minute).wantAsked("analytics", analyticsAlone, from(job.SourceAnalytics))
	})
	t.Run("a server that takes one key at a time", func(t *testing.T) {
		w := rotationWorld(t, from(job.SourceAnalytics))
		w.later(5 * time.Minute)
		w.use(keyOf("acme"), "tail", 26)
		w.rotate(replacement, replacementHash)
		w.api.Play(standin.Quirks{OneKey: true})
		w.use(replacement, "new", 25)
		w.later(time.Minute).sync(from(job.SourceAnalytics))
		w.wantTotal("acme", 7600, 76, 0.76)
		w.want("gaps", w.openGaps(), "")
	})
}

// TestCopiedDatabase: a copy for another client remembers the first client's keys, and is billed nothing of theirs.
func TestCopiedDatabase(t *testing.T) {
	for name, change := range map[string]string{
		"the key alone":                 `select 1`,
		"with its name":                 `update client_organizations set name = 'Globex'`,
		"under another id":              `update client_organizations set id = 'globex', name = 'Globex'`,
		"with the column set to null":   `update client_organizations set openrouter_key_hash = null`,
		"under another id, and no hash": `update client_organizations set id = 'globex', openrouter_key_hash = null`,
	} {
		t.Run(name, func(t *testing.T) {
			w := rotationWorld(t, from(job.SourceAnalytics))
			w.exec(`update client_organizations set openrouter_key_hash = ?`, hash)
			w.later(time.Minute).sync(from(job.SourceAnalytics))
			path := filepath.Join(t.TempDir(), "webui.db")
			copyFile(t, w.path, path)
			c := openWorld(t, path, w.now())
			defer c.close()
			c.api, c.managementKey = w.api, w.managementKey
			c.http.Config.Handler = w.api
			c.later(5 * time.Minute)
			w.later(5 * time.Minute)
			w.use(keyOf("acme"), "theirs", 26)
			c.exec(change)
			c.api.SetKey(replacement, standin.Key{Name: "Globex", Hash: replacementHash})
			c.exec(`update client_organizations set openrouter_api_key = ?`, replacement)
			c.use(replacement, "ours", 3)
			ledger := c.text(`select count(*) from processed_generations`)
			for range 3 {
				c.later(time.Minute).pass(from(job.SourceAnalytics))
			}
			c.want("billed of the first client's", c.text(`select count(*) from processed_generations where id like 'theirs%'`), "0")
			switch name {
			case "under another id": // the column is the first client's hash
				c.want("ledger", c.text(`select count(*) from processed_generations`), ledger)
			default:
				c.want("billed of the new client's", c.text(`select count(*) from processed_generations where id like 'ours%'`), "3")
			}
			if !strings.Contains(name, "id") {
				c.want("gaps", c.openGaps(), fmt.Sprintf("key 4a5e %d", (36*60+7)*60))
			}
			w.sync(from(job.SourceAnalytics))
			w.wantTotal("acme", 5100, 51, 0.51)
		})
	}
}

// TestForgedProof: what was proved is remembered in the container's own database. A proof that it makes up is none.
func TestForgedProof(t *testing.T) {
	w := rotationWorld(t, from(job.SourceAnalytics))
	globex := strings.Repeat("c", 64)
	w.api.SetKey("sk-or-v1-globex-fe9", standin.Key{Name: "Globex", Hash: globex})
	w.use("sk-or-v1-globex-fe9", "theirs", 5)
	w.exec(`update usage_sync_keys set key_hash = ?`, globex) // with the seal of its own hash
	w.later(time.Minute).sync(from(job.SourceAnalytics))
	w.exec(`insert into usage_sync_keys select client_org_id, 'made up', ?, seal, name, client, place, placed_at, since, since,
		since, null, 1 from usage_sync_keys limit 1`, globex) // as a former key
	w.later(time.Minute).sync(from(job.SourceAnalytics))
	w.wantTotal("acme", 2500, 25, 0.25)
}

// TestKeyHandedOver: a key that another organisation gets is billed to each of them for its time.
func TestKeyHandedOver(t *testing.T) {
	w := newWorld(t, noon, client("acme", ""), client("globex", "")).manage()
	w.api.SetKey(keyOf("acme"), standin.Key{Name: "A", Hash: hash})
	w.api.SetKey(keyOf("globex"), standin.Key{Name: "B", Hash: replacementHash})
	both := func() {
		t.Helper()
		report, err := w.run(t.Context(), from(job.SourceAnalytics))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range report.Organisations {
			if o.Err != nil {
				t.Fatal(o.Err)
			}
		}
	}
	w.use(keyOf("acme"), "a-1", 2)
	w.use(keyOf("globex"), "b-1", 3)
	both()
	w.later(10 * time.Minute)
	w.use(keyOf("acme"), "a-2", 4) // not yet asked for
	w.later(time.Minute)
	w.exec(`update client_organizations set openrouter_api_key = id || ' x'`)
	w.exec(`update client_organizations set openrouter_api_key = case id when 'acme' then ? else ? end`, keyOf("globex"), keyOf("acme"))
	both()
	w.later(10 * time.Minute)
	w.use(keyOf("acme"), "a-3", 8) // of globex now
	w.use(keyOf("globex"), "b-3", 16)
	both()
	w.later(10 * time.Minute)
	both()
	w.wantTotal("acme", 2200, 22, 0.22)
	w.wantTotal("globex", 1100, 11, 0.11)
}
