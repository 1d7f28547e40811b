// Sdk runs the vendor's own client for OpenRouter, the npm package @openrouter/sdk, against the stand-in. The
// client holds every answer against its schema, so that a stand-in it refuses is wrong. It is started by
// `make test-sdk`.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"usage-sync/job/openrouter/standin"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	err := run(ctx, os.Args[1:])
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(1) // the tests have said why
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves an account and starts a command that finds in the environment where and what it is.
func run(ctx context.Context, command []string) error {
	if len(command) == 0 {
		return errors.New("want COMMAND ARG..., the tests to run")
	}
	now := time.Now().UTC().Truncate(time.Second)
	server, account := serve(now)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	listening := &http.Server{Handler: server, ReadHeaderTimeout: time.Minute}
	go func() { _ = listening.Serve(listener) }()
	defer listening.Close()
	account["url"] = "http://" + listener.Addr().String() + "/api/v1"
	text, err := json.Marshal(account)
	if err != nil {
		return err
	}
	child := exec.CommandContext(ctx, command[0], command[1:]...)
	child.Env = append(os.Environ(), "STANDIN="+string(text))
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	return child.Run()
}

// The account. None of the keys opens anything.
const (
	managementKey = "sk-or-v1-5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d01"
	acmeKey       = "sk-or-v1-5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d02"
	globexKey     = "sk-or-v1-5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d5d03"
	workspace     = "11111111-1111-4111-8111-111111111111"
)

// serve returns a stand-in with an account that has one of each: workspaces, keys, generations and
// destinations.
func serve(now time.Time) (*standin.Server, map[string]any) {
	s := standin.New(time.Now)
	s.AddManagementKey(managementKey)
	s.AddWorkspace(standin.Workspace{ID: workspace, Name: "Resale"})
	s.SetKey(acmeKey, standin.Key{Name: "Acme production", Limit: "100.5", LimitReset: "monthly",
		ExpiresAt: now.AddDate(1, 0, 0)})
	s.SetKey(globexKey, standin.Key{Name: "Globex", Workspace: workspace, Disabled: true})
	s.AddDestination(standin.Destination{ID: "22222222-2222-4222-8222-222222222222", Name: "usage-sync",
		URL: "https://billing.example/hook", Hashes: []string{s.KeyHash(acmeKey)}})
	s.AddDestination(standin.Destination{ID: "33333333-3333-4333-8333-333333333333", URL: "https://other.example/hook",
		Filtered: true, NoCost: true, SamplingRate: 0.5})

	at := func(n int) standin.Generation {
		created := now.Add(-time.Duration(n) * 7 * time.Hour)
		return standin.Generation{ID: fmt.Sprintf("gen-%d-AbCdEfGhIjKlMnOpQr%02d", created.Unix(), n),
			CreatedAt: created, Model: "google/gemini-3.1-flash-image-preview",
			Permaslug: "google/gemini-3.1-flash-image-preview-20260226",
			Provider:  "Google AI Studio", PromptTokens: 57, CompletionTokens: 1574, Cost: "0.0685905"}
	}
	plain, byok, video, tool, user := at(1), at(2), at(3), at(4), at(5)
	byok.BYOK, byok.Cost, byok.UpstreamCost = true, "0.0034", "0.068"
	video.Model, video.Permaslug, video.NoTokens, video.Cost = "google/veo-3.1", "", true, "3.2"
	tool.Tool, tool.Cost, tool.PromptTokens, tool.CompletionTokens = true, "0.004", 0, 0
	user.ExternalUser = "ann@acme.example"
	s.Add(acmeKey, plain, byok, video, tool, user)
	s.Add(globexKey, at(6))
	return s, map[string]any{"managementKey": managementKey, "key": acmeKey,
		"hash": s.KeyHash(acmeKey), "workspace": workspace,
		"disabledHash": s.KeyHash(globexKey), "otherKey": globexKey,
		"ids": map[string]string{"plain": plain.ID, "byok": byok.ID,
			"video": video.ID, "tool": tool.ID, "user": user.ID}}
}
