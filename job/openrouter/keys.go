package openrouter

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"usage-sync/store"
)

// FindKeyHash looks for an organisation's key among those of the account: for that with its very SHA-256, else
// the only one with a label that fits the key, else the only one with the organisation's name or id. Where
// there is none it returns the SHA-256, which the server may know even so.
func (m *Management) FindKeyHash(ctx context.Context, org store.Organisation) (AccountKey, error) {
	sum := sha256.Sum256([]byte(org.Key))
	own := hex.EncodeToString(sum[:])
	found := AccountKey{Hash: own}
	known := false
	var byLabel, byName []AccountKey
	err := m.Keys(ctx, func(k AccountKey) (more bool) {
		fits, masked := labelFits(k.Label, org.Key)
		switch {
		case strings.EqualFold(k.Hash, own):
			found.Name, known = k.Name, true
		case fits:
			byLabel = append(byLabel, k)
		case masked: // the label of another key
		case named(k.Name, org) || named(k.Label, org):
			byName = append(byName, k)
		}
		return !known
	})
	if err != nil && !errors.Is(err, ErrNoSource) {
		return AccountKey{}, fmt.Errorf("find the key hash of %s: %w", org.ID, err)
	}
	if known {
		return found, nil
	}
	for _, candidates := range [][]AccountKey{byLabel, byName} {
		switch len(candidates) {
		case 0:
		case 1:
			return candidates[0], nil
		default:
			return AccountKey{}, fmt.Errorf("%w: %d keys of the account look like that of %s; put the right "+
				"hash into openrouter_key_hash of client_organizations", store.ErrOrganisation, len(candidates), org.ID)
		}
	}
	return found, nil
}

// AccountKey is what GET /keys says of one key (https://openrouter.ai/docs/api-reference/api-keys).
type AccountKey struct {
	Hash     string `json:"hash"`  // 64 hexadecimal digits (seen live, Sep 2026)
	Label    string `json:"label"` // the key with its middle left out
	Name     string `json:"name"`  // not unique (vendor)
	Disabled bool   `json:"disabled"`
}

// Keys hands over each key of the account once, also those that are disabled, until take wants no more. Without
// a workspace GET /keys lists those of the default one alone (seen live, Sep 2026), so all workspaces are
// walked, where the server has any. A server that does not offer the list is ErrNoSource.
func (m *Management) Keys(ctx context.Context, take func(AccountKey) (more bool)) error {
	workspaces, err := m.workspaces(ctx)
	if err != nil {
		return err
	}
	met := map[string]bool{}
	for _, workspace := range workspaces {
		query := url.Values{"include_disabled": {"true"}}
		if workspace != "" {
			query.Set("workspace_id", workspace)
		}
		more := true
		err := pages(query, func(query url.Values) (p listPage, err error) {
			var keys []AccountKey
			if p.total, err = m.list(ctx, "keys", query, &keys); err != nil {
				return p, err
			}
			p.rows = len(keys)
			for _, k := range keys {
				if k.Hash == "" || met[k.Hash] { // a key that comes meanwhile shifts the list
					continue
				}
				met[k.Hash] = true
				p.news++
				if more = take(k); !more {
					return listPage{}, nil
				}
			}
			return p, nil
		})
		if err != nil || !more {
			return err
		}
	}
	return nil
}

// workspaces returns the ids of the account's workspaces; one without an id stands for the list without a
// workspace, where the server has none.
func (m *Management) workspaces(ctx context.Context) (ids []string, err error) {
	met := map[string]bool{}
	err = pages(url.Values{}, func(query url.Values) (p listPage, err error) {
		var all []struct {
			ID string `json:"id"`
		}
		if p.total, err = m.list(ctx, "workspaces", query, &all); err != nil {
			return p, err
		}
		p.rows = len(all)
		for _, w := range all {
			if w.ID != "" && !met[w.ID] {
				met[w.ID] = true
				p.news++
				ids = append(ids, w.ID)
			}
		}
		return p, nil
	})
	if err != nil && !errors.Is(err, ErrNoSource) {
		return nil, err
	}
	if len(ids) == 0 {
		ids = []string{""}
	}
	return ids, nil
}

// listPage is a page of a list: how many rows it has, how many of them are new, and how many the list has in
// all, where the server says that; else -1.
type listPage struct{ rows, news, total int }

// pages reads a list page by page until one is the last, or has nothing new: the end, or a server that ignores offset.
func pages(query url.Values, page func(query url.Values) (listPage, error)) error {
	for offset := 0; ; {
		query.Set("offset", strconv.Itoa(offset))
		p, err := page(query)
		offset += p.rows
		if err != nil || p.news == 0 || offset == p.total {
			return err
		}
	}
}

// list reads {"data":[row, …],"total_count":N} with the management key; total is -1 where there is no number. A
// server that does not offer the path is ErrNoSource.
func (m *Management) list(ctx context.Context, path string, query url.Values, rows any) (total int, err error) {
	get := request{method: http.MethodGet, key: m.key, path: path, query: query, manages: true}
	err = m.client.send(ctx, get, func(_ http.Header, body io.Reader) error {
		d := newDecoder(body)
		err := d.answer(func() error { return d.value(rows) })
		total = d.total
		return err
	})
	var apiErr *APIError
	if errors.As(err, &apiErr) && apiErr.NotOffered() {
		return total, fmt.Errorf("%w: %s does not offer GET /%s: %w", ErrNoSource, m.client.base.Host, path, err)
	}
	return total, err
}

// labelFits tells whether a label is a key with its middle left out, as in "sk-or-v1-0e6...1c96", and whether
// it is that of this key.
func labelFits(label string, key store.Key) (fits, masked bool) {
	head, tail, masked := strings.Cut(label, "...")
	if !masked || !strings.HasPrefix(label, "sk-") {
		return false, false
	}
	says := len(head) > len("sk-or-v1-") && tail != "" // else it would fit any key
	return says && strings.HasPrefix(string(key), head) && strings.HasSuffix(string(key), tail), true
}

func named(name string, org store.Organisation) bool {
	return name != "" && (strings.EqualFold(name, org.Name) || name == org.ID)
}
