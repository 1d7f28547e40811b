package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode"

	"usage-sync/job"
	"usage-sync/job/httpapi"
	"usage-sync/store"
)

// errSecret: a secret that the settings name can't be read.
var errSecret = job.NewError(job.KindConfiguration, "secret")

var errEmptySecret = fmt.Errorf("%w: nothing in the file", errSecret)

// secret returns what an environment variable holds, else the file that the variable with _FILE behind its name
// names, else systemd's credential of that name (https://systemd.io/CREDENTIALS), and where it was found. It
// may be nowhere. An empty credential is none: a unit must have something to fall back on where the file is
// missing.
func secret(variable, credential string) (text, from string, err error) {
	if text := strings.TrimSpace(os.Getenv(variable)); text != "" {
		return text, variable, nil
	}
	if path := os.Getenv(variable + "_FILE"); path != "" {
		text, err := readSecret(path)
		return text, path, err
	}
	directory := os.Getenv("CREDENTIALS_DIRECTORY")
	if directory == "" {
		return "", "", nil
	}
	text, err = readSecret(filepath.Join(directory, credential))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, errEmptySecret) {
		return "", "", nil
	}
	return text, "credential " + credential, err
}

func readSecret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errSecret, err)
	}
	if len(strings.TrimSpace(string(text))) == 0 {
		return "", fmt.Errorf("%w: %s", errEmptySecret, path)
	}
	return strings.TrimSpace(string(text)), nil
}

// oneWord refuses what no HTTP header can hold.
func oneWord(value, from string) error {
	if strings.ContainsFunc(value, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return fmt.Errorf("%w: %s holds more than one word", errSecret, from)
	}
	return nil
}

// managementFlag is how the account's management key is given.
type managementFlag struct {
	ManagementKey store.Key `placeholder:"KEY" help:"OpenRouter's management key. Other users see it in the list of processes: prefer OPENROUTER_MANAGEMENT_KEY, OPENROUTER_MANAGEMENT_KEY_FILE or the credential management-key. Default: openrouter_provisioning_key of the database."`
}

// managementKey returns the management key and where it is from, or none.
func (f managementFlag) managementKey(ctx context.Context, db *store.Store) (store.Key, string, error) {
	host, from, err := f.hostKey()
	if host != "" || err != nil {
		return host, from, err
	}
	key, err := db.ProvisioningKey(ctx)
	if key == "" || err != nil {
		return "", "", err
	}
	return key, "global_settings.openrouter_provisioning_key", nil
}

// hostKey returns the management key that the host gives, and where it is from, or none.
func (f managementFlag) hostKey() (store.Key, string, error) {
	if f.ManagementKey != "" {
		return f.ManagementKey, "--management-key", nil
	}
	text, from, err := secret("OPENROUTER_MANAGEMENT_KEY", "management-key")
	if err == nil {
		err = oneWord(text, from)
	}
	return store.Key(text), from, err
}

// takeHostKey makes the file from which the units have the management key that of this process, where nothing
// else names one: what is done by hand on an instance is done as its units do it.
func takeHostKey(configDir string) error {
	for _, variable := range []string{"OPENROUTER_MANAGEMENT_KEY", "OPENROUTER_MANAGEMENT_KEY_FILE",
		"CREDENTIALS_DIRECTORY"} {
		if os.Getenv(variable) != "" {
			return nil
		}
	}
	path := hostKeyFile(configDir)
	if _, err := readSecret(path); err != nil {
		return nil // not there, empty, or not for this user
	}
	return os.Setenv("OPENROUTER_MANAGEMENT_KEY_FILE", path)
}

func hostKeyFile(configDir string) string { return filepath.Join(configDir, "management-key") }

// httpSecrets are what the callers of the HTTP API prove themselves with: the tokens and webhook secrets one a line.
func httpSecrets() (all httpapi.Secrets, err error) {
	webUI, _, err := secret("WEBUI_SECRET_KEY", "webui-secret-key")
	if webUI == "" && err == nil { // the name that it had, which Open WebUI still takes (env.py)
		webUI, _, err = secret("WEBUI_JWT_SECRET_KEY", "webui-secret-key")
	}
	tokens, _, tokensErr := secret("USAGE_SYNC_API_TOKEN", "api-token")
	webhook, _, webhookErr := secret("USAGE_SYNC_WEBHOOK_SECRET", "webhook-secret")
	return httpapi.Secrets{WebUI: webUI, Tokens: nonEmptyLines(tokens), Webhook: nonEmptyLines(webhook)},
		errors.Join(err, tokensErr, webhookErr)
}

func nonEmptyLines(text string) (all []string) {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			all = append(all, line)
		}
	}
	return all
}
