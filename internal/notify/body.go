package notify

import (
	"context"
	"encoding/json"
	"time"

	"levee"
	"levee/internal/platform/web"
)

// detail is what an event says beside its subject, kept with the delivery. Everything else of a body is read from the order when it
// is sent: an order's lines, total and buyer never change, so every attempt sends the same bytes.
type detail struct {
	PayBy    *time.Time      `json:"pay_by,omitempty"`
	Payment  levee.PaymentID `json:"payment,omitempty"`
	Revived  bool            `json:"revived,omitempty"`
	Reason   string          `json:"reason,omitempty"`
	Carrier  string          `json:"carrier,omitempty"`
	Tracking string          `json:"tracking,omitempty"`
	State    string          `json:"state,omitempty"`
	Entry    levee.EntryID   `json:"entry,omitempty"`
	Sale     levee.SaleID    `json:"sale,omitempty"`
	Buyer    levee.UserID    `json:"buyer,omitempty"`
	Entries  int64           `json:"entries,omitempty"`
	Winners  int64           `json:"winners,omitempty"`
}

func (d detail) encode() string {
	text, err := json.Marshal(d)
	if err != nil {
		panic("notify: " + err.Error()) // numbers and texts always marshal
	}
	return string(text)
}

// What receivers get.
type bodyView struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"` // when it happened, not when it is sent
	Data      any       `json:"data"`
}

type buyerBody struct {
	ID             string `json:"id"`
	ForeignSubject string `json:"foreign_subject,omitempty"` // the sub of the shop's own tokens
}

type lineBody struct {
	SKU      string    `json:"sku"`
	Product  string    `json:"product"`
	Title    string    `json:"title"`
	Quantity int32     `json:"quantity"`
	Price    web.Money `json:"price"`
}

type orderBody struct {
	Order     string     `json:"order"`
	Version   int64      `json:"version"` // of the order after this step: grows from step to step
	State     string     `json:"state"`   // after this step
	Source    string     `json:"source"`
	Sale      string     `json:"sale,omitempty"`
	Rehearsal bool       `json:"rehearsal,omitempty"`
	Buyer     buyerBody  `json:"buyer"`
	Total     web.Money  `json:"total"`
	Lines     []lineBody `json:"lines"`
	CreatedAt time.Time  `json:"created_at"`
	PayBy     *time.Time `json:"pay_by,omitempty"`
	Payment   string     `json:"payment,omitempty"`
	Revived   bool       `json:"revived,omitempty"`
	Reason    string     `json:"reason,omitempty"`
	Carrier   string     `json:"carrier,omitempty"`
	Tracking  string     `json:"tracking,omitempty"`
	Entry     string     `json:"entry,omitempty"`
}

type saleBody struct {
	Sale    string `json:"sale"`
	Version int64  `json:"version"`
	State   string `json:"state,omitempty"`
	Entries *int64 `json:"entries,omitempty"`
	Winners *int64 `json:"winners,omitempty"`
}

type entryBody struct {
	Entry  string    `json:"entry"`
	Sale   string    `json:"sale"`
	Buyer  buyerBody `json:"buyer"`
	Reason string    `json:"reason"`
}

type pingBody struct {
	Webhook string `json:"webhook"`
}

// stateAfter is what an order is after a step.
var stateAfter = map[string]string{typeCreated: "created", typeOffered: "created", typePaid: "paid", typeCancelled: "cancelled", typeShipped: "shipped",
	typeCompleted: "done", typeRefunded: "refunded"}

// body makes the bytes of a delivery: the same for every attempt.
func (s *Service) body(ctx context.Context, d *Delivery) (_ []byte, err error) {
	defer levee.Wrap(&err, "notify.body(%d)", d.ID)
	var x detail
	if err := json.Unmarshal([]byte(d.data), &x); err != nil {
		return nil, err
	}
	out := bodyView{Type: d.Type, Timestamp: d.At}
	switch d.SubjectKind {
	case levee.KindDelivery:
		out.Data = pingBody{Webhook: s.sealer.Seal(levee.KindWebhook, int64(d.Webhook))}
	case levee.KindSale:
		b := saleBody{Sale: s.sealer.Seal(levee.KindSale, d.Subject), Version: d.Version, State: x.State}
		if d.Type == typeDrawn {
			b.Entries, b.Winners = &x.Entries, &x.Winners
		}
		out.Data = b
	case levee.KindEntry:
		buyer, err := s.buyer(ctx, x.Buyer)
		if err != nil {
			return nil, err
		}
		out.Data = entryBody{Entry: s.sealer.Seal(levee.KindEntry, d.Subject), Sale: s.sealer.Seal(levee.KindSale, int64(x.Sale)), Buyer: buyer, Reason: x.Reason}
	default:
		if out.Data, err = s.orderBody(ctx, d, x); err != nil {
			return nil, err
		}
	}
	return json.Marshal(out)
}

func (s *Service) orderBody(ctx context.Context, d *Delivery, x detail) (b orderBody, err error) {
	o, err := s.orders.ByID(ctx, levee.System, levee.OrderID(d.Subject))
	if err != nil {
		return b, err
	}
	b = orderBody{Order: s.sealer.Seal(levee.KindOrder, int64(o.ID)), Version: d.Version, State: stateAfter[d.Type], Source: o.Source,
		Rehearsal: o.Source == sourceRehearsal, Total: web.MoneyOf(o.Total), Lines: make([]lineBody, len(o.Lines)), CreatedAt: o.CreatedAt,
		PayBy: x.PayBy, Revived: x.Revived, Reason: x.Reason, Carrier: x.Carrier, Tracking: x.Tracking}
	if b.Buyer, err = s.buyer(ctx, o.Buyer); err != nil {
		return b, err
	}
	if o.SourceRef != 0 {
		b.Sale = s.sealer.Seal(levee.KindSale, o.SourceRef)
	}
	if x.Payment != 0 {
		b.Payment = s.sealer.Seal(levee.KindPayment, int64(x.Payment))
	}
	if x.Entry != 0 {
		b.Entry = s.sealer.Seal(levee.KindEntry, int64(x.Entry))
	}
	for i, l := range o.Lines {
		b.Lines[i] = lineBody{SKU: s.sealer.Seal(levee.KindSKU, int64(l.SKU)), Product: s.sealer.Seal(levee.KindProduct, int64(l.Product)), Title: l.Title,
			Quantity: l.Quantity, Price: web.MoneyOf(l.Price)}
	}
	return b, nil
}

func (s *Service) buyer(ctx context.Context, user levee.UserID) (b buyerBody, err error) {
	b.ID = s.sealer.Seal(levee.KindUser, int64(user))
	b.ForeignSubject, err = s.identity.ForeignSubject(ctx, user)
	return b, err
}
