package lend

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"levee"
	"levee/internal/platform/id"
	"levee/internal/platform/web"
)

// The layouts by their names.
const (
	layoutDefault = "default"
	layoutJS53    = "js53"
)

const layoutMeaning = `default, or js53: ids below 2^53 that JavaScript's numbers hold, 16,384 in a second of each worker`

func (s *Service) idRoutes(srv *web.Server) {
	srv.Raw(web.Route{Method: "GET", Path: "/v1/ids", ID: "createIds", Tag: "ids", Quiet: true, Errors: []int{401, 404, 422, 503},
		Summary: "New ids, for programs",
		Description: "For programs that lend.clients names, with Authorization: Bearer SECRET. Each id is given once, over all nodes and restarts. Ids of one answer " +
			"are unique, and roughly by time; numbers of a tag rise. Strings in JSON, because JavaScript cannot hold larger numbers than 2^53; with Accept: text/plain one id a line. " +
			"What a lost answer carried is lost: ask again."},
		http.HandlerFunc(s.getIDs), web.RawDoc{Responses: map[int]any{200: idsView{}}, Produces: []string{"application/json", "text/plain"},
			Forms: map[string]string{"count": "^[0-9]{0,5}$", "layout": "^(default|js53)?$", "tag": "^([A-Za-z0-9][A-Za-z0-9._:/-]{0,99})?$"},
			Query: map[string]string{
				"count":  "How many, 1 to 10000; 1 by default",
				"layout": layoutMeaning + "; not with tag",
				"tag":    "Dense numbers of this tag instead, from 1 on: 1 to 100 letters, digits and ._:/-, beginning with a letter or digit",
			},
			Headers: map[string]string{"Authorization": "Bearer and the program's secret"}})
	srv.Raw(web.Route{Method: "GET", Path: "/v1/ids/{id}", ID: "explainId", Tag: "ids", Quiet: true, Errors: []int{401, 404, 422},
		Summary: "What an id is made of: time, worker, sequence", Description: "It tells what any id of the layout would be made of, given or not."},
		http.HandlerFunc(s.explain), web.RawDoc{Responses: map[int]any{200: explainView{}}, Path: map[string]string{"id": "The id, in decimal"},
			Forms: map[string]string{"id": "^[0-9]{1,19}$", "layout": "^(default|js53)?$"},
			Query: map[string]string{"layout": layoutMeaning}, Headers: map[string]string{"Authorization": "Bearer and the program's secret"}})
}

type idsView struct {
	IDs []id.ID `json:"ids"`
}

type explainView struct {
	ID       id.ID  `json:"id"`
	Layout   string `json:"layout" enum:"default,js53"`
	Time     string `json:"time" format:"date-time" doc:"To the layout's unit: a millisecond, or for js53 a second"`
	Worker   int    `json:"worker"`
	Sequence int    `json:"sequence"`
}

// batch is what one answer is made in.
type batch struct {
	ids  []int64
	text []byte
}

var batches = sync.Pool{New: func() any { return new(batch) }}

func (s *Service) getIDs(w http.ResponseWriter, r *http.Request) {
	if err := s.lendIDs(w, r); err != nil {
		web.WriteError(w, r, err)
	}
}

// layoutOf reads the parameter layout.
func layoutOf(name string) (string, error) {
	switch name {
	case "", layoutDefault:
		return layoutDefault, nil
	case layoutJS53:
		return layoutJS53, nil
	}
	return "", levee.Invalid("query.layout", `"default" or "js53"`, strings.ToValidUTF8(name, "?"))
}

func (s *Service) lendIDs(w http.ResponseWriter, r *http.Request) error {
	name, err := s.caller(r)
	if err != nil {
		return err
	}
	query := r.URL.Query()
	count := 1
	if query.Has("count") {
		text := query.Get("count")
		if count, err = strconv.Atoi(text); err != nil || count < 1 || count > CountMost || len(text) > 5 || text[0] == '+' {
			return levee.Invalid("query.count", "a number from 1 to "+strconv.Itoa(CountMost), strings.ToValidUTF8(text, "?"))
		}
	}
	layout, err := layoutOf(query.Get("layout"))
	if err != nil {
		return err
	}
	if query.Has("tag") && query.Has("layout") {
		return levee.Invalid("query.layout", "left out with tag", layout)
	}
	b := batches.Get().(*batch)
	defer batches.Put(b)
	b.ids = slices.Grow(b.ids[:0], count)[:count]
	kind := layout
	switch {
	case query.Has("tag"):
		kind = "tag"
		if err = s.Numbers.NextN(r.Context(), query.Get("tag"), b.ids); err != nil {
			err = named(err, "tag", "query.tag")
		}
	case layout == layoutJS53:
		err = fill(r.Context(), s.Small, b.ids)
	default:
		err = fill(r.Context(), s.IDs, b.ids)
	}
	if err != nil {
		return err
	}
	h := w.Header()
	if plain(r.Header["Accept"]) {
		h["Content-Type"] = typePlain
		b.text = appendLines(b.text[:0], b.ids)
	} else {
		h["Content-Type"] = typeJSON
		b.text = appendJSON(b.text[:0], b.ids)
	}
	h["Content-Length"] = []string{strconv.Itoa(len(b.text))}
	s.lent.WithLabelValues(name, kind).Add(float64(count))
	_, err = w.Write(b.text)
	if err != nil {
		return nil // the caller is gone; there is nobody to tell
	}
	return nil
}

// fill takes ids a thousand at a time: where many ask for more than there is room for, they wait for the clock, and no longer than their
// requests may take.
func fill(ctx context.Context, from *id.Set, ids []int64) error {
	for len(ids) > 0 {
		if err := ctx.Err(); err != nil {
			return levee.E(levee.CodeUnavailable, "more ids are asked for than the layout has room for").Because(err).After(time.Second)
		}
		part := ids[:min(len(ids), 1000)]
		if err := from.NextN(part); err != nil {
			return err
		}
		ids = ids[len(part):]
	}
	return nil
}

// Kept, so that no answer makes them anew.
var (
	typePlain = []string{"text/plain; charset=utf-8"}
	typeJSON  = []string{"application/json"}
)

// plain reports whether the caller wants one id a line. The pipeline has refused those who take neither form.
func plain(accept []string) bool {
	text := strings.ToLower(strings.Join(accept, ","))
	at := strings.Index(text, "text/")
	return at >= 0 && !strings.Contains(text, "json") && (at == 0 || !strings.Contains(text[:at], "*/*"))
}

func appendLines(b []byte, ids []int64) []byte {
	for _, n := range ids {
		b = strconv.AppendInt(b, n, 10)
		b = append(b, '\n')
	}
	return b
}

func appendJSON(b []byte, ids []int64) []byte {
	b = append(b, `{"ids":[`...)
	for i, n := range ids {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = strconv.AppendInt(b, n, 10)
		b = append(b, '"')
	}
	return append(b, "]}\n"...)
}

func (s *Service) explain(w http.ResponseWriter, r *http.Request) {
	if err := s.explainID(w, r); err != nil {
		web.WriteError(w, r, err)
	}
}

func (s *Service) explainID(w http.ResponseWriter, r *http.Request) error {
	if _, err := s.caller(r); err != nil {
		return err
	}
	name, err := layoutOf(r.URL.Query().Get("layout"))
	if err != nil {
		return err
	}
	layout := id.Default
	if name == layoutJS53 {
		layout = id.JS53
	}
	given, err := id.Parse(strings.ToValidUTF8(r.PathValue("id"), "?"))
	if err != nil {
		return named(err, "id", "path.id")
	}
	p, err := layout.Explain(int64(given))
	if err != nil {
		return named(err, "id", "path.id")
	}
	b, _ := given.MarshalJSON()
	text := `{"id":` + string(b) + `,"layout":"` + name + `","time":"` + p.Time.Format("2006-01-02T15:04:05.000Z07:00") + `","worker":` + strconv.Itoa(p.Worker) +
		`,"sequence":` + strconv.Itoa(p.Sequence) + "}\n"
	w.Header()["Content-Type"] = typeJSON
	_, _ = io.WriteString(w, text)
	return nil
}

// named gives the refused field the name that it has in the request.
func named(err error, field, here string) error {
	e, ok := errors.AsType[*levee.Error](err)
	if !ok || e.Code != levee.CodeInvalid || len(e.Fields) != 1 || e.Fields[0].Field != field {
		return err
	}
	return levee.Invalid(here, e.Fields[0].Allowed, e.Fields[0].Given)
}
