package openrouter

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
)

// TestBundle: whoever the bundle names is trusted, and nobody else; HTTP/2 is still spoken.
func TestBundle(t *testing.T) {
	t.Setenv("SSL_CERT_FILE", "")
	t.Setenv("SSL_CERT_DIR", "")
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	dir := t.TempDir()
	write := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	own := write("own.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	empty, none := write("empty.pem", nil), filepath.Join(dir, "none.pem")
	get := func(paths ...string) (*http.Response, error) {
		transport := newBundled(paths)
		defer transport.CloseIdleConnections()
		response, err := (&http.Client{Transport: transport}).Get(server.URL)
		if err == nil {
			response.Body.Close()
		}
		return response, err
	}
	if response, err := get(none, own); err != nil || response.ProtoMajor != 2 {
		t.Errorf("%v, %v", response, err)
	}
	for _, paths := range [][]string{nil, {none}, {empty, own}} { // as Go trusts: an empty bundle is the system's own
		if _, err := get(paths...); err == nil {
			t.Errorf("%v: trusted", paths)
		}
	}
	// Go reads SSL_CERT_FILE once in a process, so that here it can only be seen that the bundle is left alone.
	t.Setenv("SSL_CERT_FILE", empty)
	if _, err := get(own); err == nil {
		t.Error("the bundle is read beside SSL_CERT_FILE")
	}
}
