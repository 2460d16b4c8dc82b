package catalog

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// maxJSONLine bounds one line in bytes: a description of the full length with every character escaped, and the rest.
const maxJSONLine = 6*MaxDescription + 8<<10

// parseJSONL reads a file of one JSON object on each line. Empty lines are skipped.
func parseJSONL(src string, p *problems, each func(line int, c *cells) error) error {
	for line := 1; src != ""; line++ {
		text, rest, _ := strings.Cut(src, "\n")
		src = rest
		text = strings.Trim(text, " \t\r")
		if text == "" {
			continue
		}
		c := &cells{}
		if e, ok := c.readJSON(text); !ok {
			p.add(line, e.Field, e.Allowed, e.Given)
			c = nil
		}
		if err := each(line, c); err != nil {
			return err
		}
	}
	return nil
}

// readJSON reads one object strictly: encoding/json by itself takes the last of two equal names, any letter case of a name, and
// replaces what is not UTF-8. Each of these would import something else than what the file says.
func (c *cells) readJSON(text string) (e RowError, ok bool) {
	bad := func(field, allowed, given string) (RowError, bool) {
		return RowError{Field: field, Allowed: allowed, Given: given}, false
	}
	if len(text) > maxJSONLine {
		return bad("line", fmt.Sprintf("at most %d bytes", maxJSONLine), fmt.Sprintf("%d bytes", len(text)))
	}
	if !utf8.ValidString(text) {
		return bad("line", "UTF-8 text", text)
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	broken := func(err error) (RowError, bool) {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return bad("line", "one JSON object", fmt.Sprintf("at byte %d: %v", syntax.Offset, err))
		}
		return bad("line", "one JSON object", text)
	}
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return broken(err)
	}
	replaced := strings.Contains(text, "\uFFFD") || strings.Contains(strings.ToLower(text), `\ufffd`)
	var seen [columns]bool
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return broken(err)
		}
		name, _ := t.(string)
		col, known := columnOf(name)
		if !known {
			return bad("line", "names among "+strings.Join(columnNames[:], ", "), name)
		}
		if seen[col] {
			return bad(name, "there once", "it twice")
		}
		seen[col] = true
		t, err = d.Token()
		if err != nil {
			return broken(err)
		}
		switch v := t.(type) {
		case string:
			if col.number() {
				return bad(name, "a number without quotes", v)
			}
			// The decoder puts U+FFFD where half of a surrogate pair stands; the file did not say that.
			if !replaced && strings.Contains(v, "\uFFFD") {
				return bad(name, "text without halves of surrogate pairs", v)
			}
			c[col] = v
		case json.Number:
			if !col.number() {
				return bad(name, "text in quotes", v.String())
			}
			c[col] = v.String()
		default:
			return bad(name, map[bool]string{true: "a number", false: "text in quotes"}[col.number()], fmt.Sprint(t))
		}
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return broken(err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad("line", "one JSON object and nothing after it", text[min(len(text), int(d.InputOffset())):])
	}
	return e, true
}

// jsonRow is a line of an export. The names are those of the CSV columns.
type jsonRow struct {
	ProductCode string `json:"product_code"`
	Title       string `json:"title"`
	Description string `json:"description"`
	State       State  `json:"state"`
	SKUCode     string `json:"sku_code,omitempty"`
	SKUName     string `json:"sku_name,omitempty"`
	PriceMinor  *int64 `json:"price_minor,omitempty"`
	Currency    string `json:"currency,omitempty"`
	OnHand      *int64 `json:"on_hand,omitempty"`
}

// writeJSONL writes one line. The encoder writes to w and may be kept for the next line.
func writeJSONL(e *json.Encoder, r *Row) error {
	j := jsonRow{ProductCode: r.ProductCode, Title: r.Title, Description: r.Description, State: r.State}
	if r.SKUCode != "" {
		j.SKUCode, j.SKUName, j.PriceMinor, j.Currency = r.SKUCode, r.SKUName, &r.Price.Minor, r.Price.Currency
		if r.Counted {
			j.OnHand = &r.OnHand
		}
	}
	return e.Encode(j)
}
