package push

import (
	"bytes"
	"context"
	"crypto/rand"
	_ "embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"levee"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

const (
	// logFrames and logBytes bound the house's log in Redis. It holds what a node needs that was cut off for some seconds or has just
	// begun. A frame counts 64 bytes beside its text; Redis takes up to twice the sum.
	logFrames, logBytes = 65_536, 32 << 20
	// A batch is sent in one call.
	batchFrames, batchBytes = 256, 512 << 10
	// outFrames and outBytes bound what waits to be sent. Beyond it Publish waits, for holdFor at most.
	outFrames, outBytes = 16 << 10, 64 << 20
	// holdFor is how long frames wait for Redis before this node delivers them to its own readers alone.
	holdFor = time.Second
	// retryEvery is the time between two tries.
	retryEvery = 50 * time.Millisecond
	// brokenWait is how long a log that cannot be written is left alone.
	brokenWait = 3 * time.Second
	// A read of the log waits this long for news, and this long in all before the connection counts as dead.
	readWait, readMax = 500 * time.Millisecond, 2500 * time.Millisecond
	readFrames        = 256
	// checkEvery is how often a node asks whether the log is still the one that it follows.
	checkEvery = time.Second
	// settleFor is how long OpenShared waits for what was said before; drainFor how long Close waits, within its ctx, until what was said last
	// has come back: longer than a dead connection takes to be noticed.
	settleFor, drainFor = time.Second, 4 * time.Second
)

var (
	//go:embed publish.lua
	publishText string
	//go:embed enter.lua
	enterText string

	//go:embed check.lua
	checkText string

	publishScript, enterScript = redis.NewScript(publishText), redis.NewScript(enterText)
	checkScript                = redis.NewScript(checkText)
)

// link makes the hubs of a house's nodes one: every frame goes through one log in Redis, in which it gets its offset, and every node
// follows that log. So positions mean the same on each node, and a reader may come back to any.
//
// The log is a stream of bounded length whose offsets have no gaps; a node that finds one has missed frames. Its epoch is bound to one life
// of one Redis server: after a restart or a fail-over, which may have lost the end of the log, the first node that comes begins a new
// one. Whoever misses frames, or finds another epoch, tells all his readers to read anew (Hub.turn).
//
// When Redis is away for longer than holdFor, a node that has something to say delivers it to its own readers under an epoch of its
// own. When it comes back it begins a new epoch for the whole house, because the others did not hear what it said.
type link struct {
	hub    *Hub
	client *redis.Client
	own    goredis.UniversalClient // for reads that wait
	log    *slog.Logger
	id     string
	keys   []string // meta, log, sent
	wake   chan struct{}
	stop   context.CancelFunc
	tasks  sync.WaitGroup

	mu      sync.Mutex // guards what follows. It is taken before the hub's.
	changed *sync.Cond // of anything that follows
	out     []outgoing
	bytes   int
	number  int64  // of the last frame taken from publishers
	sent    int64  // the last number that the log has
	seen    int64  // the last number of ours that came back over the log, or that our readers were told to read anew for
	epoch   string // of the log; "" before the first contact and while it must be entered anew
	last    int64  // offset of the log's end when it was entered
	alone   bool
	said    bool // something was delivered to our own readers alone
	broken  bool // the log must begin anew: it cannot be appended to
	closed  bool
	drained bool // the sender has nothing left
}

type outgoing struct {
	number int64
	topic  string
	frame  *frame
}

// OpenShared is Open for one of several nodes: what is published on one reaches the readers of all, and a reader who comes back to another node with
// his position gets what he missed there, or a reset. A frame reaches the readers, also those of its own node, after one round
// trip to Redis; Publish does not wait for it. While Redis is away for more than a second, frames reach the readers of their own node
// alone, and all readers are reset when it is back. Close the hub before the client.
func OpenShared(cfg Config, client *redis.Client, o *obs.Obs) (_ *Hub, err error) {
	defer levee.Wrap(&err, "push.OpenShared")
	own, err := client.Apart(2)
	if err != nil {
		return nil, err
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // it never fails
	ctx, stop := context.WithCancel(context.Background())
	h := newHub(cfg, o)
	l := &link{
		hub: h, client: client, own: own, log: h.log, id: hex.EncodeToString(id[:]), wake: make(chan struct{}, 1), stop: stop,
	}
	l.keys = []string{client.Key("{push}:meta"), client.Key("{push}:log"), client.Key("{push}:sent:" + l.id)}
	l.changed = sync.NewCond(&l.mu)
	h.link = l
	go h.dispatch()
	l.tasks.Go(func() { l.send(ctx) })
	l.tasks.Go(func() { l.follow(ctx) })
	l.settle(ctx, settleFor, func() bool { return l.epoch != "" && h.head().offset >= l.last })
	return h, nil
}

func (l *link) isAlone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.alone
}

// settle waits, for the given time at most and no longer than ctx, until ok, which is called with mu held.
func (l *link) settle(ctx context.Context, most time.Duration, ok func() bool) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	late := false
	stop := context.AfterFunc(ctx, func() {
		l.mu.Lock()
		late = true
		l.mu.Unlock()
		l.changed.Broadcast()
	})
	defer stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for !ok() && !late {
		l.changed.Wait()
	}
}

// publish takes a frame for all nodes.
func (l *link) publish(topic string, f *frame) {
	size := len(topic) + len(f.kind) + len(f.data)
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.closed && !l.alone && (len(l.out) >= outFrames || l.bytes+size > outBytes) {
		l.changed.Wait()
	}
	if l.closed {
		return
	}
	l.number++
	if l.alone {
		l.said = true
		l.hub.accept(topic, f)
		return
	}
	l.out = append(l.out, outgoing{l.number, topic, f})
	l.bytes += size
	l.signal()
}

func (l *link) signal() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// send appends what was published to the log, in order, until the link is closed and nothing is left, or ctx ends.
func (l *link) send(ctx context.Context) {
	defer func() {
		l.mu.Lock()
		l.drained = true
		l.mu.Unlock()
		l.changed.Broadcast()
	}()
	var since time.Time // of the first failure in a row
	for ctx.Err() == nil {
		l.mu.Lock()
		batch, epoch, closed := l.batch(), l.epoch, l.closed
		l.mu.Unlock()
		if len(batch) == 0 {
			since = time.Time{}
			if closed {
				return
			}
			select {
			case <-l.wake:
			case <-ctx.Done():
			}
			continue
		}
		if epoch != "" && l.append(ctx, epoch, batch) {
			since = time.Time{}
			continue
		}
		if since.IsZero() {
			since = time.Now()
		}
		if time.Since(since) > holdFor {
			l.leave()
			continue
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
		}
	}
}

// batch returns the first frames that wait. Called with mu held; they stay in line.
func (l *link) batch() []outgoing {
	n, size := 0, 0
	for n < len(l.out) && n < batchFrames && size < batchBytes {
		size += len(l.out[n].frame.data)
		n++
	}
	return l.out[:n:n]
}

// append sends a batch, and reports whether the log has it. A batch may be sent again: the log knows the numbers.
func (l *link) append(ctx context.Context, epoch string, batch []outgoing) bool {
	args := make([]any, 0, 5+3*len(batch))
	args = append(args, epoch, l.id, batch[0].number, logFrames, logBytes)
	size := 0
	for _, o := range batch {
		args = append(args, o.topic, o.frame.kind, o.frame.data)
		size += len(o.topic) + len(o.frame.kind) + len(o.frame.data)
	}
	offset, err := publishScript.Run(ctx, l.client, l.keys, args...).Int64()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil && offset < 0:
		l.reenter(epoch)
		return false
	case err != nil:
		if c := levee.CodeOf(err); c != levee.CodeUnavailable && c != levee.CodeTimeout && ctx.Err() == nil && !l.broken {
			l.log.Error("the log of live frames cannot be written; it is begun anew", "error", err)
			l.broken = true
			l.reenter(epoch)
		}
		return false
	}
	l.sent = batch[len(batch)-1].number
	l.out = l.out[len(batch):]
	if len(l.out) == 0 {
		l.out = nil // the sent ones are not kept
	}
	l.bytes -= size
	l.changed.Broadcast()
	return true
}

// reenter makes the follower ask which epoch is on. Called with mu held.
func (l *link) reenter(epoch string) {
	if l.epoch == epoch {
		l.epoch = ""
	}
}

// leave delivers what waits, and what comes, to our own readers alone.
func (l *link) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.log.Warn("live frames reach the readers of this node alone until redis is back", "waiting", len(l.out))
	// What was sent and has not come back over the log, our own readers have not heard.
	unheard := l.seen < l.sent
	l.alone, l.epoch = true, ""
	l.hub.turn(newEpoch(), 0, !unheard)
	for _, o := range l.out {
		if o.number > l.seen { // else our readers had it over the log
			l.said = true
			l.hub.accept(o.topic, o.frame)
		}
	}
	// A frame whose answer was lost may be in the log too, and other readers may have it: that does no harm.
	l.said = l.said || len(l.out) > 0
	l.out, l.bytes = nil, 0
	l.changed.Broadcast()
}

func newEpoch() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return binary.BigEndian.Uint64(b[:])
}

// follow keeps the hub at the log's end until ctx ends.
func (l *link) follow(ctx context.Context) {
	for ctx.Err() == nil {
		l.mu.Lock()
		broken := l.broken
		l.mu.Unlock()
		if broken { // readers are not to be reset all the time for what does not heal
			select {
			case <-time.After(brokenWait):
			case <-ctx.Done():
			}
		}
		err := l.enter(ctx)
		if err == nil {
			err = l.read(ctx)
		}
		if ctx.Err() == nil && err != nil {
			l.log.Debug("the log of live frames is not followed for the moment", "error", err)
		}
		select {
		case <-time.After(retryEvery):
		case <-ctx.Done():
		}
	}
}

// enter finds the log's epoch, and tells the readers when what they have does not lead up to it.
func (l *link) enter(ctx context.Context) error {
	if !l.client.Healthy() {
		return levee.E(levee.CodeUnavailable, "redis is away")
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	anew := l.broken || l.alone && l.said
	wasAlone := l.alone
	if !wasAlone {
		l.mu.Unlock() // publishers need not wait for this
	}
	// Alone, the lock is held over the call, so that nothing is delivered between the new epoch and our turn to it.
	epoch, last, first, err := l.ask(ctx, anew)
	if !wasAlone {
		l.mu.Lock()
	}
	if err != nil {
		return err
	}
	if l.alone != wasAlone {
		return errLeft // meanwhile; the next try knows
	}
	at := l.hub.head()
	if !l.alone && epoch == at.epoch && at.offset > last {
		// The log has lost its end without a new life of the server: somebody has meddled with its keys.
		if epoch, last, first, err = l.ask(ctx, true); err != nil {
			return err
		}
	}
	if epoch != at.epoch || at.offset < first-1 { // alone, we have an epoch of our own
		l.hub.turn(epoch, first-1, false)
		l.seen = max(l.seen, l.sent)
	}
	if l.alone {
		l.log.Info("live frames reach the readers of all nodes again", "offset", last)
	}
	l.epoch, l.last, l.alone, l.said, l.broken = position{epoch: epoch}.String()[:epochChars], last, false, false, false
	l.changed.Broadcast()
	l.signal()
	return nil
}

// ask runs the script.
func (l *link) ask(ctx context.Context, anew bool) (epoch uint64, last, first int64, err error) {
	force := "0"
	if anew {
		force = "1"
	}
	candidate := position{epoch: newEpoch()}.String()[:epochChars]
	reply, err := enterScript.Run(ctx, l.client, l.keys[:2], candidate, force).Slice()
	if err != nil {
		return 0, 0, 0, err
	}
	if len(reply) == 3 {
		text, _ := reply[0].(string)
		p, ok := parsePosition(text + "-0")
		last, okLast := reply[1].(int64)
		first, okFirst := reply[2].(int64)
		if ok && okLast && okFirst {
			return p.epoch, last, first, nil
		}
	}
	return 0, 0, 0, errLog
}

var (
	errLog  = errors.New("push: the log in redis is not one of ours")
	errLeft = errors.New("push: frames go to our own readers alone")
)

// read follows the log until something is wrong, or the epoch has to be entered anew.
func (l *link) read(ctx context.Context) error {
	checked := time.Now()
	for {
		at := l.hub.head()
		// Not position.String: a stream's ids are the offsets.
		from := strconv.FormatInt(at.offset, 10) + "-0"
		limit, cancel := context.WithTimeout(ctx, readMax)
		found, err := l.own.XRead(limit, &goredis.XReadArgs{
			Streams: []string{l.keys[1], from}, Count: readFrames, Block: readWait,
		}).Result()
		cancel()
		if err != nil && !errors.Is(err, goredis.Nil) {
			return err
		}
		var entries []goredis.XMessage
		if len(found) > 0 {
			entries = found[0].Messages
		}
		if !l.deliver(entries) {
			return nil
		}
		if time.Since(checked) < checkEvery {
			continue
		}
		checked = time.Now()
		if ok, err := l.check(ctx); err != nil || !ok {
			return err
		}
	}
}

// check reports whether the log is still the one that we follow. A connection that was lost and made anew between two reads shows
// nowhere else.
func (l *link) check(ctx context.Context) (bool, error) {
	l.mu.Lock()
	epoch, at := l.epoch, l.hub.head()
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, readMax)
	defer cancel()
	ok, err := checkScript.RunOn(ctx, l.own, l.keys[:1], epoch, at.offset).Int()
	if err != nil {
		return false, err
	}
	if ok == 1 {
		return true, nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reenter(epoch)
	return false, nil
}

// deliver passes entries of the log to our readers. False: the log has to be entered anew.
func (l *link) deliver(entries []goredis.XMessage) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.epoch == "" || l.alone {
		return false
	}
	for _, e := range entries {
		id, _, _ := strings.Cut(e.ID, "-")
		offset, err := strconv.ParseInt(id, 10, 64)
		if err != nil {
			l.broken, l.epoch = true, ""
			return false
		}
		at := l.hub.head()
		if text, ok := e.Values["e"].(string); ok {
			p, ok := parsePosition(text + "-0")
			if !ok {
				l.broken, l.epoch = true, ""
				return false
			}
			if offset <= l.last || p.epoch == at.epoch && offset == at.offset+1 {
				l.hub.skip(offset) // we entered after it
			} else {
				l.hub.turn(p.epoch, offset, false)
				l.epoch = text
			}
			continue
		}
		if offset != at.offset+1 {
			l.hub.turn(at.epoch, offset-1, false) // what lies between was thrown away before we read it
		}
		topic, _ := e.Values["t"].(string)
		kind, _ := e.Values["k"].(string)
		data, _ := e.Values["d"].(string)
		if node, _ := e.Values["n"].(string); node == l.id {
			number, _ := e.Values["i"].(string)
			n, _ := strconv.ParseInt(number, 10, 64)
			l.seen = max(l.seen, n)
		}
		if len(topic) == 0 || len(topic) > maxTopic || !validKind(kind) {
			l.hub.metrics.invalid.Inc()
			l.hub.skip(offset)
			continue
		}
		f := &frame{kind: kind, data: []byte(data)}
		if bytes.ContainsAny(f.data, "\r\n") || len(data) == 0 {
			f.data = oneLine(f.data)
		}
		l.hub.accept(topic, f)
	}
	l.changed.Broadcast()
	return true
}

// close takes no more frames, and waits until what was published has come to our own readers. When that takes too long, those who have not
// heard it get it at another node, by their positions.
func (l *link) close(ctx context.Context) {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.changed.Broadcast()
	l.signal()
	l.settle(ctx, drainFor, func() bool { return l.drained && (l.alone || l.seen >= l.sent) })
	l.stop()
	_ = l.own.Close() // ends a read that waits
	l.tasks.Wait()
	l.mu.Lock()
	left := len(l.out) > 0
	l.mu.Unlock()
	if left {
		l.leave()
	}
}
