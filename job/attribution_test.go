package job_test

import (
	"strings"
	"testing"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
)

// TestUnprovedHash: what a container's database says of a key's hash is a claim. None of these may end in another client's
// usage being recorded, or in one's own being asked for by a hash that is not that of the key.
func TestUnprovedHash(t *testing.T) {
	globex := strings.Repeat("c", 64)
	const globexKey, newKey = "sk-or-v1-globex-fe9", "sk-or-v1-another-123"
	for name, prepare := range map[string]func(w *world){
		"another client's hash": func(w *world) {
			w.exec(`update client_organizations set openrouter_key_hash = ?`, globex)
		},
		"a made-up key that fits another client's label": func(w *world) {
			w.exec(`update client_organizations set openrouter_api_key = 'sk-or-v1-globe-made-up-fe9'`)
		},
		"a made-up key and the hash that it fits": func(w *world) {
			w.exec(`update client_organizations set openrouter_api_key = 'sk-or-v1-globe-made-up-fe9', openrouter_key_hash = ?`, globex)
		},
		"another client's name": func(w *world) {
			w.api.SetKey(globexKey, standin.Key{Name: "Globex", Label: "Globex", Hash: globex})
			w.exec(`update client_organizations set name = 'Globex', openrouter_api_key = 'sk-or-v1-made-up-000'`)
		},
		"a database that was cloned for a new client": func(w *world) {
			w.api.SetKey(newKey, standin.Key{Name: "New", Label: "sk-or-v1-ano...123", Hash: strings.Repeat("d", 64)})
			w.exec(`update client_organizations set openrouter_api_key = ?, openrouter_key_hash = ?`, newKey, hash)
		},
		"a hash that nobody has": func(w *world) {
			w.exec(`update client_organizations set openrouter_key_hash = ?`, strings.Repeat("e", 64))
		},
		"a key that is disabled": func(w *world) {
			w.api.SetKey(keyOf("acme"), standin.Key{Name: "The acme", Label: "custom", Hash: hash, Disabled: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := sourceWorld(t)
			w.api.SetKey(globexKey, standin.Key{Name: "Globex", Label: "sk-or-v1-glo...fe9", Hash: globex})
			w.api.Add(globexKey, generation("theirs", noon.Add(-time.Minute)))
			prepare(w)
			o := w.pass(from(job.SourceAnalytics))
			if kind := job.KindOf(o.Err); kind != job.KindConfiguration {
				t.Errorf("%v is %s, want a fault of the configuration", o.Err, kind)
			}
			w.want("ledger", w.text(`select count(*) from processed_generations`), "0")
			if !w.state("acme").CoveredTo.IsZero() {
				t.Error("the watermark has moved")
			}
		})
	}
}

// TestProvedOnce: a key that was proved before goes on being billed when it is disabled, and a key of the host's word needs
// no proof.
func TestProvedOnce(t *testing.T) {
	w := sourceWorld(t)
	w.wantAsked("analytics", found, from(job.SourceAnalytics))
	w.api.SetKey(keyOf("acme"), standin.Key{Name: "The acme", Label: "custom", Hash: hash, Disabled: true})
	w.later(time.Minute).wantAsked("analytics", analyticsAlone, from(job.SourceAnalytics))
	w.exec(`update client_organizations set openrouter_key_hash = ?`, hash)
	w.later(time.Minute).wantAsked("analytics", analyticsAlone, from(job.SourceAnalytics))

	w = sourceWorld(t)
	w.api.SetKey(keyOf("acme"), standin.Key{Name: "The acme", Label: "custom", Hash: hash, Disabled: true})
	w.wantAsked("analytics", analyticsAlone, from(job.SourceAnalytics), func(p *job.Pass) { p.Sources.HostKeyHash = strings.ToUpper(hash) })
}
