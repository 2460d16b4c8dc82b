package lock

import (
	"context"
	"errors"
	"time"

	"levee"
)

// What errors.Is finds in the errors of this package. The errors themselves are levee.Error with the code named here.
var (
	// ErrLost: the lease had ended before it was given back, by its time, by the hand of somebody, or with the store that forgot it.
	// What was done since may have been done beside another holder. CodeGone.
	ErrLost = errors.New("lock: the lease was lost")
	// ErrHeld: TryAcquire found no place free, or somebody waiting for one. CodeConflict.
	ErrHeld = errors.New("lock: held by another")
	// ErrFenced: a holder with a higher fence has entered since. CodeConflict.
	ErrFenced = errors.New("lock: a later holder has entered")
	// ErrReleased is the cause of the end of a Lease's context when it was given back. It is no failure.
	ErrReleased = errors.New("lock: the lease was given back")
)

// awayRetry is what callers are told to wait when the store is away.
const awayRetry = time.Second

func lost(name string) error {
	return levee.E(levee.CodeGone, "the lock %q was lost before it was given back", name).Because(ErrLost)
}

// away makes CodeUnavailable of a failure of the store.
func away(err error) error {
	return levee.E(levee.CodeUnavailable, "the locks cannot be reached now").After(awayRetry).Because(err)
}

// closedError is what calls get after Close.
func closedError() error {
	return levee.E(levee.CodeUnavailable, "the locks are closing").After(awayRetry)
}

// failed makes the error of an acquisition out of the driver's, and says what it counts as.
func failed(ctx context.Context, name string, err error) (error, string) {
	switch {
	case levee.CodeOf(err) == levee.CodeInvalid: // the driver has no such thing
		return err, "invalid"
	case errors.Is(err, errHeld):
		return levee.E(levee.CodeConflict, "the lock %q is held", name).After(awayRetry).Because(ErrHeld), "held"
	case errors.Is(err, errClosed):
		return closedError(), "closed"
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), context.DeadlineExceeded):
		return levee.E(levee.CodeTimeout, "the lock %q was not free in time", name).After(awayRetry).Because(context.Cause(ctx)), "timeout"
	case ctx.Err() != nil:
		return context.Cause(ctx), "cancelled"
	}
	return away(err), "away"
}
