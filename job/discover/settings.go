package discover

import (
	"path"
	"regexp"
	"strings"
	"sync"
)

// Where Open WebUI keeps its database, as its own settings say (open_webui/env.py, read in its public source in
// November 2026): DATABASE_URL, else DATABASE_TYPE, _USER, _PASSWORD, _HOST, _PORT and _NAME together, else webui.db in
// DATA_DIR, else in the data directory of its working directory.

// settings are those of a container that say where its database is. Nothing else of its environment is kept: it
// holds keys.
type settings struct {
	dataDir, url, kind string
	server             bool // the parts of the address of a database server are all given
	workDir            string
}

// newSettings picks what is needed from a container's environment.
func newSettings(environment []string, workDir string) settings {
	values := map[string]string{}
	for _, line := range environment {
		name, value, _ := strings.Cut(line, "=")
		values[name] = value
	}
	s := settings{dataDir: values["DATA_DIR"], url: values["DATABASE_URL"],
		kind: values["DATABASE_TYPE"], workDir: workDir}
	s.server = s.kind != ""
	for _, part := range []string{"USER", "PASSWORD", "HOST", "PORT", "NAME"} {
		s.server = s.server && values["DATABASE_"+part] != ""
	}
	return s
}

// addressScheme is the beginning of a database's address: "postgresql+psycopg2://".
var addressScheme = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^([a-zA-Z0-9]+)(\+[a-zA-Z0-9_]+)?://`) })

// database returns where the database lies in the container. Without a setting that says so it is standard. A
// problem says why there is no file that a pass could work on; it holds nothing of the address, which may have
// a password.
func (s settings) database(standard string) (inside, problem string) {
	if s.dataDir != "" {
		standard = path.Join(s.absolute(s.dataDir), path.Base(standard))
	}
	scheme := addressScheme().FindStringSubmatch(s.url)
	switch {
	case s.server:
		return "", databaseKind(s.kind) + " (DATABASE_TYPE)"
	case s.url == "" && s.kind == "sqlite+sqlcipher":
		return "", databaseKind(s.kind) + " (DATABASE_TYPE)"
	case s.url == "":
		return standard, ""
	case scheme == nil:
		return "", "its DATABASE_URL is no address"
	case scheme[1] != "sqlite" || scheme[2] == "+sqlcipher":
		return "", databaseKind(scheme[1]+scheme[2]) + " (DATABASE_URL)"
	}
	// sqlite:///relative/path, sqlite:////absolute/path
	file, _, _ := strings.Cut(strings.TrimPrefix(s.url[len(scheme[0]):], "/"), "?")
	if file == "" || file == ":memory:" {
		return "", "its database is in memory (DATABASE_URL)"
	}
	return s.absolute(file), ""
}

func (s settings) absolute(file string) string {
	if path.IsAbs(file) {
		return path.Clean(file)
	}
	return path.Join("/", s.workDir, file)
}

// databaseKind says what a database is that is no file of SQLite's.
func databaseKind(scheme string) string {
	name, _, _ := strings.Cut(scheme, "+")
	switch {
	case strings.HasPrefix(scheme, "postgres"):
		return "its database is PostgreSQL, not a file"
	case scheme == "sqlite+sqlcipher":
		return "its database is encrypted (SQLCipher)"
	}
	return "its database is " + name + ", not a file of SQLite's"
}

// isOpenWebUI tells by image and labels whether a container is one, or made from one.
func (c Container) isOpenWebUI() bool {
	texts := []string{c.Image, c.labels["org.opencontainers.image.title"], c.labels["org.opencontainers.image.source"]}
	for _, text := range texts {
		if text = strings.ToLower(text); strings.Contains(text, "open-webui") || strings.Contains(text, "open webui") {
			return true
		}
	}
	return false
}
