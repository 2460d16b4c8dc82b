package payment

import (
	"context"
	"io"
	"net/http"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/limit"
	"levee/internal/platform/listing"
	"levee/internal/platform/problem"
	"levee/internal/platform/web"
)

const (
	everybody = levee.RoleCustomer | levee.RoleOperator | levee.RoleAdministrator
	operators = levee.RoleOperator | levee.RoleAdministrator
)

// Routes adds the room's operations.
func (s *Service) Routes(srv *web.Server) {
	web.Add(srv, web.Route{Method: http.MethodPost, Path: "/v1/orders/{id}/payments", ID: "startPayment", Others: levee.OrdersOfOthers, Tag: "payments",
		Summary: "Begin to pay an order", Description: "Send the payer to redirect_url. What he does there arrives by itself; the order shows it.",
		Roles: everybody, Status: 201, Limit: limit.Write, Idempotent: true, Errors: []int{401, 403, 404, 409, 410, 422, 503}}, s.postPayment)
	listing.Add(srv, web.Route{Method: http.MethodGet, Path: "/v1/orders/{id}/payments", ID: "listPayments", Others: levee.OrdersOfOthers, Tag: "payments",
		Summary: "An order's payments", Roles: everybody, Status: 200, Limit: limit.Read, Errors: []int{401, 404}},
		listing.New[paymentView](listing.Spec{Name: "payments", Whole: true}), s.getPayments)
	web.Add(srv, web.Route{Method: http.MethodPost, Path: "/v1/orders/{id}/refund", ID: "refundOrder", Others: levee.OrdersOfOthers, Tag: "payments",
		Summary: "Give an order's money back", Description: "The order is refunding until the provider confirms.",
		Roles: operators, Fresh: true, Status: 202, Limit: limit.Write, Idempotent: true, Errors: []int{401, 403, 404, 409, 422}}, s.postOrderRefund)
	web.Add(srv, web.Route{Method: http.MethodGet, Path: "/v1/payments/{id}", ID: "getPayment", Others: levee.OrdersOfOthers, Tag: "payments", Summary: "One payment",
		Roles: everybody, Status: 200, Limit: limit.Read, Errors: []int{401, 404}}, s.getPayment)
	web.Add(srv, web.Route{Method: http.MethodPost, Path: "/v1/payments/{id}/refund", ID: "refundPayment", Others: levee.OrdersOfOthers, Tag: "payments",
		Summary: "Give one payment's money back", Description: "For money whose return the provider refused before; otherwise refund the order.",
		Roles: operators, Fresh: true, Status: 202, Limit: limit.Write, Idempotent: true, Errors: []int{401, 403, 404, 409, 422}}, s.postPaymentRefund)
	srv.Raw(web.Route{Method: http.MethodPost, Path: "/v1/payment-notifications/{provider}", ID: "notifyPayment", Tag: "payments",
		Summary: "For payment providers", Status: 200, BodyMax: maxForm, Errors: []int{400, 403, 404, 422},
		Description: "A provider's signed notification. The answer is the one word success; with any other the provider sends it again. " +
			"It has no rate limit: a bad signature costs less than the limit's own bookkeeping, and a provider may send thousands at once."},
		s.notifyHandler(), web.RawDoc{RequestTypes: []string{formType}, Responses: map[int]any{200: ""}, Produces: []string{"text/plain"}, RefusalTypes: []string{"text/plain"}})
}

type startRequest struct {
	Provider string `json:"provider" maxLength:"32" doc:"The payment provider" example:"test"`
}

type refundRequest struct {
	Reason string `json:"reason" minLength:"1" maxLength:"180" doc:"Shown in the order's history"`
}

type refundView struct {
	ID        string    `json:"id"`
	State     string    `json:"state" enum:"pending,done,refused"`
	Amount    web.Money `json:"amount"`
	Reason    string    `json:"reason"`
	Tries     int       `json:"tries"`
	LastError string    `json:"last_error,omitempty" doc:"For operators"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

type paymentLinks struct {
	Self  string `json:"self"`
	Order string `json:"order"`
}

type paymentView struct {
	ID          string       `json:"id"`
	Order       string       `json:"order"`
	Provider    string       `json:"provider"`
	State       string       `json:"state" enum:"started,paid,failed,closed,refunding,refunded"`
	PaidOrder   bool         `json:"paid_order" doc:"This payment's money paid the order"`
	Amount      web.Money    `json:"amount"`
	PayBy       time.Time    `json:"pay_by"`
	CreatedAt   time.Time    `json:"created_at"`
	UpdatedAt   time.Time    `json:"updated_at"`
	RedirectURL string       `json:"redirect_url,omitempty" doc:"Where to send the payer"`
	ProviderRef string       `json:"provider_ref,omitempty" doc:"The provider's own number; for operators"`
	Refunds     []refundView `json:"refunds"`
	Links       paymentLinks `json:"links"`
}

type paymentOutput struct {
	Location string `header:"Location"`
	Body     paymentView
}

type refundOutput struct {
	Location string `header:"Location"`
	Body     refundView
}

type idInput struct {
	ID string `path:"id" maxLength:"64"`
}

type refundInput struct {
	ID   string `path:"id" maxLength:"64"`
	Body refundRequest
}

func (s *Service) postPayment(ctx context.Context, in *struct {
	ID   string `path:"id" maxLength:"64"`
	Body startRequest
}) (*paymentOutput, error) {
	id, err := s.openOrder(in.ID)
	if err != nil {
		return nil, err
	}
	actor := levee.ActorFrom(ctx)
	a, redirect, err := s.Start(ctx, actor, id, in.Body.Provider, web.KeyFrom(ctx))
	if err != nil {
		return nil, err
	}
	v := s.view(actor, a, nil)
	v.RedirectURL = redirect
	return &paymentOutput{Location: v.Links.Self, Body: v}, nil
}

func (s *Service) getPayments(ctx context.Context, in *idInput, _ *listing.Query) (*listing.Page[paymentView], error) {
	id, err := s.openOrder(in.ID)
	if err != nil {
		return nil, err
	}
	actor := levee.ActorFrom(ctx)
	list, err := s.ByOrder(ctx, actor, id)
	if err != nil {
		return nil, err
	}
	views := make([]paymentView, len(list))
	for i, a := range list {
		refunds, err := refundsOf(ctx, s.db.Query, a.ID)
		if err != nil {
			return nil, err
		}
		views[i] = s.view(actor, a, refunds)
	}
	return listing.Whole(views), nil
}

func (s *Service) getPayment(ctx context.Context, in *idInput) (*paymentOutput, error) {
	id, err := s.sealer.Open(levee.KindPayment, in.ID)
	if err != nil {
		return nil, notFound()
	}
	actor := levee.ActorFrom(ctx)
	a, refunds, err := s.ByID(ctx, actor, levee.PaymentID(id))
	if err != nil {
		return nil, err
	}
	v := s.view(actor, a, refunds)
	return &paymentOutput{Location: v.Links.Self, Body: v}, nil
}

func (s *Service) postOrderRefund(ctx context.Context, in *refundInput) (*refundOutput, error) {
	id, err := s.openOrder(in.ID)
	if err != nil {
		return nil, err
	}
	return s.refundOnce(ctx, "payment.refund_order", int64(id), in.Body.Reason, func(ctx context.Context, tx *db.Tx) (Refund, error) {
		return s.RefundOrderTx(ctx, tx, levee.ActorFrom(ctx), id, in.Body.Reason)
	})
}

func (s *Service) postPaymentRefund(ctx context.Context, in *refundInput) (*refundOutput, error) {
	id, err := s.sealer.Open(levee.KindPayment, in.ID)
	if err != nil {
		return nil, notFound()
	}
	return s.refundOnce(ctx, "payment.refund_payment", id, in.Body.Reason, func(ctx context.Context, tx *db.Tx) (Refund, error) {
		return s.RefundPaymentTx(ctx, tx, levee.ActorFrom(ctx), levee.PaymentID(id), in.Body.Reason)
	})
}

func (s *Service) refundOnce(ctx context.Context, route string, id int64, reason string,
	do func(ctx context.Context, tx *db.Tx) (Refund, error)) (*refundOutput, error) {
	request := struct {
		ID     int64
		Reason string
	}{id, reason}
	r, err := web.Once(ctx, s.db, route, web.KeyFrom(ctx), request, func(ctx context.Context, tx *db.Tx) (*Refund, error) {
		r, err := do(ctx, tx)
		return &r, err
	})
	if err != nil {
		return nil, err
	}
	return &refundOutput{
		Location: "/v1/payments/" + s.sealer.Seal(levee.KindPayment, int64(r.Payment)), Body: s.refundView(levee.ActorFrom(ctx), *r),
	}, nil
}

// notifyHandler answers a provider with the one word it waits for, or with anything else so that it sends the notification again.
func (s *Service) notifyHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxForm))
		if err != nil {
			err = levee.E(levee.CodeTooLarge, "the body cannot be read or has more than %d bytes", maxForm).Because(err)
		} else {
			err = s.Notify(r.Context(), r.PathValue("provider"), body)
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		word, status := "success", http.StatusOK
		if err != nil {
			s.log.WarnContext(r.Context(), "a notification was not taken", "provider", levee.Shorten(r.PathValue("provider"), 32), "err", err)
			word, status = "failure", problem.Status(levee.CodeOf(err))
		}
		w.WriteHeader(status)
		if _, err := io.WriteString(w, word); err != nil {
			s.log.DebugContext(r.Context(), "a provider did not wait for the answer", "err", err)
		}
	})
}

func (s *Service) openOrder(public string) (levee.OrderID, error) {
	id, err := s.sealer.Open(levee.KindOrder, public)
	if err != nil {
		return 0, levee.E(levee.CodeNotFound, "there is no such order")
	}
	return levee.OrderID(id), nil
}

func (s *Service) view(actor levee.Actor, a Attempt, refunds []Refund) paymentView {
	id, order := s.sealer.Seal(levee.KindPayment, int64(a.ID)), s.sealer.Seal(levee.KindOrder, int64(a.Order))
	v := paymentView{
		ID: id, Order: order, Provider: a.Provider, State: a.State.String(), PaidOrder: a.PaidOrder, Amount: web.MoneyOf(a.Amount), PayBy: a.PayBy,
		CreatedAt: a.CreatedAt, UpdatedAt: a.UpdatedAt, Refunds: make([]refundView, len(refunds)),
		Links: paymentLinks{Self: "/v1/payments/" + id, Order: "/v1/orders/" + order},
	}
	if isOperator(actor) {
		v.ProviderRef = a.ProviderRef
	}
	for i, r := range refunds {
		v.Refunds[i] = s.refundView(actor, r)
	}
	return v
}

func (s *Service) refundView(actor levee.Actor, r Refund) refundView {
	v := refundView{
		ID: s.sealer.Seal(levee.KindRefund, int64(r.ID)), State: r.State.String(), Amount: web.MoneyOf(r.Amount), Reason: r.Reason, Tries: r.Tries,
		CreatedAt: r.CreatedAt, UpdatedAt: r.UpdatedAt,
	}
	if isOperator(actor) {
		v.LastError = strings.TrimSpace(r.LastError)
	}
	return v
}
