package job_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"usage-sync/job"
	"usage-sync/job/openrouter/standin"
	"usage-sync/job/webhook"
	"usage-sync/store"
)

// owned is what a test knows of one generation.
type owned struct {
	client  string // whose it is
	created time.Time
}

// clientWorld is the database of one client, and what the test knows of it.
type clientWorld struct {
	*world
	client string // the name
	org    string // the id of its row
	key    string
	keys   []string // all that it has had
	active bool
	copied time.Time // when its database was copied from another client's; zero: it was not
}

// TestWhoseGenerations: keys rotate with overlap and without, and more than once in a day; databases are copied for new
// clients; other clients' usage is delivered; clients leave and come back. Every generation is billed to the client whose
// key it was, or a gap of that client covers it; none is billed to another one.
func TestWhoseGenerations(t *testing.T) {
	for _, source := range []string{job.SourceAnalytics, job.SourceGenerations} {
		t.Run(source, func(t *testing.T) {
			cases(t, 8, 200)
			dir, runs := t.TempDir(), 0
			rapid.Check(t, func(r *rapid.T) {
				runs++
				newWhose(r, filepath.Join(dir, fmt.Sprint(runs)), source).play()
			})
		})
	}
}

// whose is one run of the property.
type whose struct {
	*rapid.T
	dir     string
	source  string
	api     *standin.Server
	clock   time.Time
	clients []*clientWorld
	truths  map[string]owned
	keys    int
	n       int
}

func newWhose(r *rapid.T, dir, source string) *whose {
	h := &whose{T: r, dir: dir, source: source, clock: noon, truths: map[string]owned{}}
	h.api = standin.NewGateway(func() time.Time { return h.clock })
	h.api.AddManagementKey(managementKey)
	h.api.AnalyticsPerMinute(0)
	return h
}

func (h *whose) newKey(client string) string {
	h.keys++
	key := fmt.Sprintf("sk-or-v1-%03dfeedbeef-%03d", h.keys, h.keys)
	// Every second hash is the SHA-256 of its key, the others have to be proved.
	k := standin.Key{Name: fmt.Sprintf("%s %d", client, h.keys)}
	if h.keys%2 == 0 {
		k.Hash = strings.Repeat(fmt.Sprintf("%04x", h.keys), 16)
	}
	h.api.SetKey(key, k)
	return key
}

func (h *whose) open(path, client, org, key string) *clientWorld {
	w := openWorld(h.T, path, h.clock)
	w.http.Config.Handler = h.api
	w.api, w.managementKey = h.api, managementKey
	c := &clientWorld{world: w, client: client, org: org, key: key, keys: []string{key}, active: true}
	h.clients = append(h.clients, c)
	return c
}

func (h *whose) play() {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		h.Fatalf("%v", err)
	}
	defer func() {
		for _, c := range h.clients {
			c.close()
		}
	}()
	for i := range 2 {
		name := fmt.Sprintf("Client %d", i)
		path := filepath.Join(h.dir, fmt.Sprintf("%d.db", i))
		key := h.newKey(name)
		org := store.NewOrganisation{ID: fmt.Sprint("org-", i), Name: name, Key: key, Rate: 1.3}
		if err := store.CreateDemo(context.Background(), path, []store.NewOrganisation{org}, h.clock); err != nil {
			h.Fatalf("%v", err)
		}
		h.open(path, name, org.ID, key)
	}
	h.passes()
	steps := []func(){h.use, h.use, h.use, h.passes, h.rotate, h.rotateBack, h.deliver, h.copyDatabase, h.leave, h.comeBack}
	for range rapid.IntRange(4, 24).Draw(h.T, "steps") {
		h.clock = h.clock.Add(time.Duration(rapid.SampledFrom([]int{1, 7, 40, 200, 900}).Draw(h.T, "minutes")) * time.Minute)
		rapid.SampledFrom(steps).Draw(h.T, "step")()
	}
	for _, c := range h.clients { // everybody is asked for once more
		h.activate(c)
	}
	h.clock = h.clock.Add(2 * time.Hour)
	h.passes()
	h.check()
}

func (h *whose) any() *clientWorld { return rapid.SampledFrom(h.clients).Draw(h.T, "client") }

// use has a client use one of its keys, also one that it had before, where the source shows that: to rotate with the list of
// one key the traffic is moved first.
func (h *whose) use() {
	c := h.any()
	if h.source == job.SourceGenerations {
		h.useKey(c, c.key)
		return
	}
	h.useKey(c, rapid.SampledFrom(c.keys).Draw(h.T, "key"))
}

func (h *whose) useKey(c *clientWorld, key string) standin.Generation {
	h.n++
	g := generation(fmt.Sprintf("gen-%d-%06d", h.clock.Unix()-1, h.n), h.clock.Add(-time.Second))
	h.api.Add(key, g)
	h.truths[g.ID] = owned{c.client, g.CreatedAt}
	return g
}

// passes makes a pass over each database, as its timer does.
func (h *whose) passes() {
	for _, c := range h.clients {
		h.pass(c)
	}
}

func (h *whose) pass(c *clientWorld) {
	c.at(h.clock)
	if _, err := c.run(context.Background(), from(h.source)); err != nil && c.active {
		h.Fatalf("pass of %s: %v", c.client, err)
	}
}

// rotate gives a client a new key, which may have been in use before its row has it. A pass follows each change: of a key
// that comes and goes between two passes nothing can tell.
func (h *whose) rotate() {
	c := h.any()
	if !c.active {
		return
	}
	key := h.newKey(c.client)
	c.keys = append(c.keys, key)
	if rapid.Bool().Draw(h.T, "with overlap") {
		h.useKey(c, key)
		h.clock = h.clock.Add(3 * time.Hour)
		h.pass(c)
	}
	switch rapid.IntRange(0, 2).Draw(h.T, "column") {
	case 0:
		c.exec(`update client_organizations set openrouter_key_hash = null`)
	case 1:
		c.exec(`update client_organizations set openrouter_key_hash = ?`, h.api.KeyHash(c.key)) // left behind
	case 2:
		c.exec(`update client_organizations set openrouter_key_hash = ?`, h.api.KeyHash(key))
	}
	h.setKey(c, key)
}

func (h *whose) rotateBack() {
	c := h.any()
	if c.active {
		h.setKey(c, rapid.SampledFrom(c.keys).Draw(h.T, "former"))
	}
}

func (h *whose) setKey(c *clientWorld, key string) {
	c.key = key
	c.exec(`update client_organizations set openrouter_api_key = ?`, key)
	h.pass(c)
}

// deliver hands a delivery of any client's key to any client's receiver, as a destination for all keys of a workspace does.
func (h *whose) deliver() {
	owner, receiver := h.any(), h.any()
	g := h.useKey(owner, owner.key)
	s := receiver.at(h.clock).open()
	defer s.Close()
	r := webhook.Recorder{Store: s, Log: slog.New(slog.DiscardHandler), Now: receiver.now, Zone: time.UTC}
	cost, _ := store.ParseMoney(g.Cost)
	name := rapid.SampledFrom([]string{owner.client, h.api.KeyName(owner.key)}).Draw(h.T, "name")
	_, err := r.Record(context.Background(), []webhook.Usage{{KeyName: name, Generation: store.Generation{ID: g.ID,
		CreatedAt: g.CreatedAt, Model: g.Model, Tokens: g.PromptTokens + g.CompletionTokens, Cost: cost}}})
	if err != nil {
		h.Fatalf("delivery: %v", err)
	}
}

// copyDatabase copies a client's database for a new client, who gets a key of its own before its first pass: with or without
// another name or id, and with the column as it was.
func (h *whose) copyDatabase() {
	if len(h.clients) > 3 {
		return
	}
	from := h.any()
	name := fmt.Sprintf("Client %d", len(h.clients))
	key := h.newKey(name)
	path := filepath.Join(h.dir, fmt.Sprintf("%d.db", len(h.clients)))
	copyFile(h.T, from.path, path)
	c := h.open(path, name, from.org, key)
	c.copied = h.clock
	c.exec(`update client_organizations set name = ?, openrouter_api_key = ?, is_active = 1`, name, key)
	if rapid.Bool().Draw(h.T, "hash is set to null") {
		c.exec(`update client_organizations set openrouter_key_hash = null`)
	}
	h.useKey(c, key)
	h.clock = h.clock.Add(time.Minute)
	h.pass(c)
}

func (h *whose) leave() {
	if c := h.any(); c.active {
		c.active = false
		c.exec(`update client_organizations set is_active = 0`)
	}
}

func (h *whose) comeBack() { h.activate(h.any()) }

func (h *whose) activate(c *clientWorld) {
	c.active = true
	c.exec(`update client_organizations set is_active = 1`)
}

// check compares what is billed with what the test knows. What a copied database held of the first client is no bill of the
// second: it was there.
func (h *whose) check() {
	billed := map[string][]string{}
	missing := map[string][]store.Gap{}
	for _, c := range h.clients {
		s := c.open()
		gaps, err := s.Gaps(context.Background(), store.GapFilter{})
		if err != nil {
			h.Fatalf("%v", err)
		}
		_ = s.Close()
		missing[c.client] = gaps
		rows, err := c.db.Query(`select id from processed_generations`)
		if err != nil {
			h.Fatalf("%v", err)
		}
		for rows.Next() {
			var id string
			if err := rows.Scan(&id); err != nil {
				h.Fatalf("%v", err)
			}
			billed[id] = append(billed[id], c.client)
		}
		if err := rows.Err(); err != nil {
			h.Fatalf("%v", err)
		}
	}
	for id, known := range h.truths {
		for _, client := range billed[id] {
			if client != known.client && !h.inherited(client, known) {
				h.Errorf("%s of %s, made at %s, is billed to %s", id, known.client, known.created, client)
			}
		}
		named := slices.ContainsFunc(missing[known.client], func(g store.Gap) bool {
			return !known.created.Before(g.From) && known.created.Before(g.Until)
		})
		if !slices.Contains(billed[id], known.client) && !named {
			h.Errorf("%s of %s, made at %s, is billed to nobody, and named in none of %v", id, known.client, known.created,
				missing[known.client])
		}
	}
}

// inherited tells whether a client's database was copied after a generation was made.
func (h *whose) inherited(client string, known owned) bool {
	for _, c := range h.clients {
		if c.client == client {
			return known.created.Before(c.copied)
		}
	}
	return false
}
