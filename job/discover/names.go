package discover

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"usage-sync/job"
)

// ErrInstance: no instance, or not one, is what the command line asks for.
var ErrInstance = job.NewError(job.KindConfiguration, "instance")

// Settings are those of an instance: variables by name.
type Settings map[string]string

// Database is the path of the instance's database, or empty where the file does not name it.
func (s Settings) Database() string { return s["USAGE_SYNC_DB"] }

// Volume is where the instance's database may lie; empty is anywhere.
func (s Settings) Volume() string { return s["USAGE_SYNC_VOLUME"] }

// ReadSettings reads the file of an instance as systemd does. An instance that is not configured is fs.ErrNotExist.
func (l Layout) ReadSettings(name string) (Settings, error) {
	if len(name) > longestName || !instanceName().MatchString(name) || slices.Contains(reserved, name) {
		return nil, fmt.Errorf("%w %q: %w", ErrInstance, name, fs.ErrNotExist)
	}
	text, err := os.ReadFile(l.envFile(name))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w %s: %w", ErrInstance, name, err)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	values, _ := ReadEnvironment(string(text))
	return values, nil
}

// Names lists the instances that are configured, sorted. No directory is none.
func (l Layout) Names() ([]string, error) {
	if _, err := os.ReadDir(l.Config); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	files, err := l.instanceFiles()
	return slices.Sorted(maps.Keys(files)), err
}
