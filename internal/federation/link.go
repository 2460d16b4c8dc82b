package federation

import (
	"context"
	"slices"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/db"
)

// link is a subject of an account, as SQL has it.
type link struct {
	key
	user     levee.UserID
	provider string // its name when it was linked
	called   string
	at       time.Time
}

// account returns whose account a person has, made for him at his first sign-in. The surest key decides: where an account is known by a weaker one
// only, it is remembered by all.
func (s *Service) account(ctx context.Context, p *provider, who person, from Origin) (user levee.UserID, fresh bool, err error) {
	err = s.DB.Tx(ctx, "federation.account", func(ctx context.Context, tx *db.Tx) error {
		user, fresh = 0, false
		for _, k := range who.keys {
			if user, err = readOwner(ctx, tx, k); user != 0 || err != nil {
				break
			}
		}
		if err != nil {
			return err
		}
		if fresh = user == 0; fresh {
			first := who.keys[0]
			u, err := s.Identity.EnrolTx(ctx, tx, identity.Enrolment{Name: who.name, Fallback: "buyer-" + hash(first.issuer + "\x00" + first.subject)[:16],
				Action: "user.federated", Told: map[string]any{"provider": p.name, "issuer": first.issuer, "subject": first.subject}}, from)
			if err != nil {
				return err
			}
			user = u.ID
		}
		return s.rememberTx(ctx, tx, p, who, user)
	})
	return user, fresh, err
}

// rememberTx writes those of a person's keys that nobody has, as far as the account has no other of the same issuer.
func (s *Service) rememberTx(ctx context.Context, tx *db.Tx, p *provider, who person, user levee.UserID) error {
	held, err := linksOf(ctx, tx, s.DB.Dialect(), user)
	if err != nil {
		return err
	}
	for _, k := range who.keys {
		if slices.ContainsFunc(held, func(l link) bool { return l.issuer == k.issuer }) {
			continue
		}
		if owner, err := readOwner(ctx, tx, k); err != nil {
			return err
		} else if owner != 0 {
			continue
		}
		if err := insertLink(ctx, tx, link{key: k, user: user, provider: p.name, called: who.called, at: s.Obs.Clock()}); err != nil {
			return err
		}
	}
	return nil
}

// Link is a provider by which somebody can sign in to his account.
type Link struct {
	Provider, Label string
	// Called is how the provider calls him; "" when it did not say.
	Called string
	At     time.Time
	// Usable says that the house still has the provider.
	Usable bool
}

// Linked is the end of a linking.
type Linked struct {
	Link
	ReturnTo string
}

// FinishLink ends a linking that the context's actor began in the same session. It changes nothing when the account has the subject already.
// CodeConflict: the subject is another account's, or the account has another of this provider. Else the errors are those of SignIn.
func (s *Service) FinishLink(ctx context.Context, in Answer, from Origin) (out Linked, err error) {
	defer levee.Wrap(&err, "federation.FinishLink(%s)", levee.Shorten(in.Provider, 30))
	actor, err := inPerson(ctx)
	if err != nil {
		return Linked{}, err
	}
	p, a, err := s.take(ctx, in, actor.Session)
	defer func() { s.count(ctx, p, err, from) }()
	if err != nil {
		return Linked{}, err
	}
	who, err := s.ask(ctx, p, a, in)
	if err != nil {
		return Linked{}, err
	}
	err = s.DB.Tx(ctx, "federation.link", func(ctx context.Context, tx *db.Tx) error {
		held, err := linksOf(ctx, tx, s.DB.Dialect(), actor.User)
		if err != nil {
			return err
		}
		mine := false
		for _, k := range who.keys {
			owner, err := readOwner(ctx, tx, k)
			if err != nil {
				return err
			}
			if owner != 0 && owner != actor.User {
				return levee.E(levee.CodeConflict, "this account at %s belongs to another account here; sign in with it, or unlink it there first", p.label).
					With("reason", ReasonLinked)
			}
			if mine = mine || owner == actor.User; mine {
				break
			}
			if slices.ContainsFunc(held, func(l link) bool { return l.issuer == k.issuer }) {
				return levee.E(levee.CodeConflict, "another account at %s is linked to yours already; unlink that first", p.label).With("reason", ReasonOther)
			}
		}
		if err := s.rememberTx(ctx, tx, p, who, actor.User); err != nil || mine {
			return err
		}
		first := who.keys[0]
		return recordTx(ctx, tx, s.Trail, "user.linked", actor.User, nil, map[string]any{"provider": p.name, "issuer": first.issuer, "subject": first.subject}, from)
	})
	if err != nil {
		return Linked{}, err
	}
	links, err := s.Links(ctx)
	for _, l := range links {
		if l.Provider == p.name {
			out = Linked{Link: l, ReturnTo: a.returnTo}
		}
	}
	return out, err
}

// Links returns the links of the context's actor in the order of the providers' names. CodeUnauthenticated for visitors.
func (s *Service) Links(ctx context.Context) (list []Link, err error) {
	defer levee.Wrap(&err, "federation.Links")
	actor, err := inPerson(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := readLinks(db.Primary(ctx), s.DB, actor.User)
	return s.shown(rows), err
}

// shown puts the keys of one provider together. A provider that has another name now has the links that it had.
func (s *Service) shown(rows []link) (list []Link) {
	for _, row := range rows {
		l := Link{Provider: row.provider, Label: row.provider, Called: row.called, At: row.at}
		if p := s.vouches(row); p != nil {
			l.Provider, l.Label, l.Usable = p.name, p.label, true
		}
		if !slices.ContainsFunc(list, func(o Link) bool { return o.Provider == l.Provider }) {
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(a, b Link) int {
		if a.Provider < b.Provider {
			return -1
		}
		return 1
	})
	return list
}

// vouches returns the provider of a link's issuer, or nil. Of several that share one (WeChat's, with two apps) it is the one by which the link was made, or
// else the first by name.
func (s *Service) vouches(l link) *provider {
	if p := s.providers[l.provider]; p != nil && slices.Contains(p.issuers, l.issuer) {
		return p
	}
	for _, info := range s.List() {
		if p := s.providers[info.Name]; slices.Contains(p.issuers, l.issuer) {
			return p
		}
	}
	return nil
}

// Unlink takes a provider from the account of the context's actor. CodeNotFound: it is not linked. CodeConflict: it is his last way to sign in.
func (s *Service) Unlink(ctx context.Context, provider string, from Origin) (err error) {
	defer levee.Wrap(&err, "federation.Unlink(%s)", levee.Shorten(provider, 30))
	actor, err := inPerson(ctx)
	if err != nil {
		return err
	}
	return s.DB.Tx(ctx, "federation.unlink", func(ctx context.Context, tx *db.Tx) error {
		rows, err := linksOf(ctx, tx, s.DB.Dialect(), actor.User)
		if err != nil {
			return err
		}
		var gone []link
		usable, others := false, false
		for _, row := range rows {
			shown := s.shown([]link{row})[0]
			if shown.Provider == provider {
				gone, usable = append(gone, row), usable || shown.Usable
			} else {
				others = others || shown.Usable
			}
		}
		if len(gone) == 0 {
			return levee.E(levee.CodeNotFound, "your account is not linked to %q", levee.Shorten(provider, 30))
		}
		if usable && !others {
			other, err := s.OtherWayTx(ctx, tx, actor.User)
			if err != nil {
				return err
			}
			if !other {
				return levee.E(levee.CodeConflict, "this is your last way to sign in: link another first").With("reason", ReasonLast)
			}
		}
		for _, row := range gone {
			if err := deleteLink(ctx, tx, row.key); err != nil {
				return err
			}
		}
		return recordTx(ctx, tx, s.Trail, "user.unlinked", actor.User,
			map[string]any{"provider": provider, "issuer": gone[0].issuer, "subject": gone[0].subject}, nil, from)
	})
}
