package job

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// KeyWitness tells what OpenRouter knows of an organisation's key.
type KeyWitness interface {
	// FindKeyHash looks for the hash of a key among those of the account. What it finds is a candidate and no proof.
	FindKeyHash(ctx context.Context, org store.Organisation) (string, error)
	// OwnKey is what the server says to the key itself.
	OwnKey(ctx context.Context, key store.Key) (openrouter.KeyInfo, error)
	// KeyOf is what the server says of the key with a hash; ErrKeyHash where the account has none.
	KeyOf(ctx context.Context, hash string) (openrouter.KeyInfo, error)
}

// UnprovedError: it can't be proved that the hash by which an organisation's usage would be asked for is that of its key.
// The database of a container is a claim: with another client's hash in it, the other client's usage would be billed here.
type UnprovedError struct {
	Organisation string
	Hash         string
	Reason       string
}

func (e *UnprovedError) Error() string {
	return fmt.Sprintf("nothing proves that the key hash %.8s… is that of the key of %s: %s. Nothing was recorded. Set "+
		"openrouter_key_hash of client_organizations to null where the key was replaced; or, on the host, USAGE_SYNC_KEY_HASH "+
		"to what GET /keys calls the hash of this client's key", e.Hash, e.Organisation, e.Reason)
}

// Kind makes it a fault of the configuration.
func (*UnprovedError) Kind() Kind { return KindConfiguration }

// keyHash returns the hash by which OpenRouter knows an organisation's key, and whether it was proved by asking. It is
// accepted where the host names it, where it is the SHA-256 of the key, where it was proved for this key before, or where
// the key proves itself: what the server says to the key is what it says of the hash. A label or a name is no proof: a
// made-up key can fit a label, and names are anybody's. That the hash is the SHA-256 of the key is what live hashes look
// like (Sep 2026) and no one's word; where it is not, the key proves itself.
func (s Sources) keyHash(ctx context.Context, db *store.Store, witness KeyWitness, org store.Organisation,
	known store.SourceChoice) (hash string, asked bool, err error) {
	if s.HostKeyHash != "" {
		return s.hostKeyHash(ctx, db, org)
	}
	sum := sha256.Sum256([]byte(org.Key))
	own := hex.EncodeToString(sum[:])
	proved := ""
	if known.Proved {
		proved = known.KeyHash
	}
	hash = cmp.Or(strings.ToLower(org.KeyHash), proved)
	if hash == "" {
		if hash, err = witness.FindKeyHash(ctx, org); err != nil {
			return "", false, err
		}
		asked = true
	}
	if hash == own || hash == proved {
		return hash, asked, nil
	}
	return hash, true, prove(ctx, witness, org, hash)
}

// hostKeyHash is the host's word for the hash of the only active organisation.
func (s Sources) hostKeyHash(ctx context.Context, db *store.Store, org store.Organisation) (string, bool, error) {
	active, err := db.Organisations(ctx, nil, time.UTC)
	if err != nil {
		return "", false, err
	}
	if len(active) != 1 || active[0].ID != org.ID {
		return "", false, &UnprovedError{org.Name, s.HostKeyHash, fmt.Sprintf("USAGE_SYNC_KEY_HASH names one key, and %d "+
			"organisations are active", len(active))}
	}
	return strings.ToLower(s.HostKeyHash), false, nil
}

// prove has a key prove that a hash is its own.
func prove(ctx context.Context, witness KeyWitness, org store.Organisation, hash string) error {
	unproved := func(format string, args ...any) error {
		return &UnprovedError{org.Name, hash, fmt.Sprintf(format, args...)}
	}
	mine, err := witness.OwnKey(ctx, org.Key)
	if answer, ok := errors.AsType[*openrouter.APIError](err); ok && answer.Refused() {
		return unproved("it is not the key's SHA-256, and the server refuses the key itself with HTTP %d", answer.Status)
	}
	if err != nil {
		return fmt.Errorf("prove the key hash of %s: %w", org.Name, err)
	}
	theirs, err := witness.KeyOf(ctx, hash)
	if errors.Is(err, openrouter.ErrKeyHash) {
		return unproved("the account has no key with that hash")
	}
	if err != nil {
		return fmt.Errorf("prove the key hash of %s: %w", org.Name, err)
	}
	if difference := mine.Differs(theirs); difference != "" {
		return unproved("it is the hash of another key: its %s differs", difference)
	}
	return nil
}

// KeyHash returns the proved hash of an organisation's key, for those who ask the account and fetch no generations.
func (s Sources) KeyHash(ctx context.Context, db *store.Store, org store.Organisation) (string, error) {
	known, err := db.SourceChoice(ctx, org)
	if err != nil {
		return "", err
	}
	hash, _, err := s.keyHash(ctx, db, s.Account, org, known)
	return hash, err
}
