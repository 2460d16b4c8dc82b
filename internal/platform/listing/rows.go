package listing

import (
	"context"
	"errors"
	"slices"
	"strings"

	"levee"
	"levee/internal/platform/db"
)

// Reader is DB.Query or Tx.Query.
type Reader func(ctx context.Context, text string, args ...any) (*db.Rows, error)

// Row is what a scan function reads one row from.
type Row interface{ Scan(into ...any) error }

// Found is one page as it was read, which may be kept in a cache: nothing in it is changed afterwards.
type Found[T any] struct {
	Rows []T

	next, previous *position // nil: there is none
	total          int64
	least          bool // there are more than total
}

// keyed reads a row together with the keys of the order, which stand behind its columns.
type keyed struct {
	rows *db.Rows
	into []any
}

func (k *keyed) Scan(into ...any) error { return k.rows.Scan(append(into, k.into...)...) }

func keyPlaces(order []sorted) []any {
	into := make([]any, len(order))
	for i, k := range order {
		if k.Text {
			into[i] = new(string)
		} else {
			into[i] = new(int64)
		}
	}
	return into
}

func keysOf(places []any) []any {
	keys := make([]any, len(places))
	for i, p := range places {
		switch p := p.(type) {
		case *string:
			keys[i] = *p
		case *int64:
			keys[i] = *p
		}
	}
	return keys
}

// Rows reads the page that was asked for: columns of a table, each row by scan, which must read exactly the columns. One statement; a second one
// where a filter is served by no index (Spec.ScanMost), and one more for a count.
func Rows[T any](ctx context.Context, read Reader, q *Query, columns, table string, scan func(Row) (T, error)) (f *Found[T], err error) {
	defer levee.Wrap(&err, "listing.Rows(%s)", q.spec.Name)
	at := position{}
	if q.at != nil {
		at = *q.at
	}
	order := slices.Clone(q.order)
	if at.back {
		for i := range order {
			order[i].desc = !order[i].desc
		}
	}
	cheap, whole := q.conditions(order, at.keys)
	var edge []any // keys of the last row that is looked at; nil: the list ends before
	if q.spec.ScanMost > 0 && whole.scans {
		if edge, err = edgeOf(ctx, read, cheap, table, order, q.spec.ScanMost); err != nil {
			return nil, err
		}
		if edge != nil {
			whole.add(beside(order, edge, "<", true))
		}
	}
	f = &Found[T]{}
	row := &keyed{into: keyPlaces(order)}
	var keys [][]any
	text := "SELECT " + columns + ", " + columnsIn(order) + " FROM " + table + whole.clause() + orderBy(order) + " LIMIT ? OFFSET ?"
	err = each(ctx, read, func(rows *db.Rows) error {
		row.rows = rows
		v, err := scan(row)
		f.Rows, keys = append(f.Rows, v), append(keys, keysOf(row.into))
		return err
	}, text, append(whole.args, q.Limit+1, q.offset)...)
	if err != nil {
		return nil, err
	}
	f.turn(q, at, keys, edge)
	if q.total {
		err = f.count(ctx, read, q, table)
	}
	return f, err
}

// turn works out where the pages beside this one begin, and puts rows that were read backwards into their order.
func (f *Found[T]) turn(q *Query, at position, keys [][]any, edge []any) {
	more := len(f.Rows) > q.Limit
	if more {
		f.Rows, keys = f.Rows[:q.Limit], keys[:q.Limit]
	}
	// Where it goes on in the direction that was read: behind the last row, or behind the edge of what was looked at.
	var on *position
	switch {
	case more:
		on = &position{back: at.back, keys: keys[len(keys)-1]}
	case edge != nil:
		on = &position{back: at.back, keys: edge}
	}
	// And back to where this page came from. Without a row of its own, the edge is none that was shown, and the end is the end.
	var home *position
	if q.offset > 0 || q.at != nil && (len(at.keys) > 0 || at.back) {
		home = &position{back: !at.back}
		switch {
		case len(keys) > 0:
			home.keys = keys[0]
		case edge != nil:
			home.keys = edge
		}
		if at.back && len(at.keys) == 0 { // the last page
			home = nil
		}
	}
	if f.next, f.previous = on, home; at.back {
		slices.Reverse(f.Rows)
		f.next, f.previous = home, on
	}
}

// conjunction is the conditions of a statement.
type conjunction struct {
	texts []string
	args  []any
	scans bool
}

func (c *conjunction) add(text string, args []any) {
	if text != "" {
		c.texts, c.args = append(c.texts, text), append(c.args, args...)
	}
}

func (c *conjunction) clause() string {
	if len(c.texts) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(c.texts, " AND ")
}

// conditions are those behind a position: without what an index does not serve, and all.
func (q *Query) conditions(order []sorted, after []any) (cheap, whole conjunction) {
	for _, c := range q.where {
		whole.add(c.text, c.args)
		whole.scans = whole.scans || c.scans
		if !c.scans {
			cheap.add(c.text, c.args)
		}
	}
	text, args := beside(order, after, ">", false)
	cheap.add(text, args)
	whole.add(text, args)
	return cheap, whole
}

// beside is the condition for rows on one side of a row, which is known by its keys: behind it in the order (">") or before it ("<"), perhaps with
// itself. What it says of the first key alone follows from the rest; it stands there because engines find their way in an index by it.
func beside(order []sorted, keys []any, side string, itself bool) (string, []any) {
	if len(keys) == 0 {
		return "", nil
	}
	sign := func(k sorted) string {
		if k.desc == (side == ">") {
			return "<"
		}
		return ">"
	}
	var b strings.Builder
	var args []any
	if len(order) > 1 {
		b.WriteString(order[0].Column + " " + sign(order[0]) + "= ? AND ")
		args = append(args, keys[0])
	}
	for i, k := range order {
		last := i == len(order)-1
		op := sign(k)
		if last && itself {
			op += "="
		}
		b.WriteString("(" + k.Column + " " + op + " ?")
		args = append(args, keys[i])
		if !last {
			b.WriteString(" OR (" + k.Column + " = ? AND ")
			args = append(args, keys[i])
		}
	}
	b.WriteString(")" + strings.Repeat("))", len(order)-1))
	return b.String(), args
}

func columnsIn(order []sorted) string {
	names := make([]string, len(order))
	for i, k := range order {
		names[i] = k.Column
	}
	return strings.Join(names, ", ")
}

func orderBy(order []sorted) string {
	names := make([]string, len(order))
	for i, k := range order {
		if names[i] = k.Column; k.desc {
			names[i] += " DESC"
		}
	}
	return " ORDER BY " + strings.Join(names, ", ")
}

// edgeOf returns the keys of the row that is the most-th one; nil where there are fewer.
func edgeOf(ctx context.Context, read Reader, c conjunction, table string, order []sorted, most int) (edge []any, err error) {
	err = each(ctx, read, func(rows *db.Rows) error {
		into := keyPlaces(order)
		err := rows.Scan(into...)
		edge = keysOf(into)
		return err
	}, "SELECT "+columnsIn(order)+" FROM "+table+c.clause()+orderBy(order)+" LIMIT 1 OFFSET ?", append(c.args, most-1)...)
	return edge, err
}

// count counts the rows of all pages, up to countMost; where a filter is served by no index, those among the first countMost.
func (f *Found[T]) count(ctx context.Context, read Reader, q *Query, table string) error {
	cheap, whole := q.conditions(q.order, nil)
	if q.spec.ScanMost > 0 && whole.scans {
		edge, err := edgeOf(ctx, read, cheap, table, q.order, countMost)
		if err != nil {
			return err
		}
		if edge != nil {
			f.least = true
			whole.add(beside(q.order, edge, "<", true))
		}
	}
	err := each(ctx, read, func(rows *db.Rows) error { return rows.Scan(&f.total) },
		"SELECT COUNT(*) FROM (SELECT 1 AS one FROM "+table+whole.clause()+" LIMIT ?) counted", append(whole.args, countMost+1)...)
	if f.total > countMost {
		f.total, f.least = countMost, true
	}
	return err
}

func each(ctx context.Context, read Reader, fn func(rows *db.Rows) error, text string, args ...any) (err error) {
	rows, err := read(ctx, text, args...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
