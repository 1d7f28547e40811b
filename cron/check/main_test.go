package main

import (
	"os"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	text, err := os.ReadFile("../kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ old, new, want string }{
		"as it is":          {"", "", ""},
		"a misspelt field":  {"concurrencyPolicy:", "concurencyPolicy:", `unknown field "spec.concurencyPolicy"`},
		"a field twice":     {"concurrencyPolicy:", "suspend: false\n  suspend: true\n  concurrencyPolicy:", `key "suspend" already set`},
		"a number as text":  {"backoffLimit: ", "backoffLimit: x", "cannot unmarshal"},
		"an unknown kind":   {"kind: CronJob", "kind: CornJob", `no kind "CornJob"`},
		"a bad quantity":    {"memory: ", "memory: much-", "quantities must match"},
		"no job in it":      {string(text), "apiVersion: v1\nkind: Secret\n", "holds no CronJob"},
		"a field elsewhere": {"readOnlyRootFilesystem:", "readonlyRootFilesystem:", "unknown field"},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(string(text), test.old, test.new, 1)
			if test.new != "" && changed == string(text) {
				t.Fatalf("the manifest has no %q", test.old)
			}
			err := check(strings.NewReader(changed))
			if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}
