package listing

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"levee"
)

// Query is a question that was read and found allowed. It is for one request.
type Query struct {
	// Limit is the most rows of the page, from 1 to 100; more in an export.
	Limit int

	spec     *spec
	values   map[string]string // of equality, by the field's name
	opened   map[string]any    // the same, as the column has it
	where    []condition
	order    []sorted
	offset   int
	paged    bool // asked by page and per_page
	at       *position
	total    bool
	fields   []string // nil: all
	includes []string
	csv      bool
	asked    string // filters and order in one form: what a cursor is bound to besides the list
	bound    string
}

type condition struct {
	text  string
	args  []any
	scans bool
}

// Value returns the text of a field's equality, or "".
func (q *Query) Value(field string) string { return q.values[field] }

// Number returns what a field's equality stands for in the column (an ID opened, a moment in microseconds), or 0.
func (q *Query) Number(field string) int64 { n, _ := q.opened[field].(int64); return n }

// Wants reports whether a further part of the rows was asked for.
func (q *Query) Wants(include string) bool { return slices.Contains(q.includes, include) }

// Where adds what always holds, such as whose rows they are. It must be served by an index or by every row that is looked at.
func (q *Query) Where(text string, args ...any) {
	q.where = append(q.where, condition{text: text, args: args})
}

// Whittle is Where for what no index serves.
func (q *Query) Whittle(text string, args ...any) {
	q.where = append(q.where, condition{text: text, args: args, scans: true})
}

// After returns the key behind which the page of a Forward list begins; false for the first page.
func (q *Query) After() (key any, ok bool) {
	if q.at == nil || len(q.at.keys) == 0 {
		return nil, false
	}
	return q.at.keys[0], true
}

// CacheKey tells two questions about one list apart: what was asked, and which page.
func (q *Query) CacheKey() string {
	var at position
	if q.at != nil {
		at = *q.at
	}
	return fmt.Sprintf("%s|%v|%q|%d|%d|%t", q.asked, at.back, fmt.Sprint(at.keys...), q.Limit, q.offset, q.total)
}

// Ask reads a question as the address has it after its question mark: for callers inside the house. Errors are CodeInvalid and name the
// parameter, what is allowed and what was given.
func (l *List[V]) Ask(text string) (*Query, error) {
	values, err := url.ParseQuery(text)
	if err != nil {
		return nil, levee.Invalid("query", "name=value&name=value, percent-encoded", text).Because(err)
	}
	return l.parse("", values, false)
}

// parse reads a question about the list at a path.
func (s *spec) parse(path string, v url.Values, csv bool) (q *Query, err error) {
	q = &Query{spec: s, Limit: levee.DefaultPageLimit, values: map[string]string{}, opened: map[string]any{}, order: s.order, csv: csv}
	for _, name := range slices.Sorted(maps.Keys(v)) {
		switch {
		case !slices.Contains(s.names, name):
			return nil, levee.Invalid("query."+levee.Shorten(strings.ToValidUTF8(name, "\uFFFD"), 60), "one of the known parameters: "+
				strings.Join(s.names, ", "), name)
		case len(v[name]) > 1:
			return nil, levee.Invalid("query."+name, "given once", fmt.Sprint(len(v[name]), " times"))
		case !utf8.ValidString(v[name][0]) || strings.ContainsRune(v[name][0], 0):
			return nil, levee.Invalid("query."+name, "UTF-8 without the character NUL", strconv.QuoteToASCII(levee.Shorten(v[name][0], 60)))
		}
	}
	var said []string
	for _, name := range s.filters(v) {
		text := v.Get(name)
		if _, given := v[name]; !given {
			text = s.asks[name].field.Default
		}
		if err := q.filter(name, text); err != nil {
			return nil, err
		}
		said = append(said, name+"="+strconv.Quote(text))
	}
	for i := range s.Fields {
		if f := &s.Fields[i]; f.Required && q.values[f.Name] == "" {
			return nil, levee.Invalid("query."+f.Name, "given", "nothing")
		}
	}
	if text, given := v["q"]; given {
		if err := q.search(text[0]); err != nil {
			return nil, err
		}
		said = append(said, "q="+strconv.Quote(text[0]))
	}
	if err := q.readOrder(v); err != nil {
		return nil, err
	}
	for _, k := range q.order {
		said = append(said, fmt.Sprintf("by %s %t", k.Name, k.desc))
	}
	q.asked = strings.Join(said, "&")
	q.bound = strconv.Quote(s.Name) + strconv.Quote(path) + q.asked
	if err := q.readPage(v); err != nil {
		return nil, err
	}
	return q, q.readForm(v)
}

// filters are the filter parameters that were given, and those with a default, by name.
func (s *spec) filters(v url.Values) (names []string) {
	for name, a := range s.asks {
		if _, given := v[name]; given || a.op == "" && a.field.Default != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

var comparisons = map[string]string{"": " = ?", "gt": " > ?", "gte": " >= ?", "lt": " < ?", "lte": " <= ?"}

func (q *Query) filter(name, text string) error {
	a := q.spec.asks[name]
	f, field := a.field, "query."+name
	c := condition{scans: f.Scans}
	switch a.op {
	case "in":
		parts := strings.Split(text, ",")
		if len(parts) > maxIn {
			return levee.Invalid(field, fmt.Sprintf("at most %d values", maxIn), len(parts))
		}
		for _, part := range parts {
			value, err := q.spec.value(field, f, part)
			if err != nil {
				return err
			}
			c.args = append(c.args, value)
		}
		c.text = f.Column + " IN (?" + strings.Repeat(", ?", len(parts)-1) + ")"
	case "contains":
		value, err := q.spec.value(field, f, text)
		if err != nil {
			return err
		}
		// Not LIKE: its wildcards would have to be escaped, and engines differ in what letters are alike.
		c.text, c.args, c.scans = "INSTR("+f.Column+", ?) > 0", []any{value}, true
	case "isnull":
		switch text {
		case "true":
			c.text = f.Column + " IS NULL"
		case "false":
			c.text = f.Column + " IS NOT NULL"
		default:
			return levee.Invalid(field, "true or false", text)
		}
	default:
		value, err := q.spec.value(field, f, text)
		if err != nil {
			return err
		}
		if a.op == "" {
			q.values[f.Name], q.opened[f.Name] = text, value
		}
		switch {
		case f.Only:
			return nil
		case f.Is != nil:
			c.text, c.args = f.Is(value)
		default:
			c.text, c.args = f.Column+comparisons[a.op], []any{value}
		}
	}
	q.where = append(q.where, c)
	return nil
}

// value reads one value of a field into what its column holds.
func (s *spec) value(field string, f *Field, text string) (any, error) {
	if len(text) > maxValue {
		return nil, levee.Invalid(field, fmt.Sprintf("at most %d bytes", maxValue), text)
	}
	switch f.Type {
	case Number:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < -maxNumber || n > maxNumber {
			return nil, levee.Invalid(field, fmt.Sprintf("a whole number from %d to %d", -maxNumber, maxNumber), text)
		}
		return n, nil
	case Time:
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil || t.Year() < 1970 || t.Year() > 9999 {
			return nil, levee.Invalid(field, "a moment such as 2026-01-31T09:00:00Z (RFC 3339), percent-encoded", text)
		}
		return t.UnixMicro(), nil
	case Bool:
		switch text {
		case "true":
			return int64(1), nil
		case "false":
			return int64(0), nil
		}
		return nil, levee.Invalid(field, "true or false", text)
	case Choice:
		if !slices.Contains(f.Choices, text) {
			return nil, levee.Invalid(field, "one of "+strings.Join(f.Choices, ", "), text)
		}
		if stored, ok := f.Stored[text]; ok {
			return stored, nil
		}
		return text, nil
	case ID:
		n, err := s.Open(f.Kind, text)
		if err != nil {
			return nil, levee.Invalid(field, "a public id that begins with "+f.Kind.Prefix()+"_", text).Because(err)
		}
		return n, nil
	}
	if text == "" {
		return nil, levee.Invalid(field, "some text", "nothing")
	}
	if f.Read != nil {
		return f.Read(field, text)
	}
	if f.Fold != nil {
		text = f.Fold(text)
	}
	return text, nil
}

func (q *Query) search(text string) error {
	if q.spec.Fold != nil {
		text = q.spec.Fold(text)
	}
	if text == "" || len(text) > maxValue {
		return levee.Invalid("query.q", fmt.Sprintf("from 1 to %d bytes of text", maxValue), text)
	}
	c := condition{scans: true}
	for i, column := range q.spec.Search {
		if i > 0 {
			c.text += " OR "
		}
		c.text, c.args = c.text+"INSTR("+column+", ?) > 0", append(c.args, text)
	}
	c.text = "(" + c.text + ")"
	q.where = append(q.where, c)
	return nil
}

func (q *Query) readOrder(v url.Values) (err error) {
	fixed := "" // the order that a filter asks for, with its sign
	for i := range q.spec.Fields {
		if f := &q.spec.Fields[i]; f.Order != nil && q.values[f.Name] != "" {
			fixed = f.Order(q.values[f.Name])
		}
	}
	field, sort, by, order := "query.sort", v.Get("sort"), v.Get("sortby"), v.Get("order")
	names := strings.Split(sort, ",")
	switch {
	case v.Has("sort") && (v.Has("sortby") || v.Has("order")):
		return levee.Invalid(field, "left out with sortby and order, which say the same", sort)
	case v.Has("order") && !v.Has("sortby"):
		return levee.Invalid("query.order", "given with sortby, whose direction it tells", order)
	case v.Has("sortby"):
		field = "query.sortby"
		if names, err = directed(strings.Split(by, ","), order, v.Has("order")); err != nil {
			return err
		}
	case !v.Has("sort") && fixed != "":
		names = []string{fixed}
	case !v.Has("sort"):
		return nil
	}
	fixed = strings.TrimPrefix(fixed, "-")
	if fixed != "" && strings.TrimPrefix(names[0], "-") != fixed {
		return levee.Invalid(field, fixed+", rising or falling, with these filters", names[0])
	}
	q.order, err = q.spec.parseOrder(field, names, fixed)
	return err
}

// directed gives the keys of sortby the signs that order tells.
func directed(names []string, order string, told bool) ([]string, error) {
	directions := []string{"asc"}
	if told {
		directions = strings.Split(order, ",")
	}
	if len(directions) != 1 && len(directions) != len(names) {
		return nil, levee.Invalid("query.order", fmt.Sprintf("one direction, or as many as sortby has keys (%d)", len(names)), order)
	}
	for i := range names {
		switch d := directions[min(i, len(directions)-1)]; {
		case strings.HasPrefix(names[i], "-"):
			return nil, levee.Invalid("query.sortby", "without signs: order tells the direction", names[i])
		case d == "desc":
			names[i] = "-" + names[i]
		case d != "asc":
			return nil, levee.Invalid("query.order", "asc or desc", d)
		}
	}
	return names, nil
}

// parseOrder reads keys with their signs, and adds the one that makes the order unambiguous. fixed is the key that a filter asks for.
func (s *spec) parseOrder(field string, names []string, fixed string) (order []sorted, err error) {
	if len(names) > maxSorts {
		return nil, levee.Invalid(field, fmt.Sprintf("at most %d keys", maxSorts), len(names))
	}
	unique := false
	for _, name := range names {
		bare, desc := strings.CutPrefix(name, "-")
		at := slices.IndexFunc(s.Keys, func(k Key) bool { return k.Name == bare && (!k.With || bare == fixed) })
		if at < 0 || slices.ContainsFunc(order, func(o sorted) bool { return o.Name == bare }) {
			return nil, levee.Invalid(field, "some of "+s.keyNames()+", each once, with a comma between, a minus sign before what is to fall", name)
		}
		order = append(order, sorted{s.Keys[at], desc})
		unique = unique || bare == s.Unique
	}
	if !unique { // falling as the last key falls, so that one index serves both
		at := slices.IndexFunc(s.Keys, func(k Key) bool { return k.Name == s.Unique })
		order = append(order, sorted{s.Keys[at], order[len(order)-1].desc})
	}
	return order, nil
}

func (q *Query) readPage(v url.Values) (err error) {
	number := func(name string, into *int, least, most int) bool {
		if !v.Has(name) || err != nil {
			return false
		}
		n, bad := strconv.Atoi(v.Get(name))
		if bad != nil || n < least || n > most {
			err = levee.Invalid("query."+name, fmt.Sprintf("a whole number from %d to %d", least, most), v.Get(name))
		}
		*into = n
		return true
	}
	var page, perPage = 1, levee.DefaultPageLimit
	number("limit", &q.Limit, 1, levee.MaxPageLimit)
	if v.Has("offset") {
		if n, bad := strconv.ParseUint(v.Get("offset"), 10, 64); bad == nil && n > MaxOffset {
			return deep("query.offset", v.Get("offset"))
		}
	}
	number("offset", &q.offset, 0, MaxOffset)
	byPage, byPer := number("page", &page, 1, 1<<30), number("per_page", &perPage, 1, levee.MaxPageLimit)
	if err != nil {
		return err
	}
	if q.paged = byPage || byPer; q.paged {
		for _, name := range []string{"limit", "offset", "cursor", "after"} {
			if v.Has(name) {
				return levee.Invalid("query."+name, "left out with page and per_page, which say the same in another way", v.Get(name))
			}
		}
		if page-1 > MaxOffset/perPage {
			return deep("query.page", v.Get("page"))
		}
		q.Limit, q.offset = perPage, (page-1)*perPage
	}
	name := "cursor"
	if v.Has("after") {
		if v.Has("cursor") {
			return levee.Invalid("query.after", "left out with cursor, whose older name it is", v.Get("after"))
		}
		name = "after"
	}
	if !v.Has(name) {
		return nil
	}
	if v.Has("offset") {
		return levee.Invalid("query.offset", "left out with a cursor, which tells where the page begins", v.Get("offset"))
	}
	keys := make([]bool, 0, len(q.order)+1)
	for _, k := range q.order {
		keys = append(keys, k.Text)
	}
	p, bad := q.spec.seal.open(q.bound, v.Get(name), keys)
	if bad != nil {
		return levee.Invalid("query."+name, "the next of an earlier page of this list, with the same filters and order", v.Get(name)).Because(bad)
	}
	q.at = &p
	return nil
}

func deep(field, given string) error {
	return levee.Invalid(field, fmt.Sprintf("such that at most %d rows are skipped; further on goes cursor, with next of the page before", MaxOffset), given)
}

// readForm reads how the answer is to look.
func (q *Query) readForm(v url.Values) error {
	if v.Has("meta") {
		if v.Get("meta") != "total" {
			return levee.Invalid("query.meta", "total", v.Get("meta"))
		}
		q.total = true
	}
	for _, name := range []string{"fields", "include"} {
		into, known := &q.fields, q.spec.fields
		if name == "include" {
			into, known = &q.includes, q.spec.Includes
		}
		if !v.Has(name) {
			continue
		}
		for part := range strings.SplitSeq(v.Get(name), ",") {
			if !slices.Contains(known, part) || slices.Contains(*into, part) {
				return levee.Invalid("query."+name, "some of "+strings.Join(known, ", ")+", each once, with a comma between", part)
			}
			*into = append(*into, part)
		}
	}
	if v.Has("export") {
		if v.Get("export") != "csv" {
			return levee.Invalid("query.export", "csv", v.Get("export"))
		}
		q.csv = true
	}
	if !q.csv {
		return nil
	}
	for _, name := range []string{"limit", "offset", "page", "per_page", "cursor", "after", "meta"} {
		if v.Has(name) {
			return levee.Invalid("query."+name, "left out of an export, which holds all rows", v.Get(name))
		}
	}
	q.Limit = exportPage
	return nil
}
