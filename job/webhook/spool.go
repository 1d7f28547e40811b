package webhook

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"usage-sync/job"
	"usage-sync/job/beside"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// Spool is a directory that keeps usage of which it can't be told yet whose it is. A file holds one generation,
// and of its delivery nothing but what is billed: no prompts, no keys. Its name is that of the generation, so
// keeping it again changes nothing.
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

func (s Spool) keep(u Usage, reason error) error {
	dir, err := s.open(true)
	if err != nil {
		return err
	}
	defer dir.Close()
	text, err := json.MarshalIndent(spooled{ID: u.ID, CreatedAt: u.CreatedAt.UTC(), Model: u.Model,
		User: u.User, Tokens: u.Tokens, CostPico: int64(u.Cost), KeyName: u.KeyName, OrganisationID: u.OrganisationID,
		Reason: openrouter.Plain(reason.Error(), u.Key)}, "", "\t")
	if err != nil {
		return err
	}
	return dir.Put(nameOf(u.ID), append(text, '\n'), 0o600, s.like())
}

// open opens the spool's directory.
func (s Spool) open(makeIt bool) (*beside.Dir, error) {
	parent, err := beside.Open(filepath.Dir(s.Dir))
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	if makeIt {
		return parent.MakeDir(filepath.Base(s.Dir), 0o700, s.like())
	}
	return parent.Dir(filepath.Base(s.Dir))
}

// like is whose the spool is to be, where we are root: what root has made must not keep out who runs as that owner.
func (s Spool) like() fs.FileInfo {
	info, err := os.Stat(s.Like)
	if err != nil {
		return nil
	}
	return info
}

// nameOf is the name of a generation's file.
func nameOf(id string) string { return fmt.Sprintf("%x%s", sha256.Sum256([]byte(id)), spoolSuffix) }

const (
	// mostKept bounds how many files are read at a time: the rest waits for the next time.
	mostKept = 100_000
	// longestKept bounds a file: ours have less than a kilobyte.
	longestKept = 64 << 10
)

// Kept is a file of the spool. Err is why it can't be read, and then there is no usage.
type Kept struct {
	File  string
	Usage Usage
	Err   error
}

// List returns what the spool keeps; nothing where it was never made.
func (s Spool) List() ([]Kept, error) {
	dir, err := s.open(false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	defer dir.Close()
	names, err := dir.Names(mostKept)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSpool, err)
	}
	slices.Sort(names)
	var all []Kept
	for _, name := range names {
		if !strings.HasSuffix(name, spoolSuffix) || strings.HasPrefix(name, ".") {
			continue
		}
		k := Kept{File: name}
		text, err := dir.Read(name, longestKept)
		if k.Err = err; err == nil {
			k.Usage, k.Err = parseKept(text)
		}
		all = append(all, k)
	}
	return all, nil
}

func parseKept(text []byte) (Usage, error) {
	var f spooled
	if err := json.Unmarshal(text, &f); err != nil {
		return Usage{}, fmt.Errorf("%w: %w", errJSON, err)
	}
	if f.ID == "" || f.CreatedAt.IsZero() || f.Tokens < 0 || f.CostPico < 0 {
		return Usage{}, fmt.Errorf("%w: no id, no time, or a negative amount", ErrShape)
	}
	return Usage{Generation: store.Generation{ID: f.ID, CreatedAt: f.CreatedAt, Model: f.Model,
		User: f.User, Tokens: f.Tokens, Cost: store.Money(f.CostPico)}, KeyName: f.KeyName,
		OrganisationID: f.OrganisationID}, nil
}

// Drop removes what has been recorded.
func (s Spool) Drop(file string) error {
	dir, err := s.open(false)
	if err == nil {
		defer dir.Close()
		err = dir.Remove(file)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrSpool, err)
	}
	return nil
}
