package listing

import (
	"context"
	"encoding/csv"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

	"levee"
	"levee/internal/platform/web"
)

// The limits of an export.
const (
	exportRows = 1_000_000
	exportTime = 10 * time.Minute
	exportWait = 30 * time.Second // for a caller to take one part
)

// answer is what a list's handler gives to web.
type answer[B any] struct {
	Link string `header:"Link" doc:"The pages around this one (RFC 8288): first, prev, next, last"`
	Body B
}

// Add adds a list as an operation. The handler's answer is a Page or embeds one; its input holds the path's parameters, while those of the query are
// the list's own. An export calls the handler for page after page.
func Add[I, V, B any, P interface {
	*B
	listed() *Page[V]
}](srv *web.Server, r web.Route, l *List[V], h func(ctx context.Context, in *I, q *Query) (P, error)) {
	key, exported := srv.Lists()
	l.seal = newSealer(key)
	r.Query, r.CSV = l.params(), l.Export
	if !slices.Contains(r.Errors, http.StatusUnprocessableEntity) {
		r.Errors = append(slices.Clone(r.Errors), http.StatusUnprocessableEntity)
	}
	web.Add(srv, r, func(ctx context.Context, in *I) (*answer[B], error) {
		w, req := web.Exchange(ctx)
		// Who does not take JSON takes CSV here: web has seen to it that he takes one of them.
		q, err := l.parse(req.URL.Path, req.URL.Query(), r.CSV && !web.Accepts(req, "application/json"))
		if err != nil {
			return nil, err
		}
		if q.csv {
			if !levee.ActorFrom(ctx).May(levee.ListsExport) {
				return nil, levee.E(levee.CodeForbidden, "this takes the ability %s", levee.ListsExport)
			}
			return nil, l.stream(ctx, w, q, func(ctx context.Context, q *Query) (*Page[V], error) {
				b, err := h(ctx, in, q)
				if err != nil {
					return nil, err
				}
				return b.listed(), nil
			}, func(ctx context.Context) error { return exported(ctx, l.Name, req.URL.RawQuery) })
		}
		b, err := h(ctx, in, q)
		if err != nil {
			return nil, err
		}
		p := b.listed()
		link := q.links(req.URL, p.next, p.previous)
		if q.fields == nil {
			return &answer[B]{Link: link, Body: *b}, nil
		}
		less, err := project(b, q.fields)
		if err != nil {
			return nil, err
		}
		if link != "" {
			w.Header().Set("Link", link)
		}
		web.WriteJSON(w, req, http.StatusOK, less)
		return nil, nil //nolint:nilnil // answered
	})
}

// stream writes all rows as CSV, a part at a time. What fails before the first byte is an answer; afterwards the connection is cut, so that nobody
// takes a part for the whole.
func (l *List[V]) stream(ctx context.Context, w http.ResponseWriter, q *Query, read func(context.Context, *Query) (*Page[V], error),
	exported func(context.Context) error) error {
	// The request's own time is that of one page.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportTime)
	defer cancel()
	page := func(at *position) (*Page[V], error) { // the handler may add conditions to its question
		asked := *q
		asked.at, asked.where = at, slices.Clone(q.where)
		return read(ctx, &asked)
	}
	p, err := page(nil)
	if err != nil {
		return err
	}
	if err := exported(ctx); err != nil {
		return err
	}
	columns := l.columns
	if q.fields != nil {
		columns = slices.DeleteFunc(slices.Clone(columns), func(c column) bool { return !slices.Contains(q.fields, c.top) })
	}
	record := make([]string, len(columns))
	for i, c := range columns {
		record[i] = c.name
	}
	h := w.Header()
	h.Set("Content-Type", "text/csv; charset=utf-8")
	h.Set("Content-Disposition", `attachment; filename="`+l.Name+`.csv"`)
	out, rc, written := csv.NewWriter(w), http.NewResponseController(w), 0
	cut := func(err error) {
		web.Cut(ctx, fmt.Errorf("after %d rows: %w", written, err))
	}
	_ = rc.SetWriteDeadline(time.Now().Add(exportWait)) // fails only where there is no connection (a test's recorder)
	if err := out.Write(record); err != nil {
		cut(err)
	}
	for {
		for i := range p.Items {
			row := reflect.ValueOf(&p.Items[i]).Elem()
			for c := range columns {
				if record[c], err = columns[c].cell(row); err != nil {
					cut(err)
				}
			}
			if err := out.Write(record); err != nil {
				cut(err)
			}
			written++
		}
		if out.Flush(); out.Error() != nil {
			cut(out.Error())
		}
		if p.next == nil {
			return nil
		}
		if written >= exportRows {
			cut(fmt.Errorf("it has more than %d rows", exportRows))
		}
		_ = rc.SetWriteDeadline(time.Now().Add(exportWait))
		if p, err = page(p.next); err != nil {
			cut(err)
		}
	}
}
