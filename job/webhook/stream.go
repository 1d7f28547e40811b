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

// Each reads payloads one after the other and hands them over as they come: a single one, JSON lines, or arrays of them,
// plain or gzipped. A payload that can't be used is handed over as an error, and those behind it are still read: behind
// what is no JSON it goes on at the next line that begins one. Where says which payload it is.
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
	s := stream{decoder: newDecoder(src), each: each}
	for {
		err := s.value()
		var broken *brokenJSON
		switch {
		case err == io.EOF:
			return nil
		case errors.As(err, &broken):
			src = bufio.NewReader(io.MultiReader(bytes.NewReader(bytes.Clone(s.json.UnreadBuffer())), src))
			if err := s.report(Payload{}, broken.cause); err != nil {
				return err
			}
			if err := nextLine(src); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
			s.decoder = newDecoder(src)
		case err != nil:
			return err
		}
	}
}

type stream struct {
	*decoder
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
	if text := asJSON(err); errors.Is(text, ErrJSON) {
		return &brokenJSON{text}
	}
	return err
}

// nextLine skips to the next line that begins with a payload, or an array of them.
func nextLine(src *bufio.Reader) error {
	for {
		for {
			_, err := src.ReadSlice('\n')
			if err == nil {
				break
			}
			if err != bufio.ErrBufferFull {
				return err
			}
		}
		next, err := src.Peek(1)
		if err != nil {
			return err
		}
		if strings.ContainsRune("{[", rune(next[0])) {
			return nil
		}
	}
}
