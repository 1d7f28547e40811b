package reconcile

import (
	"fmt"
	"io"

	"usage-sync/job/spreadsheet"
	"usage-sync/store"
)

// Format is a way to write results.
type Format string

const (
	Text Format = "text" // for a terminal
	CSV  Format = "csv"  // one line per day and model
	// CommaCSV is CSV with a decimal comma.
	CommaCSV Format = "csv-comma"
	JSON     Format = "json"
)

// Results are what a reconciliation is told as.
type Results struct {
	Comparisons []Comparison
	All         bool        // what is the same on both sides, too
	Tolerance   store.Money // that was used
	Status      string      // ok, different, partial or failed
	ExitCode    int         // of the program
	Error       string      // why it is not 0
}

// Write writes results.
func (r Results) Write(w io.Writer, format Format) error {
	switch format {
	case JSON:
		return r.writeJSON(w)
	case CSV:
		return r.writeTable(w, spreadsheet.CSV)
	case CommaCSV:
		return r.writeTable(w, spreadsheet.CommaCSV)
	}
	return r.writeText(w)
}

// Verdict is what comparisons come to.
type Verdict struct {
	Differences int
	Failed      int   // organisations that could not be compared
	Failure     error // of the first of them
	Beyond      error // the first days that could not be compared, as ErrBeyondReach
}

// Judge adds up comparisons.
func Judge(all []Comparison) (v Verdict) {
	for _, c := range all {
		switch {
		case c.Err != nil:
			if v.Failed++; v.Failed == 1 {
				v.Failure = c.Err
			}
			continue
		case len(c.Beyond) > 0 && v.Beyond == nil:
			v.Beyond = fmt.Errorf("%w: %s", ErrBeyondReach, spans(c.Beyond))
		}
		v.Differences += c.Differences()
	}
	return v
}
