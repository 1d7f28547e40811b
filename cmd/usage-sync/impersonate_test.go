package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// impersonate HOST: the stand-in answers as that host over TLS from now on, through a proxy on this machine. The program's
// own base URL is used, whatever that is.
func impersonate(ts *testscript.TestScript, neg bool, args []string) {
	want(ts, !neg && len(args) == 1, "impersonate HOST")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: args, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)

	server := of(ts).main(ts)
	host := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		server.entered.Add(1)
		server.ServeHTTP(w, r)
	}))
	host.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}}
	host.StartTLS()
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Host != args[0]+":443" {
			http.Error(w, "this proxy leads to "+args[0]+" alone", http.StatusForbidden)
			return
		}
		server, err := net.Dial("tcp", host.Listener.Addr().String())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		client, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, err = io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
		}
		if err != nil {
			server.Close()
			return
		}
		go pipe(server, client)
		go pipe(client, server)
	}))
	ts.Defer(func() {
		proxy.Close()
		host.CloseClientConnections()
		host.Close()
	})
	authority := filepath.Join(ts.Getenv("WORK"), "authority.pem")
	ts.Check(os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o600))
	ts.Setenv("OPENROUTER_BASE_URL", "")
	ts.Setenv("HTTPS_PROXY", proxy.URL)
	ts.Setenv("SSL_CERT_FILE", authority)
}

func pipe(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	to.Close()
}
