package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"usage-sync/job"
	"usage-sync/job/openrouter"
	"usage-sync/store"
)

// synced is the guide's answer to a manual sync.
type synced struct {
	Status  string         `json:"status"`
	Results []syncedResult `json:"results"`
	Total   int            `json:"total_organizations"`
}

type syncedResult struct {
	Organisation string `json:"organization"`
	Synced       int64  `json:"synced_generations"`
	Status       string `json:"status"`
	Error        string `json:"error,omitempty"`
}

// sync makes one pass, exactly as the command does.
func (s *session) sync(r *http.Request) (int, any, error) {
	if err := s.admin(r); err != nil {
		return 0, nil, err
	}
	fields, err := fieldsOf(r)
	if err != nil {
		return 0, nil, err
	}
	daysBack := 1
	if text, given := fields["days_back"]; given {
		if daysBack, err = strconv.Atoi(text); err != nil || daysBack < 0 || daysBack > job.MaxDaysBack {
			return 0, nil, refuse(http.StatusUnprocessableEntity,
				"days_back must be a whole number from 0 to %d", job.MaxDaysBack)
		}
	}
	report, err := s.Sync(daysBack)
	switch {
	case job.KindOf(err) == job.KindLockHeld: // not a failure of the process
		return 0, nil, &refusal{status: StatusOf(job.KindLockHeld), detail: "another pass is running",
			retry: 30 * time.Second}
	case errors.Is(err, store.ErrOrganisation):
		return 0, nil, refuse(http.StatusNotFound, "no active organisation")
	case err != nil:
		return 0, nil, err
	}
	answer := synced{Status: "completed", Results: []syncedResult{}, Total: len(report.Organisations)}
	var first error
	for _, o := range report.Organisations {
		one := syncedResult{Organisation: o.Organisation.Name, Synced: o.Run.Recorded +
			o.Run.Updated, Status: "success"}
		if o.Err != nil {
			one.Status, one.Error = "failed", o.Err.Error()
			if first == nil {
				first = o.Err
			}
		}
		answer.Results = append(answer.Results, one)
	}
	if first == nil || report.Synced() > 0 {
		return http.StatusOK, answer, nil
	}
	answer.Status = "failed"
	failed := s.fault(first)
	failed.body = answer
	return 0, nil, failed
}

// usage shows an organisation's usage, to members and administrators.
func (s *session) usage(r *http.Request, organisation string) (int, any, error) {
	who, err := s.identify(r)
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := s.waiting()
	defer cancel()
	db, err := s.Open(ctx, store.ReadOnly)
	if err != nil {
		return 0, nil, err
	}
	defer db.Close()
	orgs, err := db.Organisations(ctx, []string{organisation}, s.Zone)
	switch {
	case errors.Is(err, store.ErrOrganisation):
		return 0, nil, refuse(http.StatusNotFound, "no such organisation")
	case err != nil:
		return 0, nil, err
	}
	if !who.admin {
		member, err := db.Member(ctx, who.user, orgs[0].ID)
		switch {
		case err != nil:
			return 0, nil, err
		case !member:
			return 0, nil, forbidden("a user of another organisation")
		}
	}
	const days = 7
	u, err := db.Usage(ctx, orgs[0], s.Now(), days)
	if err != nil {
		return 0, nil, err
	}
	return http.StatusOK, s.Usage(u), nil
}

// recorded is the guide's answer to usage recorded by hand, and what became of it.
type recorded struct {
	Status     string    `json:"status"`
	Message    string    `json:"message"`
	ID         string    `json:"id"`
	OrgID      string    `json:"client_org_id"`
	Date       store.Day `json:"date"`
	Model      string    `json:"model"`
	Tokens     int64     `json:"tokens"`
	RawCost    float64   `json:"raw_cost"`
	MarkupCost float64   `json:"markup_cost"`
}

// manual records usage by hand, as the command record does.
func (s *session) manual(r *http.Request) (int, any, error) {
	if err := s.admin(r); err != nil {
		return 0, nil, err
	}
	fields, err := fieldsOf(r)
	if err != nil {
		return 0, nil, err
	}
	m := job.Manual{Organisation: fields["client_org_id"], Model: fields["model"],
		User: fields["user_id"], Note: fields["note"]}
	if m.Tokens, err = strconv.ParseInt(fields["tokens"], 10, 64); err != nil {
		return 0, nil, refuse(http.StatusUnprocessableEntity, "tokens must be a whole number")
	}
	if m.Cost, err = store.ParseMoney(fields["cost"]); err != nil {
		return 0, nil, refuse(http.StatusUnprocessableEntity, "cost must be a number of US dollars")
	}
	if err := m.Check(); err != nil {
		return 0, nil, refuse(http.StatusUnprocessableEntity, "%s", err)
	}
	ctx, cancel := s.waiting()
	defer cancel()
	db, err := s.Open(ctx, store.ReadWrite)
	if err != nil {
		return 0, nil, err
	}
	defer db.Close()
	entry, err := m.Record(ctx, db, s.Log, s.Now, s.Zone)
	switch {
	case errors.Is(err, job.ErrManual):
		return 0, nil, refuse(http.StatusUnprocessableEntity, "%s: give client_org_id", err)
	case errors.Is(err, store.ErrOrganisation):
		return 0, nil, refuse(http.StatusNotFound, "no such organisation")
	case err != nil:
		return 0, nil, err
	}
	g := entry.Generation
	return http.StatusOK, recorded{Status: "success", Message: fmt.Sprintf("Recorded %d tokens, $%s for %s "+
		"in organization %s", entry.Tokens, entry.Markup, g.Model, entry.Organisation.Name), ID: g.ID,
		OrgID: entry.Organisation.ID, Date: g.Day, Model: g.Model,
		Tokens: entry.Tokens, RawCost: entry.Raw.Float(), MarkupCost: entry.Markup.Float()}, nil
}

func (s *session) health(*http.Request) (int, any, error) {
	h := s.Health()
	if !h.Well {
		return http.StatusServiceUnavailable, h, nil
	}
	return http.StatusOK, h, nil
}

// fieldsOf reads a body of single values, which may also stand in the query. Numbers keep the text they are written in.
func fieldsOf(r *http.Request) (map[string]string, error) {
	if err := isJSON(r); err != nil {
		return nil, err
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "the query can't be read")
	}
	fields := map[string]string{}
	for name, values := range query {
		fields[name] = values[0]
	}
	decoder := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 64<<10))
	decoder.UseNumber()
	var body map[string]any
	if err := decoder.Decode(&body); err == io.EOF {
		return fields, nil
	} else if wrong := new(json.UnmarshalTypeError); errors.As(err, &wrong) {
		return nil, refuse(http.StatusUnprocessableEntity, "the body must be a JSON object")
	} else if err != nil {
		return nil, bodyProblem(err)
	}
	if decoder.More() {
		return nil, refuse(http.StatusBadRequest, "more after the end of the JSON")
	}
	for name, v := range body {
		switch v := v.(type) {
		case nil:
		case string:
			fields[name] = strings.TrimSpace(v)
		case json.Number:
			fields[name] = v.String()
		default:
			return nil, refuse(http.StatusUnprocessableEntity, "%s must be a single value", openrouter.Plain(name, ""))
		}
	}
	return fields, nil
}
