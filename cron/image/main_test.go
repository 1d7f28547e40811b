package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

func program(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "usage-sync")
	if err := os.WriteFile(path, []byte("\x7fELF a program"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestReproducible builds the same image twice, from a binary of another date and mode.
func TestReproducible(t *testing.T) {
	var archives [][]byte
	for range 2 {
		output := filepath.Join(t.TempDir(), "image.tar")
		if err := write(program(t), "v1.2.3", output); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(output)
		if err != nil {
			t.Fatal(err)
		}
		archives = append(archives, text)
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("two builds differ")
	}
}

// TestContent unpacks the image: the binary, the roots and the directories that hold them, nothing else.
func TestContent(t *testing.T) {
	image, err := build(program(t), "v1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Config.Entrypoint; !reflect.DeepEqual(got, []string{"/usr/local/bin/usage-sync"}) {
		t.Errorf("entry point %q", got)
	}
	files := mutate.Extract(image)
	defer files.Close()
	found := map[string]int64{}
	for r := tar.NewReader(files); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if header.Uid != 0 || header.Gid != 0 || header.ModTime.Unix() != 0 {
			t.Errorf("%s tells of the machine it was packed on: %+v", header.Name, header)
		}
		if header.Typeflag == tar.TypeDir {
			continue
		}
		found[header.Name] = header.Mode
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if header.Name != rootsPath {
			continue
		}
		if pool := x509.NewCertPool(); !pool.AppendCertsFromPEM(text) {
			t.Error("the roots are not certificates")
		}
		if n := bytes.Count(text, []byte("BEGIN CERTIFICATE")); n < 100 {
			t.Errorf("%d roots", n)
		}
	}
	if want := map[string]int64{rootsPath: 0o644, binaryPath: 0o755}; !reflect.DeepEqual(found, want) {
		t.Errorf("files %v, want %v", found, want)
	}
}
