package limit

import (
	"net/netip"
	"strconv"

	"levee"
)

// Scope says what a limit's key is: whose requests are counted together.
type Scope uint8

// The scopes.
const (
	// ByAddress is where the request comes from: an IPv4 address, or the /64 of an IPv6 address (AddressKey).
	ByAddress Scope = iota
	// ByUser is the account, and for a visitor the address.
	ByUser
	// ByToken is the session or token that the request was signed in with, and without one as ByUser.
	ByToken
	// ByAccount is the account's name or number as it was typed, whether there is such an account or not.
	ByAccount
	// ByRoute is the operation, whoever asks: all its callers share the rate.
	ByRoute
	// BySale is the sale, whoever asks: all its callers share the rate.
	BySale
	// ByHouse is everything: one key.
	ByHouse
)

// String returns the scope's name, as the API shows it.
func (s Scope) String() string {
	names := [...]string{"address", "user", "token", "account", "route", "sale", "house"}
	if int(s) >= len(names) {
		return "scope(" + strconv.Itoa(int(s)) + ")"
	}
	return names[s]
}

// Caller is what the keys of a request are made of. Fields that a limit's scope does not name may stay empty.
type Caller struct {
	Actor   levee.Actor
	Address netip.Addr
	// Account is the name or number that was typed, in its canonical form.
	Account string
	// Route is the operation, Sale the sale's public id.
	Route, Sale string
}

// Key returns the caller's key in the limit: two callers share it if and only if they are the same in the limit's scope.
func (n Name) Key(c Caller) string {
	switch s := n.Scope(); {
	case s == ByToken && c.Actor.Session != 0:
		return "s" + strconv.FormatInt(c.Actor.Session, 36)
	case (s == ByUser || s == ByToken) && c.Actor.SignedIn():
		return "u" + strconv.FormatInt(int64(c.Actor.User), 36) // no address begins with a letter beyond f
	case s == ByAccount:
		return c.Account
	case s == ByRoute:
		return c.Route
	case s == BySale:
		return c.Sale
	case s == ByHouse:
		return ""
	}
	return AddressKey(c.Address)
}

// AddressKey returns the key for an address: an IPv4 address itself, also when it comes mapped into IPv6, and an IPv6 address's
// /64, because that is what one customer is given and may pick addresses from. The invalid address gives "".
func AddressKey(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if !a.Is6() {
		if !a.IsValid() {
			return ""
		}
		return a.String()
	}
	p, err := a.Prefix(64)
	if err != nil {
		return a.String()
	}
	return p.String()
}
