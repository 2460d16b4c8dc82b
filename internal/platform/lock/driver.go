package lock

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"time"
)

// driver keeps the grants of names in one kind of store. It is told of one name at a time; options, re-entrance, several names, local deadlines,
// renewal and metrics are not its business.
//
// What a driver promises:
//   - It grants a request only if, with it, no more grants of the name are alive than the limit of any of them: limit 1 is an exclusive
//     lock, a higher one a semaphore or a read lock.
//   - It grants in the order in which acquire was called, as far as its doc says, also to a TryAcquire, which does not pass those who wait.
//     Who waits and dies, or whose ctx ends, holds up nobody for longer than a few seconds.
//   - The fence of a grant is higher than that of every grant of the name before, as far as the driver's doc says.
//   - A grant is alive until release, or until ttl has passed in the store since the last acquire or renew, never less than ttl
//     after the request of the call was sent; a store that cannot tell the time may keep it longer, until somebody asks for the place. After
//     that it is over for good: neither renew nor anything else brings it back. renew is called within the local deadline only.
//   - The call that is repeated after its answer was lost does no harm: the same request gets the same place.
type driver interface {
	// acquire waits until the request is granted or ctx ends. With r.try it does not wait and returns errHeld. It writes r.token. When it
	// returns an error, the request holds nothing and waits for nothing, or will not for longer than r.ttl. Errors: errHeld, errClosed,
	// that of ctx, and any other one: the store is away.
	acquire(ctx context.Context, r *request) (grant, error)
	// renew makes the grant last ttl from now, or returns errGone when it is over.
	renew(ctx context.Context, r *request, ttl time.Duration) error
	// release ends the grant. errGone: it was over. ctx has no end: how long it tries is the driver's to bound.
	release(ctx context.Context, r *request) error
	// close ends what waits, with errClosed, and gives back what the driver opened. Grants stay and end by themselves.
	close() error
}

// request is one wish for a place in a name.
type request struct {
	name  string
	limit int           // the most holders, this one included, that it bears beside it: 1 for an exclusive lock
	ttl   time.Duration // of the grant
	hold  time.Duration // the longest that it will be renewed, at least ttl
	try   bool
	token string // the driver's name for this request: 128 random bits, where it needs one

	began time.Time // when the caller came

	// The etcd driver's.
	created int64 // the revision that made its key
	debt    *debt // of an early grant

	// The memory driver's, guarded by its shard.
	place *place
	until time.Time
}

// grant is a place in a name.
type grant struct {
	fence  uint64
	asked  time.Time     // a moment before the request that was granted was sent, with its monotonic reading: the lease counts from here
	ttl    time.Duration // from asked; at least the request's
	waited bool          // it was not free at once
	// early: the store has not been told yet that the request holds, so ttl may be less than the request's. The caller must renew at once; what is neither
	// renewed nor released within ttl is over.
	early bool
}

var (
	errHeld   = errors.New("lock: no place is free")
	errGone   = errors.New("lock: the grant is over")
	errClosed = errors.New("lock: closed")
	errLate   = errors.New("lock: the answer came after the end of the lease that it granted")
)

// newToken draws 128 random bits.
func newToken() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}
