package store

// Totals are what some generations, or some rows, add up to.
type Totals struct {
	Requests, Tokens int64
	Raw              Money // what OpenRouter charged
	Cost             Money // what the client pays: Raw with the markup
}

// Add returns t with o.
func (t Totals) Add(o Totals) Totals {
	return Totals{t.Requests + o.Requests, t.Tokens + o.Tokens, t.Raw + o.Raw, t.Cost + o.Cost}
}

// Sub returns t without o.
func (t Totals) Sub(o Totals) Totals {
	return Totals{t.Requests - o.Requests, t.Tokens - o.Tokens, t.Raw - o.Raw, t.Cost - o.Cost}
}

// IsZero tells whether nothing was used.
func (t Totals) IsZero() bool { return t == Totals{} }
