package line

import (
	"encoding/json"
	"time"

	"levee"
)

// tell sends a buyer's pages his entry as it is now.
func (s *Service) tell(e Entry) {
	body, err := json.Marshal(s.view(e, false))
	if err != nil {
		s.log.Error("an entry cannot be shown", "err", err)
		return
	}
	s.Push.Publish("user:"+s.Sealer.Seal(levee.KindUser, int64(e.Buyer)), "line", body)
}

// numbersView is what everybody may know of a line at any moment.
type numbersView struct {
	Sale    string    `json:"sale"`
	Drawn   bool      `json:"drawn" doc:"The order of the line is known; always true for a waiting list"`
	Entries int64     `json:"entries" doc:"Entries of a draw that is not drawn yet"`
	Waiting int64     `json:"waiting" doc:"Who waits in line"`
	Offered int64     `json:"offered" doc:"Who has an offer to pay"`
	At      time.Time `json:"at"`
}

// publish tells the pages of a sale how long its line is.
func (s *Service) publish(of levee.SaleID, drawn bool, c counts) {
	view := numbersView{Sale: s.saleRef(of), Drawn: drawn, Entries: c.Entered, Waiting: c.Waiting, Offered: c.Offered, At: s.Obs.Clock().UTC()}
	body, err := json.Marshal(view)
	if err != nil {
		s.log.Error("a line's numbers cannot be shown", "err", err)
		return
	}
	s.Push.Publish("line:"+view.Sale, "numbers", body)
}
