package line

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

func problems(checks []Check) (list []string) {
	for _, c := range checks {
		if c.Problem != "" {
			list = append(list, c.What+": "+c.Problem)
		}
	}
	return list
}

func aDraw() (p Published, d drawView) {
	seed := bytes.Repeat([]byte{0xA5}, seedSize)
	return publish(seed, "sal_0123456789abcdefghjkmnpqrs", madeUp(rand.New(rand.NewPCG(9, 9)), 50), 20)
}

func TestVerifyHolds(t *testing.T) {
	p, d := aDraw()
	if bad := problems(Verify(p, Expect{Sale: d.Sale, SeedHash: strings.ToUpper(d.SeedHash)})); bad != nil {
		t.Fatal(bad)
	}
	rank, won, found := ResultOf(p.Results, strings.Fields(string(p.Results))[1])
	if rank != 1 || won == 0 || !found {
		t.Fatalf("the first has rank %d and won %d (%v)", rank, won, found)
	}
	if _, _, found := ResultOf(p.Results, "ent_x"); found {
		t.Fatal("somebody is found who took no part")
	}
	for _, n := range []int{0, 1} {
		p, _ := publish(make([]byte, seedSize), "sal_x", madeUp(rand.New(rand.NewPCG(9, 9)), n), 20)
		if bad := problems(Verify(p, Expect{})); bad != nil {
			t.Fatalf("a draw of %d entries: %v", n, bad)
		}
	}
}

// TestVerifyEveryByte changes each byte of both texts in turn, in two ways, and cuts and lengthens them: no such draw may hold.
func TestVerifyEveryByte(t *testing.T) {
	p, d := aDraw()
	d.ResultsDigest = nil // a verifier must not need it
	p.Draw = document(d)
	try := func(what string, q Published) {
		t.Helper()
		if problems(Verify(q, Expect{})) == nil {
			t.Fatalf("the draw holds with %s", what)
		}
	}
	for name, text := range map[string]*[]byte{"entries": &p.Entries, "results": &p.Results} {
		whole := *text
		for i := range whole {
			for _, x := range []byte{1, 0x20} {
				*text = bytes.Clone(whole)
				(*text)[i] ^= x
				try(fmt.Sprintf("byte %d of the %s changed", i, name), p)
			}
		}
		for what, changed := range map[string][]byte{
			"cut": whole[:len(whole)-1], "one line less": whole[:bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1],
			"a line feed more": append(bytes.Clone(whole), '\n'), "the last line twice": append(bytes.Clone(whole), whole[bytes.LastIndexByte(whole[:len(whole)-1], '\n')+1:]...),
			"empty": nil, "carriage returns": bytes.ReplaceAll(whole, []byte("\n"), []byte("\r\n")), "a byte order mark": append([]byte("\xef\xbb\xbf"), whole...),
		} {
			*text = changed
			try(name+" "+what, p)
		}
		*text = whole
	}
	if bad := problems(Verify(p, Expect{})); bad != nil {
		t.Fatalf("unchanged it must hold: %v", bad)
	}
}

// TestVerifyDocument changes what draw.json says, one thing at a time.
func TestVerifyDocument(t *testing.T) {
	p, d := aDraw()
	for what, c := range map[string]struct {
		change func(d *drawView)
		says   string
	}{
		"another seed": {func(d *drawView) { s := hex.EncodeToString(make([]byte, 32)); d.Seed = &s }, "published was"},
		"a seed without hash": {func(d *drawView) {
			s := hex.EncodeToString(make([]byte, 32))
			d.Seed, d.SeedHash = &s, hashOf(make([]byte, 32))
		}, "line 1 must be"},
		"a short seed":           {func(d *drawView) { s := (*d.Seed)[:62]; d.Seed = &s }, "64 lower case"},
		"an upper case seed":     {func(d *drawView) { s := strings.ToUpper(*d.Seed); d.Seed = &s }, "64 lower case"},
		"no seed":                {func(d *drawView) { d.Seed = nil }, "64 lower case"},
		"fewer units":            {func(d *drawView) { d.Units-- }, "must be"},
		"more units":             {func(d *drawView) { d.Units++ }, "must be"},
		"negative units":         {func(d *drawView) { d.Units = -1 }, "negative"},
		"more entries":           {func(d *drawView) { d.Entries++ }, "it has 50 lines"},
		"more winners":           {func(d *drawView) { w := *d.Winners + 1; d.Winners = &w }, "by the draw it is"},
		"no winners":             {func(d *drawView) { d.Winners = nil }, "winners is missing"},
		"another sale":           {func(d *drawView) { d.Sale = "sal_1123456789abcdefghjkmnpqrs" }, "not of"},
		"another entries digest": {func(d *drawView) { s := hashOf(nil); d.EntriesDigest = &s }, "its SHA-256 is"},
		"no entries digest":      {func(d *drawView) { d.EntriesDigest = nil }, "entries_digest"},
		"another results digest": {func(d *drawView) { s := hashOf(nil); d.ResultsDigest = &s }, "its SHA-256 is"},
		"another algorithm":      {func(d *drawView) { d.Algorithm = "levee-draw-2" }, "this program knows"},
		"not drawn":              {func(d *drawView) { d.State = drawOpen }, "only a drawn one"},
	} {
		changed := d
		c.change(&changed)
		q := p
		q.Draw = document(changed)
		bad := problems(Verify(q, Expect{Sale: d.Sale}))
		if bad == nil || !strings.Contains(strings.Join(bad, "\n"), c.says) {
			t.Errorf("with %s the verifier says %q, want something with %q", what, bad, c.says)
		}
	}
	q := p
	q.Draw = []byte("{")
	if problems(Verify(q, Expect{})) == nil {
		t.Error("a broken document holds")
	}
	if problems(Verify(p, Expect{SeedHash: hashOf([]byte("another"))})) == nil {
		t.Error("it holds although another hash was noted before the draw")
	}
	// A seed and hash that were both swapped after the fact pass for themselves; only a note of the hash gives it away. So says the page.
	list := madeUp(rand.New(rand.NewPCG(9, 9)), 50)
	swapped, _ := publish(make([]byte, seedSize), d.Sale, list, 20)
	if problems(Verify(swapped, Expect{})) != nil || problems(Verify(swapped, Expect{SeedHash: d.SeedHash})) == nil {
		t.Error("the note of the hash does not decide")
	}
}

// TestVerifyNamesTheLine leads to what was changed.
func TestVerifyNamesTheLine(t *testing.T) {
	p, _ := aDraw()
	line := func(text []byte, n int, change func(string) string) []byte {
		lines := strings.SplitAfter(string(text), "\n")
		lines[n-1] = change(lines[n-1])
		return []byte(strings.Join(lines, ""))
	}
	for _, c := range []struct {
		what string
		p    Published
		says string
	}{
		{"an entry's id", Published{p.Draw, line(p.Entries, 17, func(s string) string { return s[:len(s)-4] + "z" + s[len(s)-3:] }), p.Results}, "line 17: "},
		{"an entry without quantity", Published{p.Draw, line(p.Entries, 17, func(s string) string { return s[:30] + "\n" }), p.Results}, "line 17 is not an entry"},
		{"a quantity with a zero", Published{p.Draw, line(p.Entries, 9, func(s string) string { return s[:31] + "0" + s[31:] }), p.Results}, "line 9 is not an entry"},
		{"a result's units", Published{p.Draw, p.Entries, line(p.Results, 3, func(s string) string { return s[:len(s)-2] + "9\n" })}, "line 3 must be"},
		{"a result's entry", Published{p.Draw, p.Entries, line(p.Results, 44, func(s string) string { return s[:10] + "zzzz" + s[14:] })}, "line 44 must be"},
		{"a result too few", Published{p.Draw, p.Entries, line(p.Results, 50, func(string) string { return "" })}, "it ends after line 49 of 50"},
	} {
		if bad := strings.Join(problems(Verify(c.p, Expect{})), "\n"); !strings.Contains(bad, c.says) {
			t.Errorf("after a change of %s it says %q, want %q", c.what, bad, c.says)
		}
	}
}
