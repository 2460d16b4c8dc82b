package trail

import (
	"context"
	"encoding/json"
	"net/netip"
	"time"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/web"
)

const tag = "administration"

// Routes adds the room's operations.
func (s *Service) Routes(srv *web.Server) {
	web.Add(srv, web.Route{Method: "GET", Path: "/v1/audit", ID: "listAudit", Tag: tag, Status: 200, Roles: levee.RoleAdministrator, Limit: limit.Read,
		Summary: "What was done by whom, newest first"}, s.getList)
}

// Chosen says how entries are Chosen, in a list and in an export.
type Chosen struct {
	Actor   string    `query:"actor" doc:"Public id of who did it, or system, or visitor" maxLength:"64"`
	Subject string    `query:"subject" doc:"Public id of what it was done to" maxLength:"64"`
	Action  string    `query:"action" doc:"How the action begins: user. or user.disabled" maxLength:"190"`
	Address string    `query:"address" doc:"The network address that it came from" maxLength:"64"`
	From    time.Time `query:"from" doc:"Not before this moment"`
	Before  time.Time `query:"before" doc:"Before this moment"`
}

type listRequest struct {
	Chosen
	After string `query:"after" doc:"The next of the page before" maxLength:"64"`
	Limit int    `query:"limit" minimum:"1" maximum:"100" default:"20"`
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

type entryList struct {
	Body struct {
		Items []entryView `json:"items"`
		Next  string      `json:"next,omitempty" doc:"Ask with after=this for the next page; absent on the last"`
	}
}

func (s *Service) getList(ctx context.Context, in *listRequest) (*entryList, error) {
	f, err := s.filter(&in.Chosen)
	if err != nil {
		return nil, err
	}
	f.Page.Limit = in.Limit
	if in.After != "" {
		if f.Page.After, err = s.Sealer.Open(levee.KindEvent, in.After); err != nil {
			return nil, levee.Invalid("query.after", "the next of an earlier page", in.After)
		}
	}
	list, more, err := s.List(ctx, f)
	if err != nil {
		return nil, err
	}
	out := &entryList{}
	out.Body.Items = make([]entryView, len(list))
	for i := range list {
		out.Body.Items[i] = s.view(&list[i])
	}
	if more {
		out.Body.Next = out.Body.Items[len(list)-1].ID
	}
	return out, nil
}

func (s *Service) filter(in *Chosen) (f Filter, err error) {
	f = Filter{Action: in.Action, From: in.From, Before: in.Before}
	switch in.Actor {
	case "":
	case "visitor":
		f.Visitors = true
	case "system":
		f.Actor = levee.System.User
	default:
		id, err := s.Sealer.Open(levee.KindUser, in.Actor)
		if err != nil {
			return f, levee.Invalid("query.actor", "a user's public id, system or visitor", in.Actor)
		}
		f.Actor = levee.UserID(id)
	}
	if in.Subject != "" {
		if f.Kind, f.Subject = s.openAny(in.Subject); f.Kind == 0 {
			return f, levee.Invalid("query.subject", "a public id", in.Subject)
		}
	}
	if in.Address != "" {
		a, err := netip.ParseAddr(in.Address)
		if err != nil {
			return f, levee.Invalid("query.address", "an IPv4 or IPv6 address", in.Address)
		}
		f.Address = a.Unmap().String()
	}
	if !in.From.IsZero() && !in.Before.IsZero() && !in.From.Before(in.Before) {
		return f, levee.Invalid("query.before", "after from", in.Before.Format(time.RFC3339))
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
