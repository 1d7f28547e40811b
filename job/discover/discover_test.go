package discover

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestOnHost(t *testing.T) {
	const inside = "/app/backend/data/webui.db"
	mount := func(source, destination string) Mount {
		return Mount{Type: "bind", Source: source, Destination: destination}
	}
	for name, test := range map[string]struct {
		mounts []Mount
		want   string
	}{
		"nothing":           {nil, ""},
		"elsewhere":         {[]Mount{mount("/srv", "/data")}, ""},
		"a longer name":     {[]Mount{mount("/srv", "/app/backend/data2"), mount("/x", "/app/backend/dat")}, ""},
		"the directory":     {[]Mount{mount("/srv", "/app/backend/data")}, "/srv/webui.db"},
		"with a slash":      {[]Mount{mount("/srv/", "/app/backend/data/")}, "/srv/webui.db"},
		"above":             {[]Mount{mount("/srv", "/app")}, "/srv/backend/data/webui.db"},
		"everything":        {[]Mount{mount("/srv", "/")}, "/srv/app/backend/data/webui.db"},
		"the file":          {[]Mount{mount("/srv/client.db", inside)}, "/srv/client.db"},
		"the innermost one": {[]Mount{mount("/b", "/app/backend/data"), mount("/a", "/app"), mount("/c", "/app/backend/data/cache")}, "/b/webui.db"},
		"a tmpfs over it":   {[]Mount{mount("/a", "/app"), {Type: "tmpfs", Destination: "/app/backend/data"}}, ""},
	} {
		got, source, ok := onHost(test.mounts, inside)
		if ok != (test.want != "") || ok && got != test.want || ok && !strings.HasPrefix(got, filepath.Clean(source)) {
			t.Errorf("%s: %q below %q, %v", name, got, source, ok)
		}
	}
}

// TestQuoteEnvironment: a shell that sources an instance file reads the path that was written, as we do.
func TestQuoteEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.env")
	n := 0
	rapid.Check(t, func(t *rapid.T) {
		path := "/" + rapid.StringOf(rapid.RuneFrom([]rune("a /\\\"'$`%#;~!{}()*?é\t"))).Draw(t, "path")
		quoted := quoteEnvironment(path)
		if got := unquoteEnvironment(quoted + " \n"); got != path {
			t.Fatalf("%q, written %s, is read as %q", path, quoted, got)
		}
		if n++; n%10 != 0 { // a process each
			return
		}
		if err := os.WriteFile(file, []byte("USAGE_SYNC_DB="+quoted+"\n"), 0o600); err != nil {
			t.Fatalf("%v", err)
		}
		got, err := exec.Command("sh", "-c", `. "$0" && printf %s "$USAGE_SYNC_DB"`, file).Output()
		if err != nil || string(got) != path {
			t.Fatalf("%q, written %s, is read by a shell as %q, %v", path, quoted, got, err)
		}
	})
	for text, want := range map[string]string{`/plain/path`: "/plain/path", `'/single $x'`: "/single $x", `"/a\"b"`: `/a"b`} {
		if got := unquoteEnvironment(text); got != want {
			t.Errorf("%s is read as %q", text, got)
		}
	}
}

func TestDropIn(t *testing.T) {
	// Not below /tmp, which the units hide.
	root, err := os.MkdirTemp("/dev/shm", "discover-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	closed := filepath.Join(root, "docker")
	dir := filepath.Join(closed, "volumes", "it's 100%", "_data")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for path, mode := range map[string]os.FileMode{closed: 0o710, filepath.Dir(closed): 0o755, filepath.Dir(filepath.Dir(closed)): 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	database := filepath.Join(dir, "webui.db")
	quotedDir := strings.ReplaceAll(dir, "%", "%%")
	if got, want := dropIn(Instance{Database: database}), fmt.Sprintf("[Service]\nReadWritePaths=\"-%s\"\n", quotedDir); got != want {
		t.Errorf("root's:\n%s\nwant:\n%s", got, want)
	}
	got := dropIn(Instance{Database: database, UID: 1000, GID: 100})
	for _, want := range []string{"User=1000\nGroup=100\n", fmt.Sprintf("TemporaryFileSystem=\"%s:ro\"\n", closed), fmt.Sprintf("BindPaths=\"-%s\"\n", quotedDir)} {
		if !strings.Contains(got, want) {
			t.Errorf("another user's lacks %s:\n%s", want, got)
		}
	}
	if got := dropIn(Instance{Database: "/home/anna/data/webui.db"}); !strings.Contains(got, "ProtectHome=tmpfs\nBindPaths=\"-/home/anna/data\"\n") {
		t.Errorf("at home:\n%s", got)
	}
}

// An engine that is broken is no empty host.
func TestEngineErrors(t *testing.T) {
	for name, test := range map[string]struct {
		answer string
		status int
		want   error
	}{
		"an error":           {`{"message":"out of memory"}`, http.StatusInternalServerError, ErrEngine},
		"an error in HTML":   {`<html>`, http.StatusBadGateway, ErrEngine},
		"something else":     {`<html>`, http.StatusOK, ErrAnswer},
		"another shape":      {`{"containers":1}`, http.StatusOK, ErrAnswer},
		"half of its answer": {`[{"Id":"x","Names":["/x"]`, http.StatusOK, ErrAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			listener, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if strings.HasSuffix(r.URL.Path, "/_ping") {
					return
				}
				w.WriteHeader(test.status)
				fmt.Fprint(w, test.answer)
			})}}
			server.Start()
			defer server.Close()
			engine, err := Dial(t.Context(), socket)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := engine.Containers(t.Context()); !errors.Is(err, test.want) {
				t.Errorf("%v, want %v", err, test.want)
			}
		})
	}
}
