package webhook

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"usage-sync/store"
)

// span writes a root of Broadcast; attributes are raw JSON values by name.
func root(id string, more ...string) string {
	attributes := []string{`"span.type",{"stringValue":"generation"}`, `"gen_ai.usage.total_cost",{"doubleValue":0.002}`}
	if id != "" {
		attributes = append(attributes, fmt.Sprintf(`"gen_ai.response.id",{"stringValue":%q}`, id))
	}
	return withAttributes(append(attributes, more...)...)
}

func withAttributes(attributes ...string) string {
	var text []string
	for _, a := range attributes {
		key, v, _ := strings.Cut(a, ",")
		text = append(text, `{"key":`+key+`,"value":`+v+`}`)
	}
	return `{"traceId":"t","spanId":"s","name":"LLM Generation","startTimeUnixNano":"1773142200000000000","attributes":[` +
		strings.Join(text, ",") + `]}`
}

func spans(all ...string) string {
	return `{"resourceSpans":[{"scopeSpans":[{"spans":[` + strings.Join(all, ",") + `]}]}]}`
}

func decode(t *testing.T, text string) Payload {
	t.Helper()
	p, err := Decode(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in %.300s", err, text)
	}
	return p
}

var at = time.Date(2026, 3, 10, 11, 30, 0, 0, time.UTC)

// TestFixtures reads deliveries of the shape that OpenRouter sends.
func TestFixtures(t *testing.T) {
	generation := store.Generation{ID: "gen-1773142200-AbCdEf", CreatedAt: at, Model: "anthropic/claude-sonnet-4", User: "anna", Tokens: 1500,
		Cost: 10_500_000_000}
	one := Payload{Usage: []Usage{{Generation: generation, KeyName: "Acme production"}}, Ignored: 3}
	for name, want := range map[string]Payload{
		"request.json":             one,
		"ints_as_strings.json":     one,
		"attributes_reversed.json": one,
		"error.json":               {Ignored: 2},
		"connection_test.json":     {Ignored: 1},
		"other_service.json":       {Ignored: 2},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := os.Open(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			got, err := Decode(f)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

// TestPrompts: 400 KB of prompt before, between and behind what counts make no difference.
func TestPrompts(t *testing.T) {
	prompt := `{"stringValue":"` + strings.Repeat(`never kept \"é\" `, 25_000) + `"}`
	got := decode(t, spans(root("gen-1", `"gen_ai.prompt",`+prompt, `"user.id",{"stringValue":"anna"}`, `"span.input",`+prompt)))
	if len(got.Usage) != 1 || got.Usage[0].User != "anna" || got.Usage[0].ID != "gen-1" {
		t.Errorf("got %+v", got)
	}
	if text := fmt.Sprintf("%+v", got); strings.Contains(text, "never kept") {
		t.Errorf("the prompt is kept: %.200s", text)
	}
}

func TestBroadcast(t *testing.T) {
	for name, c := range map[string]struct {
		payload string
		want    string // id tokens cost, or what was refused
		ignored int
	}{
		"total beats the sum":                     {spans(root("g", `"gen_ai.usage.total_tokens",{"intValue":7}`, `"gen_ai.usage.input_tokens",{"intValue":1}`)), "g 7 0.002000", 0},
		"sum of both directions":                  {spans(root("g", `"gen_ai.usage.input_tokens",{"intValue":"3"}`, `"gen_ai.usage.output_tokens",{"intValue":4}`)), "g 7 0.002000", 0},
		"cost as a whole number":                  {spans(withAttributes(`"span.type",{"stringValue":"generation"}`, `"gen_ai.response.id",{"stringValue":"g"}`, `"gen_ai.usage.total_cost",{"intValue":"2"}`)), "g 0 2.000000", 0},
		"a free model":                            {spans(withAttributes(`"span.type",{"stringValue":"generation"}`, `"gen_ai.response.id",{"stringValue":"g"}`, `"gen_ai.usage.total_cost",{"doubleValue":0}`)), "g 0 0.000000", 0},
		"a root without a type":                   {spans(withAttributes(`"gen_ai.response.id",{"stringValue":"gen-1773142200-x"}`, `"gen_ai.usage.total_cost",{"doubleValue":0.002}`)), "gen-1773142200-x 0 0.002000", 0},
		"its child without a cost":                {spans(withAttributes(`"gen_ai.response.id",{"stringValue":"gen-1773142200-x"}`)), "", 1},
		"its child with a suffix":                 {spans(withAttributes(`"gen_ai.response.id",{"stringValue":"gen-1773142200-x:attempt-0"}`, `"gen_ai.usage.total_cost",{"doubleValue":0.002}`)), "", 1},
		"a child that says so":                    {spans(withAttributes(`"span.type",{"stringValue":"span"}`, `"gen_ai.response.id",{"stringValue":"gen-1773142200-x"}`, `"gen_ai.usage.total_cost",{"doubleValue":0.002}`)), "", 1},
		"a root without a type and of another's":  {spans(withAttributes(`"gen_ai.response.id",{"stringValue":"g"}`, `"gen_ai.usage.total_cost",{"doubleValue":0.002}`)), "generation g: it has a cost, but span.type is not generation (\"\"), and its id is not one of OpenRouter's", 0},
		"a root without a type and without an id": {spans(withAttributes(`"gen_ai.usage.total_cost",{"doubleValue":0.002}`)), "generation without an id: it has a cost, but span.type is not generation (\"\"), and its id is not one of OpenRouter's", 0},
		"a root of a new type":                    {spans(withAttributes(`"span.type",{"stringValue":"video"}`, `"gen_ai.response.id",{"stringValue":"gen-1773142200-x"}`, `"gen_ai.usage.total_cost",{"doubleValue":0.002}`)), "gen-1773142200-x 0 0.002000", 0},
		"the other spelling of counts":            {spans(root("g", `"gen_ai.usage.prompt_tokens",{"intValue":"3"}`, `"gen_ai.usage.completion_tokens",{"intValue":4}`)), "g 7 0.002000", 0},
		"both spellings":                          {spans(root("g", `"gen_ai.usage.prompt_tokens",{"intValue":"3"}`, `"gen_ai.usage.input_tokens",{"intValue":3}`, `"gen_ai.usage.completion_tokens",{"intValue":4}`)), "g 7 0.002000", 0},
		"no time but that of its id":              {strings.Replace(spans(root("gen-1773142200-x")), "1773142200000000000", "soon", 1), "gen-1773142200-x 0 0.002000", 0},
		"no cost":                                 {spans(withAttributes(`"span.type",{"stringValue":"generation"}`, `"gen_ai.response.id",{"stringValue":"g"}`)), "generation g: no gen_ai.usage.total_cost", 0},
		"negative cost":                           {spans(withAttributes(`"span.type",{"stringValue":"generation"}`, `"gen_ai.response.id",{"stringValue":"g"}`, `"gen_ai.usage.total_cost",{"doubleValue":-1}`)), "generation g: gen_ai.usage.total_cost is negative: -1", 0},
		"not a number":                            {spans(withAttributes(`"span.type",{"stringValue":"generation"}`, `"gen_ai.response.id",{"stringValue":"g"}`, `"gen_ai.usage.total_cost",{"doubleValue":"NaN"}`)), `generation g: gen_ai.usage.total_cost is not an amount of money: "NaN"`, 0},
		"negative tokens":                         {spans(root("g", `"gen_ai.usage.total_tokens",{"intValue":"-5"}`)), "generation g: gen_ai.usage is negative: -5", 0},
		"two costs":                               {spans(root("g", `"gen_ai.usage.total_cost",{"doubleValue":0.003}`)), "generation g: gen_ai.usage.total_cost is given twice", 0},
		"one cost twice":                          {spans(root("g", `"gen_ai.usage.total_cost",{"doubleValue":0.002}`)), "g 0 0.002000", 0},
		"an endless id":                           {spans(root(strings.Repeat("g", 600))), "generation without an id: gen_ai.response.id is longer than 512 bytes", 0},
		"a billed failure":                        {strings.Replace(spans(root("g")), `"name":`, `"status":{"code":2},"name":`, 1), "g 0 0.002000", 0},
		"an unbilled failure": {strings.Replace(spans(withAttributes(`"span.type",{"stringValue":"generation"}`)), `"name":`,
			`"status":{"code":"STATUS_CODE_ERROR","message":"no"},"name":`, 1), "", 1},
		"no time":       {strings.Replace(spans(root("g")), "1773142200000000000", "soon", 1), "generation g: startTimeUnixNano is not a time in nanoseconds: soon", 0},
		"nulls":         {`{"resourceSpans":[null,{"resource":null,"scopeSpans":[null,{"spans":[null]}]}]}`, "", 1},
		"nothing in it": {`{"resourceSpans":[]}`, "", 0},
		"empty":         {`{}`, "", 0},
		"no body":       {``, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := decode(t, c.payload)
			var got []string
			for _, u := range p.Usage {
				got = append(got, fmt.Sprintf("%s %d %s", u.ID, u.Tokens, u.Cost))
			}
			for _, r := range p.Refused {
				got = append(got, r.String())
			}
			if strings.Join(got, "; ") != c.want || p.Ignored != c.ignored {
				t.Errorf("got %q, %d ignored; want %q, %d", got, p.Ignored, c.want, c.ignored)
			}
		})
	}
}

const guidePayload = `{"api_key":"sk-or-v1-acme","user_id":"u","model":"openai/gpt-4.1","tokens_used":1000,"cost":0.002,` +
	`"timestamp":"2026-03-10T11:30:00Z","external_user":"anna","request_id":"gen-1"}`

func TestGuide(t *testing.T) {
	got := decode(t, guidePayload)
	want := Payload{Usage: []Usage{{Key: "sk-or-v1-acme", Generation: store.Generation{ID: "gen-1", CreatedAt: at, Model: "openai/gpt-4.1",
		User: "anna", Tokens: 1000, Cost: 2_000_000_000}}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	without := func(field string) string {
		var kept []string
		for _, part := range strings.Split(strings.Trim(guidePayload, "{}"), ",") {
			if !strings.HasPrefix(part, `"`+field+`"`) {
				kept = append(kept, part)
			}
		}
		return "{" + strings.Join(kept, ",") + "}"
	}
	for _, field := range []string{"api_key", "tokens_used", "cost", "timestamp"} {
		p := decode(t, without(field))
		if len(p.Usage) != 0 || len(p.Refused) != 1 || p.Refused[0].Reason != "no "+field {
			t.Errorf("without %s: %+v", field, p)
		}
	}
	if u := decode(t, without("model")).Usage[0]; u.Model != "" || u.ID != "gen-1" {
		t.Errorf("%+v", u)
	}
	if u := decode(t, without("external_user")).Usage[0]; u.User != "u" {
		t.Errorf("user %q", u.User)
	}
	t.Run("HashedID", func(t *testing.T) {
		first := decode(t, without("request_id")).Usage[0].ID
		if !strings.HasPrefix(first, "webhook-") {
			t.Errorf("id %q", first)
		}
		respelled := ` {"cost":2.000e-3, "timestamp":"2026-03-10T12:30:00+01:00","tokens_used":"1000","external_user":"\u0061nna",
			"model":"openai/gpt-4.1","api_key":"sk-or-v1-acme","request_id":null,"more":[1,{}]}`
		if again := decode(t, respelled).Usage[0].ID; again != first {
			t.Errorf("spelled otherwise it is %s, not %s", again, first)
		}
		for _, other := range []string{`"cost":0.0021`, `"tokens_used":1001`, `"model":"openai/gpt-4.2"`, `"external_user":"ben"`,
			`"timestamp":"2026-03-10T11:30:01Z"`, `"api_key":"sk-or-v1-globex"`} {
			field, _, _ := strings.Cut(strings.Trim(other, `"`), `"`)
			text := strings.TrimSuffix(strings.Replace(without("request_id"), `"`+field+`"`, `"ignored"`, 1), "}") + "," + other + "}"
			if id := decode(t, text).Usage[0].ID; id == first {
				t.Errorf("another %s, the same id", field)
			}
		}
	})
}

// The time of a delivery is the second of its id, where it has one: a span's start may lie on another day.
func TestTimeOfDelivery(t *testing.T) {
	const start = "1773142200000000000" // 11:30
	for name, test := range map[string]struct {
		id   string
		want time.Time
	}{
		"an id that tells it":                {"gen-1773185500-x", time.Unix(1773185500, 0)},
		"an id that tells none":              {"gen-batch-1773185500-x", at},
		"an id that tells another day's":     {"gen-1773342200-x", at},
		"a start in the night before its id": {"gen-1773146000-x", time.Unix(1773146000, 0)},
	} {
		t.Run(name, func(t *testing.T) {
			if u := decode(t, spans(root(test.id))).Usage; len(u) != 1 || !u[0].CreatedAt.Equal(test.want) {
				t.Errorf("%+v, want %s, started at %s", u, test.want, start)
			}
		})
	}
}

// A delivery whose id, time and cost are sound is recorded, whatever is the matter with its labels.
func TestLabelsHoldNothingBack(t *testing.T) {
	long, escaped := strings.Repeat("é", 4000), strings.Repeat(`\ud83d\ude00`, 1000)
	for name, test := range map[string]struct{ payload, model, user string }{
		"none":                  {spans(root("g")), "", ""},
		"control characters":    {spans(root("g", `"gen_ai.response.model",{"stringValue":"x/\u001by"}`, `"user.id",{"stringValue":"\nann"}`)), "x/y", "ann"},
		"not texts":             {spans(root("g", `"gen_ai.response.model",{"arrayValue":{"values":[]}}`, `"gen_ai.request.model",{"stringValue":"x/y"}`, `"user.id",{"kvlistValue":{}}`)), "x/y", ""},
		"too long":              {spans(root("g", `"gen_ai.response.model",{"stringValue":"x`+long+`"}`, `"user.id",{"stringValue":"`+escaped+`"}`)), "x" + strings.Repeat("é", 255), strings.Repeat("😀", 128)},
		"two of each":           {spans(root("g", `"user.id",{"stringValue":"bob"}`, `"user.id",{"stringValue":"ann"}`, `"gen_ai.response.model",{"stringValue":"x/y"}`, `"gen_ai.response.model",{"stringValue":"x/z"}`)), "x/z", "ann"},
		"a dated model":         {spans(root("g", `"gen_ai.response.model",{"stringValue":"x/y-20260226"}`)), "x/y", ""},
		"the guide's, odd":      {strings.NewReplacer(`"anna"`, `"\u0000anna"`, `"openai/gpt-4.1"`, `{}`).Replace(guidePayload), "", "anna"},
		"the guide's, too long": {strings.NewReplacer(`"anna"`, `"`+long+`"`, `"openai/gpt-4.1"`, `"openai/gpt-4.1-2025-04-14"`).Replace(guidePayload), "openai/gpt-4.1", strings.Repeat("é", 256)},
	} {
		t.Run(name, func(t *testing.T) {
			p := decode(t, test.payload)
			if len(p.Usage) != 1 || p.Usage[0].Model != test.model || p.Usage[0].User != test.user || p.Usage[0].Cost != 2_000_000_000 {
				t.Errorf("%.900s, want %s and %s", fmt.Sprintf("%+v", p), test.model, test.user)
			}
		})
	}
	// Whose it is, is no label.
	p := decode(t, spans(root("g", `"trace.metadata.openrouter.api_key_name",{"stringValue":"Acme"}`, `"trace.metadata.openrouter.api_key_name",{"stringValue":"Globex"}`)))
	if len(p.Usage) != 0 || len(p.Refused) != 1 {
		t.Errorf("%+v", p)
	}
}

func TestDecodeErrors(t *testing.T) {
	for text, want := range map[string]error{
		`{`: errJSON, `{"resourceSpans":[`: errJSON, `not json`: errJSON, `{} {}`: errJSON, `{}x`: errJSON,
		"\x16\x03\x01": errJSON, strings.Repeat("[", 20_000): ErrShape,
		`[]`: ErrShape, `"text"`: ErrShape, `{"foo":1}`: ErrShape, `{"resourceSpans":{}}`: ErrShape,
		`{"resourceSpans":[{"scopeSpans":[{"spans":[7]}]}]}`: ErrShape, `{"resourceSpans":[],"api_key":"k"}`: ErrShape,
		`{"resourceSpans":[{"scopeSpans":[{"spans":[` + strings.Repeat(root("g")+",", mostRoots) + root("g") + `]}]}]}`: ErrShape,
	} {
		p, err := Decode(strings.NewReader(text))
		if !errors.Is(err, want) && !errors.Is(err, errJSON) || !reflect.DeepEqual(p, Payload{}) {
			t.Errorf("%.40q: %v, want %v", text, err, want)
		}
	}
	broken := errors.New("connection reset")
	if _, err := Decode(io.MultiReader(strings.NewReader(`{"resourceSpans":[`), errorReader{broken})); !errors.Is(err, broken) {
		t.Errorf("a reader that fails: %v", err)
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func TestEach(t *testing.T) {
	read := func(t *testing.T, text string) string {
		t.Helper()
		var got []string
		err := Each(strings.NewReader(text), func(where string, p Payload, err error) error {
			switch {
			case errors.Is(err, errJSON):
				got = append(got, "not JSON")
			case err != nil:
				got = append(got, "no payload")
			default:
				got = append(got, fmt.Sprint(len(p.Usage)))
			}
			if want := fmt.Sprintf("payload %d", len(got)); where != want {
				t.Errorf("where %q, want %q", where, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(got, " ")
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	fmt.Fprintf(w, "%s\n%s\n", guidePayload, spans(root("a"), root("b")))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"one":               {guidePayload, "1"},
		"lines":             {guidePayload + "\n" + spans(root("a"), root("b")) + "\n\n{}\n", "1 2 0"},
		"array":             {"[" + guidePayload + ",\n" + guidePayload + "]", "1 1"},
		"arrays in lines":   {"[" + guidePayload + "]\n[[" + guidePayload + "]]\n[]", "1 1"},
		"gzip":              {zipped.String(), "1 2"},
		"nothing":           {"", ""},
		"a broken line":     {guidePayload + "\n{\"api_key\":\n" + guidePayload + "\n", "1 not JSON 1"},
		"an unclosed text":  {guidePayload + "\n{\"api_key\":\"x\n" + guidePayload + "\n", "1 not JSON 1"},
		"broken to the end": {guidePayload + "\n{\"api_key\":\"x", "1 not JSON"},
		"scalars":           {"1 \"x\" null " + guidePayload, "no payload no payload no payload 1"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := read(t, c.text); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

// TestMemory: reading 8 MiB takes a few times that, whatever is in it.
func TestMemory(t *testing.T) {
	const size = 8 << 20
	for name, text := range map[string]string{
		"one text":     spans(root("g", `"gen_ai.prompt",{"stringValue":"`+strings.Repeat("x", size-1000)+`"}`)),
		"many spans":   spans(strings.TrimSuffix(strings.Repeat("{},", size/3-100), ",")),
		"many names":   `{"` + strings.Repeat("x", size-1000) + `":1}`,
		"many texts":   spans(root("g", strings.TrimSuffix(strings.Repeat(`"a",{"stringValue":"bcdefghijklm"},`, 1), ","))),
		"many refused": spans(strings.TrimSuffix(strings.Repeat(`{"attributes":[{"key":"span.type","value":{"stringValue":"generation"}}]},`, mostRoots), ",")),
	} {
		t.Run(name, func(t *testing.T) {
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			if _, err := Decode(strings.NewReader(text)); err != nil && !errors.Is(err, ErrShape) {
				t.Fatal(err)
			}
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > 6*size {
				t.Errorf("%d MB allocated", got>>20)
			}
		})
	}
}

func TestSpool(t *testing.T) {
	s := Spool{Dir: filepath.Join(t.TempDir(), "spool")}
	if kept, err := s.List(); err != nil || len(kept) != 0 {
		t.Fatalf("a spool that was never made: %v, %v", kept, err)
	}
	u := Usage{Key: "sk-or-v1-secret", KeyName: "prod", Generation: store.Generation{ID: "../../etc/passwd", CreatedAt: at, Model: "m", User: "u",
		Tokens: 5, Cost: 123_456_789_012}}
	for range 2 {
		if err := s.Keep(u, errUnmapped); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := s.List()
	if err != nil || len(kept) != 1 || kept[0].Err != nil {
		t.Fatalf("%+v, %v", kept, err)
	}
	want := u
	want.Key = ""
	if !reflect.DeepEqual(kept[0].Usage, want) {
		t.Errorf("got  %+v\nwant %+v", kept[0].Usage, want)
	}
	text, err := os.ReadFile(filepath.Join(s.Dir, kept[0].File))
	if err != nil || strings.Contains(string(text), "secret") {
		t.Errorf("%v, %s", err, text)
	}
	entries, err := os.ReadDir(s.Dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("left over: %v, %v", entries, err)
	}
	if err := s.Drop(kept[0].File); err != nil {
		t.Fatal(err)
	}
	if err := (Spool{Dir: "/proc/no/such"}).Keep(u, errUnmapped); !errors.Is(err, ErrSpool) {
		t.Errorf("a spool that can't be made: %v", err)
	}
}

// fuzzPayload: whatever comes, what is accepted can be billed.
func fuzzPayload(f *testing.F, seeds ...string) {
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Decode(strings.NewReader(text))
		again, errAgain := Decode(iotestOneByte{strings.NewReader(text)})
		if (err == nil) != (errAgain == nil) || !reflect.DeepEqual(p, again) {
			t.Errorf("byte by byte: %+v, %v; at once: %+v, %v", again, errAgain, p, err)
		}
		for _, u := range p.Usage {
			if u.ID == "" || u.Tokens < 0 || u.Cost < 0 || u.CreatedAt.Year() < 2000 || len(u.ID) > 512 || len(u.Model) > 512 {
				t.Errorf("accepted: %+v", u)
			}
		}
		count := 0
		if err := Each(strings.NewReader(text), func(_ string, p Payload, _ error) error {
			count += len(p.Usage)
			return nil
		}); err == nil && count < len(p.Usage) {
			t.Errorf("as a stream %d, alone %d", count, len(p.Usage))
		}
	})
}

type iotestOneByte struct{ r io.Reader }

func (r iotestOneByte) Read(p []byte) (int, error) { return r.r.Read(p[:min(1, len(p))]) }

func FuzzGuide(f *testing.F) {
	fuzzPayload(f, guidePayload, `{"api_key":1,"cost":"1e-3","timestamp":1773142200.5}`, "["+guidePayload+"]")
}

func FuzzBroadcast(f *testing.F) {
	seeds := []string{spans(root("g"), root("")), `{"resourceSpans":[{"resource":{"attributes":[]},"scopeSpans":null}]}`}
	files, _ := filepath.Glob("testdata/*.json")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, string(text))
	}
	fuzzPayload(f, seeds...)
}
