// Package lend gives ids and locks to programs in any language, over HTTP: what platform/id and platform/lock give to Go.
//
// It owns who may ask (programs with a secret of their own, named in the configuration, not people) and what the requests and answers look like.
// It does not own the ids and locks themselves, keeps nothing (what a lease's id means stands in the id, signed), and knows no other room.
package lend

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/id"
	"levee/internal/platform/lock"
	"levee/internal/platform/obs"
)

// Config says who may borrow. The zero value lends nothing.
type Config struct {
	// Clients are the programs that may ask: NAME:SECRET, with spaces, commas or line breaks between several. NAME is up to 40 of a-z, 0-9 and
	// '-'; it appears in metrics and logs. SECRET is 32 to 256 letters, digits, '-', '_', '.', '~', '+', '/' and '=', as from: openssl
	// rand -hex 32. A name may stand twice with two secrets: that is how a secret is changed without a gap. At most 64 in all. Best
	// kept in a file that lend.clients_file names. Default: nobody, and the routes answer 404.
	Clients obs.Secret
	// Workers is how many worker numbers this process takes for ids to lend, from 1 to 16: each has room for 4,096 ids in a millisecond.
	// Default 2. The house's own ids have a worker number of their own.
	Workers int
}

const (
	nameMax, secretMin, secretMax = 40, 32, 256
	clientsMax                    = 64
	// CountMost is the most ids of one request.
	CountMost = 10_000
)

// client is one secret of a program.
type client struct {
	name   string
	secret [sha256.Size]byte // its digest: all are of one length, and none lies about in memory
}

// Validate returns CodeInvalid, which names what is allowed and never shows a secret, for the first value that is out of its bounds.
func (c Config) Validate() error {
	if c.Workers < 0 || c.Workers > 16 {
		return levee.Invalid("lend.workers", "from 1 to 16", c.Workers)
	}
	_, err := c.clients()
	return err
}

// Enabled reports whether anybody may borrow.
func (c Config) Enabled() bool { return strings.Trim(c.Clients.Reveal(), " ,\t\r\n") != "" }

func (c Config) clients() ([]client, error) {
	const form = "NAME:SECRET, several with spaces or lines between: NAME up to 40 of a-z, 0-9 and '-', SECRET 32 to 256 letters, digits and -_.~+/="
	var all []client
	seen := map[client]bool{}
	given := strings.FieldsFunc(c.Clients.Reveal(), func(r rune) bool { return strings.ContainsRune(" ,\t\r\n", r) })
	for i, text := range given {
		name, secret, ok := strings.Cut(text, ":")
		place := "client " + strconv.Itoa(i+1)
		switch {
		case !ok:
			return nil, levee.Invalid("lend.clients", form, place+" without a colon")
		case name == "" || len(name) > nameMax || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "":
			return nil, levee.Invalid("lend.clients", form, place+" with another name")
		case len(secret) < secretMin || len(secret) > secretMax:
			return nil, levee.Invalid("lend.clients", form, name+" with a secret of "+strconv.Itoa(len(secret))+" bytes")
		case strings.Trim(secret, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.~+/=") != "":
			return nil, levee.Invalid("lend.clients", form, name+" with other characters in its secret")
		case i >= clientsMax:
			return nil, levee.Invalid("lend.clients", "at most "+strconv.Itoa(clientsMax)+" clients", len(given))
		}
		one := client{name, sha256.Sum256([]byte(secret))}
		for other := range seen {
			if other.secret == one.secret {
				return nil, levee.Invalid("lend.clients", "a secret of its own for each", name+" and "+other.name+" with the same one")
			}
		}
		seen[one] = true
		all = append(all, one)
	}
	return all, nil
}

// WorkersWanted is Workers, or its default.
func (c Config) WorkersWanted() int {
	if c.Workers == 0 {
		return 2
	}
	return c.Workers
}

// Deps is what the room is built on. IDs, Small and Numbers are nil where Config names nobody.
type Deps struct {
	Obs *obs.Obs
	// IDs gives ids of the layout id.Default, in the house's own space; Small those of id.JS53.
	IDs, Small *id.Set
	// Numbers gives dense numbers by tag.
	Numbers *id.Segments
	// Locks are the locks, nil where Config names nobody. LeaseKey signs the ids of leases, the same at all nodes: 32 bytes.
	Locks    *lock.Locks
	LeaseKey []byte
	Config   Config
}

// Service is the room.
type Service struct {
	Deps
	clients []client
	lent    *prometheus.CounterVec
	leases  *prometheus.CounterVec
	waiting waiters
	ending  context.Context // of the waiting for locks
	end     context.CancelFunc
}

// New builds the room. CodeInvalid for a bad Config.
func New(d Deps) (*Service, error) {
	if err := d.Config.Validate(); err != nil {
		return nil, err
	}
	s := &Service{Deps: d}
	s.clients, _ = d.Config.clients()
	s.lent = obs.Register(d.Obs.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_lend_ids_total", Help: "Ids given to other programs.",
	}, []string{"client", "kind"}))
	s.leases = obs.Register(d.Obs.Metrics, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "levee_lend_leases_total", Help: "Locks asked for by other programs, by result: granted, refused, or lost, as a renewal or a release found out.",
	}, []string{"client", "result"}))
	s.ending, s.end = context.WithCancel(context.Background())
	return s, nil
}

// client returns the name of the program whose secret this is. It takes as long for a wrong secret as for a right one.
func (s *Service) client(secret string) (name string, ok bool) {
	digest := sha256.Sum256([]byte(secret))
	for i := range s.clients {
		if subtle.ConstantTimeCompare(digest[:], s.clients[i].secret[:]) == 1 {
			name, ok = s.clients[i].name, true
		}
	}
	return name, ok
}
