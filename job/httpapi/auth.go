package httpapi

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/golang-jwt/jwt/v5"

	"usage-sync/job"
	"usage-sync/store"
)

// Secrets are what callers prove themselves with. What is empty opens nothing.
type Secrets struct {
	WebUI   string   // WEBUI_SECRET_KEY, which Open WebUI signs its sessions with
	Tokens  []string // static tokens of administrators
	Webhook []string // of deliveries; several while they are changed
}

// knownSecret is what Open WebUI takes where nobody has set WEBUI_SECRET_KEY: everybody can sign with it.
const knownSecret = "t0p-s3cr3t"

// matches compares with each secret, in a time that does not tell how far one is right.
func matches(given string, secrets []string) bool {
	digest := sha256.Sum256([]byte(given))
	found := 0
	for _, secret := range secrets {
		want := sha256.Sum256([]byte(secret))
		found |= subtle.ConstantTimeCompare(digest[:], want[:])
	}
	return given != "" && found == 1
}

// bearer returns the token of an Authorization header; a scheme other than Bearer gives none.
func bearer(r *http.Request) string {
	scheme, token, found := strings.Cut(r.Header.Get("Authorization"), " ")
	if !found || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// delivers admits a webhook. OpenRouter sends whatever headers its owner has set: a bearer token, or X-Webhook-Secret.
func (s *session) delivers(r *http.Request) error {
	secrets, err := s.Secrets()
	if err != nil {
		return err
	}
	if len(secrets.Webhook) == 0 {
		s.failure = fmt.Errorf("%w: no webhook secret", ErrNoSecret)
		return &refusal{status: http.StatusServiceUnavailable, detail: "the webhook is not set up"}
	}
	given := r.Header.Get("X-Webhook-Secret")
	if given == "" {
		given = bearer(r)
	}
	if !matches(given, secrets.Webhook) {
		return unauthorised("no valid webhook secret")
	}
	return nil
}

// ErrNoSecret: the route has no secret to check callers with, so it is closed.
var ErrNoSecret = job.NewError(job.KindConfiguration, "not set up")

func unauthorised(why string) *refusal {
	return &refusal{status: http.StatusUnauthorized, detail: "Not authenticated", log: why}
}

func forbidden(why string) *refusal {
	return &refusal{status: http.StatusForbidden, detail: "Not allowed", log: why}
}

// caller is who has proved to be one.
type caller struct {
	user  string // the Open WebUI user; empty for a static token
	admin bool
}

// identify finds out who calls: a static token, or the session that Open WebUI has given a user, as a bearer
// token or in its cookie.
func (s *session) identify(r *http.Request) (caller, error) {
	secrets, err := s.Secrets()
	if err != nil {
		return caller{}, err
	}
	if secrets.WebUI == "" && len(secrets.Tokens) == 0 {
		s.failure = fmt.Errorf("%w: neither WEBUI_SECRET_KEY nor a token", ErrNoSecret)
		return caller{}, &refusal{status: http.StatusServiceUnavailable, detail: "the API is not set up"}
	}
	token := bearer(r)
	if token == "" {
		if cookie, err := r.Cookie("token"); err == nil {
			token = cookie.Value
			// A browser sends the cookie along whoever has written the page.
			if err := http.NewCrossOriginProtection().Check(r); err != nil {
				return caller{}, forbidden("a request from another site: " + err.Error())
			}
		}
	}
	switch {
	case token == "":
		return caller{}, unauthorised("no token")
	case matches(token, secrets.Tokens):
		return caller{admin: true}, nil
	case secrets.WebUI == "":
		return caller{}, unauthorised("an unknown token")
	case secrets.WebUI == knownSecret:
		s.failure = fmt.Errorf("%w: WEBUI_SECRET_KEY is Open WebUI's well-known default, which anybody can "+
			"sign with", ErrNoSecret)
		return caller{}, &refusal{status: http.StatusServiceUnavailable, detail: "the API is not set up"}
	}
	user, err := s.verify(token, secrets.WebUI)
	if err != nil {
		return caller{}, unauthorised(err.Error())
	}
	return s.known(user)
}

// verify returns the user of a session (Open WebUI, utils/auth.py: HS256, the claim id, exp where sessions expire).
func (s *session) verify(token, secret string) (user string, err error) {
	var claims struct {
		jwt.RegisteredClaims
		User string `json:"id"`
	}
	_, err = jwt.ParseWithClaims(token, &claims, func(*jwt.Token) (any, error) { return []byte(secret), nil },
		jwt.WithValidMethods([]string{jwt.SigningMethodHS256.Alg()}), jwt.WithTimeFunc(s.Now))
	switch {
	case errors.Is(err, jwt.ErrTokenSignatureInvalid):
		return "", errors.New("a session that WEBUI_SECRET_KEY has not signed; where that is so of every " +
			"session, the container has " +
			"another key than this one (one in its image is new whenever the container is made anew)")
	case err != nil:
		return "", err
	case claims.User == "":
		return "", errors.New("a session without a user")
	case s.MaxSessionAge > 0 && claims.IssuedAt == nil:
		return "", errors.New("a session without the time of its beginning (iat), of which an age is asked for")
	case s.MaxSessionAge > 0 && s.Now().Sub(claims.IssuedAt.Time) > s.MaxSessionAge:
		return "", fmt.Errorf("a session that is older than %s", s.MaxSessionAge)
	}
	return claims.User, nil
}

// known looks up what the user of a session may do.
func (s *session) known(user string) (caller, error) {
	ctx, cancel := s.waiting()
	defer cancel()
	db, err := s.Open(ctx, store.ReadOnly)
	if err != nil {
		return caller{}, err
	}
	defer db.Close()
	role, err := db.Role(ctx, user)
	switch {
	case errors.Is(err, store.ErrNoUser):
		return caller{}, unauthorised("a session of an unknown user")
	case err != nil:
		return caller{}, err
	case role != store.RoleAdmin && role != store.RoleUser:
		return caller{}, forbidden("a user with no access")
	}
	return caller{user: user, admin: role == store.RoleAdmin}, nil
}

func (s *session) admin(r *http.Request) error {
	who, err := s.identify(r)
	if err == nil && !who.admin {
		return forbidden("a user who is no administrator")
	}
	return err
}
