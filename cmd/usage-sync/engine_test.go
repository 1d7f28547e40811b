package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"usage-sync/store"
)

// fakeEngine answers as the Docker Engine API does (https://docs.docker.com/reference/api/engine/version/v1.47/), or as
// Podman's imitation of it.
type fakeEngine struct {
	podman     bool
	containers []*fakeContainer
	volumes    map[string]string // those whose place the list leaves out
}

type fakeContainer struct {
	ID     string `json:"Id"`
	Names  []string
	State  string
	Mounts []fakeMount
	image  string
	env    []string
}

type fakeMount struct {
	Type, Name, Source, Destination, Driver string
	RW                                      bool
}

// parseEngine reads lines "name state type source destination", or "name state" for a container without mounts. Several
// lines of a name are several mounts, "ro" at the end of one makes it read-only. The source of a volume "?NAME" is told by
// itself alone, that of "!NAME" never, and a tilde is a space. "name env KEY=VALUE" and "name image IMAGE" add to a container.
func parseEngine(text, dir string) (*fakeEngine, error) {
	e := &fakeEngine{volumes: map[string]string{}}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		readOnly := len(f) == 6 && f[5] == "ro"
		if readOnly {
			f = f[:5]
		}
		if len(f) != 2 && len(f) != 3 && len(f) != 5 {
			return nil, fmt.Errorf("a container is: name state [type source destination]: %q", line)
		}
		n := slices.IndexFunc(e.containers, func(c *fakeContainer) bool { return c.Names[len(c.Names)-1] == "/"+f[0] })
		if n < 0 {
			n = len(e.containers)
			id := fmt.Sprintf("%064x", n+1)
			e.containers = append(e.containers, &fakeContainer{ID: id, Names: []string{"/web/link-of-" + f[0], "/" + f[0]}, State: f[1]})
		}
		if len(f) == 3 && f[1] == "env" {
			e.containers[n].env = append(e.containers[n].env, f[2])
		} else if len(f) == 3 {
			e.containers[n].image = f[2]
		}
		if len(f) < 5 {
			continue
		}
		m := fakeMount{Type: f[2], Destination: strings.ReplaceAll(f[4], "~", " "), Source: f[3]}
		volume, apart := strings.CutPrefix(f[3], "?")
		if m.Source = filepath.Join(dir, strings.ReplaceAll(volume, "~", " ")); m.Type == "tmpfs" {
			m.Source = ""
		}
		if m.Type == "volume" {
			m.Name = fmt.Sprintf("volume-%d", len(e.volumes))
			e.volumes[m.Name] = m.Source
		}
		if m.RW, m.Driver = !readOnly, "local"; apart {
			m.Source = ""
		} else if volume, elsewhere := strings.CutPrefix(f[3], "!"); elsewhere {
			m.Name, m.Source, m.Driver = volume, "", "rclone"
			delete(e.volumes, m.Name)
		}
		e.containers[n].Mounts = append(e.containers[n].Mounts, m)
	}
	return e, nil
}

func (e *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int, message string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"message": message})
	}
	w.Header().Set("Content-Type", "application/json")
	version, lowest := "1.47", "1.44"
	if e.podman {
		version, lowest = "1.41", "1.24"
		w.Header().Set("Libpod-Api-Version", "5.2.2")
	}
	w.Header().Set("Api-Version", version)
	if r.Method != http.MethodGet {
		refuse(http.StatusMethodNotAllowed, "only questions are answered")
		return
	}
	if r.URL.Path == "/_ping" {
		fmt.Fprint(w, "OK")
		return
	}
	asked, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v"), "/")
	switch name := filepath.Base(filepath.Dir(path)); {
	case asked < lowest:
		refuse(http.StatusBadRequest, fmt.Sprintf("client version %s is too old. Minimum supported API version is %s", asked, lowest))
	case asked > version:
		refuse(http.StatusBadRequest, fmt.Sprintf("client version %s is too new. Maximum supported API version is %s", asked, version))
	case path == "containers/json":
		list := []fakeContainer{}
		for _, c := range e.containers {
			shown := *c
			if e.podman {
				shown.Mounts = nil
			}
			if c.State == "running" || r.URL.Query().Get("all") == "true" {
				list = append(list, shown)
			}
		}
		_ = json.NewEncoder(w).Encode(list)
	case strings.HasPrefix(path, "containers/") && strings.HasSuffix(path, "/json"):
		n := slices.IndexFunc(e.containers, func(c *fakeContainer) bool { return c.ID == name })
		if n < 0 || e.containers[n].State == "removing" {
			refuse(http.StatusNotFound, "No such container: "+name)
			return
		}
		c := e.containers[n]
		if c.State == "dead" {
			refuse(http.StatusInternalServerError, "layer does not exist")
			return
		}
		started := "2026-01-02T03:04:05.678Z"
		if c.State == "created" {
			started = "0001-01-01T00:00:00Z"
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"Id": name, "Mounts": c.Mounts, "State": map[string]string{"StartedAt": started},
			"Config": map[string]any{"Image": c.image, "Env": append([]string{"PATH=/bin"}, c.env...), "WorkingDir": "/app/backend", "Labels": nil}})
	case strings.HasPrefix(path, "volumes/"):
		volume := strings.TrimPrefix(path, "volumes/")
		place, ok := e.volumes[volume]
		if !ok {
			refuse(http.StatusNotFound, "get "+volume+": no such volume")
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"Name": volume, "Driver": "local", "Mountpoint": place})
	default:
		refuse(http.StatusNotFound, "page not found")
	}
}

// listenUnix serves a handler on a Unix socket, in place of what listened there before.
func listenUnix(t interface{ Fatalf(string, ...any) }, socket string, handler http.Handler) *httptest.Server {
	_ = os.Remove(socket)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatalf("%v", err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.Listener.Close()
	server.Listener = listener
	server.Start()
	return server
}

// engine SOCKET FILE [podman]: a container engine listens on a socket and knows the containers of a file, whose sources
// lie below the script's directory.
func startEngine(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && (len(args) == 2 || len(args) == 3), "engine SOCKET FILE [podman]")
	e, err := parseEngine(ts.ReadFile(args[1]), ts.MkAbs("."))
	ts.Check(err)
	e.podman = len(args) == 3
	server := listenUnix(ts, ts.MkAbs(args[0]), e)
	ts.Defer(server.Close)
}

// TestDiscoverHost: a host with 25 containers of every kind, whose operator runs discover every day.
func TestDiscoverHost(t *testing.T) {
	h := newHost(t)
	for n := range 25 {
		name, state := fmt.Sprintf("client-%02d", n+1), "running"
		volume := "volumes/" + name + "/_data"
		switch n {
		case 3, 4:
			state = "exited"
			h.database(volume+"/webui.db", name)
			h.line(name, state, "volume", "?"+volume, "/app/backend/data")
		case 5:
			h.line(name, state) // nothing mounted
		case 6:
			h.line(name, state, "tmpfs", "-", "/app/backend/data")
		case 7:
			h.database("srv/with~space/webui.db", name)
			h.line(name, state, "bind", "srv/with~space", "/app/backend/data")
		case 8:
			h.database("srv/single/client.db", name)
			h.line(name, state, "bind", "srv/single/client.db", "/app/backend/data/webui.db")
		case 9:
			h.database("srv/above/backend/data/webui.db", name)
			h.line(name, state, "bind", "srv/above", "/app")
		case 10: // another thing at /app
			h.mkdir("srv/other")
			h.line(name, state, "bind", "srv/other", "/app")
		case 11: // the inner mount holds it
			h.database("srv/outer/data/webui.db", "nobody's")
			h.database(volume+"/webui.db", name)
			h.line(name, state, "bind", "srv/outer", "/app/backend")
			h.line(name, state, "volume", volume, "/app/backend/data")
		case 12: // not started yet
			h.mkdir(volume)
			h.line(name, "created", "volume", volume, "/app/backend/data")
		default:
			h.database(volume+"/webui.db", name)
			h.line(name, state, "volume", volume, "/app/backend/data")
		}
	}
	// Two have none at all: nothing mounted, another thing at /app. Three are unusable.
	unusable := map[string]string{"client-07": "tmpfs", "client-09": "single file", "client-13": "there is no database yet"}
	const with = 25 - 2 - 3
	for _, podman := range []bool{false, true} {
		out := h.discover(podman)
		if out.Containers != 25 || len(out.Instances) != with+len(unusable) || len(out.Without) != 2 {
			t.Fatalf("podman %v: %d containers, %d instances", podman, out.Containers, len(out.Instances))
		}
		for _, i := range out.Instances {
			if problem, is := unusable[i.Container]; is {
				if i.Status != "unusable" || !strings.Contains(i.Problem, problem) {
					t.Errorf("%+v", i)
				}
				continue
			}
			if i.Status != "new" || !slices.Equal(i.Organizations, []string{i.Container}) || len(i.Missing) > 0 {
				t.Errorf("%+v", i)
			}
			if _, err := os.Stat(i.Database); err != nil {
				t.Error(err)
			}
		}
	}
	if entries, _ := os.ReadDir(h.dir + "/etc"); len(entries) > 0 {
		t.Fatalf("written without --write: %v", entries)
	}
	first := h.discover(false, "--enable")
	if len(first.Enabled) != with {
		t.Errorf("enabled %v", first.Enabled)
	}
	calls, err := os.ReadFile(h.dir + "/systemctl.log")
	if lines := strings.Split(strings.TrimSpace(string(calls)), "\n"); err != nil || len(lines) != 2 || lines[0] != "daemon-reload" ||
		!strings.HasPrefix(lines[1], "enable --now -- usage-sync@client-01.timer usage-sync@client-02.timer ") || strings.Contains(lines[1], "client-13") {
		t.Errorf("systemctl was asked %s, %v", calls, err)
	}
	second := h.discover(false, "--enable")
	for _, i := range second.Instances {
		if i.Status != "configured" && unusable[i.Container] == "" || len(i.Written) > 0 || len(i.Edited) > 0 {
			t.Errorf("second run: %+v", i)
		}
	}
	// A day later: one is gone, one has moved, one is new.
	h.lines = slices.DeleteFunc(h.lines, func(line string) bool {
		return strings.HasPrefix(line, "client-01 ") || strings.HasPrefix(line, "client-02 ")
	})
	h.database("volumes/elsewhere/_data/webui.db", "client-02")
	h.line("client-02", "running", "volume", "volumes/elsewhere/_data", "/app/backend/data")
	h.database("volumes/client-26/_data/webui.db", "client-26")
	h.line("client-26", "running", "volume", "volumes/client-26/_data", "/app/backend/data")
	third := h.discover(false, "--write")
	status := map[string]int{}
	for _, i := range third.Instances {
		status[i.Status]++
		if i.Status == "moved" != (i.Container == "client-02") || i.Status == "gone" != (i.Container == "client-01") || i.Status == "new" != (i.Container == "client-26") {
			t.Errorf("third run: %+v", i)
		}
	}
	if status["configured"] != with-2 {
		t.Errorf("third run: %v", status)
	}
	if _, err := os.Stat(h.dir + "/etc/client-01.env"); err != nil {
		t.Errorf("a container is gone, and so is its file: %v", err)
	}
	if env, _ := os.ReadFile(h.dir + "/etc/client-02.env"); !strings.Contains(string(env), "volumes/elsewhere/_data/webui.db") {
		t.Errorf("it has moved:\n%s", env)
	}
}

// host is a directory with volumes, an engine's socket and a systemctl that keeps a log.
type host struct {
	*testing.T
	dir   string
	lines []string
}

func newHost(t *testing.T) *host {
	h := &host{T: t, dir: t.TempDir()}
	script := "#!/bin/sh\necho \"$@\" >>'" + h.dir + "/systemctl.log'\n"
	h.mkdir("bin")
	if err := os.WriteFile(h.dir+"/bin/systemctl", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", h.dir+"/bin:"+os.Getenv("PATH"))
	h.mkdir("etc")
	return h
}

func (h *host) mkdir(path string) {
	h.Helper()
	if err := os.MkdirAll(filepath.Join(h.dir, path), 0o755); err != nil {
		h.Fatal(err)
	}
}

func (h *host) line(words ...string) { h.lines = append(h.lines, strings.Join(words, " ")) }

// database makes a database with one organisation. A tilde in the path stands for a space.
func (h *host) database(path, organisation string) {
	h.Helper()
	path = filepath.Join(h.dir, strings.ReplaceAll(path, "~", " "))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.Fatal(err)
	}
	org := store.NewOrganisation{ID: "one", Name: organisation, Key: "sk-or-v1-" + organisation, Rate: 1.3}
	if err := store.CreateDemo(h.Context(), path, []store.NewOrganisation{org}, time.Now()); err != nil {
		h.Fatal(err)
	}
}

func (h *host) discover(podman bool, flags ...string) (out discoverOut) {
	h.Helper()
	e, err := parseEngine(strings.Join(h.lines, "\n"), h.dir)
	if err != nil {
		h.Fatal(err)
	}
	e.podman = podman
	socket := filepath.Join(h.dir, "engine.sock")
	server := listenUnix(h, socket, e)
	defer server.Close()
	var stdout, stderr strings.Builder
	defer func(name string) { os.Args[0] = name }(os.Args[0])
	os.Args[0] = "usage-sync" // by which this binary, as a child, knows what it is
	args := []string{"discover", "--json", "--socket", socket, "--config-dir", h.dir + "/etc", "--unit-dir", h.dir + "/units"}
	if code := run(append(args, flags...), nil, &stdout, &stderr); code != exitOK {
		h.Fatalf("exit %d: %s", code, stderr.String())
	}
	if err := json.Unmarshal([]byte(stdout.String()), &out); err != nil {
		h.Fatal(err)
	}
	return out
}
