package id

import (
	"regexp"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/redis"
)

// Strict, as a Config.Lead, keeps ids from running ahead of the clock at all.
const Strict time.Duration = -1

// Config says where worker numbers are claimed and how far ahead of use the horizon is written: in a folder (Dir) where one machine gives
// ids, in what the nodes share where several do: a database (DB), etcd (Etcd) or Redis (Redis, with its warning). At most one of the four
// is given.
type Config struct {
	// Dir is the folder of the worker files, "data/id" when empty. It is made when missing. All processes whose ids must differ must share
	// it: two folders mean two workers with number 0, and duplicates. It must lie on a file system with working locks and must not be
	// deleted while a process runs; a restored older copy is harmless.
	Dir string
	// DB holds the worker numbers in its table id_worker (Schema). All nodes whose ids must differ name that database. On SQLite no id may
	// be asked for within a db.Tx for longer than Ahead without a pause: the horizon is moved by the same writer.
	DB *db.DB
	// Etcd holds them under the prefix of its client.
	Etcd *Etcd
	// Redis holds them in one hash. What Redis has promised it may forget, by a restart without its log or by a fail-over: so nothing is
	// granted further than 10 s ahead of the server's clock, and after each change of the server process nobody takes up a number
	// before everything that was ever granted is over. What is left to trust is that clock: it must not step back, nor be behind that of
	// the server it replaces, by more than 2 s at the moment at which data is lost. Where that is too much, take DB or Etcd.
	Redis *redis.Client
	// Node names this process among the claims, for people, at most 190 bytes. Two processes of one name do no harm. Not with Dir.
	Node string
	// Ahead is how far the durable horizon runs ahead of the ids given, from 10ms (a folder), 1s (else) to 1h (with Redis 5s), and at least
	// one Unit of the layout. Default: 3s in a folder and with Redis, else a minute. A smaller value means a write more often (three per
	// Ahead; in a folder none while idle). A larger one means that the next life of the same number may have ids up to that much ahead
	// of the clock after a crash, and that ids go on for that long while the store is away.
	Ahead time.Duration
	// Layout of the ids. Default: Default.
	Layout Layout
	// Space names the set within which ids are unique: up to 40 of a-z, 0-9, '-' and '_', beginning with a letter. Default: the unnamed one,
	// whose layout is Default. Another layout needs a space with a name; a space keeps the layout that it was made with, and refuses others
	// with CodeConflict. A folder is shared by several spaces as a database is.
	Space string
	// Lead is how far ids may run ahead of the clock when more are asked for than the layout has room for: Next then waits, for a Unit and
	// 100 ms at most, and fails with CodeUnavailable beyond that. Default: without bound, nobody waits for the clock. Strict: not at all.
	// Else from one Unit to 24h.
	Lead time.Duration
}

var spaceName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,39}$`)

func (c Config) normal(now time.Time) (Config, error) {
	if c.Layout == (Layout{}) {
		c.Layout = Default
	}
	// A clock that is out of the default layout's time is a broken one: its readings are ignored, and are no reason to refuse.
	if tick := Default.ticks(now); c.Layout != Default || tick >= 0 && tick < Default.end() {
		if err := c.Layout.Validate(now); err != nil {
			return c, err
		}
	}
	stores := 0
	for _, given := range []bool{c.Dir != "", c.DB != nil, c.Etcd != nil, c.Redis != nil} {
		if given {
			stores++
		}
	}
	least, most, usual := time.Second, time.Hour, time.Minute
	switch {
	case stores > 1:
		return c, levee.Invalid("id.dir", "one of a folder, a database, etcd and Redis", strconv.Itoa(stores)+" of them")
	case c.Redis != nil:
		most, usual = 5*time.Second, 3*time.Second
	case c.DB == nil && c.Etcd == nil:
		least, usual = 10*time.Millisecond, 3*time.Second
		if c.Node != "" {
			return c, levee.Invalid("id.node", "empty where a folder holds the worker numbers", c.Node)
		}
		if c.Dir == "" {
			c.Dir = "data/id"
		}
	}
	least, most = max(least, c.Layout.Unit), max(most, c.Layout.Unit)
	if c.Ahead == 0 {
		c.Ahead = max(usual, c.Layout.Unit)
	}
	if c.Node == "" {
		c.Node = "unnamed"
	}
	switch {
	case len(c.Node) > 190 || strings.ContainsFunc(c.Node, unicode.IsControl) || !utf8.ValidString(c.Node):
		return c, levee.Invalid("id.node", "at most 190 bytes of UTF-8 without control characters", strings.ToValidUTF8(c.Node, "?"))
	case c.Space != "" && !spaceName.MatchString(c.Space):
		return c, levee.Invalid("id.space", "up to 40 of a-z, 0-9, '-' and '_', beginning with a letter", strings.ToValidUTF8(c.Space, "?"))
	case c.Space == "" && c.Layout != Default:
		return c, levee.Invalid("id.space", "a name, where the layout is not the default one", "")
	case c.Ahead < least || c.Ahead > most:
		return c, levee.Invalid("id.ahead", "a duration from "+least.String()+" to "+most.String(), c.Ahead)
	case c.Lead != 0 && c.Lead != Strict && (c.Lead < c.Layout.Unit || c.Lead > 24*time.Hour):
		return c, levee.Invalid("id.lead", "0 (without bound), Strict, or from "+c.Layout.Unit.String()+" to 24h", c.Lead)
	case c.Redis != nil && c.Layout.Unit > time.Second:
		return c, levee.Invalid("id.layout.unit", "1s at most where Redis holds the worker numbers", c.Layout.Unit)
	}
	return c, nil
}

// shared reports whether several machines may give ids of the space.
func (c Config) shared() bool { return c.DB != nil || c.Etcd != nil || c.Redis != nil }
