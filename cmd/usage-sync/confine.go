package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"usage-sync/job/confine"
)

// errUnit: systemd has started this process in a sandbox.
var errUnit = errors.New("the sandbox of the unit")

// confined keeps a command on one database to that one's directory, and to the places that its flags name
// (place:"read", "write", or "beside": the directory of a file). Where the kernel can't, doctor says so and
// everything works as before.
func (a *app) confined(parsed *kong.Context) error {
	if reach, _ := reachOf(parsed); reach == onNone && !a.cli.Discover.Look {
		return nil // it works on several databases
	}
	if set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); err == nil && set == 1 &&
		os.Getenv("INVOCATION_ID") != "" {
		return errUnit // which hides more, and costs a pass nothing
	}
	real, err := filepath.EvalSymlinks(a.cli.DB)
	if err != nil {
		return nil // which the command tells
	}
	// Libraries there are none: of /usr these are certificates and time zones.
	places := confine.Places{Read: []string{"/proc", "/etc", "/usr"}}
	if resolver, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil {
		places.Read = append(places.Read, filepath.Dir(resolver))
	}
	for _, setting := range os.Environ() { // secrets and certificates
		if name, path, _ := strings.Cut(setting, "="); path != "" &&
			(strings.HasSuffix(name, "_FILE") || strings.HasSuffix(name, "_DIR") ||
				name == "CREDENTIALS_DIRECTORY") {
			places.Read = append(places.Read, path)
		}
	}
	places.Write = []string{filepath.Dir(real), os.TempDir(), os.DevNull}
	values := parsed.Selected().Positional
	for _, flag := range parsed.Flags() {
		values = append(values, flag.Value)
	}
	for _, v := range values {
		for _, path := range pathsIn(v) {
			switch v.Tag.Get("place") {
			case "read":
				places.Read = append(places.Read, path)
			case "write":
				if info, err := os.Stat(path); err == nil && !info.IsDir() {
					path = filepath.Dir(path) // it is replaced
				}
				places.Write = append(places.Write, path)
			case "beside":
				places.Write = append(places.Write, filepath.Dir(path))
			}
		}
	}
	return confine.Process(places)
}

// pathsIn are the paths that a flag or an argument names.
func pathsIn(v *kong.Value) (paths []string) {
	if !v.Tag.Has("place") {
		return nil
	}
	named, _ := v.Target.Interface().([]string)
	if one, ok := v.Target.Interface().(string); ok {
		named = []string{one}
	}
	for _, path := range named {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		if path != "" && path != "-" { // a standard stream is open already
			paths = append(paths, path)
		}
	}
	return paths
}
