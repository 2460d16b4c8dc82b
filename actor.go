package levee

import (
	"context"
	"math/bits"
	"strconv"
)

// Roles is the set of roles an actor holds, one bit each: the ready ones below, and up to 27 that administrators make.
type Roles uint32

// The ready roles. A customer buys; an operator runs products, sales and orders; an administrator may do everything, always. Product and order
// administrators do what an operator does with products, or with orders, and nothing else.
const (
	RoleCustomer Roles = 1 << iota
	RoleOperator
	RoleAdministrator
	RoleProductAdministrator
	RoleOrderAdministrator
)

// ReadyRoles are all roles that every house has.
const ReadyRoles = RoleCustomer | RoleOperator | RoleAdministrator | RoleProductAdministrator | RoleOrderAdministrator

var readyNames = [...]string{"customer", "operator", "administrator", "product_administrator", "order_administrator"}

// Has reports whether any of the wanted roles is held.
func (r Roles) Has(any Roles) bool { return r&any != 0 }

// Staff reports whether any role but the customer's is held.
func (r Roles) Staff() bool { return r&^RoleCustomer != 0 }

// Names returns the names of the roles in r, in a fixed order. One that an administrator made is called by its number here, role_5: its own
// name is platform/permit's to know.
func (r Roles) Names() []string {
	names := make([]string, 0, bits.OnesCount32(uint32(r)))
	for rest := uint32(r); rest != 0; rest &= rest - 1 {
		if bit := bits.TrailingZeros32(rest); bit < len(readyNames) {
			names = append(names, readyNames[bit])
		} else {
			names = append(names, "role_"+strconv.Itoa(bit))
		}
	}
	return names
}

// Actor is who a request or a piece of work is done for. The zero Actor is a visitor without an account.
type Actor struct {
	User    UserID
	Session int64
	Roles   Roles
	// Abilities are what his roles give besides operations, as the house's table of permissions had it when he was recognised. Zero: nobody
	// asked the table, and what his roles give by default counts.
	Abilities Abilities
	// Rehearsal marks an invented buyer of a rehearsal. Only sales that are rehearsals sell to it; see MayJoin.
	Rehearsal bool
	// Scope bounds what a personal access token may be used for. Nil: whatever the roles allow, as for somebody who signed in.
	Scope *Scope
}

// Scope is the set of operations that a personal access token is for. It is never changed, and gives nobody a right that his roles do not.
type Scope struct{ words map[string]struct{} }

// NewScope returns the scope of words: an operation's id (listOrders), or a category and what of it, orders:read for what only reads and
// orders:all for all of it. No words allow nothing.
func NewScope(words []string) *Scope {
	s := &Scope{words: make(map[string]struct{}, len(words))}
	for _, w := range words {
		s.words[w] = struct{}{}
	}
	return s
}

// Allows reports whether an operation of a category is within the scope; reads says that it changes nothing. A nil Scope allows all.
func (s *Scope) Allows(operation, category string, reads bool) bool {
	if s == nil {
		return true
	}
	in := func(word string) bool { _, ok := s.words[word]; return ok }
	return in(operation) || in(category+":all") || reads && in(category+":read")
}

// SignedIn reports whether the actor has an account.
func (a Actor) SignedIn() bool { return a.User != 0 }

// May reports whether the actor has the ability.
func (a Actor) May(x Ability) bool {
	if a.Abilities == 0 {
		return a.Roles.Has(x.Roles())
	}
	return a.Abilities.has(x)
}

// Reaches is the rule of things that belong to somebody: whether the actor may deal with one of owner's, because it is his own or because
// he has the ability for those of others. Visitors own nothing.
func (a Actor) Reaches(owner UserID, others Ability) bool {
	return a.SignedIn() && a.User == owner || a.May(others)
}

// MayJoin reports whether the actor may take part in a sale. Real sales are for real accounts. A rehearsal is for invented buyers,
// and for those who rehearse it: somebody must be able to see by hand what the crowd does to a page.
func (a Actor) MayJoin(rehearsal bool) bool {
	return a.Rehearsal == rehearsal || rehearsal && a.May(SalesRehearse)
}

// System is the actor of work that no person asked for: expiry, reconciliation, timed tasks.
var System = Actor{User: 1, Roles: RoleOperator | RoleAdministrator}

type actorKey struct{}

// WithActor returns a context that carries the actor.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// ActorFrom returns the context's actor, or the zero Actor (a visitor).
func ActorFrom(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}
