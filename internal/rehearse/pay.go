package rehearse

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

const (
	// payWorkers is how many people pay at once. Few: a payment costs the server signatures, and it is the purchases that are
	// rehearsed.
	payWorkers = 8
	payThink   = time.Second // from the order to the payment
	payTries   = 3
)

// payers are the winners who pay, in the order of their orders.
type payers struct {
	s    *stage
	wake chan struct{} // capacity 1
	gone chan struct{} // closed when run has ended

	mu     sync.Mutex // guards all below
	line   []payer
	shut   bool   // no more will come
	off    string // not "": the server takes no payments for this rehearsal, and why
	failed int
	why    string // the last failure
	done   int
}

type payer struct {
	buyer int32
	order string
	from  time.Duration // since the start
}

func newPayers(s *stage) *payers {
	return &payers{s: s, wake: make(chan struct{}, 1), gone: make(chan struct{})}
}

func (p *payers) add(buyer int32, order string) {
	p.mu.Lock()
	if p.off == "" {
		p.line = append(p.line, payer{buyer, order, p.s.now() + payThink})
	}
	p.mu.Unlock()
	rouse(p.wake)
}

// finish lets those in the line pay and ends run.
func (p *payers) finish() {
	p.mu.Lock()
	p.shut = true
	p.mu.Unlock()
	rouse(p.wake)
}

// run pays until finish was called and the line is empty, or ctx ends.
func (p *payers) run(ctx context.Context) {
	defer close(p.gone)
	var wg sync.WaitGroup
	for range payWorkers {
		wg.Go(func() {
			for {
				next, wait, over := p.next()
				switch {
				case over:
					rouse(p.wake) // the next worker shall see it too
					return
				case wait > 0:
					if pause(ctx, wait, p.wake) != nil {
						return
					}
				default:
					p.pay(ctx, next)
				}
			}
		})
	}
	wg.Wait()
}

func (p *payers) next() (next payer, wait time.Duration, over bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case len(p.line) == 0 && p.shut:
		return next, 0, true
	case len(p.line) == 0:
		return next, time.Minute, false
	}
	if wait = p.line[0].from - p.s.now(); wait > 0 {
		return next, wait, false
	}
	next, p.line = p.line[0], p.line[1:]
	return next, 0, false
}

func (p *payers) pay(ctx context.Context, who payer) {
	token, _, _ := strings.Cut(strings.TrimPrefix(p.s.crowd[who.buyer].head, "Authorization: Bearer "), "\r\n")
	p.s.told.pay(who.order, false)
	var reason string
	for range payTries {
		no, err := p.s.op.pay(ctx, token, who.order)
		switch {
		case err == nil && no == nil:
			p.s.told.pay(who.order, true)
			p.mu.Lock()
			p.done++
			p.mu.Unlock()
			return
		case ctx.Err() != nil:
			return
		case err != nil:
			reason = err.Error()
		case no.status == http.StatusForbidden || no.status == http.StatusNotFound || no.status == http.StatusUnprocessableEntity:
			p.mu.Lock()
			p.off, p.line = fmt.Sprintf("%d %s: %s", no.status, no.problem.Error, no.problem.Detail), nil
			p.mu.Unlock()
			return
		default:
			reason = fmt.Sprintf("%d %s", no.status, no.problem.Error)
		}
		if pause(ctx, payThink, nil) != nil {
			return
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failed, p.why = p.failed+1, reason
}

// notes say what became of the payments.
func (p *payers) notes() (list []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.off != "" {
		list = append(list, "Nobody paid, orders stay unpaid: the server takes no payments here ("+p.off+").")
	} else {
		list = append(list, fmt.Sprintf("%d winners paid at the test provider.", p.done))
	}
	if len(p.line) > 0 {
		list = append(list, fmt.Sprintf("%d winners who meant to pay had no time left to.", len(p.line)))
	}
	if p.failed > 0 {
		list = append(list, fmt.Sprintf("%d payments failed, the last one so: %s", p.failed, p.why))
	}
	return list
}
