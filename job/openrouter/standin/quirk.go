package standin

// Quirks are ways in which the service may differ from what has been seen of it: facts that nobody has
// proved, and facts that would bill wrongly if they changed. The zero value is the service as it was seen. A
// client is to notice each of them.
type Quirks struct {
	// The answers of POST /analytics/query.
	TimeColumn string // its name in place of created_at__… and date__…; the granularity follows after two underscores
	Suffix     string // comes behind that name
	TimeLayout string // in place of 2006-01-02 15:04:05 and 2006-01-02
	HoursLate  int    // times are those of a zone so far east of UTC, without saying so
	Exact      bool   // costs are not rounded
	Decimals   int    // of a cost; 0 is 6
	Rounding   Rounding
	Cents      bool // costs are in US cents
	Numbers    bool // counts are numbers, not text
	// NormalisedTokens counts the tokens by OpenRouter's own tokenizer rather than the provider's.
	NormalisedTokens bool
	NoUser           string // the JSON of an absent external_user; empty is null
	Undated          bool   // models are those of lists
	KeyHashes        bool   // the api_key_id of a row is the key's hash, not its name
	CachedAt         string // the JSON of cachedAt in place of the time in milliseconds; "-" leaves it out
	NeverTruncated   bool   // rows that are missing are not told
	EmptyWarnings    bool   // warnings are there, and empty, where there are none
	// BothEnds counts a generation into a range also at its very end.
	BothEnds        bool
	RolledUpWithout string // a model that the sums of days and models leave out
	ToolRequests    bool   // runs of server tools count as requests
	NoBYOK          bool   // total_usage is without what was paid with keys of the client's own

	// What it takes, and how.
	Fractions bool // of seconds are taken, as the vendor's schema says
	// LoseHash leaves a filter by api_key_id out of account: rows of every key come.
	LoseHash      bool
	OneKey        bool // a filter by several keys is refused
	NoWarnings    bool // an unresolved hash is not told
	ForgetDeleted bool // the hash of a deleted key is not resolved
	MostRows      int  // of an answer, whatever limit asks for; 0 is 10,000

	LimitHeaders bool // each answer says how many requests there may be
	NoDate       bool // no answer says what time it is
	// LooseTies lists the generations of one second in another order in each page.
	LooseTies bool

	// Other endpoints.
	MetaWithout     []string // metrics and dimensions that do not exist any more
	ActivityWithout string   // a model that GET /activity leaves out
	AnyActivity     bool     // GET /activity does not filter by api_key_hash
}

// Play makes the server differ from what was seen of the service.
func (s *Server) Play(q Quirks) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.quirks = q
}
