// Package count keeps numbers that many change at once and everybody reads: how often an article was read, liked, collected, and which
// are at the top.
//
// It owns the totals: in SQL, where they last, and in front of it in this process' memory or in Redis, where they are changed. It does not own what is
// counted: the likes themselves are rows of a room, which tells the truth once a night (Counter.Correct).
//
// Two kinds: a Counter is a total by key, a Board a bounded set of members by score, of which one reads the top. Changes are in front at
// once and in SQL within Config.Every. What is lost when something dies is said at Open and OpenShared; what may not be lost at all is
// counted in the caller's own transaction (Counter.AddTx).
package count

import (
	"context"
	"crypto/rand"
	"embed"
	"encoding/binary"
	"log/slog"
	"regexp"
	"sync"
	"time"
	"unicode/utf8"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

//go:embed schema
var schemaFS embed.FS

// Schema returns the part's tables, count_*.
func Schema() db.Schema { return db.Schema{Owner: "count", FS: schemaFS} }

// Config measures the writing and reading. The zero value is usable.
type Config struct {
	// Every is how often changes are written to SQL, from 10 ms to 1 minute. Default 1 s. It is how much may be lost (see Open and
	// OpenShared); shorter costs more transactions.
	Every time.Duration
	// Fresh is how long a total that has nothing to be written stays in Redis before it is read from SQL again, from 5 s to 7 days. Default
	// 10 minutes. It is the bound for what a process told SQL and died before it told Redis. A key in Redis takes about 200 bytes.
	Fresh time.Duration
	// Keys is the most keys that this process keeps in memory: totals without Redis, changes while Redis is away. From 1,000 to 10,000,000.
	// Default 100,000, of some 150 bytes. Beyond it changes of further keys are refused until some are written.
	Keys int
	// Loads is how many reads of SQL may run at a time in this process, from 1 to 1,000. Default 16. Others wait for a second at most.
	Loads int
}

func (c Config) normal() (Config, error) {
	for _, f := range []struct {
		name             string
		at               *time.Duration
		least, most, def time.Duration
	}{
		{"count.every", &c.Every, 10 * time.Millisecond, time.Minute, time.Second},
		{"count.fresh", &c.Fresh, 5 * time.Second, 7 * 24 * time.Hour, 10 * time.Minute},
	} {
		if *f.at == 0 {
			*f.at = f.def
		}
		if *f.at < f.least || *f.at > f.most {
			return c, levee.Invalid(f.name, "from "+f.least.String()+" to "+f.most.String(), *f.at)
		}
	}
	if c.Keys == 0 {
		c.Keys = 100_000
	}
	if c.Loads == 0 {
		c.Loads = 16
	}
	if c.Keys < 1000 || c.Keys > 10_000_000 {
		return c, levee.Invalid("count.keys", "from 1000 to 10000000", c.Keys)
	}
	if c.Loads < 1 || c.Loads > 1000 {
		return c, levee.Invalid("count.loads", "from 1 to 1000", c.Loads)
	}
	return c, nil
}

// Most is the largest change of a counter and the largest score of a board, either sign: what a sorted set of Redis holds exactly.
const Most = 1 << 53

const (
	keyMost   = 190    // bytes
	manyMost  = 1000   // keys of one GetMany
	boardMost = 10_000 // members of a board
)

// key is what a total is kept by.
type key struct{ kind, name string }

// exact is a total of which nothing is missing, and a mark that is another one after any change.
type exact struct {
	total int64
	mark  mark
}

type mark struct{ epoch, v, ver int64 }

// driver keeps totals in front of SQL.
type driver interface {
	add(ctx context.Context, k key, n int64) error
	set(ctx context.Context, k key, n int64) error
	get(ctx context.Context, kind string, names []string) (map[string]int64, error)
	// joinTx makes what is in front follow a change of SQL when its transaction has committed.
	joinTx(tx *db.Tx, keys []key)
	// exact reads what is in front and in SQL together. CodeUnavailable when one of them is away.
	exact(ctx context.Context, kind string, names []string) (map[string]exact, error)
}

// boards keeps sorted sets in front of SQL.
type boards interface {
	change(ctx context.Context, b *Board, name, member string, n int64, set bool) error
	top(ctx context.Context, b *Board, name string, offset, n int) ([]Entry, error)
	rank(ctx context.Context, b *Board, name, member string) (rank int, score int64, ok bool, err error)
	rebuild(ctx context.Context, b *Board, name string, walk Walk) (Drift, error)
}

// Counts keeps all counters and boards of the house. Made by Open or OpenShared; safe for concurrent use.
type Counts struct {
	cfg     Config
	store   *store
	log     *slog.Logger
	metrics *metrics
	driver  driver
	boards  boards
	flush   func(ctx context.Context) error // of driver and boards

	writing sync.Mutex // one Flush at a time
	mu      sync.Mutex
	kinds   map[string]bool // guarded by mu
	settle  time.Duration   // between the two looks of a correction
}

func newCounts(d *db.DB, cfg Config, o *obs.Obs) (*Counts, error) {
	cfg, err := cfg.normal()
	if err != nil {
		return nil, err
	}
	c := &Counts{cfg: cfg, log: o.Named("count"), metrics: newMetrics(o.Metrics), kinds: map[string]bool{}, settle: 2 * time.Second}
	c.store = newStore(d, cfg.Loads)
	return c, nil
}

// Open keeps totals in the memory of this process, which must be the only one that counts. What was added in the last Config.Every is lost
// when the process is killed, and nothing when Run ends in order. A database that is away loses nothing as long as the process lives:
// changes wait, Config.Keys of them at most.
func Open(d *db.DB, cfg Config, o *obs.Obs) (_ *Counts, err error) {
	defer levee.Wrap(&err, "count.Open")
	c, err := newCounts(d, cfg, o)
	if err != nil {
		return nil, err
	}
	b := newBook(c.store, c.cfg.Keys, c.metrics)
	lists := &lists{store: c.store, all: map[key]*list{}, most: c.cfg.Keys}
	c.driver, c.boards = b, lists
	c.flush = func(ctx context.Context) error {
		if err := b.write(ctx); err != nil {
			return err
		}
		return lists.write(ctx)
	}
	return c, nil
}

var kindForm = regexp.MustCompile(`^[a-z][a-z0-9_.]{0,63}$`)

func (c *Counts) kind(name string, board bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if was, taken := c.kinds[name]; !kindForm.MatchString(name) || taken && was != board {
		panic("count: a kind must be up to 64 of a-z, 0-9, '_' and '.', and a counter or a board, not both: " + name)
	}
	c.kinds[name] = board
}

// Run writes changes to SQL every Config.Every until ctx ends, and once more then. A failing database is logged and tried again.
func (c *Counts) Run(ctx context.Context) error {
	t := time.NewTicker(c.cfg.Every)
	defer t.Stop()
	failing := false
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			err := c.Flush(last)
			if err == nil {
				err = c.store.leave(last)
			}
			return err
		}
		err := c.Flush(ctx)
		switch {
		case err != nil && !failing && ctx.Err() == nil:
			c.log.ErrorContext(ctx, "counts cannot be written; they wait", "err", err)
		case err == nil && failing:
			c.log.InfoContext(ctx, "counts are written again")
		}
		failing = err != nil
	}
}

// Flush writes to SQL what has changed, of this process without Redis, of all with it but for what another one is writing. Run calls it; a test or a tool may. An error
// means that some of it still waits.
func (c *Counts) Flush(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "count.Flush")
	c.writing.Lock()
	defer c.writing.Unlock()
	began := time.Now()
	err = c.flush(ctx)
	c.metrics.flush.Observe(time.Since(began).Seconds())
	if err != nil {
		c.metrics.failed.Inc()
	}
	return err
}

// Counter is totals of one kind by key. Made by Counts.Counter.
type Counter struct {
	c    *Counts
	kind string
}

// Counter returns the counters of a kind: up to 64 of a-z, 0-9, '_' and '.', such as "article.likes". Any other name, and one that is a board's,
// panics.
func (c *Counts) Counter(kind string) *Counter {
	c.kind(kind, false)
	return &Counter{c, kind}
}

func checkKey(field, k string) error {
	if k == "" || len(k) > keyMost || !utf8.ValidString(k) {
		return levee.Invalid(field, "1 to 190 bytes of UTF-8", k)
	}
	for i := range len(k) {
		if k[i] < ' ' {
			return levee.Invalid(field, "text without control characters", k)
		}
	}
	return nil
}

func checkNumber(field string, n int64) error {
	if n > Most || n < -Most {
		return levee.Invalid(field, "from -2^53 to 2^53", n)
	}
	return nil
}

// Add adds n, of either sign, to a key's total. nil: it is counted, once, and every Get of this process that begins now sees it (with Redis
// and while it answers, of every process). It never waits for SQL. What may be lost later is said at Open and OpenShared.
// CodeInvalid for a key or a number out of bounds; CodeUnavailable when this process holds Config.Keys changes that it cannot write:
// then it is not counted. ctx does not end a change that has begun.
func (c *Counter) Add(ctx context.Context, name string, n int64) (err error) {
	defer levee.Wrap(&err, "count.Add(%s)", c.kind)
	if err := checkKey("key", name); err != nil {
		return err
	}
	if err := checkNumber("n", n); err != nil || n == 0 {
		return err
	}
	c.c.metrics.adds.Inc()
	return c.c.driver.add(ctx, key{c.kind, name}, n)
}

// AddTx adds n within the caller's transaction: counted if and only if that commits, whatever dies. Readers see it when the transaction
// has committed; where the process dies in that instant, within Config.Fresh. Every AddTx of one key waits for the commit of the one before, so
// it is for what may not be lost, not for what is hot.
func (c *Counter) AddTx(ctx context.Context, tx *db.Tx, name string, n int64) (err error) {
	defer levee.Wrap(&err, "count.AddTx(%s)", c.kind)
	if err := checkKey("key", name); err != nil {
		return err
	}
	if err := checkNumber("n", n); err != nil {
		return err
	}
	k := key{c.kind, name}
	if err := c.c.store.addTx(ctx, tx, []change{{k, n}}); err != nil {
		return err
	}
	c.c.driver.joinTx(tx, []key{k})
	return nil
}

// Get returns a key's total; 0 for one that was never counted. While Redis is away it is what SQL has, with what this process has not
// written yet. CodeUnavailable with RetryAfter when neither answers, or too many read SQL.
func (c *Counter) Get(ctx context.Context, name string) (int64, error) {
	m, err := c.GetMany(ctx, []string{name})
	return m[name], err
}

// GetMany returns the totals of up to 1,000 keys in one round trip (in a cluster, one to each server), and one read of SQL for those that were
// not in front. Errors are Get's; more keys are CodeInvalid.
func (c *Counter) GetMany(ctx context.Context, names []string) (m map[string]int64, err error) {
	defer levee.Wrap(&err, "count.GetMany(%s)", c.kind)
	if len(names) > manyMost {
		return nil, levee.Invalid("keys", "up to 1000", len(names))
	}
	for _, n := range names {
		if err := checkKey("key", n); err != nil {
			return nil, err
		}
	}
	if len(names) == 0 {
		return map[string]int64{}, nil
	}
	return c.c.driver.get(ctx, c.kind, names)
}

// Set makes a key's total n, whatever it was: for corrections. Changes that were made before it are in n or gone, later ones are added
// to it. CodeUnavailable: it was made or not, and may be made again.
func (c *Counter) Set(ctx context.Context, name string, n int64) (err error) {
	defer levee.Wrap(&err, "count.Set(%s)", c.kind)
	if err := checkKey("key", name); err != nil {
		return err
	}
	if err := checkNumber("n", n); err != nil {
		return err
	}
	return c.c.driver.set(ctx, key{c.kind, name}, n)
}

// Board is bounded sets of members by score, one for each key. Made by Counts.Board.
type Board struct {
	c    *Counts
	kind string
	most int
}

// Entry is a member of a board.
type Entry struct {
	Member string
	Score  int64
}

// Board returns the boards of a kind, named as counters are. Each keeps the most members of the highest scores, 1 to 10,000, and forgets the rest with
// their scores: a member that comes back after that begins at zero with Incr, so a list of the top of very many is kept with Set and the
// totals of a Counter. Other values panic.
func (c *Counts) Board(kind string, most int) *Board {
	if most < 1 || most > boardMost {
		panic("count: a board keeps 1 to 10000 members")
	}
	c.kind(kind, true)
	return &Board{c, kind, most}
}

func (b *Board) check(name, member string, n int64) error {
	if err := checkKey("key", name); err != nil {
		return err
	}
	if err := checkKey("member", member); err != nil {
		return err
	}
	return checkNumber("score", n)
}

// Incr adds n, of either sign, to a member's score, which is zero for one that is not there. nil: it is counted. While Redis is away it is
// kept in this process and counted when Redis is back; killed before that, it is lost. Errors are Counter.Add's.
func (b *Board) Incr(ctx context.Context, name, member string, n int64) (err error) {
	defer levee.Wrap(&err, "count.Incr(%s)", b.kind)
	if err := b.check(name, member, n); err != nil {
		return err
	}
	b.c.metrics.adds.Inc()
	return b.c.boards.change(ctx, b, name, member, n, false)
}

// Set makes a member's score n: a time, or a counter's total. Otherwise it is Incr.
func (b *Board) Set(ctx context.Context, name, member string, n int64) (err error) {
	defer levee.Wrap(&err, "count.Set(%s)", b.kind)
	if err := b.check(name, member, n); err != nil {
		return err
	}
	b.c.metrics.adds.Inc()
	return b.c.boards.change(ctx, b, name, member, n, true)
}

// Top returns n members from the offset on, the highest score first; of equal scores the member that is later in the order of bytes. n is up to
// 1,000. While Redis is away it is what SQL has.
func (b *Board) Top(ctx context.Context, name string, offset, n int) (_ []Entry, err error) {
	defer levee.Wrap(&err, "count.Top(%s)", b.kind)
	if err := checkKey("key", name); err != nil {
		return nil, err
	}
	if n < 1 || n > manyMost || offset < 0 {
		return nil, levee.Invalid("n", "1 to 1000, from an offset of 0", n)
	}
	if offset >= b.most {
		return nil, nil
	}
	return b.c.boards.top(ctx, b, name, offset, n)
}

// Rank returns a member's place, 0 for the first, and its score; false when it is not on the board.
func (b *Board) Rank(ctx context.Context, name, member string) (rank int, score int64, ok bool, err error) {
	defer levee.Wrap(&err, "count.Rank(%s)", b.kind)
	if err := b.check(name, member, 0); err != nil {
		return 0, 0, false, err
	}
	return b.c.boards.rank(ctx, b, name, member)
}

// higher reports whether a stands above b.
func (e Entry) higher(o Entry) bool {
	return e.Score > o.Score || e.Score == o.Score && e.Member > o.Member
}

// number returns a random one above zero.
func number() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return int64(binary.BigEndian.Uint64(b[:])>>1) | 1
}
