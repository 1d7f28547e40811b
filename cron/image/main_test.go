package main

import (
	"archive/tar"
	"bytes"
	"crypto/x509"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// program makes a file that says that it is a program for a machine, and no more.
func program(t *testing.T, machine elf.Machine) (path string) {
	t.Helper()
	header := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)
	var text bytes.Buffer
	if err := binary.Write(&text, binary.LittleEndian, header); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "usage-sync")
	if err := os.WriteFile(path, text.Bytes(), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// entries unpacks an archive.
func entries(t *testing.T, archive string) map[string][]byte {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		if found[header.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
}

// TestArchitectures: the image of each binary is for the machine that the binary is for, whatever this one is, and what
// old Docker loads is that of the first.
func TestArchitectures(t *testing.T) {
	output := filepath.Join(t.TempDir(), "image.tar")
	if err := write("v1.2.3", output, program(t, elf.EM_X86_64), program(t, elf.EM_AARCH64)); err != nil {
		t.Fatal(err)
	}
	files := entries(t, output)
	blob := func(digest string) []byte { return files["blobs/"+strings.Replace(digest, ":", "/", 1)] }
	type index struct {
		Manifests []struct {
			Digest      string
			Annotations map[string]string
			Platform    struct{ Architecture string }
		}
	}
	read := func(text []byte, into any) {
		t.Helper()
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
	var outer, inner index
	read(files["index.json"], &outer)
	if len(outer.Manifests) != 1 || outer.Manifests[0].Annotations["org.opencontainers.image.ref.name"] != "usage-sync:v1.2.3" {
		t.Fatalf("index.json: %s", files["index.json"])
	}
	read(blob(outer.Manifests[0].Digest), &inner)
	var named, configured []string
	for _, m := range inner.Manifests {
		named = append(named, m.Platform.Architecture)
		var manifest struct{ Config struct{ Digest string } }
		var config struct{ Architecture string }
		read(blob(m.Digest), &manifest)
		read(blob(manifest.Config.Digest), &config)
		configured = append(configured, config.Architecture)
	}
	if want := []string{"amd64", "arm64"}; !reflect.DeepEqual(named, want) || !reflect.DeepEqual(configured, want) {
		t.Errorf("architectures %v, %v", named, configured)
	}
	var docker []struct {
		Config           string
		RepoTags, Layers []string
	}
	read(files["manifest.json"], &docker)
	var config struct{ Architecture string }
	read(files[docker[0].Config], &config)
	if config.Architecture != "amd64" || docker[0].RepoTags[0] != "usage-sync:v1.2.3" || len(files[docker[0].Layers[0]]) == 0 {
		t.Errorf("manifest.json: %s", files["manifest.json"])
	}
	if err := write("v1.2.3", output, program(t, elf.EM_RISCV)); err == nil {
		t.Error("an image for a machine of which nobody knows the name")
	}
}

// TestReproducible builds the same image twice, from a binary of another date and mode.
func TestReproducible(t *testing.T) {
	var archives [][]byte
	for range 2 {
		output := filepath.Join(t.TempDir(), "image.tar")
		if err := write("v1.2.3", output, program(t, elf.EM_X86_64)); err != nil {
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
	image, err := build(program(t, elf.EM_X86_64), "v1.2.3")
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
