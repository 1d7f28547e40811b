package webhook

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// Spool is a directory that keeps usage of which it can't be told yet whose it is. A file holds one generation, and of its
// delivery nothing but what is billed: no prompts, no keys. Its name is that of the generation, so keeping it again changes
// nothing.
type Spool struct {
	Dir string
	// Like is a file whose owner the spool is to have, where we are root: the database.
	Like string
}

// ErrSpool: the spool can't be read or written.
var ErrSpool = job.NewError(job.KindOutputFile, "spool")

// spooled is a file of the spool.
type spooled struct {
	ID             string    `json:"id"`
	CreatedAt      time.Time `json:"created_at"`
	Model          string    `json:"model"`
	User           string    `json:"user,omitempty"`
	Tokens         int64     `json:"tokens"`
	CostPico       int64     `json:"cost_pico_usd"` // 1e-12 USD
	KeyName        string    `json:"api_key_name,omitempty"`
	OrganisationID string    `json:"client_org_id,omitempty"`
	Reason         string    `json:"reason"`
}

const spoolSuffix = ".json"

// Keep writes usage into the spool, whole or not at all, and returns when it is safe on the disk.
func (s Spool) Keep(u Usage, reason error) error {
	if err := s.keep(u, reason); err != nil {
		return fmt.Errorf("%w %s: %w", ErrSpool, s.Dir, err)
	}
	return nil
}

func (s Spool) keep(u Usage, reason error) (err error) {
	if err := s.make(); err != nil {
		return err
	}
	text, err := json.MarshalIndent(spooled{ID: u.ID, CreatedAt: u.CreatedAt.UTC(), Model: u.Model, User: u.User, Tokens: u.Tokens,
		CostPico: int64(u.Cost), KeyName: u.KeyName, OrganisationID: u.OrganisationID,
		Reason: openrouter.Plain(reason.Error(), u.Key)}, "", "\t")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(s.Dir, ".new-*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	s.own(f.Name())
	_, err = f.Write(append(text, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), s.path(u.ID)); err != nil {
		return err
	}
	return syncDir(s.Dir)
}

func (s Spool) make() error {
	err := os.Mkdir(s.Dir, 0o700)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err == nil:
		s.own(s.Dir)
		return syncDir(filepath.Dir(s.Dir))
	}
	return err
}

// own gives a file the owner of the database: what root has made must not keep out who runs as that owner.
func (s Spool) own(path string) {
	if like, err := os.Stat(s.Like); err == nil && os.Geteuid() == 0 {
		if owner, ok := like.Sys().(*syscall.Stat_t); ok {
			_ = os.Chown(path, int(owner.Uid), int(owner.Gid))
		}
	}
}

func (s Spool) path(id string) string {
	return filepath.Join(s.Dir, fmt.Sprintf("%x%s", sha256.Sum256([]byte(id)), spoolSuffix))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// Kept is a file of the spool. Err is why it can't be read, and then there is no usage.
type Kept struct {
	File  string
	Usage Usage
	Err   error
}

// List returns what the spool keeps; nothing where it was never made.
func (s Spool) List() ([]Kept, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	var all []Kept
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), spoolSuffix) || strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		k := Kept{File: entry.Name()}
		k.Usage, k.Err = s.read(entry.Name())
		all = append(all, k)
	}
	return all, nil
}

func (s Spool) read(name string) (Usage, error) {
	text, err := os.ReadFile(filepath.Join(s.Dir, name))
	if err != nil {
		return Usage{}, err
	}
	var f spooled
	if err := json.Unmarshal(text, &f); err != nil {
		return Usage{}, fmt.Errorf("%w: %w", ErrJSON, err)
	}
	if f.ID == "" || f.CreatedAt.IsZero() || f.Tokens < 0 || f.CostPico < 0 {
		return Usage{}, fmt.Errorf("%w: no id, no time, or a negative amount", ErrShape)
	}
	return Usage{Generation: store.Generation{ID: f.ID, CreatedAt: f.CreatedAt, Model: f.Model, User: f.User, Tokens: f.Tokens,
		Cost: store.Money(f.CostPico)}, KeyName: f.KeyName, OrganisationID: f.OrganisationID}, nil
}

// Drop removes what has been recorded.
func (s Spool) Drop(file string) error {
	if err := os.Remove(filepath.Join(s.Dir, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return nil
}
