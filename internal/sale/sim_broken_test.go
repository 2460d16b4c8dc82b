package sale

import (
	"context"

	"levee"
	"levee/internal/order"
	"levee/internal/platform/db"
)

// flaw is what a broken engine does otherwise. The fields that are nil leave the engine as it is.
type flaw struct {
	name        string
	settle      func(w *world, batch []*taking)
	source      func(w *world, s *Service) order.Source
	loaded      func(w *world, before uint64)
	lateSoldOut func(w *world)
	giveUp      func(w *world, id levee.ReservationID)
	expire      func(w *world, ctx context.Context, tx *db.Tx, id levee.ReservationID) error
	neverAsks   bool
	trueGate    bool // no drift of the gate, so that the flaw alone is to be found
}
