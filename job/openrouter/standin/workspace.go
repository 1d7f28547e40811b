package standin

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// DefaultWorkspace is the id of the workspace that every account has.
const DefaultWorkspace = "00000000-0000-4000-8000-000000000000"

// Workspace is a part of the account with keys of its own.
type Workspace struct{ ID, Name string }

// AddWorkspace adds a workspace besides the default one.
func (s *Server) AddWorkspace(w Workspace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.workspaces = append(s.workspaces, w)
}

// workspace returns the id of the workspace that a request names, and "" for the default one. The caller
// holds the lock.
func (s *Server) workspace(query url.Values) (id string, known bool) {
	id = query.Get("workspace_id")
	if id == "" || id == DefaultWorkspace {
		return "", true
	}
	return id, slices.ContainsFunc(s.workspaces, func(w Workspace) bool { return w.ID == id })
}

// workspacesPerPage is how many a page holds where the request does not say, and the most that it may ask
// for.
const workspacesPerPage, maxPerPage = 50, 100

// listWorkspaces answers GET /workspaces
// (https://openrouter.ai/docs/api-reference/workspaces/list-workspaces).
func (s *Server) listWorkspaces(query url.Values) answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := append([]Workspace{{DefaultWorkspace, "Default Workspace"}}, s.workspaces...)
	rows := make([]string, len(all))
	for i, w := range all {
		rows[i] = w.json()
	}
	return counted(query, rows)
}

// counted answers with a page of rows, and how many there are.
func counted(query url.Values, rows []string) answer {
	offset, ok := number(query, "offset", 0)
	if !ok || offset < 0 {
		return errorAnswer(http.StatusBadRequest, "Invalid input: expected offset to be a whole number from 0 on")
	}
	limit, ok := number(query, "limit", workspacesPerPage)
	if !ok || limit < 1 || limit > maxPerPage {
		return errorAnswer(http.StatusBadRequest, "Invalid input: expected limit to be a whole number from 1 to 100")
	}
	page := rows[min(offset, len(rows)):]
	page = page[:min(limit, len(page))]
	return jsonAnswer(http.StatusOK, fmt.Appendf(nil, `{"data":[%s],"total_count":%d}`, strings.Join(page, ","),
		len(rows)))
}

func (w Workspace) json() string {
	slug := strings.ReplaceAll(strings.ToLower(w.Name), " ", "-")
	return fmt.Sprintf(`{"id":%s,"name":%s,"slug":%s,"description":null,"created_at":"2026-01-05T08:00:00.000Z",`+
		`"updated_at":null,"created_by":null,"default_guardrail_id":"","default_image_model":null,`+
		`"default_provider_sort":null,"default_text_model":null,"disabled_server_tools":null,`+
		`"include_byok_in_budgets":false,"io_logging_api_key_ids":null,"io_logging_sampling_rate":1,`+
		`"is_data_discount_logging_enabled":true,"is_observability_broadcast_enabled":true,`+
		`"is_observability_io_logging_enabled":false}`, quote(w.ID), quote(w.Name), quote(slug))
}

// Destination is where OpenRouter broadcasts generations to: a webhook.
type Destination struct {
	ID, Name, URL string
	Workspace     string // the id of one that was added; empty is the default one
	Disabled      bool
	// Hashes are the keys whose generations are sent; nil is all keys of the workspace.
	Hashes            []string
	SamplingRate      float64 // 0 is 1: everything
	NoCost, Anonymous bool    // the switches for cost and identity are off
	Private           bool    // privacy mode: without prompts and completions
	Filtered          bool    // it has a filter rule
}

// AddDestination adds a destination of Broadcast.
func (s *Server) AddDestination(d Destination) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.destinations = append(s.destinations, d)
}

// listDestinations answers GET /observability/destinations
// (https://openrouter.ai/docs/api-reference/observability/list-observability-destinations) for one workspace.
func (s *Server) listDestinations(query url.Values) answer {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	workspace, ok := s.workspace(query)
	if !ok {
		return errorAnswer(http.StatusNotFound, "Workspace not found")
	}
	var rows []string
	for _, d := range s.destinations {
		if d.Workspace == workspace {
			rows = append(rows, d.json(now))
		}
	}
	return counted(query, rows)
}

func (d Destination) json(now time.Time) string {
	hashes, rules, workspace, rate := "null", "null", DefaultWorkspace, d.SamplingRate
	if d.Hashes != nil {
		quoted := make([]string, len(d.Hashes))
		for i, hash := range d.Hashes {
			quoted[i] = quote(hash)
		}
		hashes = "[" + strings.Join(quoted, ",") + "]"
	}
	if d.Filtered {
		rules = `{"enabled":true,"groups":[]}`
	}
	if d.Workspace != "" {
		workspace = d.Workspace
	}
	if rate == 0 {
		rate = 1
	}
	return fmt.Sprintf(`{"id":%s,"name":%s,"type":"webhook","enabled":%t,"workspace_id":%s,"api_key_hashes":%s,`+
		`"sampling_rate":%g,"filter_rules":%s,"privacy_mode":%t,"regions":["global"],"broadcast_generation_cost":%t,`+
		`"broadcast_generation_identity":%t,"broadcast_generation_request_context":true,`+
		`"config":{"url":%s,"method":"POST"},"created_at":%s,"updated_at":%s}`,
		quote(d.ID), orNull(d.Name), !d.Disabled, quote(workspace), hashes, rate, rules, d.Private,
		!d.NoCost, !d.Anonymous, quote(d.URL), timeOrNull(now), timeOrNull(now))
}
