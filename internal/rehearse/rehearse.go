// Package rehearse plays a crowd against a running server the day before a sale: it makes a rehearsal copy of the sale, sends
// invented buyers at a given rate whatever the answers, and then compares what they were told with what the server's SQL holds.
//
// It owns the generator, its measuring and the report. It does not own anything of the house: it knows the server over HTTP
// only, so what it proves is what a client can see.
package rehearse

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"levee"
	"levee/internal/wire"
)

// Config of a rehearsal. Field names in errors are those of the command line.
type Config struct {
	// Server is the address of the server, http:// or https://, without a path. Required.
	Server string
	// User and Password sign an operator in. Token, an operator's access token, may stand instead of both; it must then be good
	// for the whole rehearsal, as it cannot be renewed.
	User     string
	Password string `json:"-"`
	Token    string `json:"-"`
	// Sale is the public id of the sale to rehearse; it is copied and not touched. Required.
	Sale string

	// Rate is how many buyers press the button per second, from 1 to 200,000. Default 1,000; with Queue, so many that all come within
	// Duration. The moments are a Poisson process
	// drawn from Seed. What the generator cannot send in time still counts from the moment it was meant to be sent.
	Rate float64
	// Buyers is how many people there are, from 1 to 1,000,000. Default: one for each press, at most 1,000,000. When all have
	// pressed once and time is left, they come again, each press with a new idempotency key. A buyer takes about 600 bytes here.
	Buyers int
	// Duration is how long people keep coming, from 1 s to 1 h. Default 30 s.
	Duration time.Duration
	// Connections are kept open to the server, from 1 to 16,384. Default 256. It is also the most requests under way at once;
	// too few, and presses wait here for a free one (the report tells).
	Connections int
	// Units and PerBuyer replace the sale's own in the copy; 0 keeps them. Units from 1 to 100,000,000, PerBuyer from 1 to 1,000.
	Units    int64
	PerBuyer int
	// Quantity is how many units each press asks for, from 1 to 1,000. Default 1.
	Quantity int
	// Early is how long before the opening the first people come, from 0 to 10 min. Default 0: the copy is open from the start.
	Early time.Duration
	// Pay is the share of the winners who pay at the test provider, 0 to 1. Default 0. Where the server does not let rehearsal
	// orders be paid, they stay unpaid and the report says so.
	Pay float64
	// Double is the share of people who press twice, 80 to 250 ms apart and with the same key, 0 to 1. Default 0.
	Double float64
	// Poll: everybody asks for an answer at once (Prefer: respond-async) and then polls his reservation. Without it the line is
	// held for the commit, and only who is answered 202 polls.
	Poll bool
	// Patience is how long a person goes on trying while he is told to wait (429, 503, not open, paused), from 1 s to 10 min.
	// Default 30 s.
	Patience time.Duration
	// Settle is the most time after Duration for open answers to come in and for unknown outcomes to be asked for again with
	// their key, from 1 s to 10 min. Default 60 s. What is unknown then fails the audit.
	Settle time.Duration
	// Timeout is how long one answer may take, from 100 ms to 2 min. Default 20 s. It must exceed the time for which the server
	// holds a purchase.
	Timeout time.Duration
	// Seed makes the presses and the people's habits repeatable. 0 stands for 1.
	Seed uint64

	// Queue says that the sale must have a waiting room: Buyers people come to it, once each, keep their places, ask again when
	// they are told to, and buy when it is their turn. A sale with a room is rehearsed so in any case; with Queue one without is
	// an error. They come within Duration or a little later, and whoever still waits shortly before the end of Settle goes home.
	Queue bool
	// Listen is the share of the people in a waiting room who also follow its public counter, each on a connection of his own, 0
	// to 1 and at most 10,000 people. Default 0.
	Listen float64

	// Max sends as many attempts as the server takes instead of Rate: a closed loop for benchmarks, which hides how long people
	// would have waited in a stall. Rate, Double, Early and Poll are not used.
	Max bool
	// Depth is how many requests Max sends on a connection before it waits for the first answer, 1 to 64. Default 1.
	Depth int

	// Late is how many of the Buyers, from 0 to one less than all, come only when everybody else has had his last word: whoever finds
	// units then finds what came back in the meantime. With it everybody comes once, at Rate. Not with Queue or Max. Default 0.
	Late int

	// Quiet leaves out the progress and prints the result only.
	Quiet bool
	// Watch is told what happens while it happens, for tests that disturb the server meanwhile.
	Watch Watch `json:"-"`

	dial func(ctx context.Context) (net.Conn, error) // set by tests: a line that is no socket
}

// Watch is told of a rehearsal's moments. Each function may be nil.
type Watch struct {
	// Begin is called just before the first person comes, with the public id of the copy.
	Begin func(copy string)
	// Ordered is called when somebody was told of an order for the first time, by many goroutines; it must not wait.
	Ordered func()
	// Calm is called when everybody but the late ones has had his last word. Its error ends the rehearsal without an audit.
	Calm func(ctx context.Context) error
}

// The defaults, and the bounds that need a name elsewhere.
const (
	rateDefault, rateMax     = 1000, 200_000
	buyersMax                = 1_000_000
	connDefault, connMax     = 256, 16_384
	quantityMax              = 1000
	unitsMax                 = 100_000_000
	durationDefault          = 30 * time.Second
	patienceDefault          = 30 * time.Second
	settleDefault            = 60 * time.Second
	timeoutDefault           = 20 * time.Second
	seedDefault              = 1
	rehearsalTail            = 5 * time.Minute // the copy stays open for this long after everything should be over
	earlyMin                 = 3 * time.Second // from the making of the copy to its opening, when people come early
	earlyPerBuyer            = 100 * time.Microsecond
	doubleAfter, doubleRange = 80 * time.Millisecond, 170 * time.Millisecond
)

// Normal returns the config with its defaults filled in, or CodeInvalid that names the flag, what is allowed and what was given.
func (c Config) Normal() (Config, error) {
	def(&c.Duration, durationDefault)
	if c.Queue && c.Buyers > 0 {
		def(&c.Rate, max(1, min(rateMax, float64(c.Buyers)/c.Duration.Seconds())))
	}
	def(&c.Rate, rateDefault)
	def(&c.Connections, connDefault)
	def(&c.Quantity, 1)
	def(&c.Patience, patienceDefault)
	def(&c.Settle, settleDefault)
	def(&c.Timeout, timeoutDefault)
	def(&c.Seed, seedDefault)
	def(&c.Depth, 1)
	u, err := url.Parse(c.Server)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return c, levee.Invalid("--server", "an address such as http://127.0.0.1:8080, without a path", c.Server)
	}
	c.Server = u.Scheme + "://" + u.Host
	switch {
	case c.Sale == "":
		return c, levee.Invalid("--sale", "the public id of the sale to rehearse", "")
	case strings.Trim(c.Sale, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") != "" || len(c.Sale) > 64:
		return c, levee.Invalid("--sale", "the public id of a sale: letters, digits and _", c.Sale)
	case c.Token == "" && c.User == "":
		return c, levee.Invalid("--user", "an operator's name, unless --token is given", "")
	case c.Token == "" && c.Password == "":
		return c, levee.Invalid("--password-file", "a file with the operator's password (or LEVEE_PASSWORD), unless --token is given", "")
	case !visible(c.Token):
		return c, levee.Invalid("--token", "an access token: visible characters only", "[redacted]")
	}
	if err := c.checkNumbers(); err != nil {
		return c, err
	}
	if c.Buyers == 0 {
		c.Buyers = buyersMax
		if !c.Max {
			c.Buyers = min(buyersMax, max(1, int(c.Rate*c.Duration.Seconds())))
		}
	}
	if c.Max {
		c.Early, c.Double, c.Poll = 0, 0, false
	}
	if c.Late < 0 || c.Late >= c.Buyers || c.Late > 0 && (c.Max || c.Queue) {
		return c, levee.Invalid("Late", "from 0 to one less than the buyers, and 0 with a waiting room or Max", c.Late)
	}
	return c, nil
}

func (c *Config) checkNumbers() error {
	for _, n := range []struct {
		flag        string
		given       float64
		least, most float64
		zero        bool // 0 has a meaning of its own
	}{
		{"--rate", c.Rate, 1, rateMax, false},
		{"--buyers", float64(c.Buyers), 1, buyersMax, true},
		{"--connections", float64(c.Connections), 1, connMax, false},
		{"--units", float64(c.Units), 1, unitsMax, true},
		{"--per-buyer", float64(c.PerBuyer), 1, quantityMax, true},
		{"--quantity", float64(c.Quantity), 1, quantityMax, false},
		{"--pay", c.Pay, 0, 1, true},
		{"--double", c.Double, 0, 1, true},
		{"--listen", c.Listen, 0, 1, true},
		{"--depth", float64(c.Depth), 1, wire.DepthMost, false},
	} {
		if !(n.given >= n.least && n.given <= n.most) && !(n.zero && n.given == 0) { // written so that NaN is refused
			return levee.Invalid(n.flag, "a number from "+number(n.least)+" to "+number(n.most), number(n.given))
		}
	}
	for _, d := range []struct {
		flag               string
		given, least, most time.Duration
	}{
		{"--duration", c.Duration, time.Second, time.Hour},
		{"--early", c.Early, 0, 10 * time.Minute},
		{"--patience", c.Patience, time.Second, 10 * time.Minute},
		{"--settle", c.Settle, time.Second, 10 * time.Minute},
		{"--timeout", c.Timeout, 100 * time.Millisecond, 2 * time.Minute},
	} {
		if d.given < d.least || d.given > d.most {
			return levee.Invalid(d.flag, fmt.Sprintf("a duration from %v to %v", d.least, d.most), d.given)
		}
	}
	return nil
}

func def[T comparable](v *T, d T) { *v = cmp.Or(*v, d) }

func number(f float64) string { return strconv.FormatFloat(f, 'f', -1, 64) }

// visible tells whether s may stand in a header: visible ASCII and nothing that ends a line.
func visible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// Command is the command line that repeats a rehearsal, without its secrets.
func (c Config) Command() string {
	args := []string{"levee rehearse --server", quote(c.Server)}
	arg := func(write bool, flag, value string) {
		if write {
			args = append(args, "--"+flag, quote(value))
		}
	}
	arg(c.User != "", "user", c.User)
	arg(true, "sale", c.Sale)
	arg(!c.Max, "rate", number(c.Rate))
	arg(true, "buyers", strconv.Itoa(c.Buyers))
	arg(true, "duration", c.Duration.String())
	arg(true, "connections", strconv.Itoa(c.Connections))
	arg(c.Units > 0, "units", strconv.FormatInt(c.Units, 10))
	arg(c.PerBuyer > 0, "per-buyer", strconv.Itoa(c.PerBuyer))
	arg(c.Quantity != 1, "quantity", strconv.Itoa(c.Quantity))
	arg(c.Pay > 0, "pay", number(c.Pay))
	arg(c.Double > 0, "double", number(c.Double))
	arg(c.Listen > 0, "listen", number(c.Listen))
	arg(c.Early > 0, "early", c.Early.String())
	arg(c.Patience != patienceDefault, "patience", c.Patience.String())
	arg(c.Settle != settleDefault, "settle", c.Settle.String())
	arg(c.Timeout != timeoutDefault, "timeout", c.Timeout.String())
	arg(c.Max && c.Depth > 1, "depth", strconv.Itoa(c.Depth))
	arg(c.Seed != seedDefault, "seed", strconv.FormatUint(c.Seed, 10))
	if c.Max {
		args = append(args, "--max")
	}
	if c.Poll {
		args = append(args, "--poll")
	}
	return strings.Join(args, " ")
}

// quote makes a word safe for a shell.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:@%+=,[]") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Run rehearses a sale and audits the result; progress and the result go to out. An error means that the rehearsal could not be
// carried through (CodeInvalid for a value that is not allowed, the server's own code where it refused the operator); what went
// wrong in the rehearsal itself stands in the report, and Report.OK is false then.
func Run(ctx context.Context, c Config, out io.Writer) (_ Report, err error) {
	c, err = c.Normal()
	if err != nil {
		return Report{}, err
	}
	s, err := newStage(ctx, c, out)
	if err != nil {
		return Report{}, err
	}
	defer s.close()
	if err := s.play(ctx); err != nil {
		return Report{}, err
	}
	r, err := s.judge(ctx)
	if err != nil {
		return Report{}, err
	}
	r.Summary(out)
	return r, nil
}
