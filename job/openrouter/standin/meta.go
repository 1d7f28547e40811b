package standin

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// meta answers GET /analytics/meta (https://openrouter.ai/docs/api-reference/analytics/get-analytics-meta):
// what a query may ask for. The live service has more metrics (35) and dimensions (15, on 31 July 2026) than
// this one.
func (s *Server) meta() answer {
	s.mu.Lock()
	without := s.quirks.MetaWithout
	s.mu.Unlock()
	var metrics, dims, ops, grains []string
	for name := range counts {
		if slices.Contains(without, name) {
			continue
		}
		metrics = append(metrics, metricJSON(name, "number"))
	}
	for name := range costs {
		if slices.Contains(without, name) {
			continue
		}
		metrics = append(metrics, metricJSON(name, "currency"))
	}
	for name := range dimensions {
		if slices.Contains(without, name) {
			continue
		}
		dims = append(dims, fmt.Sprintf(`{"name":"%s","display_label":"%s"}`, name, label(name)))
	}
	for name := range operators {
		kind := "scalar"
		if name == "in" || name == "not_in" {
			kind = "array"
		}
		ops = append(ops, fmt.Sprintf(`{"name":"%s","value_type":"%s"}`, name, kind))
	}
	for _, name := range granularities {
		grains = append(grains, fmt.Sprintf(`{"name":"%s","display_label":"%s"}`, name, label(name)))
	}
	for _, list := range [][]string{metrics, dims, ops} {
		slices.Sort(list) // they come from maps
	}
	return jsonAnswer(http.StatusOK, fmt.Appendf(nil,
		`{"data":{"metrics":[%s],"dimensions":[%s],"operators":[%s],"granularities":[%s]}}`,
		strings.Join(metrics, ","), strings.Join(dims, ","), strings.Join(ops, ","), strings.Join(grains, ",")))
}

func metricJSON(name, format string) string {
	return fmt.Sprintf(`{"name":"%s","display_label":"%s","display_format":"%s","is_rate":false}`,
		name, label(name), format)
}

// label makes a name fit for people.
func label(name string) string {
	return strings.ToUpper(name[:1]) + strings.ReplaceAll(name[1:], "_", " ")
}
