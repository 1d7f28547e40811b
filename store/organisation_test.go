package store

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// organisationsAfter returns the organisations a, b and c of a database after some statements, by id.
func organisationsAfter(t *testing.T, statements ...string) map[string]Organisation {
	t.Helper()
	path := filepath.Join(t.TempDir(), "webui.db")
	err := CreateDemo(t.Context(), path, []NewOrganisation{{ID: "a", Name: "A", Key: "key-a", Rate: 1.3},
		{ID: "b", Name: "B", Key: "key-b", Rate: 1.3}, {ID: "c", Name: "C", Key: "key-c", Rate: 1.3}}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	application(t, path, statements...)
	all, err := inspect(t, path).AllOrganisations(t.Context(), time.UTC)
	if err != nil {
		t.Fatal(err)
	}
	byID := map[string]Organisation{}
	for _, o := range all {
		byID[o.ID] = o
	}
	return byID
}

func TestSharedKeys(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	for name, statements := range map[string][]string{
		"Key":         {"update client_organizations set openrouter_api_key = 'key-a ' where id = 'b'"},
		"KeyInactive": {"update client_organizations set openrouter_api_key = ' key-a', is_active = 0 where id = 'b'"},
		"Hash":        {"update client_organizations set openrouter_key_hash = '" + hash + "' where id in ('a', 'b')"},
		"HashInCapitals": {"update client_organizations set openrouter_key_hash = '" + hash + "' where id = 'a'",
			"update client_organizations set openrouter_key_hash = '" + strings.ToUpper(hash) + " ' where id = 'b'"},
	} {
		t.Run(name, func(t *testing.T) {
			all := organisationsAfter(t, statements...)
			for _, id := range []string{"a", "b"} {
				if !errors.Is(all[id].Problem, ErrOrganisation) {
					t.Errorf("%s: problem %v, want ErrOrganisation", id, all[id].Problem)
				}
			}
			if all["c"].Problem != nil {
				t.Errorf("c: %v", all["c"].Problem)
			}
		})
	}
	t.Run("None", func(t *testing.T) {
		for id, o := range organisationsAfter(t, "update client_organizations set openrouter_api_key = '' where id = 'a'",
			"update client_organizations set openrouter_api_key = ' ' where id = 'b'") {
			if o.Problem != nil {
				t.Errorf("%s: %v", id, o.Problem)
			}
		}
	})
}

func TestIsActive(t *testing.T) {
	for value, want := range map[string]bool{"1": true, "1.0": true, "'1'": true, "'true'": true, "'T'": true, "' yes '": true,
		"0": false, "null": false, "''": false, "'false'": false, "'no'": false, "2": false} {
		all := organisationsAfter(t, "update client_organizations set is_active = "+value+" where id = 'a'")
		if all["a"].Active != want {
			t.Errorf("is_active %s: active %t, want %t", value, all["a"].Active, want)
		}
	}
}

func TestDefaultMarkupIsThatOfTheNewestSettings(t *testing.T) {
	all := organisationsAfter(t, "update client_organizations set markup_rate = null where id = 'a'", "delete from global_settings",
		"insert into global_settings values ('1', null, 1.5, 'USD', 1, 10), ('2', null, 1.7, 'USD', 1, 20), ('3', null, 1.9, 'USD', 1, 5)")
	if got := all["a"].Rate.String(); got != "1.7" {
		t.Errorf("rate %s, want 1.7", got)
	}
}
