package httpapi

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/job/webhook"
	"usage-sync/store"
)

// delivered is the answer to a webhook.
type delivered struct {
	Status   string `json:"status"`
	Message  string `json:"message"`
	Recorded int    `json:"recorded"`
	Updated  int    `json:"updated"`
	Known    int    `json:"known"`
	Ignored  int    `json:"ignored"`
	Refused  int    `json:"refused"`

	// What an exporter of OTLP looks for in an answer to traces; empty says that all were taken
	// (https://opentelemetry.io/docs/specs/otlp/#full-success-1, 2026-11).
	PartialSuccess struct{} `json:"partialSuccess"`
}

// webhook records a delivery. Success is said after the commit, and not where something could not be recorded; what was
// sound beside it is in, and is known when it is delivered again.
func (s *session) webhook(r *http.Request) (int, any, error) {
	if err := s.delivers(r); err != nil {
		return 0, nil, err
	}
	if err := isJSON(r); err != nil {
		return 0, nil, err
	}
	body, err := unpacked(r)
	if err != nil {
		return 0, nil, err
	}
	payload, err := webhook.Decode(body)
	if err != nil {
		return 0, nil, bodyProblem(err)
	}
	if r.Header.Get("X-Test-Connection") == "true" || len(payload.Usage)+len(payload.Refused) == 0 {
		return http.StatusOK, delivered{Status: "success", Message: "Nothing to record", Ignored: payload.Ignored}, nil
	}
	result, err := s.record(payload)
	if err != nil {
		return 0, nil, err
	}
	answer := delivered{Status: "success", Message: "Usage recorded", Recorded: result.Recorded,
		Updated: result.Updated, Known: result.Known, Ignored: payload.Ignored,
		Refused: len(payload.Refused) + len(result.Held)}
	if answer.Refused == 0 {
		return http.StatusOK, answer, nil
	}
	refused, err := s.keep(r, payload, result)
	if err != nil {
		return 0, nil, err
	}
	answer.Status, answer.Message = "failed", refused.detail
	refused.body = answer
	return 0, nil, refused
}

func (s *session) record(payload webhook.Payload) (webhook.Result, error) {
	if len(payload.Usage) == 0 {
		return webhook.Result{}, nil
	}
	ctx, cancel := s.waiting()
	defer cancel()
	db, err := s.Open(ctx, store.ReadWrite)
	if err != nil {
		return webhook.Result{}, err
	}
	defer db.Close()
	recorder := &webhook.Recorder{Store: db, Log: s.Log, Now: s.Now, Zone: s.Zone, AcceptUnnamed: s.AcceptUnnamed}
	return recorder.Record(ctx, payload.Usage)
}

// mostLines bounds what one delivery may write into the log.
const mostLines = 5

// keep puts what can't be recorded as things stand into the spool, and words the answer.
func (s *session) keep(r *http.Request, payload webhook.Payload, result webhook.Result) (*refusal, error) {
	answer := refuse(http.StatusUnprocessableEntity, "usage that can't be billed as it is")
	for i, refused := range payload.Refused {
		if i == mostLines {
			s.Log.Error(fmt.Sprintf("Refused %d more of the same delivery", len(payload.Refused)-i))
			break
		}
		s.Log.Error(fmt.Sprintf("Refused a delivery from %s: %s", remote(r), refused))
	}
	for _, held := range result.Held {
		var takeover *job.TakeoverError
		switch {
		case errors.Is(held.Err, webhook.ErrKey):
			answer = forbidden(held.Err.Error())
			continue
		case errors.As(held.Err, &takeover):
			answer = refuse(http.StatusConflict, "kept until a pass has taken over what was counted before")
		default:
			answer = refuse(http.StatusUnprocessableEntity, "kept until it can be told whose usage it is")
		}
		spool, err := s.Spool()
		if err != nil {
			return nil, err
		}
		if err := spool.Keep(held.Usage, held.Err); err != nil {
			return nil, err
		}
		s.Log.Error(fmt.Sprintf("Kept generation %s in %s: %v. Then: usage-sync ingest --spool",
			openrouter.Plain(held.Usage.ID, ""), spool.Dir, held.Err))
	}
	return answer, nil
}

var errUnpackedTooLong = errors.New("the body is too long when unpacked")

// unpacked returns the body as it was before compression, bounded.
func unpacked(r *http.Request) (io.Reader, error) {
	switch strings.ToLower(strings.TrimSpace(r.Header.Get("Content-Encoding"))) { // RFC 9110, 8.4.1
	case "", "identity":
		return r.Body, nil
	case "gzip", "x-gzip":
		plain, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, bodyProblem(err)
		}
		return &limited{plain, bodyBytes}, nil
	}
	return nil, refuse(http.StatusUnsupportedMediaType, "the body may be packed with gzip, not otherwise")
}

// limited fails where more comes than may; io.LimitReader would end as if all were there.
type limited struct {
	io.Reader
	left int
}

func (l *limited) Read(p []byte) (int, error) {
	n, err := l.Reader.Read(p)
	if l.left -= n; l.left < 0 {
		return 0, errUnpackedTooLong
	}
	return n, err
}
