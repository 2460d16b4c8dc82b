package catalog

import (
	"bufio"
	"fmt"
	"strings"
)

// csvReader splits text into records as RFC 4180 says: fields between commas, quoted when they hold a comma, a quote or a line end.
// It is our own because encoding/csv unpacks a record of any size before anybody can refuse it, changes line ends inside of fields,
// and gives up at the first bad line, where a person with a thousand lines wants to hear of all.
type csvReader struct {
	src  string
	pos  int
	line int // of pos, from 1
}

// record is one record of a file.
type record struct {
	line   int      // where it begins
	fields []string // no more than the reader was asked for
	count  int      // of all fields
	wrong  string   // what would have been allowed where the record cannot be read; the rest of its line is skipped
	given  string
}

// next returns the next record that is not an empty line; false at the end. Fields beyond most are counted, not kept.
func (r *csvReader) next(most int) (rec record, ok bool) {
	for r.pos < len(r.src) {
		if n := lineEnd(r.src[r.pos:]); n > 0 {
			r.pos += n
			r.line++
			continue
		}
		break
	}
	if r.pos >= len(r.src) {
		return rec, false
	}
	rec.line = r.line
	for {
		field, wrong := r.field()
		if wrong != "" {
			rec.wrong, rec.given = wrong, field
			r.skipLine()
			return rec, true
		}
		if rec.count++; rec.count <= most {
			rec.fields = append(rec.fields, field)
		}
		if r.pos < len(r.src) && r.src[r.pos] == ',' {
			r.pos++
			continue
		}
		if n := lineEnd(r.src[r.pos:]); n > 0 {
			r.pos += n
			r.line++
		}
		return rec, true
	}
}

// field reads one field up to the comma or line end after it. When it cannot be read, wrong says what would be allowed and the field
// is what was found instead.
func (r *csvReader) field() (field, wrong string) {
	rest := r.src[r.pos:]
	if rest == "" || rest[0] != '"' {
		end := strings.IndexAny(rest, ",\n\"")
		if end < 0 {
			end = len(rest)
		} else if rest[end] == '"' {
			return rest[:end+1], "text in quotes when it holds a quote, which is then doubled"
		}
		if end > 0 && end < len(rest) && rest[end] == '\n' && rest[end-1] == '\r' {
			end--
		}
		r.pos += end
		return rest[:end], ""
	}
	var unquoted strings.Builder // only used when there are doubled quotes
	body := rest[1:]
	for at := 0; ; {
		n := strings.IndexByte(body[at:], '"')
		if n < 0 {
			return rest, "text with a closing quote"
		}
		at += n
		if at+1 < len(body) && body[at+1] == '"' {
			unquoted.WriteString(body[:at+1])
			body, at = body[at+2:], 0
			continue
		}
		field = body[:at]
		if unquoted.Len() > 0 {
			unquoted.WriteString(field)
			field = unquoted.String()
		}
		after := body[at+1:]
		if after != "" && after[0] != ',' && lineEnd(after) == 0 {
			return after, "a comma or a line end after the closing quote"
		}
		used := len(rest) - len(after)
		r.line += strings.Count(rest[:used], "\n")
		r.pos += used
		return field, ""
	}
}

// skipLine goes to the line after the one that could not be read.
func (r *csvReader) skipLine() {
	n := strings.IndexByte(r.src[r.pos:], '\n')
	if n < 0 {
		r.pos = len(r.src)
		return
	}
	r.pos += n + 1
	r.line++
}

// lineEnd returns the length of the line end that s begins with, or 0.
func lineEnd(s string) int {
	switch {
	case strings.HasPrefix(s, "\n"):
		return 1
	case strings.HasPrefix(s, "\r\n"):
		return 2
	}
	return 0
}

// parseCSV reads a CSV file: the first record names the columns, in any order.
func parseCSV(src string, p *problems, each func(line int, c *cells) error) error {
	r := &csvReader{src: src, line: 1}
	header, ok := r.next(2 * int(columns))
	if !ok {
		p.add(1, "line", "the names of the columns: "+strings.Join(columnNames[:], ","), "nothing")
		return each(1, nil)
	}
	order, ok := headerOrder(header, p)
	if !ok {
		return each(header.line, nil)
	}
	for {
		rec, ok := r.next(len(order))
		if !ok {
			return nil
		}
		if rec.wrong == "" && rec.count != len(order) {
			rec.wrong, rec.given = fmt.Sprintf("%d fields, as in the first line", len(order)), fmt.Sprintf("%d fields", rec.count)
		}
		if rec.wrong != "" {
			p.add(rec.line, "line", rec.wrong, rec.given)
			if err := each(rec.line, nil); err != nil {
				return err
			}
			continue
		}
		var c cells
		for i, col := range order {
			if c[col] = rec.fields[i]; !col.number() {
				c[col] = unguard(c[col])
			}
		}
		if err := each(rec.line, &c); err != nil {
			return err
		}
	}
}

// headerOrder tells which column each field of a line belongs to.
func headerOrder(h record, p *problems) (order []column, ok bool) {
	if h.wrong != "" {
		p.add(h.line, "line", h.wrong, h.given)
		return nil, false
	}
	ok = true
	var seen [columns]bool
	for _, name := range h.fields {
		col, known := columnOf(strings.TrimSpace(name))
		switch {
		case !known:
			p.add(h.line, "line", "columns named "+strings.Join(columnNames[:], ", ")+", separated by commas", name)
			ok = false
		case seen[col]:
			p.add(h.line, columnNames[col], "a column that is there once", "it twice")
			ok = false
		default:
			seen[col] = true
			order = append(order, col)
		}
	}
	if h.count > len(h.fields) {
		p.add(h.line, "line", fmt.Sprintf("at most %d columns", int(columns)), fmt.Sprintf("%d columns", h.count))
		ok = false
	}
	for i, there := range seen {
		if col := column(i); !there && !col.optional() && ok {
			p.add(h.line, columnNames[col], "a column of the file", "no such column")
			ok = false
		}
	}
	return order, ok
}

// writeCSVHeader names the columns.
func writeCSVHeader(w *bufio.Writer) {
	_, _ = w.WriteString(strings.Join(columnNames[:], ",") + "\r\n")
}

// writeCSV writes one line. Only what needs quotes gets them.
func writeCSV(w *bufio.Writer, r *Row) error {
	c := r.cells()
	for i, s := range c {
		if i > 0 {
			_ = w.WriteByte(',')
		}
		if !column(i).number() {
			s = guard(s)
		}
		if !strings.ContainsAny(s, ",\"\r\n") {
			_, _ = w.WriteString(s)
			continue
		}
		_ = w.WriteByte('"')
		_, _ = w.WriteString(strings.ReplaceAll(s, `"`, `""`))
		_ = w.WriteByte('"')
	}
	_, err := w.WriteString("\r\n")
	return err
}
