package gate

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"levee"
	"levee/internal/platform/redis"
)

// BucketsMax is the most buckets of one gate.
const BucketsMax = 16

// The bounds of what a bucket that runs dry does.
const (
	drawWidth  = 1024 // callers whose wish one draw serves
	drawRounds = 12   // of one caller: the stock that was brought for him was taken by others so often
	lookRounds = 4    // of one draw: units were under way while the buckets were asked
	scarce     = 4    // units for each bucket: with fewer in all, the last ones are sold
)

// buckets is this node's end of a gate in Redis. There is one bucket, or up to sixteen for a sale hotter than one Redis core. Each has its
// own hash tag and is the gate of those buyers whose hash it is: their limit, their keys and their takings are in one place. Every bucket
// follows the whole ledger, and takes of each movement what is its buyers' and its share of the free units. Free units move between
// them: docs/decisions/0014-buckets.md.
type buckets struct {
	gate    *Gate
	c       *redis.Client
	scripts scripts
	sale    levee.SaleID
	node    string
	base    string       // of the keys that there is one of, however many buckets there are
	want    int          // how many buckets a load by this node makes
	limit   atomic.Int32 // units per buyer by the terms that this node knows; 0: as loaded
	list    atomic.Pointer[[]*bucket]
	turn    atomic.Uint32 // whose overdue takings are asked for first
	// survey is look, but for tests that break it.
	survey func(ctx context.Context, list []*bucket) []state
}

// bucket is one of them.
type bucket struct {
	*shared
	place  int
	drawer *drawer // of all of them
}

// NewRedis makes this node's end of the gate of a sale over Redis; it takes nothing until some node has loaded it. node names this node among
// all, in 1 to 64 letters, digits and marks. waitingMax bounds the takings of this node that wait for their settlement. Its keys have no
// lifetime before Forget, and those of a bucket share one hash tag, so that scripts are atomic on a cluster, too.
//
// count is 1, or for a sale hotter than one Redis core up to BucketsMax (what is beyond is taken for the nearest): its buyers are spread over so
// many buckets, each with a hash tag of its own, so that they stand on different masters of a cluster. The number is that of the next
// load by this node. A gate that is loaded keeps the number it was loaded with, and every node follows it; so nodes may be of different
// numbers for the time of a rolling restart. A load that changes it forgets takings under way (SQL settles them all the same).
func NewRedis(c *redis.Client, sale levee.SaleID, node string, waitingMax, count int) *Gate {
	return newGate(c, ofTheHouse, sale, node, waitingMax, count)
}

func newGate(c *redis.Client, texts scripts, sale levee.SaleID, node string, waitingMax, count int) *Gate {
	g := NewMemory(waitingMax)
	k := &buckets{gate: g, c: c, scripts: texts, sale: sale, node: node, base: c.Key("{" + tagOf(sale, 1, 0) + "}:"), want: min(max(count, 1), BucketsMax)}
	k.survey = k.look
	k.become(k.want)
	g.buckets = k
	return g
}

// become makes this node's end one of so many buckets. Calls that are under way end at the buckets that were.
func (k *buckets) become(count int) []*bucket {
	list := make([]*bucket, count)
	drawer := newDrawer(k, list)
	for i := range list {
		key := k.c.Key("{" + tagOf(k.sale, count, i) + "}:")
		list[i] = &bucket{shared: newShared(k.gate, k.c, k.scripts, key, k.node, &k.limit), place: i, drawer: drawer}
	}
	k.list.Store(&list)
	return list
}

// all are the buckets as this node knows them.
func (k *buckets) all() []*bucket { return *k.list.Load() }

// bucketOf is a buyer's place among so many buckets: a multiplicative hash with a fold (ids are time-ordered), scaled down. All nodes of all
// versions must agree on it.
func bucketOf(buyer levee.UserID, count int) int {
	h := uint64(buyer) * 0x9E3779B97F4A7C15
	h ^= h >> 32
	h *= 0xD6E8FEB86659FD93
	return int(h >> 32 * uint64(count) >> 32)
}

// tagOf is a bucket's hash tag. One of several lies in the middle of its part of a cluster's slots, so that masters who share the slots
// evenly share the buckets evenly: of tags left to chance, three buckets stand on three masters about once in five times.
func tagOf(sale levee.SaleID, count, place int) string {
	tag := "sale:" + name(sale)
	if count == 1 {
		return tag
	}
	tag += ":" + strconv.Itoa(count) + "." + strconv.Itoa(place) + "."
	for n := 0; ; n++ {
		tried := tag + strconv.Itoa(n)
		if at := slotOf(tried) * 4 * count / 16384; at == 4*place+1 || at == 4*place+2 {
			return tried
		}
	}
}

// slotOf is a hash tag's slot in a cluster: CRC-16/XMODEM over 16,384 slots (Redis cluster specification).
func slotOf(tag string) int {
	var crc uint16
	for _, b := range []byte(tag) {
		crc ^= uint16(b) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc & 16383)
}

// share is a bucket's part of a movement's free units: as many for each, and what is left goes round with the movements.
func share(free, seq int64, place, count int) int64 {
	n := int64(count)
	part, rest := free/n, free%n
	if (int64(place)+seq)%n < max(rest, -rest) {
		if rest > 0 {
			return part + 1
		}
		return part - 1
	}
	return part
}

// split divides movements among so many buckets.
func split(movements []Movement, count int) [][]Movement {
	parts := make([][]Movement, count)
	for place := range parts {
		parts[place] = make([]Movement, len(movements))
		for i, m := range movements {
			parts[place][i] = Movement{Seq: m.Seq, Free: share(m.Free, m.Seq, place, count)}
		}
	}
	for i, m := range movements {
		for _, w := range m.Won {
			to := &parts[bucketOf(w.Buyer, count)][i]
			to.Won = append(to.Won, w)
		}
		for _, c := range m.Holdings {
			to := &parts[bucketOf(c.Buyer, count)][i]
			to.Holdings = append(to.Holdings, c)
		}
	}
	return parts
}

// each runs f for all buckets at once, and returns the error of the worst: away, then any other.
func each(list []*bucket, f func(i int, b *bucket) error) error {
	errs := make([]error, len(list))
	var all sync.WaitGroup
	for i, b := range list {
		all.Go(func() { errs[i] = f(i, b) })
	}
	all.Wait()
	var worst error
	for _, err := range errs {
		if err != nil && (worst == nil || levee.CodeOf(err) == levee.CodeUnavailable) {
			worst = err
		}
	}
	return worst
}

// take asks the buyer's bucket. Where that has too few units, they are brought from others; only if all buckets together had too few at
// one moment after the bucket refused is it "sold out".
func (k *buckets) take(a Attempt) (*Taking, Verdict, uint64) {
	list := k.all()
	if len(list) == 1 {
		return list[0].take(a)
	}
	b := list[bucketOf(a.Buyer, len(list))]
	for round := range drawRounds {
		t, v, _ := b.take(a)
		if v != SoldOut {
			return t, v, 0 // a bucket's own epoch is none of the gate's
		}
		if round > 1 { // two buckets that take the last units from each other, or a crowd: they meet again at different times
			time.Sleep(rand.N(time.Millisecond << min(round, 5)))
		}
		if v, epoch := b.drawer.bring(b.place, a.Quantity); v != Taken {
			return nil, v, epoch
		}
	}
	return nil, Away, 0
}

func (k *buckets) held(buyer levee.UserID) (int32, bool, error) {
	list := k.all()
	return list[bucketOf(buyer, len(list))].held(buyer)
}

func (k *buckets) settle(batch []*Taking, seq int64) int64 {
	list := k.all()
	if len(list) == 1 {
		return list[0].settle(batch, seq, false)
	}
	parts := make([][]*Taking, len(list))
	won := false
	for _, t := range batch {
		i := bucketOf(t.Buyer, len(list))
		parts[i] = append(parts[i], t)
		won = won || !t.Result.Refused()
	}
	var freed atomic.Int64
	_ = each(list, func(i int, b *bucket) error {
		if told := won && seq > 0; told || len(parts[i]) > 0 {
			freed.Add(b.settle(parts[i], seq, told))
		}
		return nil
	})
	return freed.Load()
}

func (k *buckets) apply(movements []Movement) error {
	list := k.all()
	if len(list) == 1 {
		return list[0].tell(movements, nil, nil)
	}
	parts := split(movements, len(list))
	if err := each(list, func(i int, b *bucket) error { return b.tell(parts[i], nil, nil) }); err != nil {
		return err
	}
	for i := range movements {
		if movements[i].Free < 0 || len(movements[i].Won) > 0 {
			// They may have taken from a bucket more than it had: then others sell what is not there, until that is brought.
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_, _ = k.level(ctx, list)
			break
		}
	}
	return nil
}

func (k *buckets) resolve(won []Win, lost []levee.ReservationID) error {
	list := k.all()
	if len(list) == 1 {
		return list[0].tell(nil, refused(lost), won)
	}
	parts := make([][]Win, len(list))
	for _, w := range won {
		i := bucketOf(w.Buyer, len(list))
		parts[i] = append(parts[i], w)
	}
	// Whose the lost are is not told: those who do not know them do nothing.
	return each(list, func(i int, b *bucket) error { return b.tell(nil, refused(lost), parts[i]) })
}

// numbers makes good what is open between the buckets and adds them up.
func (k *buckets) numbers(ctx context.Context) (Numbers, error) {
	list := k.all()
	n, err := k.count(ctx, list)
	if err != nil || len(list) == 1 && n.Warm {
		return n, err
	}
	shape, err := k.shape(ctx)
	if err != nil || shape == len(list) {
		return n, err
	}
	return k.count(ctx, k.become(shape)) // another node has loaded it with another number of buckets
}

// count adds the buckets up. They are not read at one moment, and need not be: free and taken units of a bucket, with what it sent and without
// what it got, are the same sum whatever is taken, given back and moved, until a movement of the ledger reaches it. So where all have come to
// the same movement, Remaining and Unsettled together are exactly what SQL had then; each for itself is as of about now. The epoch is read
// before: what comes back meanwhile raises it, and is not missed by who heard that nothing is free.
func (k *buckets) count(ctx context.Context, list []*bucket) (Numbers, error) {
	if len(list) == 1 {
		n, err := list[0].numbers(ctx)
		return n.Numbers, err
	}
	states, err := k.level(ctx, list)
	if err != nil {
		return Numbers{}, err
	}
	v := viewOf(states, states[0].generation)
	if v.away || v.cold {
		return Numbers{}, nil
	}
	parts := make([]part, len(list))
	if err := each(list, func(i int, b *bucket) (err error) { parts[i], err = b.numbers(ctx); return err }); err != nil {
		return Numbers{}, err
	}
	all := Numbers{Warm: true, Epoch: v.epoch, Applied: parts[0].Applied}
	last := int64(0)
	for i, n := range parts {
		if !n.Warm || n.generation != states[i].generation {
			return Numbers{}, nil // it was loaded anew meanwhile
		}
		all.Remaining, all.Unsettled, all.Buyers = all.Remaining+n.Remaining+n.moved, all.Unsettled+n.Unsettled, all.Buyers+n.Buyers
		all.Applied, last = min(all.Applied, n.Applied), max(last, n.Applied)
		all.Missing = append(all.Missing, n.Missing...)
	}
	// A bucket that another is ahead of may lack all that is between them.
	for _, n := range parts {
		for seq := n.Applied + 1; seq <= last && len(all.Missing) < BucketsMax*maxMissing; seq++ {
			all.Missing = append(all.Missing, seq)
		}
	}
	slices.Sort(all.Missing)
	all.Missing = slices.Compact(all.Missing)
	all.Missing = all.Missing[:min(len(all.Missing), maxMissing)]
	return all, nil
}

// pending and overdue tell of all buckets that can be reached; they fail where none of these has anything to tell, and one is away.
func (k *buckets) pending(ctx context.Context) (all []Attempt, err error) {
	return k.gather(func(b *bucket, _ int) ([]Attempt, error) { return b.pending(ctx) }, 1<<62)
}

func (k *buckets) overdue(ctx context.Context, lease time.Duration, most int) ([]Attempt, error) {
	return k.gather(func(b *bucket, most int) ([]Attempt, error) { return b.overdue(ctx, lease, most) }, most)
}

func (k *buckets) gather(ask func(b *bucket, most int) ([]Attempt, error), most int) (all []Attempt, err error) {
	list := k.all()
	first := int(k.turn.Add(1) % uint32(len(list)))
	for i := range list {
		if len(all) >= most {
			break
		}
		some, e := ask(list[(first+i)%len(list)], most-len(all))
		all, err = append(all, some...), errors.Join(err, e)
	}
	if len(all) > 0 {
		return all, nil
	}
	if err != nil {
		return nil, away(err)
	}
	return nil, nil
}
