package catalog

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"levee"
)

// Format is the form of an import or export.
type Format string

// The formats. Both hold one SKU with its product on a line, under the same names.
const (
	CSV   Format = "csv"   // RFC 4180, UTF-8, the first line names the columns
	JSONL Format = "jsonl" // one JSON object on a line, UTF-8
)

// Row is one line of an import or export: a SKU with its product, or a product that has no SKU. A product with several SKUs has as
// many lines, which all say the same about the product.
type Row struct {
	Line        int // where the line begins in the file, from 1
	ProductCode string
	Title       string
	Description string
	State       State
	SKUCode     string // empty: a product without a SKU, and nothing below is set
	SKUName     string
	Price       levee.Money
	OnHand      int64
	Counted     bool // OnHand was given
}

// RowError is one value of an import that was refused.
type RowError struct {
	Line    int    // from 1
	Field   string // the column, or "line" when the whole line cannot be read
	Allowed string
	Given   string // shortened
}

func (e RowError) String() string {
	return fmt.Sprintf("line %d: %s must be %s, got %q", e.Line, e.Field, e.Allowed, e.Given)
}

// column numbers a field of a line.
type column int

const (
	colProductCode column = iota
	colTitle
	colDescription
	colState
	colSKUCode
	colSKUName
	colPrice
	colCurrency
	colOnHand
	columns
)

var columnNames = [columns]string{
	"product_code", "title", "description", "state", "sku_code", "sku_name", "price_minor", "currency", "on_hand",
}

func columnOf(name string) (column, bool) {
	for i, n := range columnNames {
		if n == name {
			return column(i), true
		}
	}
	return 0, false
}

// number reports whether the column holds a number: JSON writes it without quotes, and no spreadsheet takes it for a formula.
func (c column) number() bool { return c == colPrice || c == colOnHand }

// optional reports whether a file may do without the column.
func (c column) optional() bool { return c == colOnHand }

// cells is a line as it was read, before any rule. A cell that was not given is empty, as an empty one is.
type cells [columns]string

// keptErrors bounds the errors that are kept of one import; the rest is counted.
const keptErrors = 100

// problems gathers what is wrong with an import.
type problems struct {
	list  []RowError
	lines map[int]bool // lines with at least one error
}

func (p *problems) add(line int, field, allowed, given string) {
	p.lines[line] = true
	if len(p.list) < keptErrors {
		p.list = append(p.list, RowError{Line: line, Field: field, Allowed: allowed, Given: shown(given)})
	}
}

// err returns all problems as one error for the caller.
func (p *problems) err(lines int) error {
	first := p.list[0]
	e := levee.E(levee.CodeInvalid, "%d of %d lines are refused and nothing was imported; the first: line %d: %s must be %s, got %q",
		len(p.lines), lines, first.Line, first.Field, first.Allowed, first.Given)
	for _, r := range p.list {
		e.Fields = append(e.Fields, levee.Field{Field: fmt.Sprintf("line[%d].%s", r.Line, r.Field), Allowed: r.Allowed, Given: r.Given})
	}
	return e.With("lines", lines).With("failed", len(p.lines))
}

// row holds the cells against the rules. It reports every bad field of the line, and false when there was one.
func (c *cells) row(line int, p *problems) (r Row, ok bool) {
	ok = true
	bad := func(col column, allowed string) {
		if allowed != "" {
			p.add(line, columnNames[col], allowed, c[col])
			ok = false
		}
	}
	var allowed string
	r.Line = line
	r.ProductCode, allowed = checkCode(c[colProductCode])
	bad(colProductCode, allowed)
	r.Title, allowed = checkLine(c[colTitle], 1, MaxTitle)
	bad(colTitle, allowed)
	r.Description, allowed = checkDescription(c[colDescription])
	bad(colDescription, allowed)
	if r.State = State(c[colState]); !r.State.valid() {
		bad(colState, stateNames)
	}
	if strings.TrimSpace(c[colSKUCode]) == "" {
		for _, col := range []column{colSKUName, colPrice, colCurrency, colOnHand} {
			if c[col] != "" {
				bad(col, "empty on a line without sku_code")
			}
		}
		return r, ok
	}
	r.SKUCode, allowed = checkCode(c[colSKUCode])
	bad(colSKUCode, allowed)
	r.SKUName, allowed = checkLine(c[colSKUName], 0, MaxName)
	bad(colSKUName, allowed)
	r.Price.Minor, allowed = wholeNumber(c[colPrice], checkPrice)
	bad(colPrice, allowed)
	r.Price.Currency = c[colCurrency]
	bad(colCurrency, checkCurrency(c[colCurrency]))
	if c[colOnHand] != "" {
		r.Counted = true
		r.OnHand, allowed = wholeNumber(c[colOnHand], checkOnHand)
		bad(colOnHand, allowed)
	}
	return r, ok
}

// wholeNumber reads decimal digits and nothing else: no sign, no separators, no exponent as a spreadsheet may write it.
func wholeNumber(s string, check func(int64) string) (n int64, allowed string) {
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, check(-1)
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, check(-1)
	}
	return n, check(n)
}

// cells returns the row as it is written.
func (r *Row) cells() (c cells) {
	c[colProductCode], c[colTitle], c[colDescription], c[colState] = r.ProductCode, r.Title, r.Description, string(r.State)
	if r.SKUCode != "" {
		c[colSKUCode], c[colSKUName] = r.SKUCode, r.SKUName
		c[colPrice], c[colCurrency] = decimal(r.Price.Minor), r.Price.Currency
		if r.Counted {
			c[colOnHand] = decimal(r.OnHand)
		}
	}
	return c
}

// parse reads all lines of a file. Lines with errors are reported to p and left out. It returns how many lines there were, bad ones
// included.
func parse(f Format, src string, most int, p *problems) (rows []Row, lines int, err error) {
	switch {
	case strings.HasPrefix(src, "\xff\xfe"), strings.HasPrefix(src, "\xfe\xff"):
		p.add(1, "line", "UTF-8 text", "UTF-16 text")
		return nil, 1, nil
	case strings.HasPrefix(src, "\xef\xbb\xbf"):
		src = src[3:]
	}
	// The bound is checked while reading, so that a file of millions of short lines is not unpacked first.
	each := func(line int, c *cells) error {
		if lines++; lines > most {
			return levee.E(levee.CodeTooLarge, "an import has at most %d lines, got more", most)
		}
		if c == nil {
			return nil // the reader has said what is wrong
		}
		if r, ok := c.row(line, p); ok {
			rows = append(rows, r)
		}
		return nil
	}
	switch f {
	case CSV:
		err = parseCSV(src, p, each)
	case JSONL:
		err = parseJSONL(src, p, each)
	default:
		err = levee.Invalid("format", "csv or jsonl", shown(string(f)))
	}
	return rows, lines, err
}

// startsFormula reports whether a spreadsheet would run a cell that begins like s instead of showing it: the signs that OWASP lists
// ("CSV Injection"), and their full-width twins, which East Asian editions take for the same.
func startsFormula(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	switch r {
	case '=', '+', '-', '@', '\t', '\r', '\n', '＝', '＋', '－', '＠':
		return s != ""
	}
	return false
}

// guard puts an apostrophe before text that a spreadsheet would run. Text that already looks guarded gets one more, so that unguard
// gives every text back as it was.
func guard(s string) string {
	if startsFormula(strings.TrimLeft(s, "'")) {
		return "'" + s
	}
	return s
}

// unguard undoes guard.
func unguard(s string) string {
	if strings.HasPrefix(s, "'") && startsFormula(strings.TrimLeft(s, "'")) {
		return s[1:]
	}
	return s
}
