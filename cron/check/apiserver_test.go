package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var apiserver = flag.String("apiserver", "", "a kube-apiserver's `binary`, whose word on the manifest is asked; needs etcd")

// TestAPIServer submits the manifest to a real API server with strict field validation, whose admission says more than its
// types: what a policy may hold, which values a field may have.
func TestAPIServer(t *testing.T) {
	if *apiserver == "" {
		t.Skip("make test-kubernetes runs it")
	}
	server := startAPIServer(t)
	text, err := os.ReadFile("../kubernetes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ old, new, want string }{
		"as it is":           {"", "", ""},
		"a misspelt field":   {"concurrencyPolicy:", "concurencyPolicy:", `unknown field \"spec.concurencyPolicy\"`},
		"another policy":     {"concurrencyPolicy: Forbid", "concurrencyPolicy: Forbidden", "supported values"},
		"a bad schedule":     {`schedule: "7-59/10`, `schedule: "7-99/10`, "above maximum"},
		"a bad action":       {"action: FailJob", "action: StopJob", "supported values"},
		"no such container":  {"containerName: usage-sync", "containerName: another", "must be one of the container"},
		"exit code 0":        {"values: [64,", "values: [0, 64,", "must not be 0"},
		"codes out of order": {"values: [64, 66,", "values: [66, 64,", "must be ordered"},
		"another restart":    {"restartPolicy: Never", "restartPolicy: OnFailure", `only \"Never\" is supported`},
	} {
		t.Run(name, func(t *testing.T) {
			changed := strings.Replace(string(text), test.old, test.new, 1)
			if test.new != "" && changed == string(text) {
				t.Fatalf("the manifest has no %q", test.old)
			}
			status, answer := server.create(t, changed)
			if admitted := status == http.StatusCreated; admitted != (test.want == "") || !strings.Contains(answer, test.want) {
				t.Errorf("got %d, want %q: %s", status, test.want, answer)
			}
		})
	}
}

// server is an API server of this test's own, on loopback.
type server struct {
	url    string
	client *http.Client
}

const token = "a-token-of-this-test"

// startAPIServer starts etcd and an API server, which end with the test.
func startAPIServer(t *testing.T) *server {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, text []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	signing := file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	tokens := file("tokens.csv", fmt.Appendf(nil, "%s,tester,tester,system:masters\n", token))
	ports := freePorts(t, 3)
	etcd := fmt.Sprintf("http://127.0.0.1:%d", ports[0])
	peer := fmt.Sprintf("http://127.0.0.1:%d", ports[1])
	start(t, filepath.Join(dir, "etcd.log"), "etcd", "--data-dir="+filepath.Join(dir, "etcd"), "--listen-client-urls="+etcd,
		"--advertise-client-urls="+etcd, "--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer,
		"--initial-cluster=default="+peer, "--unsafe-no-fsync")
	log := filepath.Join(dir, "apiserver.log")
	ended := start(t, log, *apiserver, "--etcd-servers="+etcd, "--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", ports[2]),
		"--cert-dir="+dir, "--token-auth-file="+tokens, "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16",
		"--service-account-issuer=https://kubernetes.default", "--service-account-signing-key-file="+signing,
		"--service-account-key-file="+signing, "--endpoint-reconciler-type=none")
	s := &server{url: fmt.Sprintf("https://127.0.0.1:%d", ports[2]), client: &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}} // it has made its certificate a moment ago
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if status, _, err := s.ask(http.MethodGet, "/readyz", nil); err == nil && status == http.StatusOK {
			// The namespace is made a moment later.
			if status, _, err := s.ask(http.MethodGet, "/api/v1/namespaces/default", nil); err == nil && status == http.StatusOK {
				return s
			}
		}
		select {
		case <-ended:
			deadline = time.Time{}
		default:
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(log)
			t.Fatalf("the API server is not ready:\n%s", text[max(0, len(text)-4000):])
		}
	}
}

// start runs a program until the test ends.
func start(t *testing.T, log, name string, args ...string) (ended <-chan struct{}) {
	t.Helper()
	output, err := os.Create(log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = output.Close() })
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = output, output
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { _ = cmd.Wait(); close(done) }()
	t.Cleanup(func() { _ = cmd.Process.Kill(); <-done })
	return done
}

func freePorts(t *testing.T, n int) (ports []int) {
	t.Helper()
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		ports = append(ports, listener.Addr().(*net.TCPAddr).Port)
	}
	return ports
}

// create submits a manifest without keeping it.
func (s *server) create(t *testing.T, manifest string) (status int, answer string) {
	t.Helper()
	status, answer, err := s.ask(http.MethodPost, "/apis/batch/v1/namespaces/default/cronjobs?dryRun=All&fieldValidation=Strict", []byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	return status, answer
}

func (s *server) ask(method, path string, body []byte) (status int, answer string, err error) {
	request, err := http.NewRequest(method, s.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", "application/yaml")
	response, err := s.client.Do(request)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response.StatusCode, string(text), err
}
