package line

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strings"
	"testing"
)

// publish makes the three documents of a draw, as a server does.
func publish(seed []byte, sale string, list []listed, units int64) (p Published, d drawView) {
	entries := entriesText(list)
	digest := digestOf(entries)
	ranks, winners := shuffle(seed, sale, digest, list, units)
	results := resultsText(ranks)
	resultsDigest, open := digestOf(results), hex.EncodeToString(seed)
	d = drawView{Sale: sale, State: drawDrawn, Entries: int64(len(list)), Units: units, Algorithm: Algorithm, SeedHash: hashOf(seed), Seed: &open,
		EntriesDigest: &digest, ResultsDigest: &resultsDigest, Winners: &winners}
	return Published{Draw: document(d), Entries: entries, Results: results}, d
}

func document(d drawView) []byte {
	body, err := json.Marshal(d)
	if err != nil {
		panic(err)
	}
	return body
}

// TestDocument holds the test vector of docs/draw.md against the code: who writes a verifier from the page gets what the house draws.
func TestDocument(t *testing.T) {
	page, err := os.ReadFile("../../docs/draw.md")
	if err != nil {
		t.Fatal(err)
	}
	value := func(name string) string {
		m := regexp.MustCompile(`(?m)^    ` + name + `\s+(\S+)$`).FindSubmatch(page)
		if m == nil {
			t.Fatalf("docs/draw.md has no value %q", name)
		}
		return string(m[1])
	}
	block := func(name string) string {
		m := regexp.MustCompile("(?ms)^```" + name + "\n(.*?)^```").FindSubmatch(page)
		if m == nil {
			t.Fatalf("docs/draw.md has no block %q", name)
		}
		return string(m[1])
	}
	seed, err := hex.DecodeString(value("seed"))
	if err != nil || hex.EncodeToString(seed) != value("seed") {
		t.Fatalf("the seed of the vector: %v", err)
	}
	var list []listed
	for line := range strings.Lines(block("entries")) {
		var l listed
		if _, err := fmt.Sscanf(line, "%s %d\n", &l.entry, &l.quantity); err != nil {
			t.Fatal(err)
		}
		list = append(list, l)
	}
	var units int64
	if _, err := fmt.Sscan(value("units"), &units); err != nil {
		t.Fatal(err)
	}
	p, d := publish(seed, value("sale"), list, units)
	key := drawKey(seed, d.Sale, *d.EntriesDigest)
	var tickets strings.Builder
	for _, l := range list {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(l.entry))
		fmt.Fprintf(&tickets, "%x %s\n", mac.Sum(nil), l.entry)
	}
	for what, pair := range map[string][2]string{
		"seed_hash": {d.SeedHash, value("seed_hash")}, "entries": {string(p.Entries), block("entries")}, "tickets": {tickets.String(), block("tickets")},
		"entries_digest": {*d.EntriesDigest, value("entries_digest")}, "key": {hex.EncodeToString(key), value("key")},
		"results": {string(p.Results), block("results")}, "results_digest": {*d.ResultsDigest, value("results_digest")},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s of the vector: the code says\n%s\nthe page says\n%s", what, pair[0], pair[1])
		}
	}
	if !bytes.Contains(page, []byte("`"+Algorithm+"`")) || len(d.Sale) != 30 || len(list) != 5 {
		t.Error("the page is about another algorithm, or another vector")
	}
}

func madeUp(r *rand.Rand, n int) []listed {
	list := make([]listed, n)
	for i := range list {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], r.Uint64())
		list[i] = listed{entry: fmt.Sprintf("ent_%026x", b), quantity: 1 + r.Int32N(3)}
	}
	sortEntries(list)
	return list
}

// chiSquare measures how far the places of n entries over many draws are from evenly spread: by how much chi-square exceeds its
// degrees of freedom, as a share of them. With 23 of them one standard deviation is 0.29.
func chiSquare(draws, n int, order func(r *rand.Rand, list []listed) []placed) (worst float64) {
	r := rand.New(rand.NewPCG(1, 2))
	list := madeUp(r, n)
	index := map[string]int{}
	for i, l := range list {
		index[l.entry] = i
	}
	at := make([][]int, n)
	for i := range at {
		at[i] = make([]int, n)
	}
	follows := make([]int, n) // who comes right after entry 0: ranks of one draw must not hang together
	for range draws {
		ranks := order(r, list)
		for rank, p := range ranks {
			at[index[p.entry]][rank]++
			if rank > 0 && index[ranks[rank-1].entry] == 0 {
				follows[index[p.entry]]++
			}
		}
	}
	chi := func(cells []int, expected float64) float64 {
		sum := 0.0
		for _, c := range cells {
			sum += (float64(c) - expected) * (float64(c) - expected) / expected
		}
		df := float64(len(cells) - 1)
		return (sum - df) / df
	}
	for i := range at {
		worst = max(worst, chi(at[i], float64(draws)/float64(n)))
	}
	return max(worst, chi(follows[1:], float64(draws)*float64(n-1)/float64(n)/float64(n-1)))
}

// TestEvenly draws 20,000 times with seeds of a fixed sequence: every entry must come to every rank equally often. The control is a
// shuffle with a common flaw, swapping each place with any other, which the same measure must condemn.
func TestEvenly(t *testing.T) {
	const draws, n, bound = 20_000, 24, 1.5
	fair := func(r *rand.Rand, list []listed) []placed {
		var seed [seedSize]byte
		for i := 0; i < seedSize; i += 8 {
			binary.BigEndian.PutUint64(seed[i:], r.Uint64())
		}
		ranks, _ := shuffle(seed[:], "sal_x", digestOf(entriesText(list)), list, 5)
		return ranks
	}
	flawed := func(r *rand.Rand, list []listed) []placed {
		ranks := make([]placed, len(list))
		for i := range list {
			ranks[i].listed = list[i]
		}
		for i := range ranks {
			j := r.IntN(len(ranks))
			ranks[i], ranks[j] = ranks[j], ranks[i]
		}
		return ranks
	}
	if worst := chiSquare(draws, n, fair); worst > bound {
		t.Errorf("the shuffle is not even: chi-square is %.2f times its degrees of freedom above them, allowed is %.1f", worst, bound)
	}
	if worst := chiSquare(draws, n, flawed); worst <= bound {
		t.Errorf("the measure does not see a flawed shuffle: %.2f", worst)
	}
}

// TestOrder holds the ranks of a large draw against tickets that are computed one by one.
func TestOrder(t *testing.T) {
	seed := bytes.Repeat([]byte{3}, seedSize)
	list := madeUp(rand.New(rand.NewPCG(7, 7)), 5000)
	digest := digestOf(entriesText(list))
	ranks, _ := shuffle(seed, "sal_x", digest, list, 5)
	last, seen := "", map[string]bool{}
	for i, p := range ranks {
		mac := hmac.New(sha256.New, drawKey(seed, "sal_x", digest))
		mac.Write([]byte(p.entry))
		ticket := hex.EncodeToString(mac.Sum(nil))
		if ticket <= last || seen[p.entry] {
			t.Fatalf("rank %d has the ticket %s after %s", i+1, ticket, last)
		}
		last, seen[p.entry] = ticket, true
	}
	if len(seen) != len(list) {
		t.Fatalf("%d of %d entries have a rank", len(seen), len(list))
	}
}

// TestUnits walks the units down the ranks.
func TestUnits(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		list := madeUp(r, r.IntN(40))
		units := r.Int64N(60)
		ranks, winners := shuffle(make([]byte, seedSize), "sal_x", digestOf(entriesText(list)), list, units)
		left, won := units, int64(0)
		for i, p := range ranks {
			want := min(left, int64(p.quantity))
			if int64(p.won) != want {
				t.Fatalf("rank %d of %d units asked for %d and won %d instead of %d", i+1, units, p.quantity, p.won, want)
			}
			left -= want
			if want > 0 {
				won++
			}
		}
		if winners != won || len(ranks) != len(list) {
			t.Fatalf("%d winners of %d, counted %d of %d", winners, len(ranks), won, len(list))
		}
	}
}

func TestSeedsAreSealed(t *testing.T) {
	s, err := newSeals(bytes.Repeat([]byte{7}, 32))
	if err != nil {
		t.Fatal(err)
	}
	sealed, hash := s.draw(12)
	seed, err := s.open(12, sealed, hash)
	if err != nil || len(seed) != seedSize || hashOf(seed) != hash {
		t.Fatalf("a seed does not open: %v", err)
	}
	if strings.Contains(sealed, hex.EncodeToString(seed)) {
		t.Fatal("the seed stands in what is kept")
	}
	again, _ := s.draw(12)
	if again == sealed || s.seal(12, seed) == sealed {
		t.Fatal("two seals are the same")
	}
	other, _ := newSeals(bytes.Repeat([]byte{8}, 32))
	changed := "00" + sealed[2:]
	if changed == sealed {
		changed = "01" + sealed[2:]
	}
	for what, open := range map[string]func() ([]byte, error){
		"another sale":   func() ([]byte, error) { return s.open(13, sealed, hash) },
		"another key":    func() ([]byte, error) { return other.open(12, sealed, hash) },
		"another hash":   func() ([]byte, error) { return s.open(12, sealed, hashOf(make([]byte, seedSize))) },
		"a changed byte": func() ([]byte, error) { return s.open(12, changed, hash) },
		"nothing":        func() ([]byte, error) { return s.open(12, "", hash) },
		"no hexadecimal": func() ([]byte, error) { return s.open(12, "zz", hash) },
	} {
		if got, err := open(); err == nil || got != nil {
			t.Errorf("with %s the seed opens", what)
		} else if strings.Contains(err.Error(), hex.EncodeToString(seed)) {
			t.Errorf("with %s the error shows the seed", what)
		}
	}
	if _, err := newSeals(make([]byte, 16)); err == nil {
		t.Error("a short key is taken")
	}
}
