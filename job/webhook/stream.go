package webhook

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"strings"

	"usage-sync/job/openrouter"
)

// Each reads payloads one after the other and hands them over as they come: a single one, JSON lines, or arrays
// of them, plain or gzipped. A payload that can't be used is handed over as an error, and those behind it are
// still read: behind what is no JSON it goes on at the next line that begins one. Where says which payload it
// is.
func Each(r io.Reader, each func(where string, p Payload, err error) error) error {
	src := bufio.NewReader(r)
	if magic, _ := src.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unzipped, err := gzip.NewReader(src)
		if err != nil {
			return fmt.Errorf("gzip: %w", err)
		}
		defer unzipped.Close()
		src = bufio.NewReader(unzipped)
	}
	src = withoutMark(src)
	s := stream{input: &rewinder{src: src}, each: each}
	s.decoder = newDecoder(s.input)
	for {
		err := s.value()
		var broken *brokenJSON
		switch {
		case err == io.EOF:
			return nil
		case errors.As(err, &broken):
			if err := s.report(Payload{}, broken.cause); err != nil {
				return err
			}
			// What is broken may have swallowed the lines behind it.
			s.input.rewind()
			if err := s.input.nextLine(); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			s.decoder = newDecoder(s.input)
		case err != nil:
			return err
		}
	}
}

// rewinder keeps what has been read since the last mark, to read it again.
type rewinder struct {
	src   *bufio.Reader
	again []byte // to be read before src
	kept  []byte // what has been read
	from  int64  // where kept begins
}

func (r *rewinder) Read(p []byte) (n int, err error) {
	if len(r.again) > 0 {
		n = copy(p, r.again)
		r.again = r.again[n:]
	} else {
		n, err = r.src.Read(p)
	}
	r.kept = append(r.kept, p[:n]...)
	return n, err
}

func (r *rewinder) mark(offset int64) {
	r.kept = append(r.kept[:0], r.kept[offset-r.from:]...)
	r.from = offset
}

// rewind goes back to the mark, for a new decoder.
func (r *rewinder) rewind() {
	r.again = append(r.kept, r.again...)
	r.kept, r.from = nil, 0
}

// nextLine skips the line at hand, and those behind it that do not begin with a payload or an array of them.
func (r *rewinder) nextLine() error {
	for begun := false; ; {
		c, err := r.skip()
		if err != nil {
			return err
		}
		if c != '\n' {
			begun = begun || !strings.ContainsRune(" \t\r,", rune(c))
			continue
		}
		next, err := r.peek()
		if err != nil {
			return err
		}
		if begun && strings.ContainsRune("{[", rune(next)) {
			return nil
		}
	}
}

func (r *rewinder) skip() (byte, error) {
	if len(r.again) == 0 {
		return r.src.ReadByte()
	}
	c := r.again[0]
	r.again = r.again[1:]
	return c, nil
}

func (r *rewinder) peek() (byte, error) {
	if len(r.again) > 0 {
		return r.again[0], nil
	}
	next, err := r.src.Peek(1)
	if err != nil {
		return 0, err
	}
	return next[0], nil
}

type stream struct {
	*decoder
	input *rewinder
	each  func(where string, p Payload, err error) error
	count int
}

// brokenJSON: nothing more can be read where this occurred.
type brokenJSON struct{ cause error }

func (e *brokenJSON) Error() string { return e.cause.Error() }

func (s *stream) report(p Payload, err error) error {
	s.count++
	return s.each(fmt.Sprintf("payload %d", s.count), p, err)
}

// value reads a payload, or an array of values.
func (s *stream) value() error {
	s.input.mark(s.json.InputOffset())
	switch s.json.PeekKind() {
	case '[':
		return s.broken(s.array(s.value))
	case '{':
		p, err := s.payload()
		if err != nil && !errors.Is(err, ErrShape) {
			return s.broken(err)
		}
		return s.report(p, err)
	}
	raw, err := s.json.ReadValue()
	if err != nil {
		return s.broken(err)
	}
	return s.report(Payload{}, fmt.Errorf("%w: %s", ErrShape, openrouter.Plain(raw.Kind().String(), "")))
}

// broken marks what is wrong with the JSON itself; the end of the input between two values is io.EOF.
func (s *stream) broken(err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	if text := asJSON(err); errors.Is(text, errJSON) {
		return &brokenJSON{text}
	}
	return err
}
