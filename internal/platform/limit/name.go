package limit

import (
	"fmt"
	"time"
)

// Name is one limit. Each has its own keys, so that a flood on one cannot push out what another remembers.
type Name uint8

// The limits. None allows everything. The default rates and what the key is stand in the table below.
const (
	None Name = iota
	SignIn
	SignInAccount
	SignUp
	Read
	Write
	Purchase
	Payment
	Admission
	AdmissionAddress
	Challenge
	Poll
	Import
	Connect
	SMS
	SMSDay
	SMSAddress
	SMSHouse
	SecondFactor
	Token
	Route
	Sale
	nameCount
)

// Away says what a limit that nodes share over Redis does while Redis is away.
type Away uint8

// What a limit may do without Redis.
const (
	// AwayOpen goes by the node's share of the rate, rounded up: every node allows something, all together somewhat more than the rate at most.
	AwayOpen Away = iota
	// AwayShare goes by the node's share, rounded down, to none if need be: what all nodes together allow while Redis is away is no more than the
	// rate. What Redis had counted elsewhere before is not known, so the window in which the outage begins may see twice the rate.
	AwayShare
	// AwayClosed refuses with CodeUnavailable until Redis is back: for what costs money or cannot be undone.
	AwayClosed
)

// String returns the word for it in config and API.
func (a Away) String() string {
	switch a {
	case AwayOpen:
		return "open"
	case AwayShare:
		return "share"
	case AwayClosed:
		return "closed"
	}
	return fmt.Sprintf("away(%d)", uint8(a))
}

var table = [nameCount]struct {
	name  string
	scope Scope
	rate  Rate
	away  Away
	// guard keeps the charge also when a limit by account refuses in the same step: what tries one account after the other is not free.
	guard bool
}{
	None: {name: "none"},
	// An office behind one address signs in at nine o'clock; a guesser needs thousands of tries.
	SignIn: {"sign_in", ByAddress, Rate{Count: 30, Per: time.Minute}, AwayShare, true},
	// A person who has forgotten needs fewer; at this rate a list of the 1,000 commonest passwords takes a day.
	SignInAccount: {"sign_in_account", ByAccount, Rate{Count: 10, Per: 15 * time.Minute}, AwayShare, false},
	// Each costs a password hash (about 20 ms of a core) and a row that stays.
	SignUp: {"sign_up", ByAddress, Rate{Count: 20, Per: time.Hour}, AwayShare, true},
	// A page takes some ten requests, and many people may share an address.
	Read:  {"read", ByAddress, Rate{Count: 200, Per: time.Second, Burst: 400}, AwayOpen, false},
	Write: {"write", ByUser, Rate{Count: 20, Per: time.Second, Burst: 40}, AwayOpen, false},
	// Nobody's finger is faster; a script gains nothing over it.
	Purchase: {"purchase", ByUser, Rate{Count: 10, Per: time.Second, Burst: 20}, AwayShare, false},
	// Each asks the provider for an attempt; a person tries another card a few times.
	Payment:   {"payment", ByUser, Rate{Count: 20, Per: time.Minute}, AwayClosed, false},
	Admission: {"admission", ByUser, Rate{Count: 5, Per: time.Second, Burst: 10}, AwayShare, false},
	// A mobile network brings thousands at the opening through one address; more than these come one after another.
	AdmissionAddress: {"admission_address", ByAddress, Rate{Count: 100, Per: time.Second, Burst: 1000}, AwayOpen, true},
	// A picture costs a millisecond of a core, and a person who cannot read one asks for a few more.
	Challenge: {"challenge", ByUser, Rate{Count: 30, Per: time.Minute}, AwayShare, false},
	Poll:      {"poll", ByUser, Rate{Count: 10, Per: time.Second, Burst: 20}, AwayOpen, false},
	// Each may read 20 MiB and write 100,000 rows.
	Import: {"import", ByUser, Rate{Count: 10, Per: time.Minute}, AwayShare, false},
	// A page opens one stream and opens it again after a cut.
	Connect: {"connect", ByAddress, Rate{Count: 300, Per: time.Minute, Burst: 300}, AwayOpen, false},
	// Each message costs money and rings somebody's telephone. The four are charged as one step: a number's minute and day, the asker's
	// address, and what the house is ready to pay for: never more than 6,000 in a day.
	SMS:        {"sms", ByAccount, Rate{Count: 1, Per: time.Minute}, AwayClosed, false},
	SMSDay:     {"sms_day", ByAccount, Rate{Count: 5, Per: 24 * time.Hour}, AwayClosed, false},
	SMSAddress: {"sms_address", ByAddress, Rate{Count: 20, Per: time.Hour}, AwayClosed, true},
	SMSHouse:   {"sms_house", ByHouse, Rate{Count: 5000, Per: 24 * time.Hour, Burst: 1000}, AwayClosed, false},
	// Of six digits, three codes are good at a time: at this rate who has the password needs two years for an even chance.
	SecondFactor: {"second_factor", ByAccount, Rate{Count: 5, Per: 15 * time.Minute}, AwayClosed, false},
	// Brakes that an operator may pull: off until he does. They are charged beside the limit of the route, as one step with it.
	Token: {"token", ByToken, Rate{}, AwayOpen, false},
	Route: {"route", ByRoute, Rate{}, AwayOpen, false},
	Sale:  {"sale", BySale, Rate{}, AwayOpen, false},
}

// String returns the limit's name in config, metrics, headers and the API.
func (n Name) String() string {
	if n >= nameCount {
		return fmt.Sprintf("limit(%d)", uint8(n))
	}
	return table[n].name
}

// Scope returns what the limit's key is.
func (n Name) Scope() Scope { return table[n].scope }

// Guards reports whether the limit guards accounts: in an AllowAll it keeps a charge that its own rate allows when only limits by account refuse.
func (n Name) Guards() bool { return table[n].guard }

// part is what the limit is to the others of one step.
func (n Name) part() int {
	switch {
	case n.Guards():
		return partGuard
	case n.Scope() == ByAccount:
		return partGuarded
	}
	return partOther
}

const (
	partOther = iota
	partGuard
	partGuarded
)

// Names returns all limits but None, in a fixed order.
func Names() []Name {
	names := make([]Name, 0, nameCount-1)
	for n := None + 1; n < nameCount; n++ {
		names = append(names, n)
	}
	return names
}

// ParseName returns the limit of a name, and whether there is one; none is not one.
func ParseName(s string) (Name, bool) {
	for n := None + 1; n < nameCount; n++ {
		if table[n].name == s {
			return n, true
		}
	}
	return None, false
}
