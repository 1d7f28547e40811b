// Command check decodes a manifest into Kubernetes' own types, strictly: a field that they do not know, or that stands there
// twice, is an error. It is a module of its own, so that its dependencies are not those of usage-sync.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	batch "k8s.io/api/batch/v1"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: check MANIFEST")
		os.Exit(64)
	}
	manifest, err := os.Open(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	defer manifest.Close()
	if err := check(manifest); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// check decodes every document of a manifest. One that holds no CronJob is not the one that was meant.
func check(manifest io.Reader) error {
	scheme := runtime.NewScheme()
	if err := errors.Join(batch.AddToScheme(scheme), core.AddToScheme(scheme)); err != nil {
		return err
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	documents := utilyaml.NewDocumentDecoder(io.NopCloser(manifest))
	defer documents.Close()
	jobs := 0
	for buffer := make([]byte, 1<<20); ; {
		n, err := documents.Read(buffer)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		object, _, err := decoder.Decode(buffer[:n], nil, nil)
		if err != nil {
			return err
		}
		if _, ok := object.(*batch.CronJob); ok {
			jobs++
		}
	}
	if jobs == 0 {
		return errors.New("holds no CronJob")
	}
	return nil
}
