package doctor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/job/openrouter/standin"
	"usage-sync/store"
)

// authority signs certificates that this process trusts, as a host does with one in SSL_CERT_FILE.
var authority struct {
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		directory, err := os.MkdirTemp("", "doctor")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(directory)
		file := filepath.Join(directory, "authority.pem")
		if err := os.WriteFile(file, found(), 0o600); err != nil {
			panic(err)
		}
		os.Setenv("SSL_CERT_FILE", file) // read once, at the first certificate that is looked at
		return m.Run()
	}())
}

// found makes the authority and returns its certificate as PEM.
func found() []byte {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(0, 6, 0)}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	text, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	authority.key = key
	if authority.certificate, err = x509.ParseCertificate(text); err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: text})
}

// serveTLS has the stand-in answer over https with a certificate, and asks it.
func (w *ward) serveTLS(t *testing.T, from, until time.Time, host string, known bool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, NotBefore: from, NotAfter: until}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	parent, signer := authority.certificate, authority.key
	if !known {
		parent, signer = template, key
	}
	text, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(w.server)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{text}, PrivateKey: key}}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // that a certificate is refused is the point
	server.StartTLS()
	t.Cleanup(server.Close)
	w.ask(t, server.URL+"/api/v1")
}

func TestTLS(t *testing.T) {
	now := time.Now()
	yesterday, year := now.AddDate(0, 0, -1), now.AddDate(1, 0, 0)
	for name, test := range map[string]struct {
		from, until time.Time
		host        string
		known       bool
		want        string
		advice      string
	}{
		"OK":           {yesterday, year, "127.0.0.1", true, "ok: TLS 1.3, certificate valid until " + stamp(authority.certificate.NotAfter), ""},
		"Soon":         {yesterday, now.AddDate(0, 0, 3), "127.0.0.1", true, "warning: TLS 1.3, the certificate is valid until " + stamp(now.AddDate(0, 0, 3)) + " only", "have whoever runs it renew"},
		"Expired":      {now.AddDate(0, -2, 0), yesterday, "127.0.0.1", true, "failed: Connection error: tls: failed to verify certificate: x509: certificate has expired", "check this machine's clock, else have the certificate renewed: it is valid from " + stamp(now.AddDate(0, -2, 0)) + " to " + stamp(yesterday)},
		"Not yet":      {now.AddDate(0, 1, 0), year, "127.0.0.1", true, "failed: Connection error: tls: failed to verify certificate: x509: certificate has expired or is not yet valid", "check this machine's clock"},
		"Unknown":      {yesterday, year, "127.0.0.1", false, "failed: Connection error: tls: failed to verify certificate: x509: certificate signed by unknown authority", "install ca-certificates"},
		"Another host": {yesterday, year, "elsewhere.example", true, "failed: Connection error: tls: failed to verify certificate: x509", "check --base-url"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWard(t)
			w.Now = func() time.Time { return now }
			w.serveTLS(t, test.from, test.until, test.host, test.known)
			lines := w.examine(t)
			want(t, lines, "connection", test.want)
			if !strings.Contains(lines["connection"], "→ "+test.advice) {
				t.Errorf("advice: %s", lines["connection"])
			}
			if name == "OK" {
				want(t, lines, "source", "ok: ")
			} else if strings.HasPrefix(test.want, "failed: ") {
				want(t, lines, "key", "skipped: ")
				want(t, lines, "last pass", "ok: ")
			}
		})
	}
}

func TestExpiredCertificateIsUnreachable(t *testing.T) {
	w := newWard(t)
	w.serveTLS(t, time.Now().AddDate(0, -2, 0), time.Now().AddDate(0, -1, 0), "127.0.0.1", true)
	for _, f := range Examine(t.Context(), w.Config) {
		if f.Level == Failed && !errors.Is(f.Err, openrouter.ErrUnreachable) {
			t.Errorf("%+v", f)
		}
	}
}

func TestAnswer(t *testing.T) {
	for status, start := range map[int]string{
		401: "ok: ", 404: "ok: ", 429: "warning: HTTP 429", 500: "failed: OpenRouter can't be reached: it answers HTTP 500",
		503: "failed: OpenRouter can't be reached: it answers HTTP 503",
	} {
		w := newWard(t)
		w.server.Script(standin.Status(status, ""))
		want(t, w.examine(t), "answer", start)
	}
	slow := (&examination{connection: openrouter.Connection{Status: 401, Answer: 4 * time.Second}}).checkAnswer(t.Context())
	if slow[0].Level != Warning || !strings.Contains(slow[0].Text, "after 4s") {
		t.Errorf("%+v", slow)
	}
}

func TestServerWithoutAClock(t *testing.T) {
	got := (&examination{}).checkClock(t.Context())
	if got[0].Level != Warning || !strings.Contains(got[0].Text, "does not say") {
		t.Errorf("%+v", got)
	}
}

func TestJudgeKey(t *testing.T) {
	money := func(text string) *store.Money {
		m, err := store.ParseMoney(text)
		if err != nil {
			t.Fatal(err)
		}
		return &m
	}
	for name, test := range map[string]struct {
		info openrouter.KeyInfo
		is   Level
		want string
	}{
		"no limit":           {openrouter.KeyInfo{Label: "Acme"}, OK, "sk-or-v1-acm... (Acme) is valid, no limit"},
		"label is the key":   {openrouter.KeyInfo{Label: "sk-or-v1-ac..."}, OK, "sk-or-v1-acm... is valid, no limit"},
		"limit":              {openrouter.KeyInfo{Limit: money("10"), LimitRemaining: money("1")}, OK, "sk-or-v1-acm... is valid, $1.000000 left of $10.000000"},
		"nearly spent":       {openrouter.KeyInfo{Limit: money("10"), LimitRemaining: money("0.999999999999")}, Warning, "sk-or-v1-acm... has $1.000000 left of $10.000000"},
		"spent":              {openrouter.KeyInfo{Limit: money("10"), LimitRemaining: money("0")}, Failed, "key can't be used: sk-or-v1-acm... has spent its limit of $10.000000"},
		"overdrawn":          {openrouter.KeyInfo{Limit: money("10"), LimitRemaining: money("-1")}, Failed, "key can't be used: sk-or-v1-acm... has spent its limit of $10.000000"},
		"remaining unknown":  {openrouter.KeyInfo{Limit: money("10"), LimitReset: "daily"}, OK, "sk-or-v1-acm... is valid, its limit is $10.000000 daily"},
		"expires now":        {openrouter.KeyInfo{ExpiresAt: noon}, Failed, "key can't be used: sk-or-v1-acm... expired on 2026-03-10 12:00Z"},
		"expires in a week":  {openrouter.KeyInfo{ExpiresAt: noon.AddDate(0, 0, 7)}, Warning, "sk-or-v1-acm... expires on 2026-03-17 12:00Z"},
		"expires in a month": {openrouter.KeyInfo{ExpiresAt: noon.AddDate(0, 1, 0)}, OK, "sk-or-v1-acm... is valid, no limit, expires on 2026-04-10 12:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			got := (&examination{Config: Config{Now: func() time.Time { return noon }}}).judgeKey(acmeKey, test.info)
			if got.Level != test.is || got.Text != test.want || (test.is == Failed) != errors.Is(got.Err, errKey) {
				t.Errorf("%+v", got)
			}
		})
	}
}

// TestLimits: monthly_limit is marked up and stops nobody; the key's limit is raw, and does.
func TestLimits(t *testing.T) {
	for name, test := range map[string]struct {
		limit, reset, want string
	}{
		"none":       {"", "", "warning: sk-or-v1-acm... (acme) is valid, no limit; monthly_limit $130.00 stops nobody, for the key has no monthly limit → set the key's limit to $100.00, reset monthly"},
		"of all":     {"100", "", "monthly_limit $130.00 stops nobody"},
		"too high":   {"130", "monthly", "the key stops at $169.00 marked up, and monthly_limit is $130.00 → set the key's limit to $100.00"},
		"too low":    {"50", "monthly", "the key stops at $65.00 marked up"},
		"the same":   {"100", "monthly", "ok: "},
		"in cents":   {"100.01", "monthly", "ok: "},
		"not so low": {"0.01", "monthly", "the key stops at $0.01 marked up"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWard(t)
			w.server.SetKey(acmeKey, standin.Key{Name: "acme", Label: "acme", Limit: test.limit, LimitReset: test.reset})
			w.sql(t, "update client_organizations set monthly_limit = 130")
			if got := w.examine(t)["key"]; !strings.Contains(got, test.want) {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}
