package gate

import (
	"levee"
)

// Movement is one committed change of a sale's stock in SQL, as the gate follows it. SQL's remaining changes by Free less the units
// of Won. Applying it is idempotent by Seq, and movements may come in any order.
type Movement struct {
	// Seq is the movement's number in its sale: 1, 2, 3 … without gaps.
	Seq int64
	// Free is by how many units free stock rises: positive for releases and top-ups, negative for withdrawals and for units that
	// were given without a taking and are not in Won.
	Free int64
	// Holdings are the buyers who hold more or less by it, without those of Won.
	Holdings []Change
	// Won are takings that SQL let have their units, and grants: who is not pending in the gate takes his units now.
	Won []Win
}

// Win is a taking, or a grant, that SQL let have its units.
type Win struct {
	ID       levee.ReservationID
	Buyer    levee.UserID
	Quantity int32
	// Seq is the movement of the win, for Resolve; 0 is "not known". Within a Movement it is the movement's own and is not read.
	Seq int64
}

// Change is by how many units a buyer holds more; less where it is negative.
type Change struct {
	Buyer levee.UserID
	Units int32
}

// State is what SQL's books say of a sale after the movement Seq (0: before the first), all read in one snapshot.
type State struct {
	Seq       int64
	Remaining int64 // units free in SQL: those of takings that wait for their settlement are among them
	PerBuyer  int32 // units that a buyer may hold
	Holdings  []Holding
}

// The limits of what the gate is told in one piece.
const (
	maxSeq       = 1<<53 - 1 // scripts count in doubles
	maxUnits     = 1 << 40
	maxQuantity  = 1 << 20
	maxItems     = 1 << 13 // wins and changes of one movement: they are applied in one atomic step
	maxMovements = 1000    // of one Apply
	maxEarly     = 1 << 16 // how far a movement may be ahead of the first that is missing
	maxMissing   = 1000
)

func (m *Movement) check() error {
	switch {
	case m.Seq < 1 || m.Seq > maxSeq:
		return levee.Invalid("seq", "1 to 2^53-1", m.Seq)
	case m.Free < -maxUnits || m.Free > maxUnits:
		return levee.Invalid("free", "-2^40 to 2^40", m.Free)
	case m.items() > maxItems:
		return levee.Invalid("won and holdings", "at most 8192 together", m.items())
	}
	for _, w := range m.Won {
		if err := w.check(); err != nil {
			return err
		}
	}
	for _, c := range m.Holdings {
		switch {
		case c.Buyer <= 0:
			return levee.Invalid("holdings.buyer", "a buyer's number", c.Buyer)
		case c.Units < -maxQuantity || c.Units > maxQuantity:
			return levee.Invalid("holdings.units", "-2^20 to 2^20", c.Units)
		}
	}
	return nil
}

func (m *Movement) items() int { return len(m.Won) + len(m.Holdings) }

func (w *Win) check() error {
	switch {
	case w.ID <= 0:
		return levee.Invalid("won.id", "a reservation's number", w.ID)
	case w.Buyer <= 0:
		return levee.Invalid("won.buyer", "a buyer's number", w.Buyer)
	case w.Quantity < 1 || w.Quantity > maxQuantity:
		return levee.Invalid("won.quantity", "1 to 2^20", w.Quantity)
	case w.Seq < 0 || w.Seq > maxSeq:
		return levee.Invalid("won.seq", "0 to 2^53-1", w.Seq)
	}
	return nil
}

func (s *State) check() error {
	switch {
	case s.Seq < 0 || s.Seq > maxSeq:
		return levee.Invalid("seq", "0 to 2^53-1", s.Seq)
	case s.Remaining < 0 || s.Remaining > maxUnits:
		return levee.Invalid("remaining", "0 to 2^40", s.Remaining)
	case s.PerBuyer < 1 || s.PerBuyer > maxQuantity:
		return levee.Invalid("per_buyer", "1 to 2^20", s.PerBuyer)
	}
	for _, h := range s.Holdings {
		switch {
		case h.Buyer <= 0:
			return levee.Invalid("holdings.buyer", "a buyer's number", h.Buyer)
		case h.Quantity < 0 || h.Quantity > maxQuantity:
			return levee.Invalid("holdings.quantity", "0 to 2^20", h.Quantity)
		}
	}
	return nil
}

// errCold: a gate that was never loaded, or whose store came back empty, follows nothing.
var errCold = levee.E(levee.CodeNotWarmed, "the gate of this sale is not loaded")

// errTooEarly: the movements before it come first.
var errTooEarly = levee.E(levee.CodeConflict, "the movement is too far ahead of the first one that is missing")

// seqs knows which movements are in: all up to applied, and those of early.
type seqs struct {
	applied int64
	early   map[int64]struct{}
}

func (s *seqs) has(seq int64) bool {
	if seq <= s.applied {
		return true
	}
	_, ok := s.early[seq]
	return ok
}

// add notes a movement that is not in yet.
func (s *seqs) add(seq int64) {
	if seq != s.applied+1 {
		if s.early == nil {
			s.early = map[int64]struct{}{}
		}
		s.early[seq] = struct{}{}
		return
	}
	s.applied = seq
	for len(s.early) > 0 {
		if _, ok := s.early[s.applied+1]; !ok {
			return
		}
		s.applied++
		delete(s.early, s.applied)
	}
}

// missing lists the first gaps between what is applied and what came early.
func (s *seqs) missing() (list []int64) {
	last := s.applied
	for seq := range s.early {
		last = max(last, seq)
	}
	for seq := s.applied + 1; seq < last && len(list) < maxMissing; seq++ {
		if !s.has(seq) {
			list = append(list, seq)
		}
	}
	return list
}
