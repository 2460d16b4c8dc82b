package identity

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/argon2"

	"levee"
	"levee/internal/handle"
	"levee/internal/platform/obs"
)

// hasher makes and checks argon2id hashes, a bounded number at a time: each takes some 20 ms of a core and 19 MiB, so
// without a bound a flood of sign-ins would take the machine.
type hasher struct {
	memory, passes uint32
	slots          chan struct{}
	queue          int64
	waiting        atomic.Int64
	metrics        *metrics
	now            obs.Clock
	// nobody is a hash that no password has. It is checked for unknown accounts, so that they cost what known ones do.
	nobody string
}

func newHasher(cfg Config, now obs.Clock, m *metrics) *hasher {
	h := &hasher{
		memory: uint32(cfg.HashMemory), passes: uint32(cfg.HashTime),
		slots: make(chan struct{}, cfg.HashesAtOnce), queue: int64(cfg.HashQueue), metrics: m, now: now,
	}
	var salt [16]byte
	var sum [handle.HashBytes]byte
	rand.Read(salt[:]) // never fails
	rand.Read(sum[:])
	h.nobody = handle.Hash{Passes: h.passes, Memory: h.memory, Salt: salt[:], Sum: sum[:]}.String()
	return h
}

// room returns the error of run when it would shed just now: so that in a flood nothing else is done first.
func (h *hasher) room() error {
	if len(h.slots) == cap(h.slots) && h.waiting.Load() >= h.queue {
		return h.shed()
	}
	return nil
}

func (h *hasher) shed() error {
	h.metrics.shed.Inc()
	return levee.E(levee.CodeUnavailable, "too many sign-ins at this moment").After(2 * time.Second)
}

// run does one hash when it is its turn: at once, after waiting, or never (CodeUnavailable with RetryAfter) when too many
// wait already. A context that ends while waiting ends the wait.
func (h *hasher) run(ctx context.Context, password string, salt []byte, passes, memory uint32) ([]byte, error) {
	select {
	case h.slots <- struct{}{}:
	default:
		if h.waiting.Add(1) > h.queue {
			h.waiting.Add(-1)
			return nil, h.shed()
		}
		select {
		case h.slots <- struct{}{}:
			h.waiting.Add(-1)
		case <-ctx.Done():
			h.waiting.Add(-1)
			return nil, ctx.Err()
		}
	}
	defer func() { <-h.slots }()
	start := h.now()
	sum := argon2.IDKey([]byte(password), salt, passes, memory, 1, handle.HashBytes)
	h.metrics.hash.Observe(h.now().Sub(start).Seconds())
	return sum, nil
}

// hash returns the password's hash in PHC form ($argon2id$v=19$m=…,t=…,p=1$salt$sum).
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	var salt [16]byte
	rand.Read(salt[:]) // never fails
	sum, err := h.run(ctx, password, salt[:], h.passes, h.memory)
	if err != nil {
		return "", err
	}
	return handle.Hash{Passes: h.passes, Memory: h.memory, Salt: salt[:], Sum: sum}.String(), nil
}

// check reports whether the password has this hash, and whether the hash should be made anew at today's cost. An empty
// hash stands for an account that does not exist: it costs the same and never matches.
func (h *hasher) check(ctx context.Context, password, encoded string) (ok, stale bool, err error) {
	if encoded == "" {
		encoded = h.nobody
	}
	stored, err := handle.ParseHash(encoded)
	if err != nil {
		return false, false, err
	}
	got, err := h.run(ctx, password, stored.Salt, stored.Passes, stored.Memory)
	if err != nil {
		return false, false, err
	}
	ok = subtle.ConstantTimeCompare(got, stored.Sum) == 1 && encoded != h.nobody
	return ok, ok && (stored.Passes != h.passes || stored.Memory != h.memory), nil
}
