package rehearse

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/bits"
	"net/http"
	"strings"
	"time"
)

// fakeRoom is the waiting room of a house in memory. Its fields are guarded by the house's mu.
type fakeRoom struct {
	policy  policyView
	pollMs  int64
	places  map[string]*fakePlace
	line    []*fakePlace // by number
	served  int
	out     int64
	opened  time.Time
	credit  float64
	paced   time.Time
	posts   map[string]int // how often somebody asked for admission
	proofs  int            // that were good
	listens int
	// lie may change what a person is told; counter what the public stream says; numbers what the operator sees.
	lie     func(r *fakeRoom, who string, v map[string]any)
	counter func(r *fakeRoom, c *counter)
	numbers func(r *fakeRoom, out *int64)
	cap     int64 // 0: as the policy says
	pace    float64
}

type fakePlace struct {
	who      string
	number   int
	admitted bool
	spent    bool
}

func newFakeRoom(perSecond int64) *fakeRoom {
	return &fakeRoom{policy: policyView{Room: true, Order: "arrival", PerSecond: perSecond, Multiple: 3, Brake: "none"}, pollMs: 500,
		places: map[string]*fakePlace{}, posts: map[string]int{}}
}

func (h *house) admission() string {
	if h.room == nil {
		return ""
	}
	text, _ := json.Marshal(h.room.policy)
	return `,"mode":"race","admission":` + string(text)
}

// advance admits whose turn has come. The caller holds mu.
func (h *house) advance() {
	r, now := h.room, time.Now()
	if r.paced.IsZero() {
		r.paced = now
	}
	pace, most := float64(r.policy.PerSecond), r.policy.Multiple*h.free
	if r.pace > 0 {
		pace = r.pace
	}
	if r.cap > 0 {
		most = r.cap
	}
	r.credit = min(r.credit+now.Sub(r.paced).Seconds()*pace, max(1, pace/4))
	r.paced = now
	for r.credit >= 1 && r.out < most && r.served < len(r.line) {
		r.line[r.served].admitted = true
		r.served++
		r.out++
		r.credit--
	}
}

func (h *house) spend(who string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.room == nil || h.room.places[who] == nil || h.room.places[who].spent {
		return
	}
	h.room.places[who].spent = true
	h.room.out--
}

func (h *house) view(w http.ResponseWriter, who string, p *fakePlace) {
	r := h.room
	v := map[string]any{"status": "waiting", "ticket": "ticket-" + who, "number": p.number, "position": p.number - r.served,
		"waiting": len(r.line) - r.served, "poll_after_ms": r.pollMs}
	if !p.admitted {
		wait := float64(p.number-r.served) / float64(r.policy.PerSecond)
		v["estimate_seconds"] = map[string]float64{"low": wait * 0.8, "high": wait*1.3 + 1}
	}
	status := 200
	if p.admitted {
		status = 201
		v["status"], v["position"], v["token"] = "admitted", nil, "adm"+strings.TrimPrefix(who, "usr_")
	}
	if r.lie != nil {
		r.lie(r, who, v)
	}
	text, _ := json.Marshal(v)
	reply(w, status, string(text))
}

func (h *house) roomRoutes() {
	h.mux.HandleFunc("POST /v1/sales/sal_2/challenges", func(w http.ResponseWriter, r *http.Request) {
		reply(w, 201, fmt.Sprintf(`{"kind":"work","challenge":"c-%s","bits":%d}`, h.buyer(r), h.room.policy.WorkBits))
	})
	h.mux.HandleFunc("POST /v1/sales/sal_2/admissions", func(w http.ResponseWriter, r *http.Request) {
		var in struct {
			Ticket string
			Proof  struct{ Challenge, Answer string }
		}
		json.NewDecoder(r.Body).Decode(&in)
		h.mu.Lock()
		defer h.mu.Unlock()
		who, room := h.buyer(r), h.room
		room.posts[who]++
		p := room.places[who]
		if p == nil && room.policy.Brake == "work" {
			sum := sha256.Sum256([]byte(in.Proof.Challenge + "." + in.Proof.Answer))
			if in.Proof.Challenge != "c-"+who || bits.LeadingZeros16(uint16(sum[0])<<8|uint16(sum[1])) < room.policy.WorkBits {
				refuse(w, 403, "challenge_required", "", 0)
				return
			}
			room.proofs++
		}
		if p == nil {
			p = &fakePlace{who: who, number: len(room.line) + 1}
			room.places[who], room.line = p, append(room.line, p)
		}
		h.advance()
		h.view(w, who, p)
	})
	h.mux.HandleFunc("GET /v1/sales/sal_2/admissions/mine", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		p := h.room.places[h.buyer(r)]
		if p == nil {
			refuse(w, 404, "not_found", "", 0)
			return
		}
		h.advance()
		h.view(w, h.buyer(r), p)
	})
	h.mux.HandleFunc("GET /v1/sales/sal_2/admissions/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, ": hello\n\nevent: ping\ndata: {}\n\n")
		h.mu.Lock()
		h.room.listens++
		h.mu.Unlock()
		for r.Context().Err() == nil {
			h.mu.Lock()
			h.advance()
			c := counter{Served: int64(h.room.served), Waiting: int64(len(h.room.line) - h.room.served)}
			if h.room.counter != nil {
				h.room.counter(h.room, &c)
			}
			h.mu.Unlock()
			fmt.Fprintf(w, "id: 1\nevent: line\ndata: {\"served\":%d,\"waiting\":%d,\"open\":true}\n\n", c.Served, c.Waiting)
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(time.Second):
			}
		}
	})
	h.mux.HandleFunc("GET /v1/sales/sal_2/live", func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.room == nil {
			refuse(w, 404, "not_found", "", 0)
			return
		}
		h.advance()
		out := h.room.out
		if h.room.numbers != nil {
			h.room.numbers(h.room, &out)
		}
		reply(w, 200, fmt.Sprintf(`{"stock":{"remaining":%d},"queue":{"admitted":%d}}`, h.free, out))
	})
}
