package patch

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"levee"
)

// drawn draws a JSON value at most so deep.
func drawn(deep int) *rapid.Generator[any] {
	plain := rapid.OneOf(rapid.Just[any](nil), rapid.Just[any](true), rapid.Map(rapid.IntRange(-9, 9), func(n int) any { return float64(n) }),
		rapid.Map(rapid.SampledFrom([]string{"", "a", "~", "/", "茶", "\"", "\u0000"}), func(s string) any { return s }))
	if deep == 0 {
		return plain
	}
	return rapid.OneOf(plain, rapid.Map(object(deep-1), func(m map[string]any) any { return m }),
		rapid.Map(rapid.SliceOfN(drawn(deep-1), 0, 3), func(l []any) any { return l }))
}

func object(deep int) *rapid.Generator[map[string]any] {
	return rapid.MapOfN(rapid.SampledFrom([]string{"a", "b", "c", "", "a/b", "茶"}), drawn(deep), 0, 4)
}

// merged is RFC 7396's own algorithm, written down from its section 2.
func merged(target, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	t, ok := target.(map[string]any)
	if !ok {
		t = map[string]any{}
	}
	t = maps.Clone(t)
	for name, v := range p {
		if v == nil {
			delete(t, name)
		} else {
			t[name] = merged(t[name], v)
		}
	}
	return t
}

// TestMergeIsTheRFC: for any document and patch, what comes out is what the RFC's algorithm gives.
func TestMergeIsTheRFC(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		doc, p := object(2).Draw(t, "doc"), object(2).Draw(t, "patch")
		d, _ := json.Marshal(doc)
		m, _ := json.Marshal(p)
		out, err := Apply(MergeType, d, m)
		if err != nil {
			t.Fatal(err)
		}
		var got any
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatalf("%v in %s", err, out)
		}
		if want := merged(doc, p); !reflect.DeepEqual(got, want) {
			t.Fatalf("%s with %s is %s, want %v", d, m, out, want)
		}
	})
}

// TestChangesLeadThere: what Changes says, laid over the first document, is the second one.
func TestChangesLeadThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from, to := object(1).Draw(t, "from"), object(1).Draw(t, "to")
		a, _ := json.Marshal(from)
		b, _ := json.Marshal(to)
		gone := map[string]bool{}
		raw, err := Changes(a, b, func(name string, _ json.RawMessage) (json.RawMessage, error) {
			gone[name] = true
			return json.RawMessage(`"gone"`), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		var changes map[string]any
		if err := json.Unmarshal(raw, &changes); err != nil {
			t.Fatal(err)
		}
		got := maps.Clone(from)
		if got == nil {
			got = map[string]any{}
		}
		for name, v := range changes {
			if old, ok := from[name]; ok && !gone[name] && reflect.DeepEqual(old, v) {
				t.Fatalf("%q is no change: %s", name, raw)
			}
			if got[name] = v; gone[name] {
				delete(got, name)
				if v, ok := to[name]; ok { // null is as good as gone
					got[name] = v
				}
			}
		}
		if len(got) != len(to) || len(to) > 0 && !reflect.DeepEqual(got, to) {
			t.Fatalf("%s to %s by %s is %v", a, b, raw, got)
		}
	})
}

// FuzzJSON: whatever a patch says, it is applied or refused in words, and what comes out is an object.
func FuzzJSON(f *testing.F) {
	for _, p := range []string{
		`[{"op":"add","path":"/a","value":null}]`, `[{"op":"move","from":"","path":"/a"}]`, `[{"op":"copy","from":"/l","path":"/l/-"}]`, `[{"op":"test","path":"","value":{}}]`,
		`[{"op":"remove","path":""}]`, `[{"op":"replace","path":"/l/99999999999","value":1}]`, `[{"op":"add","path":"/l/01","value":1}]`, `[{"op":"test","path":"/n","value":1e0}]`,
		`[null]`, `[{"op":null,"path":"/a"}]`, `[{"op":"move","from":"/o","path":"/o/p"}]`,
	} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		if !json.Valid([]byte(p)) {
			return
		}
		out, err := Apply(JSONType, []byte(`{"a":"x","n":1,"l":[1,2],"o":{"p":{}}}`), []byte(p))
		switch code := levee.CodeOf(err); {
		case err == nil && !json.Valid(out), err == nil && !isObject(out):
			t.Fatalf("%s leaves %s", p, out)
		case err != nil && code != levee.CodeMalformed && code != levee.CodeInvalid && code != levee.CodeConflict:
			t.Fatalf("%s: %v", p, err)
		}
	})
}

// TestCopiesAreBounded: a short patch cannot make a document that fills the memory.
func TestCopiesAreBounded(t *testing.T) {
	ops := ""
	for i := range MaxOps {
		ops += fmt.Sprintf(`{"op":"copy","from":"/a","path":"/a/x%d"},`, i)
	}
	_, err := Apply(JSONType, []byte(`{"a":{"text":"0123456789"}}`), []byte("["+ops[:len(ops)-1]+"]"))
	if levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("100 doublings: %v", err)
	}
}
