// Package permit knows who may do what: which roles there are, and which of them may use each operation and have each ability. It is a table in
// memory, compiled to sets of bits and swapped as a whole; asking it costs one atomic load and one AND. It does not know where the table is
// kept nor who may change it: that is the room access. Until that room has spoken, everything is as the code says.
package permit

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"levee"
)

// MaxRoles is how many roles there can be, ready ones and made ones.
const MaxRoles = 32

// Categories are what resources are sorted by.
var Categories = []string{"product", "order", "marketing", "permission", "content", "other"}

// categoryOf sorts operations by their tag in the API's document; what is not here is other.
var categoryOf = map[string]string{
	"products": "product", "pictures": "product", "orders": "order", "payments": "order", "sales": "marketing", "line": "marketing",
	"admissions": "marketing", "wishes": "marketing", "accounts": "permission", "administration": "permission", "access": "permission",
}

// Resource is something that roles are allowed: an operation of the API, or an ability.
type Resource struct {
	// Name is the operation's ID, or the ability's name.
	Name string
	// Category is one of Categories.
	Category string
	// Ability it is, or NoAbility for an operation.
	Ability levee.Ability
	// Method and Route are the operation's; "" for an ability.
	Method, Route, Summary string
	// Others is what reaching a thing of somebody else takes besides, where the operation is about things that belong to somebody.
	Others levee.Ability
	// Open says that it is for anybody, also for visitors: there is nothing to allow.
	Open bool
	// Default are the roles that may when nobody changed it.
	Default levee.Roles
}

// Index is a resource's place in its table.
type Index int

// Table is who may do what at this moment. Resources are added first, by one goroutine; then all methods may be called from any.
type Table struct {
	resources []Resource
	byName    map[string]Index
	now       atomic.Pointer[state]
	mu        sync.Mutex // guards the order of Set
}

// state is the table, compiled. Once requests are served it does not change.
type state struct {
	allowed   []levee.Roles             // by Index
	abilities [MaxRoles]levee.Abilities // by role
	names     [MaxRoles]string          // by role; "": there is none
	roles     map[string]levee.Roles    // by name
	known     levee.Roles               // the roles there are
}

// New makes a table that has the ready roles and all abilities.
func New() *Table {
	t := &Table{byName: map[string]Index{}}
	for _, x := range levee.AllAbilities() {
		t.append(Resource{Name: x.String(), Category: x.Category(), Ability: x, Summary: x.Summary(), Default: x.Roles()})
	}
	t.Set(nil, nil)
	return t
}

// Operation describes an operation of the API by its tag and the roles that its route names. The ready roles for one category follow: what is for
// everybody with an account is for them too, and what operators do with products, or with orders, is for the administrators of those.
func Operation(id, tag, method, route, summary string, roles levee.Roles, others levee.Ability) Resource {
	r := Resource{Name: id, Category: cmp.Or(categoryOf[tag], "other"), Method: method, Route: route, Summary: summary, Others: others,
		Open: roles == 0, Default: roles}
	if roles.Has(levee.RoleCustomer) {
		r.Default |= levee.ReadyRoles
	}
	if roles.Has(levee.RoleOperator) && r.Category == "product" {
		r.Default |= levee.RoleProductAdministrator
	}
	if roles.Has(levee.RoleOperator) && r.Category == "order" {
		r.Default |= levee.RoleOrderAdministrator
	}
	return r
}

// Add adds an operation. Its name must be new: two of one name are a bug, and panic. Until Set it is as its Default says.
func (t *Table) Add(r Resource) Index {
	i, s := t.append(r), t.now.Load()
	s.allowed = append(s.allowed, s.allow(r, r.Default))
	return i
}

func (t *Table) append(r Resource) Index {
	if _, there := t.byName[r.Name]; there || r.Name == "" {
		panic("permit: a resource must have a name of its own, got " + r.Name)
	}
	i := Index(len(t.resources))
	t.byName[r.Name] = i
	t.resources = append(t.resources, r)
	return i
}

// Resources lists them in the order in which they were added.
func (t *Table) Resources() []Resource { return slices.Clone(t.resources) }

// Find returns the resource of a name, and whether there is one.
func (t *Table) Find(name string) (Resource, Index, bool) {
	i, ok := t.byName[name]
	if !ok {
		return Resource{}, 0, false
	}
	return t.resources[i], i, true
}

// Set swaps the table: made are the roles besides the ready ones, one bit each with its name; granted is who may do what by the resource's name.
// A resource that is not in it is as the code says. Bits that belong to no role count for nothing, and an administrator may everything whatever
// it says: that is how a mistake can always be undone.
func (t *Table) Set(made map[levee.Roles]string, granted map[string]levee.Roles) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now.Store(t.compile(made, granted))
}

func (t *Table) compile(made map[levee.Roles]string, granted map[string]levee.Roles) *state {
	s := &state{allowed: make([]levee.Roles, len(t.resources)), roles: map[string]levee.Roles{}}
	name := func(role levee.Roles, name string) {
		if bit := bits.TrailingZeros32(uint32(role)); role != 0 && s.names[bit] == "" {
			s.names[bit], s.roles[name] = name, role
			s.known |= role
		}
	}
	for i, n := range levee.ReadyRoles.Names() {
		name(1<<i, n)
	}
	for role, n := range made {
		name(role, n)
	}
	for i := range s.abilities {
		s.abilities[i] = 1
	}
	for i, r := range t.resources {
		allowed, ok := granted[r.Name]
		if !ok {
			allowed = r.Default
		}
		allowed = s.allow(r, allowed)
		s.allowed[i] = allowed
		for rest := uint32(allowed); r.Ability != levee.NoAbility && rest != 0; rest &= rest - 1 {
			bit := bits.TrailingZeros32(rest)
			s.abilities[bit] = s.abilities[bit].With(r.Ability)
		}
	}
	return s
}

func (s *state) allow(r Resource, roles levee.Roles) levee.Roles {
	if r.Open {
		return 0
	}
	return roles&s.known | levee.RoleAdministrator
}

// May reports whether one of the roles may use the resource. It is not for open ones: those are everybody's.
func (t *Table) May(i Index, roles levee.Roles) bool { return t.now.Load().allowed[i]&roles != 0 }

// Allowed returns the roles that may use the resource.
func (t *Table) Allowed(i Index) levee.Roles { return t.now.Load().allowed[i] }

// Abilities returns what the roles give.
func (t *Table) Abilities(roles levee.Roles) levee.Abilities {
	s, set := t.now.Load(), levee.Abilities(1)
	for rest := uint32(roles); rest != 0; rest &= rest - 1 {
		set |= s.abilities[bits.TrailingZeros32(rest)]
	}
	return set
}

// Covers reports whether who has the roles may everything that the others may: whether he can give them without giving more than he has.
func (t *Table) Covers(roles, others levee.Roles) bool {
	for _, allowed := range t.now.Load().allowed {
		if allowed&others != 0 && allowed&roles == 0 {
			return false
		}
	}
	return true
}

// Granted lists the names of what the roles may and have, open operations left out, sorted.
func (t *Table) Granted(roles levee.Roles) []string {
	s, names := t.now.Load(), []string{}
	for i, allowed := range s.allowed {
		if allowed&roles != 0 {
			names = append(names, t.resources[i].Name)
		}
	}
	slices.Sort(names)
	return names
}

// Role returns the role of a name, and whether there is one.
func (t *Table) Role(name string) (levee.Roles, bool) {
	r, ok := t.now.Load().roles[name]
	return r, ok
}

// Known returns the roles there are.
func (t *Table) Known() levee.Roles { return t.now.Load().known }

// Names returns the names of the roles in r, in a fixed order; one that is not there is called by its number, role_5.
func (t *Table) Names(r levee.Roles) []string {
	s, names := t.now.Load(), []string{}
	for rest := uint32(r); rest != 0; rest &= rest - 1 {
		bit := bits.TrailingZeros32(rest)
		names = append(names, cmp.Or(s.names[bit], "role_"+strconv.Itoa(bit)))
	}
	return names
}
