package sale

import (
	"context"

	"levee"
	"levee/internal/platform/id"
	"levee/internal/platform/listing"
)

// lists are what can be asked about sales and what belongs to one.
type lists struct {
	sales  *listing.List[SaleView]
	acts   *listing.List[actView]
	ledger *listing.List[movementView]
}

func newLists(sealer *id.Sealer) lists {
	byID := []listing.Key{{Name: "id", Column: "id"}}
	at := listing.Field{Name: "at", Type: listing.Time, Column: "at", Scans: true, Doc: "When it was"}
	by := listing.Field{Name: "actor", Type: listing.ID, Kind: levee.KindUser, Column: "actor_id", Scans: true, Doc: "Who did it"}
	return lists{
		// There are few sales: what no index serves looks at all of them.
		sales: listing.New[SaleView](listing.Spec{Name: "sales", Open: sealer.Open, Export: true,
			Fields: []listing.Field{
				{Name: "id", Type: listing.ID, Kind: levee.KindSale, Column: "id", Doc: "The sale's id"},
				{Name: "live", Type: listing.Bool, Is: isLive, Doc: "true: leave out what is over; false: only what is over"},
				{Name: "state", Type: listing.Choice, Column: "state", Choices: []string{string(StateDraft), string(StateScheduled), string(StatePaused),
					string(StateStopped), string(StateEnded)}, Doc: "Where its operators have put it"},
				{Name: "title", Column: "title", Contains: true, Doc: "The whole title, letter by letter"},
				{Name: "mode", Type: listing.Choice, Column: "mode", Choices: []string{"race", "draw"}, Doc: "How units are given"},
				{Name: "rehearsal", Type: listing.Bool, Column: "rehearsal", Doc: "For operators: whether it is one"},
				{Name: "product", Type: listing.ID, Kind: levee.KindProduct, Column: "product_id", Doc: "What it sells"},
				{Name: "sku", Type: listing.ID, Kind: levee.KindSKU, Column: "sku_id", Doc: "What it sells"},
				{Name: "starts_at", Type: listing.Time, Column: "starts_at", Doc: "When it starts"},
				{Name: "ends_at", Type: listing.Time, Column: "ends_at", Doc: "When it ends"},
			},
			Search: []string{"title"},
			Keys: []listing.Key{{Name: "id", Column: "id"}, {Name: "starts_at", Column: "starts_at"}, {Name: "ends_at", Column: "ends_at"},
				{Name: "title", Column: "title", Text: true}},
			Order: "-id", Unique: "id"}),
		acts: listing.New[actView](listing.Spec{Name: "acts", Open: sealer.Open, ScanMost: 20_000, Export: true,
			Fields: []listing.Field{{Name: "act", Column: "act", Scans: true, Doc: "schedule, pause, top_up, …"}, by, at},
			Keys:   byID, Order: "-id", Unique: "id"}),
		ledger: listing.New[movementView](listing.Spec{Name: "ledger", Open: sealer.Open, ScanMost: 20_000, Export: true,
			Fields: []listing.Field{
				{Name: "kind", Type: listing.Choice, Column: "kind", Choices: []string{"offered", "reserved", "sold", "released", "returned", "withdrawn"},
					Scans: true, Doc: "What moved the units"},
				{Name: "reservation", Type: listing.ID, Kind: levee.KindReservation, Column: "reservation_id", Scans: true, Doc: "The reservation, or the first of a batch"},
				by, at},
			Keys: byID, Order: "-id", Unique: "id"}),
	}
}

func isLive(value any) (string, []any) {
	if value == int64(1) {
		return "state <> ?", []any{StateEnded}
	}
	return "state = ?", []any{StateEnded}
}

// readSales reads a page of sales; without drafts and rehearsals unless all is set.
func readSales(ctx context.Context, read listing.Reader, q *listing.Query, all bool) (*listing.Found[*Sale], error) {
	if !all {
		q.Where("state <> ? AND rehearsal = 0", StateDraft)
	}
	return listing.Rows(ctx, read, q, headColumns, "sale_head", func(row listing.Row) (*Sale, error) { return scanSale(row) })
}
