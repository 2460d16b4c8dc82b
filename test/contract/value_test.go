package contract

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"levee/internal/platform/contract"
)

// maker makes values from schemas. All that it decides hangs on its source of chance.
type maker struct {
	*rand.Rand
	hints map[string][]string // what a field or parameter of this name may well be
}

func (m *maker) one(in int) bool { return m.IntN(in) == 0 }

func pick[T any](m *maker, from []T) T { return from[m.IntN(len(from))] }

func bound(raw map[string]any, name string, usual int64) int64 {
	switch n := raw[name].(type) {
	case json.Number:
		if v, err := n.Int64(); err == nil {
			return v
		}
	}
	return usual
}

func kindOf(raw map[string]any) string {
	switch k := raw["type"].(type) {
	case string:
		return k
	case []any:
		kind, _ := k[0].(string)
		return kind
	}
	return ""
}

func nullable(raw map[string]any) bool {
	k, ok := raw["type"].([]any)
	return ok && slices.Contains(k, any("null"))
}

// valid makes a value that the schema allows; name is the field's.
func (m *maker) valid(s *contract.Schema, name string, depth int) any {
	if s == nil {
		return clone(pick(m, anything))
	}
	raw := s.Raw
	if all, ok := raw["enum"].([]any); ok {
		return pick(m, all)
	}
	if nullable(raw) && m.one(6) {
		return nil
	}
	switch kindOf(raw) {
	case "object":
		o := map[string]any{}
		required, _ := raw["required"].([]any)
		props, _ := raw["properties"].(map[string]any)
		for _, p := range slices.Sorted(maps.Keys(props)) {
			if slices.Contains(required, any(p)) || m.one(2) && depth < 6 {
				o[p] = m.valid(s.Inner("properties", p), p, depth+1)
			}
		}
		return o
	case "array":
		least, most := bound(raw, "minItems", 0), bound(raw, "maxItems", 5)
		n := least + m.Int64N(min(most, least+3)-least+1)
		if m.one(20) {
			n = most
		}
		l := make([]any, n)
		for i := range l {
			l[i] = m.valid(s.Inner("items"), name, depth+1)
		}
		return l
	case "integer":
		return json.Number(strconv.FormatInt(m.integer(raw), 10))
	case "number":
		return json.Number(strconv.FormatFloat(float64(m.integer(raw)), 'f', -1, 64))
	case "boolean":
		return m.one(2)
	case "string":
		return m.text(s, name)
	}
	return clone(pick(m, anything))
}

// anything is what a schema that says nothing allows.
var anything = []any{nil, true, json.Number("7"), "seven", []any{}, map[string]any{"seven": json.Number("7")}}

func (m *maker) integer(raw map[string]any) int64 {
	least, most := bound(raw, "minimum", -1<<31), bound(raw, "maximum", 1<<31-1)
	switch m.IntN(5) {
	case 0:
		return least
	case 1:
		return most
	case 2:
		return least + m.Int64N(most-least+1)
	}
	near := max(least, min(most, 1))
	return near + m.Int64N(min(most-near, 20)+1)
}

// alphabets of texts, from the plainest on: what a shop is sent, and what breaks shops.
var alphabets = [][]rune{
	[]rune("abcdefghijklmnopqrstuvwxyz0123456789"),
	[]rune("ABC xyz-_.:/"),
	[]rune(`'";<>&%$\{}()[]*?!=+,~^|#@` + "`"),
	[]rune("商品秒杀库存订单äöüßéñłжщΩ"),
	[]rune("😀👩‍🚀🇨🇳\u200d\u202e\ufeff\u00a0\u0301"),
}

func (m *maker) text(s *contract.Schema, name string) string {
	raw := s.Raw
	least, most := int(bound(raw, "minLength", 0)), int(bound(raw, "maxLength", 300))
	fits := func(v string) bool { return s.Validate(v) == nil }
	if known := m.hints[name]; len(known) > 0 && !m.one(4) {
		if v := pick(m, known); fits(v) {
			return v
		}
	}
	format, _ := raw["format"].(string)
	switch format {
	case "binary":
		return "replaced by who knows the operation"
	case "date-time":
		at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(m.Int64N(int64(3 * 365 * 24 * time.Hour))))
		return at.Format([]string{time.RFC3339, time.RFC3339Nano, "2006-01-02T15:04:05+08:00"}[m.IntN(3)])
	case "uri", "uri-reference":
		return "https://hooks.example/" + strconv.Itoa(m.IntN(1000))
	}
	if pattern, _ := raw["pattern"].(string); pattern != "" {
		parsed, err := syntax.Parse(pattern, syntax.Perl)
		if err != nil {
			panic(fmt.Sprintf("the pattern of %s is no regular expression: %v", name, err))
		}
		for range 200 {
			var b strings.Builder
			m.match(&b, parsed)
			if v := b.String(); fits(v) {
				return v
			}
		}
		panic(fmt.Sprintf("the document allows no %s: %v", name, raw)) // a pattern that its lengths forbid
	}
	switch m.IntN(8) {
	case 0:
		return m.run(alphabets[m.IntN(len(alphabets))], least, least)
	case 1:
		return m.run(alphabets[m.IntN(len(alphabets))], most, most)
	case 2, 3:
		return m.run(alphabets[m.IntN(len(alphabets))], least, min(most, least+30))
	}
	return m.run(alphabets[0], max(least, min(1, most)), max(least, min(most, 16)))
}

// match writes a text that a regular expression matches.
func (m *maker) match(b *strings.Builder, re *syntax.Regexp) {
	switch re.Op {
	case syntax.OpLiteral:
		b.WriteString(string(re.Rune))
	case syntax.OpCharClass:
		i := m.IntN(len(re.Rune) / 2)
		least, most := re.Rune[2*i], re.Rune[2*i+1]
		if least <= 'a' && most >= 'z' && !m.one(8) { // all but some: mostly plain letters
			least, most = 'a', 'z'
		}
		r := least + rune(m.IntN(int(most-least)+1))
		if r < ' ' || r >= 0xD800 && r <= 0xDFFF {
			r = 'x'
		}
		b.WriteRune(r)
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		b.WriteRune(pick(m, alphabets[m.IntN(len(alphabets))]))
	case syntax.OpCapture, syntax.OpConcat:
		for _, sub := range re.Sub {
			m.match(b, sub)
		}
	case syntax.OpAlternate:
		m.match(b, pick(m, re.Sub))
	case syntax.OpStar, syntax.OpPlus, syntax.OpQuest, syntax.OpRepeat:
		least, most := map[syntax.Op]int{syntax.OpPlus: 1, syntax.OpRepeat: re.Min}[re.Op], re.Max
		switch {
		case re.Op == syntax.OpQuest:
			most = 1
		case re.Op != syntax.OpRepeat || most < 0:
			most = least + 12
		case !m.one(6):
			most = min(most, least+3)
		}
		for range least + m.IntN(most-least+1) {
			m.match(b, re.Sub[0])
		}
	}
}

// run makes a text of least to most characters.
func (m *maker) run(of []rune, least, most int) string {
	n := least
	if most > least {
		n += m.IntN(most - least + 1)
	}
	v := make([]rune, n)
	for i := range v {
		v[i] = pick(m, of)
	}
	return string(v)
}

// wrongs are the ways to spoil a value of a schema: each gives a value that the schema forbids, or false where there is none.
var wrongs = map[string]func(m *maker, s *contract.Schema, v any) (any, bool){
	"type": func(m *maker, s *contract.Schema, _ any) (any, bool) {
		if kindOf(s.Raw) == "" {
			return nil, false
		}
		return pick(m, []any{"text", json.Number("12"), json.Number("1.5"), true, []any{}, map[string]any{}, []any{nil}}), true
	},
	"null": func(_ *maker, _ *contract.Schema, _ any) (any, bool) { return nil, true },
	"enum": func(m *maker, s *contract.Schema, _ any) (any, bool) {
		return "no-such-" + m.run(alphabets[0], 1, 5), s.Raw["enum"] != nil
	},
	"short": func(m *maker, s *contract.Schema, _ any) (any, bool) {
		n := int(bound(s.Raw, "minLength", 0))
		return m.run(alphabets[0], max(n-1, 0), max(n-1, 0)), n > 0
	},
	"long": func(m *maker, s *contract.Schema, _ any) (any, bool) {
		n := int(bound(s.Raw, "maxLength", -1))
		return m.run(alphabets[m.IntN(2)*3], n+1, n+1), n >= 0
	},
	"low": func(_ *maker, s *contract.Schema, _ any) (any, bool) {
		return json.Number(fmt.Sprint(bound(s.Raw, "minimum", 0) - 1)), s.Raw["minimum"] != nil
	},
	"high": func(m *maker, s *contract.Schema, _ any) (any, bool) {
		if m.one(3) && kindOf(s.Raw) == "integer" {
			return json.Number("99999999999999999999"), true
		}
		return json.Number(fmt.Sprint(bound(s.Raw, "maximum", 0) + 1)), s.Raw["maximum"] != nil
	},
	"pattern": func(_ *maker, s *contract.Schema, _ any) (any, bool) { return "§", s.Raw["pattern"] != nil },
	"format": func(m *maker, s *contract.Schema, _ any) (any, bool) {
		return pick(m, []any{"yesterday", "2026-13-01T00:00:00Z", "2026-01-01", "2026-01-01 00:00:00", ""}), s.Raw["format"] == "date-time"
	},
	"many": func(m *maker, s *contract.Schema, _ any) (any, bool) {
		n := bound(s.Raw, "maxItems", -1)
		if n < 0 || n > 1000 {
			return nil, false
		}
		l := make([]any, n+1)
		for i := range l {
			l[i] = m.valid(s.Inner("items"), "", 1)
		}
		return l, true
	},
	"few": func(_ *maker, s *contract.Schema, _ any) (any, bool) { return []any{}, bound(s.Raw, "minItems", 0) > 0 },
	"extra": func(m *maker, s *contract.Schema, v any) (any, bool) {
		o, ok := v.(map[string]any)
		if !ok || s.Raw["additionalProperties"] != false {
			return nil, false
		}
		o = maps.Clone(o)
		o[pick(m, []string{"id", "is_admin", "owner", "state2", "Title", "__proto__"})] = "x"
		return o, true
	},
	"missing": func(m *maker, s *contract.Schema, v any) (any, bool) {
		o, ok := v.(map[string]any)
		required, _ := s.Raw["required"].([]any)
		if !ok || len(required) == 0 {
			return nil, false
		}
		o = maps.Clone(o)
		delete(o, pick(m, required).(string))
		return o, true
	},
}

// place is one value within a body.
type place struct {
	path   string // body.lines[0].sku
	schema *contract.Schema
	value  any
	put    func(any)
}

// places lists all values of a body with their schemas, the body itself first.
func places(path string, s *contract.Schema, v any, put func(any)) []place {
	if s == nil {
		return nil // within what may be anything
	}
	all := []place{{path, s, v, put}}
	switch v := v.(type) {
	case map[string]any:
		props, _ := s.Raw["properties"].(map[string]any)
		for _, name := range slices.Sorted(maps.Keys(v)) {
			if props[name] != nil {
				all = append(all, places(path+"."+name, s.Inner("properties", name), v[name], func(x any) { v[name] = x })...)
			}
		}
	case []any:
		for i := range min(len(v), 3) {
			all = append(all, places(fmt.Sprintf("%s[%d]", path, i), s.Inner("items"), v[i], func(x any) { v[i] = x })...)
		}
	}
	return all
}

// spoil changes one place of a body into something that the schema of the whole forbids. It returns where and how; "" where it found nothing.
func (m *maker) spoil(s *contract.Schema, body *any) (where, how string) {
	names := slices.Sorted(maps.Keys(wrongs))
	for range 40 {
		all := places("body", s, *body, func(x any) { *body = x })
		p := pick(m, all)
		kind := pick(m, names)
		v, ok := wrongs[kind](m, p.schema, p.value)
		if !ok || p.schema.Validate(contract.Plain(v)) == nil {
			continue
		}
		p.put(v)
		return p.path, kind
	}
	return "", ""
}

func clone(v any) any {
	switch v := v.(type) {
	case map[string]any:
		o := make(map[string]any, len(v))
		for k, x := range v {
			o[k] = clone(x)
		}
		return o
	case []any:
		l := make([]any, len(v))
		for i, x := range v {
			l[i] = clone(x)
		}
		return l
	}
	return v
}

// smaller lists changes of a valid value towards the smallest, each of them still valid: for shrinking.
func smaller(s *contract.Schema, root any) (all []any) {
	try := func(change func(at place)) {
		for i := range places("body", s, root, nil) {
			copied := clone(root)
			p := places("body", s, copied, func(x any) { copied = x })[i]
			change(p)
			if fmt.Sprint(copied) != fmt.Sprint(root) && s.Validate(contract.Plain(copied)) == nil {
				all = append(all, copied)
			}
		}
	}
	try(func(p place) {
		if o, ok := p.value.(map[string]any); ok {
			for k := range o {
				delete(o, k)
				if s.Validate(contract.Plain(root)) != nil {
					break
				}
			}
		}
	})
	for _, p := range places("body", s, root, nil) {
		if o, ok := p.value.(map[string]any); ok {
			for _, k := range slices.Sorted(maps.Keys(o)) {
				try(func(q place) {
					if q.path == p.path {
						delete(q.value.(map[string]any), k)
					}
				})
			}
		}
	}
	try(func(p place) {
		if l, ok := p.value.([]any); ok && len(l) > 0 && p.put != nil {
			p.put(l[:len(l)/2])
		}
	})
	try(func(p place) {
		if v, ok := p.value.(string); ok && utf8.RuneCountInString(v) > 1 && p.put != nil {
			p.put(string([]rune(v)[:utf8.RuneCountInString(v)/2]))
		}
	})
	return all
}
