package token

import (
	"context"
	"slices"
	"time"

	"levee"
	"levee/internal/platform/db"
)

// Rolling says how a key is rolled.
type Rolling struct {
	// Algorithm of the new key; "": Config.Algorithm.
	Algorithm Algorithm
	// Now has the new key sign at once instead of after Config.KeyLead: services that cache the key set must then read it again when they meet a
	// key that they do not know. A key that is published already is taken instead of a new one.
	Now bool
}

// Keys lists the keys, the newest first, also those that have been gone for less than 30 days.
func (s *Service) Keys(ctx context.Context) (list []Key, err error) {
	defer levee.Wrap(&err, "token.Keys")
	if err := s.load(ctx); err != nil {
		return nil, err
	}
	now, r := s.now(), s.ring.Load()
	for _, k := range r.keys {
		list = append(list, k.shown(now))
	}
	if now.Before(r.houseGone) {
		house := *r.house
		house.retires, house.gone = r.houseSigns, r.houseGone
		list = append(list, house.shown(now))
	}
	return list, nil
}

// Roll makes a key that takes the place of the one that signs, on all nodes. It is published now and signs after Config.KeyLead; the one before
// stays known until the last of its tokens has expired. CodeConflict while another one waits to sign,
// unless in.Now pulls that one forward, and when there are too many keys. CodeUnavailable when SQL is away.
func (s *Service) Roll(ctx context.Context, in Rolling) (rolled Key, err error) {
	defer levee.Wrap(&err, "token.Roll")
	if in.Algorithm == "" {
		in.Algorithm = Algorithm(s.cfg.Algorithm)
	}
	if _, err := ParseAlgorithm(string(in.Algorithm)); err != nil {
		return Key{}, err
	}
	fresh, err := s.make(ctx, in.Algorithm) // before the transaction, which must not wait for it
	if err != nil {
		return Key{}, err
	}
	err = s.change(ctx, fresh, func(ctx context.Context, tx *db.Tx, keys []*key, now time.Time) error {
		wait := s.cfg.KeyLead
		if in.Now {
			wait = settle
		}
		next, err := s.next(ctx, tx, keys, fresh, in.Now, now, now.Add(wait))
		if err != nil {
			return err
		}
		rolled = next.shown(now)
		return s.audit(ctx, tx, "key.rolled", "", nil, audited(rolled))
	})
	return rolled, err
}

// Retire takes a key out of use. Another one takes its place where it is the last that signs: the one that is published and waits, else a new one.
// Usually it stays known until the last of its tokens has expired. withdrawn is for a key that has leaked: whatever it signed is refused
// within a second on all nodes, and its owners refresh or sign in again. CodeNotFound for a key that is
// not there or gone; CodeConflict for one that has retired already. CodeUnavailable when SQL is away.
func (s *Service) Retire(ctx context.Context, kid string, withdrawn bool) (retired Key, err error) {
	defer levee.Wrap(&err, "token.Retire")
	fresh, err := s.make(ctx, Algorithm(s.cfg.Algorithm))
	if err != nil {
		return Key{}, err
	}
	err = s.change(ctx, fresh, func(ctx context.Context, tx *db.Tx, keys []*key, now time.Time) error {
		var k *key
		for _, other := range keys {
			if other.kid == kid {
				k = other
			}
		}
		switch {
		case k == nil || k.state(now) == Gone:
			return levee.E(levee.CodeNotFound, "there is no such key")
		case k.state(now) == Retired && !withdrawn:
			return levee.E(levee.CodeConflict, "this key has retired; it is known until %s", k.gone.Format(time.RFC3339))
		}
		before := k.shown(now)
		if err := s.retire(ctx, tx, keys, k, fresh, withdrawn, now); err != nil {
			return err
		}
		retired = k.shown(now)
		return s.audit(ctx, tx, "key.retired", "", audited(before), audited(retired))
	})
	return retired, err
}

// retire is Retire for a key that is not gone.
func (s *Service) retire(ctx context.Context, tx *db.Tx, keys []*key, k, fresh *key, withdrawn bool, now time.Time) error {
	was, signs := k.state(now), k.signs
	if withdrawn || was == Published { // what never signed can go at once
		k.withdrawn = now
	}
	switch was {
	case Signing:
		if _, err := s.next(ctx, tx, keys, fresh, true, now, now.Add(settle)); err != nil {
			return err
		}
	case Published:
		k.retire(now)
		if i := slices.IndexFunc(keys, func(other *key) bool { return other.state(now) == Signing }); i >= 0 {
			keys[i].retires, keys[i].gone = time.Time{}, time.Time{} // it signs on
			if err := updateKey(ctx, tx, keys[i]); err != nil {
				return err
			}
		} else if _, err := s.next(ctx, tx, keys, fresh, true, now, signs); err != nil {
			return err
		}
	}
	return updateKey(ctx, tx, k)
}

// next has the key that waits, or else the fresh one, sign from then on in the place of the one that signs. With pull false a key that waits already
// is CodeConflict.
func (s *Service) next(ctx context.Context, tx *db.Tx, keys []*key, fresh *key, pull bool, now, from time.Time) (*key, error) {
	next, live := fresh, 0
	for _, k := range keys {
		switch k.state(now) {
		case Gone:
			continue
		case Published:
			next = k
		case Signing:
			k.retire(from)
			if err := updateKey(ctx, tx, k); err != nil {
				return nil, err
			}
		}
		live++
	}
	switch {
	case next != fresh && !pull:
		return nil, levee.E(levee.CodeConflict, "the key %s waits already: it signs from %s", next.kid, next.signs.UTC().Format(time.RFC3339))
	case next == fresh && live >= maxKeys:
		return nil, levee.E(levee.CodeConflict, "there are %d keys already: wait until some are gone", live)
	}
	next.signs = from
	if next != fresh {
		return next, updateKey(ctx, tx, next)
	}
	next.made = now
	return next, insertKey(ctx, tx, next)
}

// change alters keys in a transaction that no other one of its kind runs beside, and goes by them when it returns.
func (s *Service) change(ctx context.Context, fresh *key, alter func(context.Context, *db.Tx, []*key, time.Time) error) error {
	err := s.db.Tx(ctx, "token.keys", func(ctx context.Context, tx *db.Tx) error {
		keys, err := lockKeys(ctx, tx, s.db.Dialect())
		if err != nil {
			return err
		}
		fresh.number = nextNumber(keys)
		return alter(ctx, tx, s.ringOf(keys).keys, at(s.now().UnixMicro()))
	})
	if db.IsUnique(err) {
		err = levee.E(levee.CodeConflict, "the keys were changed at the same time, try again").Because(err)
	}
	if err != nil {
		return err
	}
	if err := s.load(ctx); err != nil { // it stands in SQL; Run will find it
		s.log.WarnContext(ctx, "keys were changed and cannot be read back; they count within a second of SQL's return", "err", err)
	}
	return nil
}

// audited is what the trail says of a key.
func audited(k Key) map[string]any {
	m := map[string]any{"kid": k.ID, "algorithm": k.Algorithm, "state": k.State, "signs_at": k.SignsAt.UTC()}
	if !k.WithdrawnAt.IsZero() {
		m["withdrawn_at"] = k.WithdrawnAt.UTC()
	}
	return m
}
