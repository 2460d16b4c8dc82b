// Package listing owns what a list is over HTTP: which filters, orders, pages, parts and forms of it a caller may ask for, how a question is read and
// checked, how it becomes SQL that both engines take, and how the answer tells where the next page is. docs/api.md is its text for callers.
//
// It owns no rows and no rules about who sees which: a room declares its list (Spec), adds what always holds for its asker (Query.Where), and reads
// (Rows) in its store. Names of columns come from declarations alone; what a caller sends is only ever bound as a value.
package listing

import (
	"crypto/rand"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"levee"
	"levee/internal/platform/web"
)

// The bounds of a question.
const (
	maxIn      = 50        // values of field__in
	maxValue   = 200       // bytes of one value
	maxNumber  = 1<<53 - 1 // of a number, either side of 0: what every reader of JSON keeps whole
	maxSorts   = 3         // keys of an order, besides the one that makes it unambiguous
	MaxOffset  = 10_000    // rows that offset or page may skip: the database reads what is skipped
	countMost  = 100_000
	maxCursor  = 2048 // bytes: a key column of 190 characters of four bytes fits
	exportPage = 1000
)

// Type is what a filter's values are.
type Type uint8

// The types and the operators that each has beside equality: Text in, Number in and the comparisons, Time the comparisons, Choice in, ID in.
const (
	Text Type = iota
	Number
	Time
	Bool
	Choice
	ID
)

// Field is something that a list may be filtered by.
type Field struct {
	Name, Doc string
	Type      Type
	Column    string         // as SQL names it
	Choices   []string       // of a Choice
	Stored    map[string]any // what a choice is in the column; nil: its own name
	Kind      levee.Kind     // of an ID
	Fold      func(string) string
	// Read reads a text into what its column holds, where Fold does not say it all. Its error names the field.
	Read func(field, text string) (any, error)
	// Contains allows name__contains, which looks at each row: letters must agree as they are, or as Fold makes them.
	Contains bool
	// Nullable allows name__isnull.
	Nullable bool
	// Is makes the condition, where it is another than that the column equals the value. There are no operators then.
	Is func(value any) (condition string, args []any)
	// Scans tells that no index serves it, see Spec.ScanMost.
	Scans bool
	// Order tells the order, one key with its sign, that a question with this value goes by because its index serves both; sort may only turn it
	// round. "" leaves all orders.
	Order func(value string) string
	// Only leaves the condition to the room, which reads Query.Value; there are no operators then.
	Only bool
	// Default is the value when none is given; Required refuses a question without it.
	Default  string
	Required bool
}

// Key is something that a list may be ordered by. Its column must not be NULL.
type Key struct {
	Name   string
	Column string
	Text   bool // a text; else a whole number
	// With tells that it goes only with a filter that asks for it (Field.Order): no index serves it alone.
	With bool
}

// Spec declares a list. A contradiction in it is a bug, and New panics.
type Spec struct {
	// Name is what cursors are bound to, and what the audit trail calls the list.
	Name   string
	Fields []Field
	Keys   []Key
	// Order is the usual one, as sort has it: -id.
	Order string
	// Unique is the key that no two rows share. Every order ends with it, so that each row has one place.
	Unique string
	// Search are the columns that q looks in, letter by letter; Fold is applied to q first.
	Search []string
	Fold   func(string) string
	// ScanMost bounds how many rows one page looks at when a filter is served by no index (Scans, Contains, q): a page may then hold fewer rows than
	// asked for and still have a next one. 0: no bound, for tables that stay small.
	ScanMost int
	// Includes are further parts that rows can be asked to carry.
	Includes []string
	// Export lets who may see the list and has levee.ListsExport take all of it as CSV; without it the parameter is unknown.
	Export bool
	// Forward lists are read by other means than Rows: they go by cursor, one way, in the order of their one key.
	Forward bool
	// Whole lists are a handful of rows by nature, all in one page.
	Whole bool
	// Open opens public ids, where a field is an ID.
	Open func(levee.Kind, string) (int64, error)
}

// List is a declared list whose rows are shown as V. Made by New, before it is used by many.
type List[V any] struct {
	spec
	columns []column
}

// spec is a Spec with what is worked out of it once.
type spec struct {
	Spec
	fields []string         // of the view, as fields= names them
	names  []string         // of all parameters
	asks   map[string]asked // what each filter parameter asks
	order  []sorted
	seal   *sealer
}

// asked is one filter parameter: a field and an operator.
type asked struct {
	field *Field
	op    string // "" for equality
}

type sorted struct {
	Key
	desc bool
}

var operators = map[Type][]string{
	Text: {"in"}, Number: {"in", "gt", "gte", "lt", "lte"}, Time: {"gt", "gte", "lt", "lte"}, Choice: {"in"}, ID: {"in"},
}

// New checks a declaration.
func New[V any](s Spec) *List[V] {
	l := &List[V]{spec: spec{Spec: s, asks: map[string]asked{}}, columns: columnsOf(reflect.TypeFor[V]())}
	bug := func(format string, args ...any) { panic("listing: " + s.Name + ": " + fmt.Sprintf(format, args...)) }
	for _, c := range l.columns {
		if !slices.Contains(l.fields, c.top) {
			l.fields = append(l.fields, c.top)
		}
	}
	for i := range s.Fields {
		f := &s.Fields[i]
		if f.Column == "" && f.Is == nil && !f.Only || f.Type == Choice && len(f.Choices) == 0 || f.Type == ID && (s.Open == nil || f.Kind == 0) {
			bug("the field %s is not whole", f.Name)
		}
		ops := []string{""}
		if f.Is == nil && !f.Only {
			ops = append(ops, operators[f.Type]...)
			if f.Contains {
				ops = append(ops, "contains")
			}
			if f.Nullable {
				ops = append(ops, "isnull")
			}
		}
		for _, op := range ops {
			name := f.Name
			if op != "" {
				name += "__" + op
			}
			if _, twice := l.asks[name]; twice || slices.Contains(reserved, name) {
				bug("two parameters are called %s", name)
			}
			l.asks[name] = asked{f, op}
		}
	}
	switch {
	case s.Whole:
	case s.Forward:
		l.order = []sorted{{Key: s.Keys[0]}}
	default:
		if !slices.ContainsFunc(s.Keys, func(k Key) bool { return k.Name == s.Unique }) {
			bug("the key %q that makes its order unambiguous is not among its keys", s.Unique)
		}
		var err error
		if l.order, err = l.parseOrder("order", strings.Split(s.Order, ","), ""); err != nil {
			bug("%v", err)
		}
	}
	for _, name := range s.Includes {
		if strings.Count(name, ".") > 1 || !slices.Contains(l.fields, strings.Split(name, ".")[0]) {
			bug("it cannot include %s", name)
		}
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails; Add puts the house's own in its place
	l.seal = newSealer(key)
	for _, p := range l.params() {
		l.names = append(l.names, p.Name)
	}
	slices.Sort(l.names)
	return l
}

// reserved are the parameters that are no filters.
var reserved = []string{"q", "sort", "sortby", "order", "limit", "offset", "page", "per_page", "cursor", "after", "fields", "include", "meta", "export"}

// params documents what the list can be asked.
func (s *spec) params() (list []web.Param) {
	for i := range s.Fields {
		f := &s.Fields[i]
		p := web.Param{Name: f.Name, Doc: f.Doc, MaxLength: maxValue, Default: f.Default, Required: f.Required}
		switch f.Type {
		case Number:
			p.Type, p.MaxLength, p.Least, p.Most = "integer", 0, -maxNumber, maxNumber
		case Time:
			p.Format = "date-time"
		case Bool:
			p.Type, p.MaxLength = "boolean", 0
		case Choice:
			p.Enum = f.Choices
		case ID:
			p.Pattern = "^" + f.form() + "$"
		case Text:
			p.Pattern = "^" + anyText + "$"
		}
		list = append(list, p)
		for _, op := range []string{"in", "gt", "gte", "lt", "lte", "contains", "isnull"} {
			if _, ok := s.asks[f.Name+"__"+op]; !ok {
				continue
			}
			o := web.Param{Name: f.Name + "__" + op, Doc: opDocs[op], MaxLength: p.MaxLength, Type: p.Type, Format: p.Format, Pattern: p.Pattern, Least: p.Least, Most: p.Most}
			switch op {
			case "in":
				o = web.Param{Name: o.Name, Doc: o.Doc, MaxLength: maxIn * (maxValue + 1), Pattern: several(f.form(), 0)}
			case "isnull":
				o = web.Param{Name: o.Name, Doc: o.Doc, Type: "boolean"}
			}
			list = append(list, o)
		}
	}
	if len(s.Search) > 0 {
		list = append(list, web.Param{Name: "q", MaxLength: maxValue, Doc: "What to search for"})
	}
	names := s.keyNames()
	var keys []string
	for _, k := range s.Keys {
		keys = append(keys, k.Name)
	}
	key := oneOf(keys)
	if len(s.Keys) > 0 && !s.Forward {
		list = append(list,
			web.Param{Name: "sort", MaxLength: 200, Default: s.Order, Pattern: several("-?"+key, maxSorts), Doc: "Up to three of " + names + ", with a comma between; a minus sign before one: falling"},
			web.Param{Name: "sortby", MaxLength: 200, Pattern: several(key, maxSorts), Doc: "As sort, without signs: " + names + "; order tells the direction"},
			web.Param{Name: "order", MaxLength: 30, Pattern: several("(asc|desc)", maxSorts), Doc: "asc (usual) or desc: one for all of sortby, or one for each with a comma between"})
	}
	if !s.Whole {
		list = append(list, web.Param{Name: "limit", Type: "integer", Least: 1, Most: levee.MaxPageLimit, Default: fmt.Sprint(levee.DefaultPageLimit), Doc: "Rows of a page"})
		if !s.Forward {
			list = append(list,
				web.Param{Name: "offset", Type: "integer", Most: MaxOffset, Doc: "Rows to skip; further on goes cursor"},
				web.Param{Name: "page", Type: "integer", Least: 1, Most: MaxOffset + 1, Doc: "Number of the page, from 1; instead of limit, offset and cursor"},
				web.Param{Name: "per_page", Type: "integer", Least: 1, Most: levee.MaxPageLimit, Doc: "Rows of a page, with page"},
				web.Param{Name: "meta", Enum: []string{"total"}, Doc: "total: tell how many rows there are; it costs a count"})
		}
		list = append(list, web.Param{Name: "cursor", MaxLength: maxCursor, Pattern: cursorForm, Doc: "next of the page before, with the same filters and order"},
			web.Param{Name: "after", MaxLength: maxCursor, Pattern: cursorForm, Doc: "The older name of cursor", Deprecated: true})
	}
	list = append(list, web.Param{Name: "fields", MaxLength: 1000, Pattern: several(oneOf(s.fields), 0), Doc: "Only these parts of each row, with a comma between: " + strings.Join(s.fields, ", ")})
	if len(s.Includes) > 0 {
		list = append(list, web.Param{Name: "include", MaxLength: 200, Pattern: several(oneOf(s.Includes), 0), Doc: "Further parts of each row, with a comma between: " + strings.Join(s.Includes, ", ")})
	}
	if s.Export {
		list = append(list, web.Param{Name: "export", Enum: []string{"csv"}, Doc: "All rows as a file, in place of a page; Accept: text/csv asks the same. It takes the ability " +
			levee.ListsExport.String() + "; the audit trail tells of it"})
	}
	return list
}

// anyText is a text that a field may equal; cursorForm what sealed cursors are written in.
const (
	anyText    = `[^\x00]+`
	cursorForm = "^[A-Za-z0-9_-]+$"
)

// form is the regular expression of one value between commas.
func (f *Field) form() string {
	switch f.Type {
	case Number:
		return "[+-]?[0-9]+"
	case ID:
		return f.Kind.Prefix() + "_[0-7][0-9a-hjkmnp-tv-z]{25}"
	case Choice:
		return oneOf(f.Choices)
	}
	return `[^\x00,]+`
}

// several is the regular expression of at most so many, with a comma between; 0 tells no bound: many readers of expressions take no large ones.
func several(one string, most int) string {
	times := "*"
	if most > 0 {
		times = fmt.Sprintf("{0,%d}", most-1)
	}
	return "^" + one + "(," + one + ")" + times + "$"
}

func oneOf(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = regexp.QuoteMeta(name)
	}
	return "(" + strings.Join(quoted, "|") + ")"
}

var opDocs = map[string]string{
	"in": "One of up to 50 values, with a comma between", "gt": "Above", "gte": "At or above", "lt": "Below", "lte": "At or below",
	"contains": "Holds this text, letter by letter", "isnull": "true: has none; false: has one",
}

func (s *spec) keyNames() string {
	var names []string
	for _, k := range s.Keys {
		if !k.With {
			names = append(names, k.Name)
		}
	}
	return strings.Join(names, ", ")
}
