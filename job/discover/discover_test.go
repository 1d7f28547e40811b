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

func TestMountOf(t *testing.T) {
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
		m, rest, ok := mountOf(test.mounts, inside)
		got := filepath.Join(m.Source, rest)
		if m.Type == "tmpfs" {
			got = ""
		}
		if ok != (test.want != "" || m.Type == "tmpfs") || ok && got != test.want {
			t.Errorf("%s: %q, %v", name, got, ok)
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
		values, ignored := ReadEnvironment("# it's\nUSAGE_SYNC_DB=" + quoted + " \nOTHER=x")
		if got := values["USAGE_SYNC_DB"]; got != path || values["OTHER"] != "x" || len(ignored) > 0 {
			t.Fatalf("%q, written %s, is read as %q", path, quoted, values)
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
}

// TestDatabase: where a container's own settings say that its database is.
func TestDatabase(t *testing.T) {
	const standard = "/app/backend/data/webui.db"
	for _, test := range []struct {
		environment   string // words
		want, problem string
	}{
		{"", standard, ""},
		{"DATA_DIR=/data", "/data/webui.db", ""},
		{"DATA_DIR=data2/", "/app/backend/data2/webui.db", ""},
		{"DATABASE_URL=sqlite:////data/chats.db", "/data/chats.db", ""},
		{"DATABASE_URL=sqlite:///data/chats.db?timeout=5", "/app/backend/data/chats.db", ""},
		{"DATABASE_URL=sqlite+aiosqlite:////data/chats.db DATA_DIR=/elsewhere", "/data/chats.db", ""},
		{"DATABASE_URL=sqlite://", "", "in memory"},
		{"DATABASE_URL=postgresql://webui:secret@db/webui", "", "PostgreSQL"},
		{"DATABASE_URL=postgres+psycopg2://webui:secret@db/webui", "", "PostgreSQL"},
		{"DATABASE_URL=mysql://webui:secret@db/webui", "", "mysql"},
		{"DATABASE_URL=sqlite+sqlcipher:////data/webui.db DATABASE_PASSWORD=secret", "", "SQLCipher"},
		{"DATABASE_TYPE=sqlite+sqlcipher DATABASE_PASSWORD=secret", "", "SQLCipher"},
		{"DATABASE_TYPE=postgresql", standard, ""}, // the other parts are missing: Open WebUI takes its file
		{"DATABASE_TYPE=postgresql DATABASE_USER=webui DATABASE_PASSWORD=secret DATABASE_HOST=db DATABASE_PORT=5432 DATABASE_NAME=webui", "", "PostgreSQL"},
		{"DATABASE_URL=secret", "", "no address"},
	} {
		got, problem := newSettings(strings.Fields(test.environment), "/app/backend").database(standard)
		if got != test.want || (problem == "") != (test.problem == "") || !strings.Contains(problem, test.problem) || strings.Contains(problem, "secret") {
			t.Errorf("%s: %q, %q", test.environment, got, problem)
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
	for database, want := range map[string]string{
		"/var/lib/docker/volumes/acme/_data/webui.db":             "TemporaryFileSystem=\"/var/lib/docker:ro\"\nBindPaths=\"-/var/lib/docker/volumes/acme/_data\"\n",
		"/var/lib/containers/storage/volumes/acme/_data/webui.db": "TemporaryFileSystem=\"/var/lib/containers:ro\"\nBindPaths=\"-/var/lib/containers/storage/volumes/acme/_data\"\n",
		"/srv/clients/acme/webui.db":                              "TemporaryFileSystem=\"/srv:ro\"\nBindPaths=\"-/srv/clients/acme\"\n",
		"/opt/clients/acme/webui.db":                              "TemporaryFileSystem=\"/opt/clients:ro\"\nBindPaths=\"-/opt/clients/acme\"\n",
		"/srv/webui.db":                                           "", // nothing lies beside it
		"/var/lib/acme/webui.db":                                  "", // the system's own would be hidden as well
		"/srv/a:b/c/webui.db":                                     "", // can't be written
		"/srv/clients/x/webui.db":                                 "TemporaryFileSystem=\"/srv:ro\"\n",
	} {
		dir := filepath.Dir(database)
		got, found := strings.CutPrefix(dropIn(Instance{Database: database}), fmt.Sprintf("[Service]\nReadWritePaths=\"-%s\"\n", dir))
		if !found || !strings.HasPrefix(got, want) || (want == "") != (got == "") {
			t.Errorf("%s: got\n%s\nwant\n%s", database, got, want)
		}
	}
	if got := dropIn(Instance{}); strings.Contains(got, "TemporaryFileSystem") { // an unusable one has no database
		t.Errorf("without a database:\n%s", got)
	}
	// The volume, and not the directory within it that the container could exchange.
	if got := dropIn(Instance{Database: "/srv/acme/data/webui.db", Volume: "/srv/acme"}); !strings.Contains(got, "ReadWritePaths=\"-/srv/acme\"\n") ||
		!strings.Contains(got, "BindPaths=\"-/srv/acme\"\n") {
		t.Errorf("a volume:\n%s", got)
	}
	got := dropIn(Instance{Database: database, UID: 1000, GID: 100})
	for _, want := range []string{"User=1000\nGroup=100\n", "TemporaryFileSystem=\"", fmt.Sprintf("BindPaths=\"-%s\"\n", quotedDir)} {
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
		"something else":     {`<html>`, http.StatusOK, errAnswer},
		"another shape":      {`{"containers":1}`, http.StatusOK, errAnswer},
		"half of its answer": {`[{"Id":"x","Names":["/x"]`, http.StatusOK, errAnswer},
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
