package lend

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"time"

	"levee"
	"levee/internal/platform/lock"
)

const (
	// lockPrefix keeps what other programs lock apart from what the house itself does.
	lockPrefix = "lend/"
	// waitMost is the longest that a request waits for its turn.
	waitMost = time.Minute
	// waitingMost is how many requests of one program may wait at a time, at one node.
	waitingMost = 1000

	leasePrefix = "lse_"
)

// waiters counts the requests of each program that wait.
type waiters struct {
	mu sync.Mutex // guards by
	by map[string]int
}

// enter counts one in; false: they are as many as may be.
func (w *waiters) enter(program string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by[program] >= waitingMost {
		return false
	}
	if w.by == nil {
		w.by = map[string]int{}
	}
	w.by[program]++
	return true
}

func (w *waiters) leave(program string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.by[program]--; w.by[program] == 0 {
		delete(w.by, program)
	}
}

// Run ends, when ctx does, the requests that wait for a lock, so that the server is drained soon.
func (s *Service) Run(ctx context.Context) error {
	<-ctx.Done()
	s.end()
	return nil
}

// take takes a place in a name for a program. With wait 0 it does not wait. CodeConflict: it was not free in time.
func (s *Service) take(ctx context.Context, program, name string, wait time.Duration, opts ...lock.Option) (t lock.Ticket, err error) {
	if wait <= 0 {
		t, err = s.Locks.TryHold(ctx, lockPrefix+name, opts...)
	} else {
		if !s.waiting.enter(program) {
			return t, levee.E(levee.CodeUnavailable, "%d requests of this program wait for locks already", waitingMost).After(time.Second)
		}
		defer s.waiting.leave(program)
		inTime, cancel := context.WithTimeout(ctx, wait)
		defer cancel()
		defer context.AfterFunc(s.ending, cancel)()
		t, err = s.Locks.Hold(inTime, lockPrefix+name, opts...)
	}
	switch {
	case err == nil && ctx.Err() != nil: // who asked has gone: nobody would give it back
		_ = s.Locks.GiveBack(ctx, t)
		err = ctx.Err()
	case err == nil:
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, lock.ErrHeld), levee.CodeOf(err) == levee.CodeTimeout:
		err = levee.E(levee.CodeConflict, "the lock %q is held", name).After(time.Second).Because(err)
	case s.ending.Err() != nil:
		err = levee.E(levee.CodeUnavailable, "this node is stopping").After(time.Second).Because(err)
	}
	return t, err
}

// seal makes a lease's id: the ticket, signed for the program that may use it. Any node of the house reads it.
func (s *Service) seal(program string, t lock.Ticket) string {
	text, _ := t.MarshalText() // it never fails
	return leasePrefix + base64.RawURLEncoding.EncodeToString(append(s.sign(program, text), text...))
}

const signLen = 16

func (s *Service) sign(program string, text []byte) []byte {
	h := hmac.New(sha256.New, s.LeaseKey)
	h.Write([]byte(program + "\x00"))
	h.Write(text)
	return h.Sum(nil)[:signLen]
}

// unseal reads a lease's id. CodeNotFound: it is none, of another lock, or of another program.
func (s *Service) unseal(program, name, id string) (t lock.Ticket, err error) {
	rest, ok := strings.CutPrefix(id, leasePrefix)
	raw, err := base64.RawURLEncoding.Strict().DecodeString(rest)
	if ok && err == nil && len(raw) > signLen && hmac.Equal(raw[:signLen], s.sign(program, raw[signLen:])) {
		if err := t.UnmarshalText(raw[signLen:]); err == nil && t.Name == lockPrefix+name {
			return t, nil
		}
	}
	return t, levee.E(levee.CodeNotFound, "there is no such lease of this lock, or it is not this program's")
}
