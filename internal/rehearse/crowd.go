package rehearse

import (
	"math/rand/v2"
	"strconv"
	"time"
)

// buyer is an invented person.
type buyer struct {
	id   string // public
	head string // the header lines that say who he is, ready to send
	// admission is the header line of his admission, "" where he must ask for it.
	admission string
}

func newBuyer(id, token, admission string) buyer {
	b := buyer{id: id, head: "Authorization: Bearer " + token + "\r\n"}
	if admission != "" {
		b.admission = "Levee-Admission: " + admission + "\r\n"
	}
	return b
}

// phrases builds requests out of parts that are ready.
type phrases struct {
	common                         string // header lines of every request
	buy, bare, poll, pollEnd, body string
}

func newPhrases(host, sale string, quantity int, async bool) phrases {
	common := "Host: " + host + "\r\nUser-Agent: levee-rehearse\r\n"
	buy := "POST /v1/sales/" + sale + "/purchases HTTP/1.1\r\n" + common
	p := phrases{common: common, bare: buy + "Content-Length: 0\r\n", poll: "GET /v1/reservations/", pollEnd: " HTTP/1.1\r\n" + common}
	p.body = `{"quantity":` + strconv.Itoa(quantity) + `}`
	if async {
		buy += "Prefer: respond-async\r\n"
	}
	p.buy = buy + "Content-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(p.body)) + "\r\n"
	if quantity != 1 { // one is what a purchase without a body means
		p.bare = ""
	}
	return p
}

// purchase appends the request of a press: n is its number, of which the idempotency key is made; admission is a header line.
func (p *phrases) purchase(dst []byte, b *buyer, admission string, n uint64) []byte {
	dst = append(append(append(dst, p.buy...), b.head...), admission...)
	return append(appendKey(dst, n), p.body...)
}

// cheapest appends the shortest request that says the same.
func (p *phrases) cheapest(dst []byte, b *buyer, n uint64) []byte {
	if p.bare == "" {
		return p.purchase(dst, b, b.admission, n)
	}
	return appendKey(append(append(append(dst, p.bare...), b.head...), b.admission...), n)
}

func (p *phrases) ask(dst []byte, b *buyer, reservation string) []byte {
	dst = append(append(append(dst, p.poll...), reservation...), p.pollEnd...)
	return append(append(dst, b.head...), "\r\n"...)
}

const hexDigits = "0123456789abcdef"

// appendKey ends the header with the idempotency key of press n.
func appendKey(dst []byte, n uint64) []byte {
	dst = append(dst, "Idempotency-Key: press-"...)
	for shift := 44; shift >= 0; shift -= 4 {
		dst = append(dst, hexDigits[n>>shift&15])
	}
	return append(dst, "\r\n\r\n"...)
}

// arrivals are the moments at which people press: a Poisson process, the same for the same seed.
type arrivals struct {
	rng  *rand.Rand
	rate float64 // per second
	end  time.Duration
	most uint64        // presses; 0: no such end
	at   time.Duration // of the next one
	n    uint64        // its number
}

func newArrivals(rate float64, end time.Duration, seed uint64) *arrivals {
	a := &arrivals{rng: rand.New(rand.NewPCG(seed, 0x6c65766565)), rate: rate, end: end}
	a.step()
	return a
}

func (a *arrivals) step() { a.at += time.Duration(a.rng.ExpFloat64() / a.rate * float64(time.Second)) }

// over tells whether everybody has come.
func (a *arrivals) over() bool { return a.at >= a.end || a.most > 0 && a.n >= a.most }

// next takes the next press.
func (a *arrivals) next() (n uint64, at time.Duration) {
	n, at = a.n, a.at
	a.n++
	a.step()
	return n, at
}

// habit is a number in [0, 1) that belongs to a press and a question: the same people do the same things in every run of a seed,
// in whatever order their answers come. The mixing is splitmix64.
func habit(seed, n, question uint64) float64 {
	z := seed*0x9e3779b97f4a7c15 + n*0xd1342543de82ef95 + question*0xaf251af3b0f025b5
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return float64((z^z>>31)>>11) / (1 << 53)
}

// The questions of habit.
const (
	askDouble uint64 = iota
	askDoubleAfter
	askPay
	askJitter
	askReload
	askThink
	askListen
)
