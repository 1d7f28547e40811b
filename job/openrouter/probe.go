package openrouter

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"time"
)

// Connection is the way to the server, as one request without a key has found it.
type Connection struct {
	TLS         uint16        // its version, e.g. tls.VersionTLS13; 0 is plain http
	Certificate time.Time     // until when the server's is valid; zero is plain http
	Status      int           // of the answer; without a key it is 401 where all is well
	ServerTime  time.Time     // the server's clock; zero where it does not say
	Connect     time.Duration // name, connection and TLS
	Answer      time.Duration // from there to the head of the answer
}

// BaseURL is where requests go.
func (c *Client) BaseURL() *url.URL { return c.base }

// Resolve looks up the addresses of the server, or of the proxy that the environment names for it. A name that can't be
// resolved is ErrUnreachable.
func (c *Client) Resolve(ctx context.Context) (host string, addresses []string, err error) {
	host = c.base.Hostname()
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: c.base})
	if err != nil {
		return host, nil, &connectionError{cause: withoutURL(err)}
	}
	if proxy != nil {
		host = proxy.Hostname()
	}
	addresses, err = net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return host, nil, &connectionError{cause: err}
	}
	return host, addresses, nil
}

// Probe sends one request without a key. Any answer will do, so an error means that there was none.
func (c *Client) Probe(ctx context.Context) (Connection, error) {
	var found Connection
	var start, connected time.Time
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { connected = time.Now() },
	})
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.JoinPath("key").String(), nil)
	if err != nil {
		return found, err
	}
	request.Header.Set("Accept", "application/json")
	request.Header.Set("User-Agent", c.userAgent)
	start = time.Now()
	response, err := c.http.Do(request)
	switch {
	case err != nil && ctx.Err() != nil:
		return found, context.Cause(ctx)
	case errors.Is(err, errRedirect):
		return found, fmt.Errorf("%w: %w", ErrAnswer, withoutURL(err))
	case err != nil:
		return found, &connectionError{cause: withoutURL(err)}
	}
	defer response.Body.Close()
	found.Connect, found.Answer = connected.Sub(start), time.Since(connected)
	found.Status = response.StatusCode
	if at, err := http.ParseTime(response.Header.Get("Date")); err == nil {
		found.ServerTime = at
	}
	if response.TLS != nil {
		found.TLS = response.TLS.Version
		found.Certificate = earliestEnd(response.TLS)
	}
	return found, nil
}

// earliestEnd is when the first certificate of the chain in use runs out.
func earliestEnd(state *tls.ConnectionState) time.Time {
	end := state.PeerCertificates[0].NotAfter
	for _, chain := range state.VerifiedChains[:min(1, len(state.VerifiedChains))] {
		for _, certificate := range chain {
			if certificate.NotAfter.Before(end) {
				end = certificate.NotAfter
			}
		}
	}
	return end
}
