// Package discover finds the containers of a host that have a webui.db, and keeps an instance file for each.
package discover

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"usage-sync/job"
)

var (
	// ErrEngine: the container engine can't be reached, or refuses a request.
	ErrEngine = job.NewError(job.KindUnreachable, "container engine")
	// ErrSocket: this user may not open the engine's socket.
	ErrSocket = job.NewError(job.KindPermission, "container engine")
	// errAnswer: the engine's answer can't be understood.
	errAnswer = job.NewError(job.KindUntrusted, "container engine's answer")
)

// sockets are where Docker and Podman listen, in the order in which they are tried.
var sockets = []string{"/var/run/docker.sock", "/run/podman/podman.sock"}

// Engine asks a container engine that speaks the Docker Engine API
// (https://docs.docker.com/reference/api/engine/) over a Unix socket. Three read-only requests do not earn a
// client library.
type Engine struct {
	http   *http.Client
	prefix string // of all paths: the version that the engine speaks
}

// Container is one container, whether or not it runs.
type Container struct {
	Name         string
	State        string // "running", "exited", …
	Image        string // as it was named when the container was made
	NeverStarted bool
	Mounts       []Mount
	labels       map[string]string
	settings     settings
	broken       error // the engine can't say more of it
}

// Mount is a part of a container's file tree that lies on the host.
type Mount struct {
	Type        string // "volume", "bind", "tmpfs", …
	Name        string // of a volume
	Driver      string // of a volume
	Source      string // on the host
	Destination string // in the container
	RW          bool   // the container may write there
}

const (
	engineTimeout = 30 * time.Second
	answerLimit   = 64 << 20
)

// SocketPath reads a socket's address: a path, or unix:// and a path, as in DOCKER_HOST. An empty one is the first of
// the engines' own that exists.
func SocketPath(address string) (string, error) {
	if address == "" {
		for _, path := range sockets {
			if _, err := os.Stat(path); err == nil {
				return path, nil
			}
		}
		return sockets[0], nil
	}
	path := strings.TrimPrefix(address, "unix://")
	if !strings.HasPrefix(path, "/") {
		return "", fmt.Errorf("%q is no absolute path of a Unix socket: databases can only be found on this "+
			"host", address)
	}
	return path, nil
}

// Dial greets the engine that listens on a socket.
func Dial(ctx context.Context, socket string) (*Engine, error) {
	e := &Engine{http: &http.Client{
		Timeout: engineTimeout,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}},
	}}
	answer, err := e.get(ctx, "/_ping", nil)
	if err != nil {
		return nil, err
	}
	// Old versions are refused one day, and so are paths without any; the engine's own is served for sure.
	if version := answer.Header.Get("Api-Version"); version != "" {
		e.prefix = "/v" + version
	}
	return e, nil
}

// Containers returns all containers, those that do not run included, in the order of their names. One that the
// engine can't inspect does not stop the others; where it can inspect none, that is an error.
func (e *Engine) Containers(ctx context.Context) ([]Container, error) {
	var list []struct {
		ID    string `json:"Id"`
		Names []string
		State string
	}
	if _, err := e.get(ctx, "/containers/json?all=true", &list); err != nil {
		return nil, err
	}
	var all []Container
	var lastErr error
	broken := 0
	for _, entry := range list {
		name := nameOf(entry.Names)
		if name == "" {
			continue // it is being made or removed
		}
		c, gone, err := e.inspect(ctx, entry.ID)
		switch {
		case ctx.Err() != nil:
			return nil, err
		case err != nil:
			c, lastErr, broken = Container{broken: err}, err, broken+1
		case gone:
			continue
		}
		c.Name, c.State = name, entry.State
		all = append(all, c)
	}
	if broken > 0 && broken == len(all) {
		return nil, lastErr
	}
	slices.SortFunc(all, func(a, b Container) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}

// inspect asks for what the list leaves out, Podman's the mounts too.
func (e *Engine) inspect(ctx context.Context, id string) (c Container, gone bool, err error) {
	var inspected struct {
		State  struct{ StartedAt string }
		Mounts []Mount
		Config struct {
			Image, WorkingDir string
			Env               []string
			Labels            map[string]string
		}
	}
	if gone, err := e.find(ctx, "/containers/"+url.PathEscape(id)+"/json", &inspected); gone || err != nil {
		return c, gone, err
	}
	config := inspected.Config
	c = Container{Image: config.Image, Mounts: inspected.Mounts, labels: config.Labels,
		settings: newSettings(config.Env, config.WorkingDir)}
	c.NeverStarted = strings.HasPrefix(inspected.State.StartedAt, "0001-01-01")
	for i, m := range c.Mounts {
		if m.Type != "volume" || m.Source != "" {
			continue
		}
		var volume struct{ Mountpoint string }
		if _, err := e.find(ctx, "/volumes/"+url.PathEscape(m.Name), &volume); err != nil {
			return c, false, err
		}
		c.Mounts[i].Source = volume.Mountpoint
	}
	return c, false, nil
}

// nameOf picks a container's own name: "/name", while "/other/name" is a link of another one's.
func nameOf(names []string) string {
	for _, name := range names {
		if name = strings.TrimPrefix(name, "/"); !strings.Contains(name, "/") {
			return name
		}
	}
	return ""
}

// find is get, for what may have gone since it was listed.
func (e *Engine) find(ctx context.Context, path string, into any) (gone bool, err error) {
	answer, err := e.get(ctx, path, into)
	if answer != nil && answer.StatusCode == http.StatusNotFound {
		return true, nil
	}
	return false, err
}

func (e *Engine) get(ctx context.Context, path string, into any) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://engine"+e.prefix+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := e.http.Do(request)
	if ctx.Err() != nil && err != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil {
		var wrapped *url.Error // whose text holds the made-up address
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		if errors.Is(err, fs.ErrPermission) {
			return nil, fmt.Errorf("%w: %w", ErrSocket, err)
		}
		return nil, fmt.Errorf("%w: %w", ErrEngine, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, answerLimit))
	if err != nil {
		return nil, fmt.Errorf("%w: GET %s: %w", ErrEngine, path, err)
	}
	if answer.StatusCode != http.StatusOK {
		var refused struct{ Message string }
		_ = json.Unmarshal(body, &refused)
		return answer, fmt.Errorf("%w: GET %s: %s: %.200q", ErrEngine, path, answer.Status, refused.Message)
	}
	if into == nil {
		return answer, nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return answer, fmt.Errorf("%w: GET %s: %w", errAnswer, path, err)
	}
	return answer, nil
}
