// Command image packs the static binary and the certificate authorities that Mozilla trusts into an OCI image, without a
// daemon, a base image or a registry. The same binary gives the same bytes.
//
//	image VERSION OUTPUT BINARY...
//
// The output is an OCI archive with one image for the architecture of each binary, which "docker load", "podman load" and
// "ctr images import" take. For Docker before 25, which does not know OCI archives, it also is what "docker save" writes: of
// the first binary's image. It is a module of its own, so that its dependencies are not those of usage-sync.
package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// Where things lie in the image. Go looks for the roots in this file first (crypto/x509, root_linux.go).
const (
	binaryPath = "usr/local/bin/usage-sync"
	rootsPath  = "etc/ssl/certs/ca-certificates.crt"
)

func main() {
	if len(os.Args) < 4 {
		fmt.Fprintln(os.Stderr, "usage: image VERSION OUTPUT BINARY...")
		os.Exit(64)
	}
	if err := write(os.Args[1], os.Args[2], os.Args[3:]...); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func write(version, output string, binaries ...string) (err error) {
	dir, err := os.MkdirTemp("", "usage-sync-image-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var images []v1.Image
	for _, binary := range binaries {
		image, err := build(binary, version)
		if err != nil {
			return fmt.Errorf("%s: %w", binary, err)
		}
		images = append(images, image)
	}
	index, err := list(images, version)
	if err != nil {
		return err
	}
	if _, err := layout.Write(dir, index); err != nil {
		return err
	}
	if err := dockerManifest(dir, images[0], version); err != nil {
		return err
	}
	return archive(dir, output)
}

// list names the image. Of several it is an index of its own, by which an engine chooses that of its architecture.
func list(images []v1.Image, version string) (v1.ImageIndex, error) {
	empty := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	// The first is the specification's, the second what Docker and containerd go by.
	named := map[string]string{"org.opencontainers.image.ref.name": "usage-sync:" + version,
		"io.containerd.image.name": "docker.io/library/usage-sync:" + version}
	byArchitecture := empty
	for _, image := range images {
		config, err := image.ConfigFile()
		if err != nil {
			return nil, err
		}
		entry := mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: config.OS, Architecture: config.Architecture}}}
		if len(images) == 1 {
			entry.Annotations = named
		}
		byArchitecture = mutate.AppendManifests(byArchitecture, entry)
	}
	if len(images) == 1 {
		return byArchitecture, nil
	}
	return mutate.AppendManifests(empty, mutate.IndexAddendum{Add: byArchitecture, Descriptor: v1.Descriptor{Annotations: named}}), nil
}

// dockerManifest adds what "docker save" writes beside an OCI layout: an engine that does not know that loads by it
// (https://github.com/moby/docker-image-spec, version 1.2, "Combined Image JSON + Filesystem Changeset Format").
func dockerManifest(dir string, image v1.Image, version string) error {
	blob := func(hash v1.Hash) string { return "blobs/" + hash.Algorithm + "/" + hash.Hex }
	config, err := image.ConfigName()
	if err != nil {
		return err
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	entry := struct {
		Config           string
		RepoTags, Layers []string
	}{Config: blob(config), RepoTags: []string{"usage-sync:" + version}}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		entry.Layers = append(entry.Layers, blob(digest))
	}
	text, err := json.Marshal([]any{entry})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "manifest.json"), text, 0o644)
}

// architectures are those of ELF's that usage-sync is built for, by the names that Go and OCI have for them.
var architectures = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}

// architecture is what a binary says of itself: the machine that packs it may be another one.
func architecture(program []byte) (string, error) {
	header, err := elf.NewFile(bytes.NewReader(program))
	if err != nil {
		return "", err
	}
	name, ok := architectures[header.Machine]
	if !ok {
		return "", fmt.Errorf("no image is made for %s", header.Machine)
	}
	return name, nil
}

// build makes the image: one layer, and a configuration that runs the binary.
func build(binary, version string) (v1.Image, error) {
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	arch, err := architecture(program)
	if err != nil {
		return nil, err
	}
	content, err := pack([]file{
		{"etc/", 0o755, nil}, {"etc/ssl/", 0o755, nil}, {"etc/ssl/certs/", 0o755, nil}, {rootsPath, 0o644, roots()},
		{"tmp/", 0o1777, nil}, // SQLite sorts there what does not fit in memory
		{"usr/", 0o755, nil}, {"usr/local/", 0o755, nil}, {"usr/local/bin/", 0o755, nil}, {binaryPath, 0o755, program},
	})
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil },
		tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	image, err := mutate.Append(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON),
		mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: epoch}, CreatedBy: "make image"}})
	if err != nil {
		return nil, err
	}
	made, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config := made.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: epoch}
	config.Config = v1.Config{
		Entrypoint: []string{"/" + binaryPath},
		Labels: map[string]string{"org.opencontainers.image.title": "usage-sync", "org.opencontainers.image.version": version,
			"org.opencontainers.image.description": "Records OpenRouter usage in the database of an Open WebUI container"},
	}
	return mutate.ConfigFile(image, config)
}

// epoch dates everything: when something was built is no part of what was built.
var epoch = time.Unix(0, 0).UTC()

// roots are the certificate authorities, as the Go project passes on Mozilla's. A PEM file can't say under which conditions
// one is trusted, so those that are not trusted without are left out.
func roots() []byte {
	var text bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate}) // a buffer takes everything
		}
	}
	return text.Bytes()
}

// file is a file, or a directory where the name ends with a slash.
type file struct {
	name string
	mode int64
	text []byte
}

// pack makes a tar archive that holds nothing of the machine it was made on: everything is root's and of the same date.
func pack(files []file) ([]byte, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, f := range files {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.text)), ModTime: epoch, Format: tar.FormatUSTAR}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.text); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return buffer.Bytes(), err
}

// archive packs a layout into one file, in the order of the names.
func archive(dir, output string) error {
	var files []file
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || entry.IsDir() {
			files = append(files, file{name + "/", 0o755, nil})
			return err
		}
		text, err := os.ReadFile(path)
		files = append(files, file{name, 0o644, text})
		return err
	})
	if err != nil {
		return err
	}
	content, err := pack(files)
	if err != nil {
		return err
	}
	return os.WriteFile(output, content, 0o644)
}
