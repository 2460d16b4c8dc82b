package line

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// drawView is a draw as the world sees it: GET …/draw answers it, and a verification begins with it.
type drawView struct {
	Sale          string     `json:"sale"`
	State         string     `json:"state" enum:"planned,open,closed,drawn" doc:"closed: no more entries, the result is on its way"`
	Entries       int64      `json:"entries" doc:"How many entered; final from closed on"`
	Units         int64      `json:"units" doc:"Units to be given by the draw; final from closed on"`
	DrawAt        time.Time  `json:"draw_at"`
	Algorithm     string     `json:"algorithm" doc:"See docs/draw.md"`
	SeedHash      string     `json:"seed_hash" doc:"SHA-256 of the seed, published before the first entry"`
	Seed          *string    `json:"seed" nullable:"true" doc:"The seed, once drawn"`
	EntriesDigest *string    `json:"entries_digest" nullable:"true" doc:"SHA-256 of the entry list, once closed"`
	ResultsDigest *string    `json:"results_digest" nullable:"true" doc:"SHA-256 of the results, once drawn"`
	Winners       *int64     `json:"winners" nullable:"true" doc:"How many entries won units, once drawn"`
	DrawnAt       *time.Time `json:"drawn_at" nullable:"true"`
	Links         drawLinks  `json:"links"`
}

type drawLinks struct {
	Self    string `json:"self"`
	Entries string `json:"entries"`
	Results string `json:"results"`
	Line    string `json:"line"`
}

// The names of a draw's states in public.
const (
	drawPlanned = "planned"
	drawOpen    = "open"
	drawClosed  = "closed"
	drawDrawn   = "drawn"
)

// Published is what the world was given of a draw: the answer of GET …/draw, and the two texts, byte for byte.
type Published struct {
	Draw    []byte // draw.json
	Entries []byte // entries.txt
	Results []byte // results.txt
}

// Check is one thing that Verify looked at. Problem is empty where it holds.
type Check struct {
	What    string
	Problem string
}

// Expect is what a verifier noted himself. Empty fields are not compared.
type Expect struct {
	Sale     string // the sale that he asked for
	SeedHash string // as he saw it before the entries closed
}

// Verify runs a draw again from what was published, by the rules of docs/draw.md and nothing else: it needs no server, no
// database and no secret. It goes on after a problem as far as that says more; the draw holds if no check has one.
func Verify(p Published, e Expect) []Check {
	v := &verification{Published: p}
	if v.document(e) {
		v.seedHash(e)
		v.entryList()
		v.results()
	}
	return v.checks
}

type verification struct {
	Published
	checks []Check

	draw   drawView
	seed   []byte
	digest string // of the entry list as published; what the key is made of
	list   []listed
}

// check notes one thing looked at; no problems means that it holds.
func (v *verification) check(what string, problems ...string) bool {
	v.checks = append(v.checks, Check{What: what, Problem: strings.Join(problems, "; ")})
	return len(problems) == 0
}

func (v *verification) document(e Expect) bool {
	var problems []string
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	what := "draw.json is a finished draw by " + Algorithm
	if err := json.Unmarshal(v.Draw, &v.draw); err != nil {
		return v.check(what, "it cannot be read: "+err.Error())
	}
	d := &v.draw
	if d.Algorithm != Algorithm {
		wrong("the algorithm is %q, this program knows %q", d.Algorithm, Algorithm)
	}
	if d.State != drawDrawn {
		wrong("the state is %q; only a drawn one can be verified", d.State)
	}
	if !isWord(d.Sale) {
		wrong("sale is no id: %q", d.Sale)
	} else if e.Sale != "" && d.Sale != e.Sale {
		wrong("it is the draw of %s, not of %s", d.Sale, e.Sale)
	}
	if d.Units < 0 || d.Entries < 0 {
		wrong("units %d and entries %d must not be negative", d.Units, d.Entries)
	}
	if !isHash(d.SeedHash) {
		wrong("seed_hash is not 64 lower case hexadecimal digits: %q", d.SeedHash)
	}
	if d.Seed == nil || !isHash(*d.Seed) {
		wrong("seed is not 64 lower case hexadecimal digits")
	} else {
		v.seed, _ = hex.DecodeString(*d.Seed)
	}
	if d.EntriesDigest == nil || !isHash(*d.EntriesDigest) {
		wrong("entries_digest is not 64 lower case hexadecimal digits")
	} else {
		v.digest = *d.EntriesDigest
	}
	if d.Winners == nil {
		wrong("winners is missing")
	}
	return v.check(what, problems...)
}

func (v *verification) seedHash(e Expect) {
	sum := sha256.Sum256(v.seed)
	var problems []string
	if got := hex.EncodeToString(sum[:]); got != v.draw.SeedHash {
		problems = append(problems, "its SHA-256 is "+got+", published was "+v.draw.SeedHash)
	}
	v.check("the seed is the one whose hash was published: "+v.draw.SeedHash, problems...)
	if e.SeedHash != "" {
		problems = nil
		if !strings.EqualFold(e.SeedHash, v.draw.SeedHash) {
			problems = append(problems, "draw.json now says "+v.draw.SeedHash)
		}
		v.check("the hash is the one that was noted before the draw: "+strings.ToLower(e.SeedHash), problems...)
	}
}

// entryList reads the entry list and holds it against count and digest.
func (v *verification) entryList() {
	what := fmt.Sprintf("entries.txt is a list of %d entries in order", v.draw.Entries)
	err := eachLine(v.Entries, func(n int, line string) error {
		entry, quantity, ok := strings.Cut(line, " ")
		q, err := strconv.ParseInt(quantity, 10, 32)
		switch {
		case !ok || !isWord(entry) || err != nil || q < 1 || strconv.FormatInt(q, 10) != quantity:
			return fmt.Errorf("line %d is not an entry, a space and a quantity: %q", n, shown(line))
		case len(v.list) > 0 && v.list[len(v.list)-1].entry >= entry:
			return fmt.Errorf("line %d: %s does not come after %s", n, entry, v.list[len(v.list)-1].entry)
		}
		v.list = append(v.list, listed{entry: entry, quantity: int32(q)})
		return nil
	})
	switch {
	case err != nil:
		v.list = nil
		v.check(what, err.Error())
	case int64(len(v.list)) != v.draw.Entries:
		v.check(what, fmt.Sprintf("it has %d lines", len(v.list)))
	default:
		v.check(what)
	}
	what = "entries.txt has the digest " + v.digest
	if got := digestOf(v.Entries); got != v.digest {
		v.check(what, append([]string{"its SHA-256 is " + got}, v.strangers()...)...)
		return
	}
	v.check(what)
}

// strangers names the first entry that stands in one text and not in the other, to lead to the line that was changed.
func (v *verification) strangers() []string {
	if v.list == nil {
		return nil
	}
	drawn := map[string]bool{}
	_ = eachLine(v.Results, func(_ int, line string) error {
		if parts := strings.Split(line, " "); len(parts) == 3 {
			drawn[parts[1]] = true
		}
		return nil
	})
	var problems []string
	for i, l := range v.list {
		if !drawn[l.entry] {
			problems = append(problems, fmt.Sprintf("line %d: %s is nowhere in results.txt", i+1, l.entry))
			break
		}
		delete(drawn, l.entry)
	}
	return problems
}

// results runs the draw and compares line by line.
func (v *verification) results() {
	what := fmt.Sprintf("results.txt is what seed, entries and %d units give, line by line", v.draw.Units)
	if v.list == nil && v.draw.Entries > 0 {
		v.check(what, "not compared, as there is no entry list")
		return
	}
	ranks, winners := shuffle(v.seed, v.draw.Sale, v.digest, v.list, v.draw.Units)
	err := eachLine(v.Results, func(n int, line string) error {
		if n > len(ranks) {
			return fmt.Errorf("line %d is one too many: %q", n, shown(line))
		}
		want := strings.TrimSuffix(string(appendResult(nil, n, ranks[n-1].entry, int64(ranks[n-1].won))), "\n")
		if line != want {
			return fmt.Errorf("line %d must be %q, it is %q", n, want, shown(line))
		}
		return nil
	})
	if lines := bytes.Count(v.Results, []byte("\n")); err == nil && lines < len(ranks) {
		err = fmt.Errorf("it ends after line %d of %d", lines, len(ranks))
	}
	if err != nil {
		v.check(what, err.Error())
	} else {
		v.check(what)
	}
	what = fmt.Sprintf("%d entries won", *v.draw.Winners)
	if winners != *v.draw.Winners {
		v.check(what, fmt.Sprintf("by the draw it is %d", winners))
	} else {
		v.check(what)
	}
	if v.draw.ResultsDigest != nil {
		what = "results.txt has the digest " + shown(*v.draw.ResultsDigest)
		if got := digestOf(v.Results); got != *v.draw.ResultsDigest {
			v.check(what, "its SHA-256 is "+got)
		} else {
			v.check(what)
		}
	}
}

// eachLine calls fn with each line without its line feed, from 1. A text that does not end with a line feed is cut off.
func eachLine(text []byte, fn func(n int, line string) error) error {
	for n := 1; len(text) > 0; n++ {
		line, rest, ended := bytes.Cut(text, []byte("\n"))
		if !ended {
			return fmt.Errorf("line %d does not end with a line feed", n)
		}
		if err := fn(n, string(line)); err != nil {
			return err
		}
		text = rest
	}
	return nil
}

// isWord reports whether s can be an id in a text of this format: visible ASCII without spaces.
func isWord(s string) bool {
	return s != "" && len(s) <= 64 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

func isHash(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// shown cuts what a file holds to what a terminal should be given.
func shown(s string) string {
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return s
}

// ResultOf looks an entry up in a results text. found is false where it is not in it.
func ResultOf(results []byte, entry string) (rank, won int64, found bool) {
	_ = eachLine(results, func(n int, line string) error {
		if parts := strings.Split(line, " "); len(parts) == 3 && parts[1] == entry {
			rank, found = int64(n), true
			won, _ = strconv.ParseInt(parts[2], 10, 64)
		}
		return nil
	})
	return rank, won, found
}
