package reconcile

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"usage-sync/job/table"
	"usage-sync/store"
)

// keyOut is a key of the account as JSON.
type keyOut struct {
	Name     string   `json:"name"`
	Label    string   `json:"label"`
	Hash     string   `json:"hash"`
	Disabled bool     `json:"disabled"`
	Charged  float64  `json:"charged"`
	Owners   []string `json:"owners"`
}

// capturedOut is an organisation as JSON.
type capturedOut struct {
	Recorded
	Charged  float64 `json:"charged"`
	Ours     float64 `json:"recorded"`
	Captured float64 `json:"capture_rate"`
	NoKey    bool    `json:"without_key"`
}

// AccountStatement is an Account as JSON. What Clients hold is what another host of the account takes as known.
type AccountStatement struct {
	Status   string        `json:"status"` // ok or different
	From     store.Day     `json:"from"`
	To       store.Day     `json:"to"`
	Charged  float64       `json:"charged"`
	Recorded float64       `json:"recorded"`
	Captured float64       `json:"capture_rate"`
	Residual float64       `json:"residual"`
	Keys     []keyOut      `json:"keys"`
	Clients  []capturedOut `json:"clients"`
}

// Known are the organisations of a statement.
func (s AccountStatement) Known() (all []Recorded) {
	for _, c := range s.Clients {
		all = append(all, c.Recorded)
	}
	return all
}

// Write writes the account as JSON, or for people.
func (a Account) Write(w io.Writer, asJSON bool, width int) error {
	if asJSON {
		return a.writeJSON(w)
	}
	fmt.Fprintf(w, "The account from %s to %s (UTC): charged $%s, recorded $%s, captured %.4f %%\n\n", a.First,
		a.Last, a.Total.Rounded(6), a.Recorded.Rounded(6), 100*a.Rate())
	rows := [][]string{{"CLIENT", "INSTANCE", "CHARGED", "RECORDED", "CAPTURED", ""}}
	for _, c := range a.Clients {
		remark := ""
		switch {
		case c.NoKey:
			remark = "the account lists none of its keys"
		case c.Ours-c.Charged > a.Tolerance:
			remark = "more is recorded than charged"
		case c.Charged-c.Ours > a.Tolerance:
			remark = "usage-sync reconcile -i " + c.Instance + " --org " + c.ID
		}
		rows = append(rows, []string{c.Name, c.Instance, "$" + c.Charged.Rounded(6), "$" + c.Ours.Rounded(6),
			fmt.Sprintf("%.4f %%", 100*c.Rate()), remark})
	}
	if err := table.Write(w, width, "clrrrl", rows); err != nil {
		return err
	}
	rows = [][]string{{"KEY", "LABEL", "CHARGED", "CLIENT"}}
	for _, k := range a.Keys {
		owner := strings.Join(k.Owners, ", ")
		switch {
		case len(k.Owners) == 0 && k.Raw == 0:
			continue
		case len(k.Owners) == 0:
			owner = "nobody's"
		}
		if k.Disabled {
			owner += " (disabled)"
		}
		rows = append(rows, []string{k.Name, k.Label, "$" + k.Raw.Rounded(6), owner})
	}
	fmt.Fprintln(w)
	if err := table.Write(w, width, "clrl", rows); err != nil {
		return err
	}
	if a.Residual > a.Tolerance || a.Residual < -a.Tolerance {
		_, err := fmt.Fprintf(w, "\n$%s was charged to no key that the account lists: keys that were "+
			"deleted, or what OpenRouter charges by itself.\n", a.Residual.Rounded(6))
		return err
	}
	return nil
}

func (a Account) writeJSON(w io.Writer) error {
	out := AccountStatement{Status: "ok", From: a.First, To: a.Last, Charged: a.Total.Float(),
		Recorded: a.Recorded.Float(), Captured: a.Rate(), Residual: a.Residual.Float(),
		Keys: []keyOut{}, Clients: []capturedOut{}}
	if a.Differs() {
		out.Status = "different"
	}
	for _, k := range a.Keys {
		out.Keys = append(out.Keys, keyOut{k.Name, k.Label, k.Hash, k.Disabled, k.Raw.Float(),
			append([]string{}, k.Owners...)})
	}
	for _, c := range a.Clients {
		out.Clients = append(out.Clients, capturedOut{c.Recorded, c.Charged.Float(), c.Ours.Float(), c.Rate(), c.NoKey})
	}
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(out)
}
