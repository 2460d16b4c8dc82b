package levee

// Ability is something that roles give besides operations of the API: what one sees or reaches within an operation. It is granted to roles in
// the same table as operations are.
type Ability uint8

// The abilities. Those of others are the object rules: a thing that belongs to somebody is for him and for who has the ability.
const (
	// NoAbility is had by nobody.
	NoAbility Ability = iota
	// ProductsUnsold shows products that are not on sale.
	ProductsUnsold
	// OrdersOfOthers reaches orders, payments and reservations of other people.
	OrdersOfOthers
	// SalesHidden shows drafts and rehearsals, and what of a sale buyers need not know.
	SalesHidden
	// SalesRehearse takes part in rehearsals.
	SalesRehearse
	// AccountsOfOthers reaches other people's accounts.
	AccountsOfOthers
	// AccountsCreate makes accounts that have roles.
	AccountsCreate
	// MetricsRead reads the numbers of a node from another machine.
	MetricsRead
	// ListsExport takes whole lists out as files.
	ListsExport

	abilities // how many there are; at most 63
)

const operators = RoleOperator | RoleAdministrator

var ability = [abilities]struct {
	name, category, summary string
	roles                   Roles
}{
	ProductsUnsold:   {"products.unsold", "product", "See products that are not on sale", operators | RoleProductAdministrator},
	OrdersOfOthers:   {"orders.of_others", "order", "Reach orders, payments and reservations of other people", operators | RoleOrderAdministrator},
	SalesHidden:      {"sales.hidden", "marketing", "See drafts and rehearsals of sales, and their numbers", operators},
	SalesRehearse:    {"sales.rehearse", "marketing", "Take part in rehearsals of sales", operators},
	AccountsOfOthers: {"accounts.of_others", "permission", "Reach other people's accounts", RoleAdministrator},
	AccountsCreate:   {"accounts.create", "permission", "Make accounts that have roles", RoleAdministrator},
	MetricsRead:      {"metrics.read", "other", "Read a node's metrics from another machine", operators},
	ListsExport:      {"lists.export", "other", "Take whole lists out as files", operators | RoleProductAdministrator | RoleOrderAdministrator},
}

// AllAbilities lists the abilities.
func AllAbilities() []Ability {
	var all []Ability
	for x := NoAbility + 1; x < abilities; x++ {
		all = append(all, x)
	}
	return all
}

// String returns the name, such as orders.of_others; "" for NoAbility.
func (x Ability) String() string {
	if x >= abilities {
		return ""
	}
	return ability[x].name
}

// Category returns which part of the house it is about, and Summary what it allows, in words.
func (x Ability) Category() string { return ability[x].category }

// Summary returns what it allows, in words.
func (x Ability) Summary() string { return ability[x].summary }

// Roles returns the roles that have it unless an administrator changes that.
func (x Ability) Roles() Roles {
	if x >= abilities {
		return 0
	}
	return ability[x].roles
}

// Abilities is a set of them that a table of permissions made. The zero value is no set; the empty set is Abilities(1).
type Abilities uint64

// With returns the set with one more.
func (s Abilities) With(x Ability) Abilities { return s | 1 | 1<<x }

func (s Abilities) has(x Ability) bool { return x != NoAbility && s&(1<<x) != 0 }
