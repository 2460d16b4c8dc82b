package rehearse

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"levee/internal/wire"
)

// flow is one person's press on its way to a last word. It is handed from one goroutine to the next, never shared.
type flow struct {
	press uint64
	buyer int32
	twin  bool // the second click of a double click: it follows the same press and its last word is not counted
	// unknown: a request of this press may have been carried out without our learning of it. Only an answer about this very key
	// takes it away.
	unknown     bool
	sent        bool          // at least one request went out
	tries       uint8         // lost replies in a row
	pressed     time.Duration // since the start, as all times here
	due         time.Duration // the intended moment of the next request
	reservation string        // set: the next request asks for it
	place       *place        // of the waiting room; nil: the sale has none
}

// ticket is what the server says about a purchase or a reservation.
type ticket struct {
	Reservation string `json:"reservation"`
	Order       string `json:"order"`
	Place       string `json:"place"`
	Error       string `json:"error"`
	Quantity    int32  `json:"quantity"`
	PollAfter   int64  `json:"poll_after_ms"`
}

// problem is a refusal's body, as far as people act upon it.
type problem struct {
	Error  string `json:"error"`
	Detail string `json:"detail"`
	Data   struct {
		StartsAt time.Time `json:"starts_at"`
	} `json:"data"`
}

// reader understands bodies. Most of a crowd gets the same refusal, byte for byte, so the last one is remembered.
type reader struct {
	body []byte
	last problem
}

func (r *reader) problem(body []byte) *problem {
	if !bytes.Equal(body, r.body) {
		r.body, r.last = append(r.body[:0], body...), problem{}
		if json.Unmarshal(body, &r.last) != nil {
			r.last = problem{}
		}
	}
	return &r.last
}

// verdict is what follows from an answer.
type verdict struct {
	class   class
	final   final         // finalNone: the flow goes on
	wait    time.Duration // until the next request
	unknown bool          // a request may have been carried out, we do not know
	certain bool          // whatever was unknown before is known now
}

const (
	waitDefault  = time.Second     // where the server asks to wait and says no time
	pollDefault  = 3 * time.Second // likewise for a reservation
	waitLeast    = 50 * time.Millisecond
	retryFirst   = 100 * time.Millisecond // after a lost reply, doubled with each
	retryDoubled = 5                      // so at most 3.2 s
	jitterMost   = 250 * time.Millisecond
)

// hear reads an answer as the person would: what it means, and what he does next.
func (s *stage) hear(f *flow, a *wire.Answer, r *reader) verdict {
	switch {
	case a.Status == http.StatusCreated || a.Status == http.StatusAccepted || a.Status == http.StatusOK && f.reservation != "":
		return s.hearTicket(f, a)
	case a.Status < 400:
		s.told.strange(fmt.Sprintf("%d to a purchase", a.Status))
		return verdict{class: classFailed, final: finalUnknown, unknown: true}
	}
	p := r.problem(a.Body)
	wait := a.RetryAfter
	if wait < 0 {
		wait = waitDefault
	}
	if a.Status >= 500 {
		s.told.trouble(a.Status)
	}
	switch {
	case a.Status == http.StatusServiceUnavailable && p.Error == "not_warmed":
		return verdict{class: classWait, wait: wait}
	case a.Status == http.StatusServiceUnavailable:
		// Whoever gave up in the middle cannot say what became of it; all others say that nothing was taken.
		return verdict{class: classBusy, wait: wait, unknown: p.Error != "unavailable"}
	case a.Status == http.StatusTooManyRequests:
		return verdict{class: classBusy, wait: wait}
	case a.Status >= 500:
		s.told.strange(odd(a.Status, p))
		return verdict{class: classFailed, wait: max(wait, waitDefault), unknown: true}
	case f.reservation != "": // a reservation that its owner may not see
		s.told.strange("a reservation: " + odd(a.Status, p))
		f.reservation = ""
		return verdict{class: classRefused, wait: waitDefault, unknown: true}
	}
	return s.hearRefusal(a.Status, p, wait)
}

func (s *stage) hearRefusal(status int, p *problem, wait time.Duration) verdict {
	switch {
	case status == http.StatusConflict && p.Error == "sold_out":
		return verdict{class: classSoldOut, final: finalSoldOut, certain: true}
	case status == http.StatusConflict && p.Error == "limit_reached":
		return verdict{class: classLimit, final: finalLimit, certain: true}
	case status == http.StatusGone && p.Error == "ended":
		return verdict{class: classEnded, final: finalEnded, certain: true}
	case status == http.StatusConflict && p.Error == "not_open":
		if !p.Data.StartsAt.IsZero() {
			wait = p.Data.StartsAt.Sub(time.Now().Add(s.offset))
		}
		return verdict{class: classWait, wait: max(wait, waitLeast)}
	case status == http.StatusConflict && p.Error == "paused":
		return verdict{class: classWait, wait: max(wait, waitLeast)}
	case status == http.StatusConflict && p.Error == "idempotency_running":
		return verdict{class: classWait, wait: max(wait, waitLeast), unknown: true}
	}
	s.told.strange(odd(status, p))
	return verdict{class: classRefused, final: finalRefused, certain: true}
}

func odd(status int, p *problem) string {
	if p.Error == "" {
		return fmt.Sprintf("%d without an error code", status)
	}
	return fmt.Sprintf("%d %s", status, p.Error)
}

func (s *stage) hearTicket(f *flow, a *wire.Answer) verdict {
	var t ticket
	if err := json.Unmarshal(a.Body, &t); err != nil {
		s.told.strange(fmt.Sprintf("%d with a body that is no JSON", a.Status))
		return verdict{class: classFailed, wait: waitDefault, unknown: true}
	}
	switch {
	case t.Order != "" && a.Status != http.StatusAccepted:
		quantity := cmp.Or(t.Quantity, int32(s.cfg.Quantity))
		if s.told.order(s.crowd, f.buyer, f.press, quantity, t.Order, t.Reservation) {
			if s.cfg.Watch.Ordered != nil {
				s.cfg.Watch.Ordered()
			}
			if habit(s.cfg.Seed, f.press, askPay) < s.cfg.Pay {
				s.payers.add(f.buyer, t.Order)
			}
		}
		return verdict{class: classOrdered, final: finalOrdered, certain: true}
	case t.Place == "refused":
		f.reservation = ""
		switch t.Error {
		case "sold_out":
			return verdict{class: classSoldOut, final: finalSoldOut, certain: true}
		case "limit_reached":
			return verdict{class: classLimit, final: finalLimit, certain: true}
		case "unavailable", "not_warmed": // the place was lost, nothing was taken: press again
			return verdict{class: classBusy, wait: waitDefault, certain: true}
		}
		s.told.strange("a reservation became " + t.Error)
		return verdict{class: classRefused, final: finalRefused, certain: true}
	case t.Reservation != "" && visible(t.Reservation) && (a.Status == http.StatusAccepted || t.Place == "queued"):
		f.reservation = t.Reservation
		wait := a.RetryAfter
		if t.PollAfter > 0 {
			wait = time.Duration(t.PollAfter) * time.Millisecond
		}
		if wait <= 0 {
			wait = pollDefault
		}
		return verdict{class: classQueued, wait: wait, unknown: true}
	}
	s.told.strange(fmt.Sprintf("%d without an order", a.Status))
	return verdict{class: classFailed, wait: waitDefault, unknown: true}
}

// lost is what follows from no answer. sent says that the server may have received the request.
func (s *stage) lost(f *flow, sent bool, err error) verdict {
	wait := retryFirst << min(f.tries, retryDoubled)
	if err == wire.ErrSilent && f.tries == 0 { // most likely an idle connection that was closed under our request
		wait = 0
	}
	if f.tries < 255 {
		f.tries++
	}
	return verdict{class: classLost, wait: wait, unknown: sent}
}

// goOn decides whether a flow goes on after a verdict; if so its next moment is set. Otherwise its last word is returned.
func (s *stage) goOn(f *flow, v verdict, now time.Duration) (last final, done bool) {
	if v.class != classLost {
		f.tries = 0
	}
	if v.certain {
		f.unknown = false
	}
	f.unknown = f.unknown || v.unknown
	if v.final != finalNone {
		return v.final, true
	}
	standing := f.inRoom() && f.place.entered // who has a place waits as long as it takes
	if !f.unknown && !standing && now-f.pressed > s.cfg.Patience {
		return finalGaveUp, true
	}
	if f.inRoom() && now >= s.homeAt() {
		return s.stillWaiting(f), true
	}
	// People do not come back in the same instant, only never earlier than they were told.
	f.due = now + v.wait + time.Duration(habit(s.cfg.Seed, f.press, askJitter)*float64(min(v.wait/4, jitterMost)))
	return finalNone, false
}
