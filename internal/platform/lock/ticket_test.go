package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

func init() { // before the last one, which closes a node
	checks = slices.Insert(checks, len(checks)-1, struct {
		name  string
		check func(ctx context.Context, h *house) error
	}{"tickets", checkTickets})
}

func checkTickets(ctx context.Context, h *house) error {
	name, ttl := newName(), max(h.ttl, time.Second) // nothing but this check renews it, in time also on a busy machine
	given, err := h.node(0).Hold(ctx, name, TTL(ttl))
	if err != nil {
		return err
	}
	text, _ := given.MarshalText()
	var t Ticket
	if err := t.UnmarshalText(text); err != nil || t.Fence != given.Fence || t.Name != name {
		return fmt.Errorf("%q came back as %+v: %v", text, t, err)
	}
	// Any node renews it, and it lasts.
	for i := range 8 {
		time.Sleep(ttl * 4 / 10)
		if t, err = h.node(i).Renew(ctx, t); err != nil {
			return fmt.Errorf("renewal %d: %w", i, err)
		}
		if left := time.Until(t.Expires); left > ttl || left < ttl/2 {
			return fmt.Errorf("renewed, it lasts for %v", left)
		}
		if _, err := h.node(i+1).TryHold(ctx, name); !errors.Is(err, ErrHeld) {
			return fmt.Errorf("a second one got %v", err)
		}
	}
	if err := h.node(2).GiveBack(ctx, t); err != nil {
		return fmt.Errorf("given back at another node: %w", err)
	}
	next, err := h.node(1).TryAcquire(ctx, name)
	if err != nil {
		return fmt.Errorf("after it was given back: %w", err)
	}
	if next.Fence() <= t.Fence {
		return fmt.Errorf("fence %d after %d", next.Fence(), t.Fence)
	}
	if err := h.node(0).GiveBack(ctx, t); !errors.Is(err, ErrLost) {
		return fmt.Errorf("given back twice: %v", err)
	}
	if _, err := h.node(0).Renew(ctx, t); !errors.Is(err, ErrLost) {
		return fmt.Errorf("renewed after the end: %v", err)
	}
	// Who waits and goes away holds nothing.
	short, cancel := context.WithTimeout(ctx, h.slack)
	defer cancel()
	if _, err := h.node(2).Hold(short, name); levee.CodeOf(err) != levee.CodeTimeout {
		return fmt.Errorf("the deadline gave %v", err)
	}
	if err := next.Release(ctx); err != nil {
		return err
	}
	if t, err = h.node(0).TryHold(ctx, name, TTL(ttl)); err != nil {
		return fmt.Errorf("after who waited had gone: %w", err)
	}
	// Nobody renews it: the next one gets it, and it is over for good.
	began := time.Now()
	if next, err = h.node(1).Acquire(ctx, name); err != nil {
		return err
	}
	if d := time.Since(began); d > ttl+late || time.Now().Before(t.Expires) {
		return fmt.Errorf("the next one came in after %v of %v", d, ttl)
	}
	if _, err := h.node(0).Renew(ctx, t); !errors.Is(err, ErrLost) {
		return fmt.Errorf("renewed beside the next holder: %v", err)
	}
	if err := h.node(0).GiveBack(ctx, t); !errors.Is(err, ErrLost) {
		return fmt.Errorf("given back beside the next holder: %v", err)
	}
	if _, err := h.node(2).TryHold(ctx, name); !errors.Is(err, ErrHeld) {
		return fmt.Errorf("the next one lost its place: %v", err)
	}
	if err := next.Release(ctx); err != nil {
		return err
	}
	// Its MaxHold ends it also while it is renewed.
	began = time.Now()
	if t, err = h.node(0).Hold(ctx, name, TTL(ttl), MaxHold(2*ttl)); err != nil {
		return err
	}
	for err == nil {
		if time.Since(began) > 3*ttl {
			return errors.New("renewed beyond its MaxHold")
		}
		time.Sleep(ttl / 5)
		t, err = h.node(1).Renew(ctx, t)
	}
	if !errors.Is(err, ErrLost) || time.Since(began) < ttl {
		return fmt.Errorf("after %v: %w", time.Since(began), err)
	}
	free, err := h.node(2).Acquire(ctx, name)
	if err != nil {
		return err
	}
	return free.Release(ctx)
}

func TestTicketText(t *testing.T) {
	l, err := Open(Config{}, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	one, err := l.Hold(t.Context(), strings.Repeat("n", nameMax), Shared())
	if err != nil {
		t.Fatal(err)
	}
	text, _ := one.MarshalText()
	if len(text) > 400 {
		t.Errorf("%d bytes", len(text))
	}
	for _, bad := range []string{"", "1", string(text) + " ", string(text[1:]), strings.Replace(string(text), " 1000 ", " 1001 ", 1), strings.Replace(string(text), " 1000 ", " 0 ", 1),
		strings.Replace(string(text), " 10000000 ", " 1 ", 1), string(text[:len(text)-1]), string(text[:len(text)-1]) + "!", strings.Repeat(" ", 7), strings.Repeat("9", 500)} {
		var out Ticket
		if err := out.UnmarshalText([]byte(bad)); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%.60q: %v", bad, err)
		}
	}
	if _, err := l.Hold(t.Context(), "a", And("b")); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("with And: %v", err)
	}
	// Another name's ticket with this token is not one.
	other := one
	other.Name = "other"
	if err := l.GiveBack(t.Context(), other); !errors.Is(err, ErrLost) {
		t.Errorf("under another name: %v", err)
	}
	if err := l.GiveBack(t.Context(), one); err != nil {
		t.Error(err)
	}
}

// Tickets that nobody gives back do not fill the memory.
func TestForgottenTickets(t *testing.T) {
	l, err := Open(Config{TTL: ttlMin}, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range 1500 {
		if _, err := l.Hold(t.Context(), fmt.Sprint("n", i)); err != nil {
			t.Fatal(err)
		}
		if i == 1000 {
			time.Sleep(time.Second + 3*ttlMin)
		}
	}
	if n := len(l.tickets.all); n > 600 {
		t.Errorf("%d tickets are kept", n)
	}
}
