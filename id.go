package levee

// Ids are types of their own, so that the compiler refuses an order's id where a sale's is meant. All are 64-bit and
// time-ordered (platform/id). Outside the process they appear only sealed (platform/id.Sealer), never as numbers.
type (
	UserID        int64
	ProductID     int64
	SKUID         int64
	PictureID     int64
	SaleID        int64
	ReservationID int64
	OrderID       int64
	PaymentID     int64
	RefundID      int64
	EntryID       int64
	WebhookID     int64
	DeliveryID    int64
	NoticeID      int64
)

// Kind tells what a sealed public id stands for; an id sealed as one kind does not open as another. The number is part of
// the sealed block, so a value must never be reused.
type Kind uint8

// The kinds of public ids and the prefix each is shown with.
const (
	KindUser        Kind = 1
	KindSession     Kind = 2
	KindProduct     Kind = 3
	KindSKU         Kind = 4
	KindPicture     Kind = 5
	KindSale        Kind = 6
	KindReservation Kind = 7
	KindOrder       Kind = 8
	KindPayment     Kind = 9
	KindRefund      Kind = 10
	KindJob         Kind = 11
	KindEvent       Kind = 12
	KindEntry       Kind = 13
	KindWebhook     Kind = 14
	KindDelivery    Kind = 15
	KindNotice      Kind = 16
	KindToken       Kind = 17
	KindPasskey     Kind = 21
)

var kindPrefix = [...]string{
	KindUser: "usr", KindSession: "ses", KindProduct: "prd", KindSKU: "sku", KindPicture: "pic", KindSale: "sal",
	KindReservation: "rsv", KindOrder: "ord", KindPayment: "pay", KindRefund: "rfd", KindJob: "job", KindEvent: "evt",
	KindEntry: "ent", KindWebhook: "whk", KindDelivery: "dlv", KindNotice: "ntc",
	KindToken: "tok", KindPasskey: "psk",
}

// Prefix returns the three letters that a public id of this kind begins with, or "" for an unknown kind.
func (k Kind) Prefix() string {
	if int(k) >= len(kindPrefix) {
		return ""
	}
	return kindPrefix[k]
}
