package systemd_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	deliveryPath  = "/api/v1/usage-tracking/webhook/openrouter-usage"
	webhookSecret = "a-webhook-secret-of-the-bench"
	proxyAddress  = "127.0.0.1:8443"
)

// serveHTTP gives a container the units of the HTTP API, as an operator does.
func (b *bench) serveHTTP(name string) {
	b.t.Helper()
	b.write("/etc/systemd/system/usage-sync-http-"+name+".socket", example(b.t, "http.socket", name))
	b.write("/etc/systemd/system/usage-sync-http-"+name+"@.service", example(b.t, "http@.service", name))
	b.write("/etc/usage-sync/"+name+".webhook-secret", webhookSecret+"\n")
	must(b.t, os.Chmod(b.inside("/etc/usage-sync/"+name+".webhook-secret"), 0o600))
	b.must("systemctl", "daemon-reload")
	b.must("systemctl", "enable", "--now", "--quiet", "usage-sync-http-"+name+".socket")
}

// proxy starts the nginx of the README on the bench, with a certificate of its own, and returns a client that trusts it.
func (b *bench) proxy(name string) *http.Client {
	b.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(b.t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "usage.example.com"},
		DNSNames: []string{"usage.example.com"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(b.t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	must(b.t, err)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
	b.write("/etc/nginx/usage.pem", string(text))
	b.write("/etc/nginx/usage.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	b.write("/etc/nginx/nginx.conf", `user www-data;
worker_processes 2;
events { worker_connections 1024; }
http {
	access_log off;
	server {
		listen `+proxyAddress+` ssl;
		server_name usage.example.com;
		ssl_certificate /etc/nginx/usage.pem;
		ssl_certificate_key /etc/nginx/usage.key;
`+example(b.t, "nginx.conf", name)+`	}
}
`)
	b.must("systemd-run", "--unit=bench-nginx", "--service-type=forking", "--quiet", "nginx")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(text)
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "usage.example.com"}, DisableKeepAlives: true,
		DialContext: func(context.Context, string, string) (net.Conn, error) { return b.dial(proxyAddress) },
	}}
}

// dial connects to a port on the bench's own loopback interface.
func (b *bench) dial(address string) (conn net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // see listen
		own, ownErr := os.Open("/proc/thread-self/ns/net")
		other, otherErr := os.Open(fmt.Sprintf("/proc/%d/ns/net", b.init.Process.Pid))
		if err = errors.Join(ownErr, otherErr); err != nil {
			return
		}
		defer own.Close()
		defer other.Close()
		if err = unix.Setns(int(other.Fd()), unix.CLONE_NEWNET); err != nil {
			return
		}
		conn, err = net.Dial("tcp", address)
		err = errors.Join(err, unix.Setns(int(own.Fd()), unix.CLONE_NEWNET))
		runtime.UnlockOSThread()
	}()
	<-done
	return conn, err
}

// broadcast is a delivery of OpenRouter's, as TestDeliveries of the program has it too.
func broadcast(keyName, id, model, user string, tokens, pico int64, at time.Time) string {
	who := ""
	if user != "" {
		who = fmt.Sprintf(`{"key":"user.id","value":{"stringValue":%q}},`, user)
	}
	return fmt.Sprintf(`{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"openrouter"}}]},
		"scopeSpans":[{"spans":[{"name":"LLM Generation","startTimeUnixNano":"%d","attributes":[
		{"key":"span.type","value":{"stringValue":"generation"}},{"key":"gen_ai.response.id","value":{"stringValue":%q}},
		{"key":"trace.metadata.openrouter.api_key_name","value":{"stringValue":%q}},
		{"key":"gen_ai.response.model","value":{"stringValue":%q}},%s
		{"key":"gen_ai.usage.total_tokens","value":{"intValue":%d}},{"key":"gen_ai.usage.total_cost","value":{"doubleValue":0.%012d}}]}]}]}]}`,
		at.UnixNano(), id, keyName, model, who, tokens, pico)
}

func deliver(client *http.Client, body string) (int, error) {
	r, err := http.NewRequest(http.MethodPost, "https://usage.example.com"+deliveryPath, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+webhookSecret)
	answer, err := client.Do(r)
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

// light takes the mounts out of the sandbox, which cost more than all the rest of an answer: a thousand deliveries are to
// be over in a minute on a machine that does other things as well. TestHTTPExposure is about the sandbox.
const light = `[Service]
InaccessiblePaths=
ReadWritePaths=
ProtectSystem=no
ProtectHome=no
PrivateMounts=no
PrivateTmp=no
PrivateDevices=no
PrivateIPC=no
PrivateUsers=no
ProtectProc=default
ProcSubset=all
ProtectControlGroups=no
ProtectHostname=no
ProtectKernelLogs=no
ProtectKernelModules=no
ProtectKernelTunables=no
`

// TestHTTP delivers through nginx with TLS and a real socket: 64 clients, a thousand deliveries, some of them repeated, a
// pass in the middle, and processes that are killed. Each acknowledged delivery is in, and each generation is counted once.
func TestHTTP(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.serve(gatewayAddress, g)
	const deliveries, clients, listed = 1000, 64, 400
	acme := b.addContainer(g, "acme-gmbh", listed)
	b.addContainer(g, "globex", 1)
	b.serveHTTP("acme-gmbh")
	client := b.proxy("acme-gmbh")
	log := func() string {
		b.must("journalctl", "--sync")
		return b.must("journalctl", "--identifier", "usage-sync-http", "--output", "cat", "--no-pager", "--quiet")
	}

	// The first listed ones are delivered as well, as OpenRouter delivers them; the rest is delivered alone.
	var bodies []string
	at := func(i int) time.Time { return now.Add(-time.Minute - time.Duration(i)*(38*time.Hour/listed)) }
	for i := range deliveries {
		raw, tokens := int64(i%9973+1)*1e6, int64(i%4001+i%997)
		when := now.Add(-2 * time.Minute)
		if i < listed {
			when = at(i)
		} else {
			acme.want.Tokens += tokens
			acme.want.Requests++
			acme.want.Raw += raw
			acme.want.Markup += raw / 10 * 13
		}
		body := broadcast(acme.name, fmt.Sprintf("gen-%s-%d", acme.name, i), []string{"openai/gpt-4o", "anthropic/claude-sonnet-4"}[i%2],
			[]string{"ada", "ben", ""}[i%3], tokens, raw, when)
		bodies = append(bodies, body)
		if i%5 == 0 {
			bodies = append(bodies, body)
		}
	}
	mathrand.Shuffle(len(bodies), func(i, j int) { bodies[i], bodies[j] = bodies[j], bodies[i] })

	for range 5 {
		start := time.Now()
		if status, err := deliver(client, bodies[0]); status != http.StatusOK {
			t.Fatalf("HTTP %d %v\n%s", status, err, log())
		}
		t.Logf("one delivery alone, within the sandbox: %s", time.Since(start).Round(time.Millisecond))
	}
	b.dropIn("usage-sync-http-acme-gmbh@.service", "light", light)
	b.must("systemctl", "daemon-reload")
	b.must("systemd-run", "--unit=bench-killer", "--quiet", "sh", "-c",
		`while sleep 0.7; do pid=$(pgrep -n -f 'usage-syn[c] http') && kill -KILL $pid && echo killed; done`)
	var all sync.WaitGroup
	var next, done, again atomic.Int32
	var mu sync.Mutex
	var took []time.Duration
	refused := map[int]int{} // by status; 0 where no answer came
	began := time.Now()
	for range clients {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(bodies); i = int(next.Add(1)) - 1 {
				for try := 1; ; try++ {
					start := time.Now()
					status, err := deliver(client, bodies[i])
					if status == http.StatusOK {
						mu.Lock()
						took = append(took, time.Since(start))
						mu.Unlock()
						break
					}
					if try == 50 || (status != 0 && status < 500) {
						t.Errorf("delivery %d, try %d: HTTP %d %v", i, try, status, err)
						return
					}
					again.Add(1)
					mu.Lock()
					refused[status]++
					mu.Unlock()
					time.Sleep(time.Duration(try) * 50 * time.Millisecond) // as OpenRouter would, though longer
				}
				if done.Add(1) == int32(len(bodies)/2) {
					all.Go(func() { b.must("systemctl", "start", "usage-sync@acme-gmbh.service") })
				}
			}
		})
	}
	all.Wait()
	wall := time.Since(began)
	b.must("systemctl", "stop", "bench-killer")
	killed := strings.Count(b.journal("bench-killer"), "killed\n")
	slices.Sort(took)
	t.Logf("%d deliveries of %d clients in %s (%.0f a second), %d tried again %v, %d processes killed: p50 %s, p99 %s", len(took), clients,
		wall.Round(time.Millisecond), float64(len(took))/wall.Seconds(), again.Load(), refused, killed,
		took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond))
	if killed < 3 {
		t.Errorf("only %d processes were killed", killed)
	}
	acme.check(t)
	b.must("systemctl", "start", "usage-sync@acme-gmbh.service")
	acme.check(t)
	waitUntil(t, "no unit of a connection is left", func() bool {
		return b.must("systemctl", "list-units", "--all", "--plain", "--no-legend", "usage-sync-http-acme-gmbh@*") == ""
	})
	if state := b.property("usage-sync-http-acme-gmbh.socket", "ActiveState"); state != "active" {
		t.Errorf("the socket is %s", state)
	}

	// The socket stops and starts with everything else.
	for _, step := range []struct{ do, want string }{{"stop", "inactive"}, {"start", "active"}} {
		b.must("systemctl", step.do, "usage-sync.target")
		if state := b.property("usage-sync-http-acme-gmbh.socket", "ActiveState"); state != step.want {
			t.Errorf("after %s of the target the socket is %s", step.do, state)
		}
	}

	// Who is refused is logged with the address that nginx has seen.
	r, err := http.NewRequest(http.MethodPost, "https://usage.example.com"+deliveryPath, strings.NewReader("{}"))
	must(t, err)
	r.Header.Set("X-Forwarded-For", "203.0.113.9") // the client's own word
	answer, err := client.Do(r)
	must(t, err)
	_ = answer.Body.Close()
	if answer.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a secret: HTTP %d", answer.StatusCode)
	}
	if text := log(); !regexp.MustCompile(`Refused POST .* from 127\.0\.0\.1: HTTP 401, no valid webhook secret`).MatchString(text) {
		t.Errorf("the journal:\n%s", text)
	}
	// Other containers' routes are not set up, and the files of a connection are those of its container alone.
	if out := b.must("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", "/run/usage-sync-http/acme-gmbh.sock",
		"http://x/api/v1/usage-tracking/health"); out != "200" {
		t.Errorf("health: %s", out)
	}
	if out, err := b.run("setpriv", "--reuid=65534", "--clear-groups", "curl", "-s", "--unix-socket", "/run/usage-sync-http/acme-gmbh.sock", "http://x/"); err == nil {
		t.Errorf("another user can open the socket: %s", out)
	}
}

// TestHTTPExposure has systemd judge the sandbox of a connection, and tries it from within.
func TestHTTPExposure(t *testing.T) {
	needHost(t)
	b, g := newBench(t), newGateway()
	b.addContainer(g, "acme", 1)
	b.addContainer(g, "globex", 1)
	b.serveHTTP("acme")
	const unit = "usage-sync-http-acme@probe.service"
	out, err := b.run("systemd-analyze", "security", "--no-pager", "--threshold=15", unit)
	lines := strings.Split(out, "\n")
	t.Log(lines[len(lines)-1])
	if err != nil {
		t.Error(err)
	}
	for what, allowed := range map[string]bool{
		"read " + volumesInside + "/acme/_data/webui.db":    true,
		"read /run/credentials/" + unit + "/webhook-secret": true,
		"read /etc/usage-sync/acme.webhook-secret":          false,
		"read /etc/usage-sync/globex.env":                   false,
		"write " + volumesInside + "/globex/_data/beside":   false,
		"read /etc/shadow":                                  false,
		"socket 1":                                          false,
	} {
		var text bytes.Buffer
		fmt.Fprintf(&text, "[Unit]\nStartLimitIntervalSec=0\n[Service]\nStandardInput=null\nStandardOutput=journal\nExecStart=\nEnvironment=%s=probe\nExecStart=/usr/bin/env %q %s\n", roleName, roleConfig+"="+what, probeInside)
		b.dropIn(unit, "probe", text.String())
		b.must("systemctl", "daemon-reload")
		_, _ = b.run("systemctl", "start", unit)
		waitUntil(t, what+" has been tried", func() bool { return strings.Contains(b.journal(unit), what+": ") })
		if got := strings.Contains(b.journal(unit), what+": ok\n"); got != allowed && strings.HasSuffix(b.journal(unit), what+": ok") != allowed {
			t.Errorf("%s: allowed %v, should be %v\n%s", what, got, allowed, b.journal(unit))
		}
	}
}
