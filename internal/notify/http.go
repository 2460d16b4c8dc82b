package notify

import (
	"context"
	"net/http"
	"time"

	"levee"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/web"
)

const (
	operators = levee.RoleOperator | levee.RoleAdministrator
	everybody = levee.RoleCustomer | operators
)

// Routes adds the room's operations.
func (s *Service) Routes(srv *web.Server) {
	listing.Add(srv, web.Route{Method: "GET", Path: "/v1/notices", ID: "listNotices", Tag: "notices", Roles: everybody, Limit: limit.Read,
		Errors: []int{404}, Summary: "One's own notices, newest first", Description: "The newest 200 of the last 90 days."}, s.notices, s.getNotices)
	web.Add(srv, web.Route{Method: "POST", Path: "/v1/notices/reads", ID: "readNotices", Tag: "notices", Roles: everybody, Status: 204, Limit: limit.Write,
		Errors: []int{404}, Summary: "Mark one's notices as read, up to this one"}, s.postReads)
	srv.Raw(web.Route{Method: "GET", Path: "/v1/notices/events", ID: "watchNotices", Tag: "notices", Roles: everybody, Timeout: -1, Quiet: true,
		Summary:     "Hear of one's notices and places in line as they come (server-sent events)",
		Description: "Event notice: a notice as in the list. Event line: an entry as GET /v1/sales/{sale}/line/mine shows it. After reset, read both anew."},
		http.HandlerFunc(s.watchNotices), web.RawDoc{Produces: []string{"text/event-stream"}, Responses: map[int]any{200: nil}})
	s.webhookRoutes(srv)
}

type subjectView struct {
	Order string `json:"order,omitempty"`
	Sale  string `json:"sale,omitempty"`
}

type noticeView struct {
	ID      string      `json:"id"`
	Kind    string      `json:"kind" doc:"order.created, order.paid, order.cancelled, order.shipped, order.completed, order.refunded, line.offered or line.lost"`
	Subject subjectView `json:"subject"`
	At      time.Time   `json:"at"`
	Read    bool        `json:"read"`
}

func (s *Service) viewNotice(n *Notice) noticeView {
	v := noticeView{ID: s.sealer.Seal(levee.KindNotice, int64(n.ID)), Kind: n.Kind, At: n.At, Read: n.Read}
	if n.Order != 0 {
		v.Subject.Order = s.sealer.Seal(levee.KindOrder, int64(n.Order))
	}
	if n.Sale != 0 {
		v.Subject.Sale = s.sealer.Seal(levee.KindSale, int64(n.Sale))
	}
	return v
}

type noticesView struct {
	listing.Page[noticeView]
	Unread int `json:"unread" doc:"How many of all are not read"`
}

func (s *Service) getNotices(ctx context.Context, _ *struct{}, q *listing.Query) (*noticesView, error) {
	found, unread, err := s.Notices(ctx, q)
	if err != nil {
		return nil, err
	}
	return &noticesView{*listing.Show(q, found, func(n Notice) noticeView { return s.viewNotice(&n) }), unread}, nil
}

func (s *Service) postReads(ctx context.Context, in *struct {
	Body struct {
		UpTo string `json:"up_to" maxLength:"64" doc:"The newest notice that was seen"`
	}
}) (*struct{}, error) {
	upTo, err := s.sealer.Open(levee.KindNotice, in.Body.UpTo)
	if err != nil {
		return nil, err
	}
	return nil, s.MarkRead(ctx, levee.NoticeID(upTo))
}

func (s *Service) watchNotices(w http.ResponseWriter, r *http.Request) {
	user := levee.ActorFrom(r.Context()).User
	s.push.ServeSSE(w, r, "user:"+s.sealer.Seal(levee.KindUser, int64(user)))
}
