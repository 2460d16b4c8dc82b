package trail

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/web"
)

const tag = "administration"

// Routes adds the room's operations.
func (s *Service) Routes(srv *web.Server) {
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/audit", ID: "listAudit", Tag: tag, Roles: levee.RoleAdministrator, Limit: limit.Read,
		Summary: "What was done by whom, newest first"}, entryList(), s.getList)
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/audit/verification", ID: "verifyAudit", Tag: tag, Status: 200, Roles: levee.RoleAdministrator,
		Limit: limit.Read, Timeout: 2 * time.Minute, Summary: "Check a stretch of the trail's chain",
		Description: "Some 20,000 entries at a time: ask again with after=to until done. What is found and what cannot be, docs/audit.md says."}, s.getVerification)
	srv.Raw(web.Route{Method: "GET", Path: "/v1/audit/export", ID: "exportAudit", Tag: tag, Status: 200, Roles: levee.RoleAdministrator, Limit: limit.Import,
		Timeout: exportTimeout, Errors: []int{401, 403, 422}, Summary: "The sealed trail as a file, in the order of the chain",
		Description: "The first line says where the chain begins; every other is an entry with the chain's head at its place. docs/audit.md says how to verify it. " +
			"That it was taken stands in the trail."}, http.HandlerFunc(s.getExport),
		web.RawDoc{Responses: map[int]any{200: ""}, Produces: []string{"application/x-ndjson", "text/csv"}, Query: map[string]string{
			"format": "ndjson (default) or csv", "after": "Begin after this place in the chain; 0 (default) for all that there is"},
			Forms: map[string]string{"format": "^(ndjson|csv)$", "after": "^[0-9]{1,18}$"}})
}

func entryList() *listing.List[entryView] {
	return listing.New[entryView](listing.Spec{Name: "audit", Forward: true,
		Fields: []listing.Field{
			{Name: "actor", Only: true, Doc: "Public id of who did it, or system, or visitor"},
			{Name: "subject", Only: true, Doc: "Public id of what it was done to"},
			{Name: "action", Only: true, Doc: "How the action begins: user. or user.disabled"},
			{Name: "address", Only: true, Doc: "The network address that it came from, IPv4 or IPv6"},
			{Name: "from", Type: listing.Time, Only: true, Doc: "Not before this moment"},
			{Name: "before", Type: listing.Time, Only: true, Doc: "Before this moment, which is later than from"},
		},
		Keys: []listing.Key{{Name: "id"}}})
}

type entryView struct {
	ID        string          `json:"id"`
	Seq       int64           `json:"seq,omitempty" doc:"Its place in the chain; absent while it is not sealed"`
	At        time.Time       `json:"at"`
	Times     int64           `json:"times" doc:"How often it happened: 1, but for what is told once per minute with its count"`
	Actor     string          `json:"actor" doc:"Public id of who did it, or system, or visitor"`
	Action    string          `json:"action"`
	Subject   string          `json:"subject" doc:"Public id of what it was done to"`
	Before    json.RawMessage `json:"before,omitempty"`
	After     json.RawMessage `json:"after,omitempty"`
	Address   string          `json:"address,omitempty"`
	RequestID string          `json:"request_id,omitempty"`
}

func (s *Service) getList(ctx context.Context, _ *struct{}, q *listing.Query) (*listing.Page[entryView], error) {
	f, err := s.filter(q)
	if err != nil {
		return nil, err
	}
	f.Page.Limit = q.Limit
	if key, ok := q.After(); ok {
		f.Page.After, _ = key.(int64)
	}
	list, more, err := s.List(ctx, f)
	if err != nil {
		return nil, err
	}
	views := make([]entryView, len(list))
	for i := range list {
		views[i] = s.view(&list[i])
	}
	if !more {
		return listing.Rest(q, views, nil), nil
	}
	return listing.Rest(q, views, list[len(list)-1].ID), nil
}

func (s *Service) filter(q *listing.Query) (f Filter, err error) {
	moment := func(name string) (at time.Time) {
		if q.Value(name) != "" {
			at = time.UnixMicro(q.Number(name)).UTC()
		}
		return at
	}
	f = Filter{Action: q.Value("action"), From: moment("from"), Before: moment("before")}
	switch actor := q.Value("actor"); actor {
	case "":
	case "visitor":
		f.Visitors = true
	case "system":
		f.Actor = levee.System.User
	default:
		id, err := s.Sealer.Open(levee.KindUser, actor)
		if err != nil {
			return f, levee.Invalid("query.actor", "a user's public id, system or visitor", actor)
		}
		f.Actor = levee.UserID(id)
	}
	if subject := q.Value("subject"); subject != "" {
		if f.Kind, f.Subject = s.openAny(subject); f.Kind == 0 {
			return f, levee.Invalid("query.subject", "a public id", subject)
		}
	}
	if address := q.Value("address"); address != "" {
		a, err := netip.ParseAddr(address)
		if err != nil {
			return f, levee.Invalid("query.address", "an IPv4 or IPv6 address", address)
		}
		f.Address = a.Unmap().String()
	}
	if !f.From.IsZero() && !f.Before.IsZero() && !f.From.Before(f.Before) {
		return f, levee.Invalid("query.before", "after from", q.Value("before"))
	}
	return f, nil
}

func (s *Service) view(e *Entry) entryView {
	return entryView{ID: s.Sealer.Seal(levee.KindEvent, e.ID), Seq: e.Seq, At: e.At.UTC(), Times: e.Times, Actor: s.actor(e.Actor), Action: e.Action,
		Subject: s.Sealer.Seal(e.Kind, e.Subject), Before: rawJSON(e.Before), After: rawJSON(e.After), Address: e.Address, RequestID: e.RequestID}
}

func rawJSON(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	return json.RawMessage(text)
}

type verifyRequest struct {
	After int64  `query:"after" minimum:"0" doc:"The to of the stretch before; 0 begins"`
	Head  string `query:"head" maxLength:"90" doc:"What an earlier verification said the head was, with its place: 1042:9f86…. The chain must pass it" pattern:"^[0-9]{1,18}:[0-9a-f]{64}$"`
}

type problemView struct {
	Seq   int64  `json:"seq,omitempty" doc:"The place; absent for an entry that has none yet"`
	Entry string `json:"entry,omitempty" doc:"The entry's id"`
	What  string `json:"what"`
}

type verifyAnswer struct {
	Body struct {
		After          int64         `json:"after" doc:"The place after which this stretch begins"`
		To             int64         `json:"to" doc:"Where it ends"`
		Entries        int64         `json:"entries" doc:"How many were looked at"`
		Head           string        `json:"head" doc:"The place and the head there. Write it down outside of the house: given again as head, it shows what was cut off or written anew"`
		Intact         bool          `json:"intact" doc:"There are no problems in this stretch"`
		Problems       []problemView `json:"problems" nullable:"false" doc:"At most 50"`
		Done           bool          `json:"done" doc:"The end of the chain is reached"`
		Unsealed       int64         `json:"unsealed,omitempty" doc:"With done: entries that wait for their place, some seconds as a rule"`
		OldestUnsealed *time.Time    `json:"oldest_unsealed,omitempty"`
	}
}

func (s *Service) getVerification(ctx context.Context, in *verifyRequest) (*verifyAnswer, error) {
	var pin Pin
	var err error
	if in.Head != "" {
		if pin, err = ParsePin("query.head", in.Head); err != nil {
			return nil, err
		}
	}
	v, err := s.Verify(ctx, in.After, pin)
	if err != nil {
		return nil, inQuery(err)
	}
	out := &verifyAnswer{}
	b := &out.Body
	b.After, b.To, b.Entries, b.Head = v.After, v.To, v.Entries, Pin{v.To, v.Head}.String()
	b.Intact, b.Done, b.Unsealed = len(v.Problems) == 0, v.Done, v.Unsealed
	b.Problems = []problemView{}
	for _, p := range v.Problems {
		view := problemView{Seq: p.Seq, What: p.What}
		if p.Entry != 0 {
			view.Entry = s.Sealer.Seal(levee.KindEvent, p.Entry)
		}
		b.Problems = append(b.Problems, view)
	}
	if !v.OldestUnsealed.IsZero() {
		b.OldestUnsealed = &v.OldestUnsealed
	}
	return out, nil
}

// inQuery names a field of the query as callers know it.
func inQuery(err error) error {
	var e *levee.Error
	if errors.As(err, &e) && len(e.Fields) == 1 {
		e.Fields[0].Field = "query." + e.Fields[0].Field
	}
	return err
}

const (
	exportTimeout = 10 * time.Minute
	// exportFlush is how many lines are sent at once.
	exportFlush = 500
)

// exportLine is a line of an export as JSON. Before and after are texts here: their bytes are what was hashed.
type exportLine struct {
	Seq       int64  `json:"seq"`
	ID        string `json:"id,omitempty"`
	At        string `json:"at,omitempty"`
	AtMicros  int64  `json:"at_us,omitempty"`
	Times     int64  `json:"times,omitempty"`
	Actor     string `json:"actor,omitempty"`
	Action    string `json:"action,omitempty"`
	Subject   string `json:"subject,omitempty"`
	Before    string `json:"before,omitempty"`
	After     string `json:"after,omitempty"`
	Address   string `json:"address,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	Mark      string `json:"mark,omitempty"`
	Head      string `json:"head"`
}

var exportColumns = []string{"seq", "id", "at", "at_us", "times", "actor", "action", "subject", "before", "after", "address", "request_id", "mark", "head"}

func (s *Service) exportLine(l Line) exportLine {
	out := exportLine{Seq: l.Seq, Head: l.Head.String()}
	if e := l.Entry; e != nil {
		v := s.view(e)
		out.ID, out.At, out.AtMicros, out.Times, out.Actor, out.Action, out.Subject = v.ID, v.At.Format(time.RFC3339Nano), e.At.UnixMicro(), e.Times, v.Actor, e.Action, v.Subject
		out.Before, out.After, out.Address, out.RequestID, out.Mark = e.Before, e.After, e.Address, e.RequestID, e.Mark
	}
	return out
}

func (l exportLine) cells() []string {
	if l.ID == "" {
		return []string{strconv.FormatInt(l.Seq, 10), "", "", "", "", "", "", "", "", "", "", "", "", l.Head}
	}
	return []string{strconv.FormatInt(l.Seq, 10), l.ID, l.At, strconv.FormatInt(l.AtMicros, 10), strconv.FormatInt(l.Times, 10), l.Actor, l.Action, l.Subject,
		l.Before, l.After, l.Address, l.RequestID, l.Mark, l.Head}
}

// getExport sends lines as they are read. What fails after the first cuts the connection, so that no reader takes a part for the whole.
func (s *Service) getExport(w http.ResponseWriter, r *http.Request) {
	format, media, after := "ndjson", "application/x-ndjson", int64(0)
	switch f := r.URL.Query().Get("format"); f {
	case "", "ndjson":
	case "csv":
		format, media = "csv", "text/csv; charset=utf-8"
	default:
		web.WriteError(w, r, levee.Invalid("query.format", "ndjson or csv", levee.Shorten(f, 40)))
		return
	}
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = strconv.ParseInt(text, 10, 64); err != nil || after < 0 {
			web.WriteError(w, r, levee.Invalid("query.after", "a place in the chain", levee.Shorten(text, 40)))
			return
		}
	}
	write, flush := lines(w, format)
	n := 0
	head := func() {
		h := w.Header()
		h.Set("Content-Type", media)
		h.Set("Content-Disposition", `attachment; filename="audit.`+format+`"`)
		h.Set("Cache-Control", "no-store")
	}
	err := s.Export(r.Context(), after, func(l Line) error {
		if n == 0 {
			head()
		}
		if n++; n%exportFlush == 0 {
			if err := flush(); err != nil {
				return err
			}
		}
		return write(s.exportLine(l))
	})
	if err == nil {
		err = flush()
	}
	switch {
	case err == nil && n == 0: // behind the end of the chain
		head()
	case err != nil && n == 0:
		web.WriteError(w, r, err)
	case err != nil:
		s.log.WarnContext(r.Context(), "an export of the trail broke off", "after_lines", n, "error", err)
		panic(http.ErrAbortHandler)
	}
}

// lines returns what writes lines in a format, and what sends those that are written.
func lines(w io.Writer, format string) (write func(exportLine) error, flush func() error) {
	if format == "csv" {
		c := csv.NewWriter(w)
		headed := false
		return func(l exportLine) error {
			if !headed {
				headed = true
				if err := c.Write(exportColumns); err != nil {
					return err
				}
			}
			return c.Write(l.cells())
		}, func() error { c.Flush(); return c.Error() }
	}
	j := json.NewEncoder(w)
	return func(l exportLine) error { return j.Encode(l) }, func() error { return nil }
}

// Witness tells of what no room tells: that somebody was refused, as a note; and that an operation of operators or administrators succeeded of
// which its room said nothing, right after it. It is web's window on the trail.
func (s *Service) Witness(ctx context.Context, o web.Outcome) {
	act := Act{Action: "route." + o.Route, After: map[string]string{"route": o.Route}}
	act.Kind, act.Subject = s.openAny(o.Subject)
	if o.Refused {
		act.Action, act.Kind, act.Subject = "access.refused", 0, 0
		s.Note(ctx, act, levee.ActorFrom(ctx).Roles.Staff())
		return
	}
	if err := s.Record(ctx, act); err != nil {
		s.log.ErrorContext(ctx, "the trail lacks an act", "route", o.Route, "user", int64(levee.ActorFrom(ctx).User), "error", err)
	}
}
