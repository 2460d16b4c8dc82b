package rehearse

import (
	"container/heap"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"levee/internal/report"
	"levee/internal/wire"
)

// room is what the rehearsal knows of the copy's waiting room. It is nil where the copy sells to whoever comes.
type room struct {
	policy policyView
	path   string // of the sale
	// highest is the highest number that anybody was told is admitted.
	highest atomic.Int64
	// out are tokens that somebody was told of and has not begun to spend; most is the largest that it was.
	out, most                                          atomic.Int64
	waiting, entered, admitted, reloads, solved, tries atomic.Int64
	solving                                            atomic.Int64 // nanoseconds

	mu      sync.Mutex // guards all below
	numbers map[int64]int32
	tokens  map[string]int32
	lies    [roomLies]found
	// estimates: how many were admitted when they had been told, too early, too late.
	inTime, early, late int
	board               []Board
	listeners, deaf     int // that heard the counter, and that did not
}

// policyView is a sale's admission as the server shows it.
type policyView struct {
	Room      bool   `json:"room"`
	Order     string `json:"order"`
	PerSecond int64  `json:"per_second"`
	Multiple  int64  `json:"multiple"`
	Brake     string `json:"brake"`
	WorkBits  int    `json:"work_bits"`
}

// through tells whether buyers of a sale must ask for their admission.
func (p policyView) through() bool { return p.Room || p.Brake != "" && p.Brake != "none" }

// roomLie is a promise of the waiting room.
type roomLie uint8

const (
	lieKept roomLie = iota
	lieFalls
	lieTwice
	lieOvertaken
	lieCap
	liePace
	roomLies
)

// found are the first of what was found against a promise.
type found struct {
	count int
	first []string
}

func (r *room) lie(l roomLie, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lied(l, format, args...)
}

func (r *room) lied(l roomLie, format string, args ...any) {
	f := &r.lies[l]
	if f.count++; len(f.first) < report.FindingsKept {
		f.first = append(f.first, fmt.Sprintf(format, args...))
	}
}

// place is a person's place in the waiting room, from his coming until he begins to buy. It is handed on with its flow.
type place struct {
	ticket    string
	number    int64 // 0: none yet
	position  int64 // that he was told last; 0: none
	came      time.Duration
	entered   bool
	again     bool          // the next request asks for admission once more, as a page that was loaded again does
	seen      int64         // the highest number that was known to be admitted when the request was sent
	low, high time.Duration // the first estimate: his turn, since the start; 0: none
	challenge string        // to be solved, or to be asked for when asking is set
	bits      int
	asking    bool
	proof     string // the answer to the challenge
	failures  int
	token     string // set: he is admitted
	begun     bool   // he has begun to spend the token
	calls     uint32
}

// placeView is what the server says about a place.
type placeView struct {
	Status   string `json:"status"`
	Ticket   string `json:"ticket"`
	Number   *int64 `json:"number"`
	Position *int64 `json:"position"`
	Estimate *struct {
		Low, High float64
	} `json:"estimate_seconds"`
	Token     string `json:"token"`
	PollAfter int64  `json:"poll_after_ms"`
}

// challengeView is what is to be solved.
type challengeView struct {
	Kind      string `json:"kind"`
	Challenge string `json:"challenge"`
	Bits      int    `json:"bits"`
}

const (
	reloadShare    = 0.05 // of the calls are a page that is loaded again
	thinkLeast     = 300 * time.Millisecond
	thinkRange     = 2 * time.Second // from being admitted to the press
	placeWaitLeast = 200 * time.Millisecond
	homeBefore     = 10 * time.Second
	proofsMost     = 5
)

func newRoom(sale saleView) *room {
	return &room{policy: sale.Admission, path: "/v1/sales/" + sale.ID, numbers: map[int64]int32{}, tokens: map[string]int32{}}
}

// newPlace is where a person begins: where the sale has a brake, with the challenge.
func (r *room) newPlace(came time.Duration) *place {
	return &place{came: came, asking: r.policy.Brake != "" && r.policy.Brake != "none"}
}

// inRoom tells whether a flow is still on its way to its admission.
func (f *flow) inRoom() bool { return f.place != nil && f.place.token == "" }

// request appends what a person in the room asks next.
func (r *room) request(dst []byte, p *phrases, who *buyer, place *place) []byte {
	var body string
	switch {
	case place.asking:
		dst, body = append(dst, "POST "+r.path+"/challenges"...), `{"kind":"work"}`
	case place.entered && !place.again:
		dst = append(dst, "GET "+r.path+"/admissions/mine"...)
	default:
		in := struct {
			Ticket string            `json:"ticket,omitempty"`
			Proof  map[string]string `json:"proof,omitempty"`
		}{Ticket: place.ticket}
		if place.proof != "" {
			in.Proof = map[string]string{"challenge": place.challenge, "answer": place.proof}
		}
		text, err := json.Marshal(in)
		if err != nil {
			panic("rehearse: " + err.Error()) // a struct of strings always marshals
		}
		dst, body = append(dst, "POST "+r.path+"/admissions"...), string(text)
	}
	dst = append(append(append(dst, " HTTP/1.1\r\n"...), p.common...), who.head...)
	if body != "" {
		dst = append(dst, "Content-Type: application/json\r\nContent-Length: "...)
		dst = append(strconv.AppendInt(dst, int64(len(body)), 10), "\r\n"...)
	}
	return append(append(dst, "\r\n"...), body...)
}

// ask notes what was known when a request is sent.
func (p *place) ask(r *room) {
	p.seen = r.highest.Load()
	p.calls++
}

// hearPlace reads an answer about a place as the person's page would.
func (s *stage) hearPlace(f *flow, a *wire.Answer, r *reader) verdict {
	p := f.place
	switch {
	case a.Status == http.StatusCreated && p.asking:
		var c challengeView
		if json.Unmarshal(a.Body, &c) != nil || c.Challenge == "" || !visible(c.Challenge) {
			s.told.strange("a challenge without sense")
			return verdict{class: classFailed, wait: waitDefault}
		}
		return s.take(p, c)
	case a.Status < 300:
		return s.hearPlaceView(f, a)
	}
	no := r.problem(a.Body)
	wait := a.RetryAfter
	if wait < 0 {
		wait = waitDefault
	}
	if a.Status >= 500 {
		s.told.trouble(a.Status)
	}
	switch {
	case a.Status == http.StatusServiceUnavailable || a.Status == http.StatusTooManyRequests:
		return verdict{class: classBusy, wait: max(wait, placeWaitLeast)}
	case a.Status >= 500:
		s.told.strange("a place: " + odd(a.Status, no))
		return verdict{class: classFailed, wait: max(wait, waitDefault)}
	case no.Error == "ended":
		return verdict{class: classEnded, final: finalEnded}
	case no.Error == "challenge_required" || no.Error == "challenge_failed" && p.failures < proofsMost:
		if no.Error == "challenge_failed" {
			p.failures++
		}
		p.proof = ""
		p.asking = true
		return verdict{class: classWait}
	case a.Status == http.StatusNotFound && p.entered:
		s.room.lie(lieKept, "buyer %s had the place number %d and was told that he has none", s.crowd[f.buyer].id, p.number)
	default:
		s.told.strange("a place: " + odd(a.Status, no))
	}
	return verdict{class: classRefused, final: finalRefused}
}

// take solves a challenge. It is done where the answer was heard: the processor is the same.
func (s *stage) take(p *place, c challengeView) verdict {
	if c.Kind != "work" || c.Bits < 0 || c.Bits > workMost {
		s.told.strange(fmt.Sprintf("a challenge of the kind %q with %d bits, when work was asked for", c.Kind, c.Bits))
		return verdict{class: classRefused, final: finalRefused}
	}
	begin := time.Now()
	answer, tries := solve(c.Challenge, c.Bits)
	s.room.solving.Add(int64(time.Since(begin)))
	s.room.solved.Add(1)
	s.room.tries.Add(int64(tries))
	p.challenge, p.bits, p.proof, p.asking = c.Challenge, c.Bits, answer, false
	return verdict{class: classWait}
}

func (s *stage) hearPlaceView(f *flow, a *wire.Answer) verdict {
	var v placeView
	p, room, who := f.place, s.room, s.crowd[f.buyer].id
	if err := json.Unmarshal(a.Body, &v); err != nil {
		s.told.strange(fmt.Sprintf("%d with a place that is no JSON", a.Status))
		return verdict{class: classFailed, wait: waitDefault}
	}
	now := s.now()
	room.note(f.buyer, who, p, &v)
	switch v.Status {
	case "admitted":
		return s.admit(f, &v, now)
	case "missed":
		return verdict{class: classTurn, final: finalMissed}
	case "waiting":
		if !p.entered {
			p.entered = true
			room.entered.Add(1)
			room.waiting.Add(1)
		}
		if e := v.Estimate; e != nil && p.high == 0 {
			p.low, p.high = now+time.Duration(e.Low*float64(time.Second)), now+time.Duration(e.High*float64(time.Second))
		}
		p.again = habit(s.cfg.Seed, f.press<<16|uint64(p.calls), askReload) < reloadShare
		if p.again {
			room.reloads.Add(1)
		}
		wait := time.Duration(v.PollAfter) * time.Millisecond
		if wait <= 0 {
			wait = pollDefault
		}
		return verdict{class: classPlace, wait: max(wait, placeWaitLeast)}
	}
	s.told.strange("a place of the status " + strconv.Quote(v.Status))
	return verdict{class: classFailed, wait: waitDefault}
}

// note holds a place against what the same person was told before and against everybody else's.
func (r *room) note(buyer int32, who string, p *place, v *placeView) {
	if v.Ticket != "" {
		// A ticket may be written anew; what it stands for is the number.
		p.ticket = v.Ticket
	}
	if v.Number != nil {
		number := *v.Number
		r.mu.Lock()
		other, taken := r.numbers[number]
		r.numbers[number] = buyer
		switch {
		case p.number != 0 && p.number != number:
			r.lied(lieKept, "buyer %s had the number %d and then %d", who, p.number, number)
		case taken && other != buyer:
			r.lied(lieTwice, "the number %d was given to two buyers, %s among them", number, who)
		}
		r.mu.Unlock()
		if v.Status == "waiting" && number < p.seen {
			r.lie(lieOvertaken, "buyer %s waits with the number %d after somebody with the number %d was admitted", who, number, p.seen)
		}
		p.number = number
	} else if p.number != 0 && v.Status == "waiting" {
		r.lie(lieKept, "buyer %s had the number %d and then none", who, p.number)
	}
	if v.Position == nil || v.Status != "waiting" {
		return
	}
	if position := *v.Position; position < 1 || p.position != 0 && position > p.position {
		r.lie(lieFalls, "buyer %s was at position %d and then at %d", who, p.position, position)
	}
	p.position = *v.Position
}

// admit is the moment in which a person learns that it is his turn.
func (s *stage) admit(f *flow, v *placeView, now time.Duration) verdict {
	p, room, who := f.place, s.room, s.crowd[f.buyer].id
	if v.Token == "" || !visible(v.Token) {
		s.told.strange("an admission without a token")
		return verdict{class: classFailed, wait: waitDefault}
	}
	if p.entered {
		room.waiting.Add(-1)
	}
	p.token = v.Token
	room.admitted.Add(1)
	for n := p.number; ; {
		old := room.highest.Load()
		if n <= old || room.highest.CompareAndSwap(old, n) {
			break
		}
	}
	out := room.out.Add(1)
	for {
		old := room.most.Load()
		if out <= old || room.most.CompareAndSwap(old, out) {
			break
		}
	}
	room.mu.Lock()
	if other, taken := room.tokens[v.Token]; taken {
		room.lied(lieTwice, "buyers %s and %s were given one token", s.crowd[other].id, who)
	}
	room.tokens[v.Token] = f.buyer
	if p.high > 0 {
		// He learns of it when he asks, and asks every so often; that is no fault of the estimate.
		const slack = 5 * time.Second
		switch {
		case now < p.low-slack:
			room.early++
		case now > p.high+slack:
			room.late++
		default:
			room.inTime++
		}
	}
	room.mu.Unlock()
	s.rec.turned(s.rec.shard(int(f.buyer)), now-p.came)
	return verdict{class: classTurn, wait: thinkLeast + time.Duration(habit(s.cfg.Seed, f.press, askThink)*float64(thinkRange))}
}

// spend notes that a person begins to use his token.
func (r *room) spend(p *place) {
	if !p.begun {
		p.begun = true
		r.out.Add(-1)
	}
}

// homeAt is when those go home who still wait: so long before the end that who was just admitted can buy.
func (s *stage) homeAt() time.Duration {
	return s.cfg.Duration + s.cfg.Settle - min(homeBefore, s.cfg.Settle/2)
}

// leave takes everybody whose turn has not come out of the heap when the time is over; their last word is that they still wait.
// The caller holds o.mu.
func (o *office) leave(now time.Duration) {
	s, kept := o.s, o.later[:0]
	for _, f := range o.later {
		if f.inRoom() {
			o.inPlay--
			s.lastWord(s.rec.shard(0), f, s.stillWaiting(f), now)
			continue
		}
		kept = append(kept, f)
	}
	clear(o.later[len(kept):])
	o.later, o.closed = kept, true
	heap.Init(&o.later)
}

// stillWaiting is the last word of a person who is in the room when the time is over.
func (s *stage) stillWaiting(f *flow) final {
	if f.place.entered {
		return finalWaiting
	}
	return finalGaveUp
}

// admission is the header line of a press.
func (f *flow) admission(b *buyer) string {
	if f.place != nil {
		return "Levee-Admission: " + f.place.token + "\r\n"
	}
	return b.admission
}
