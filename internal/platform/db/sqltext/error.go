package sqltext

import (
	"time"

	"levee"
)

// RetryAfter is what a caller is told to wait when the database cannot write: long enough for a checkpoint or another
// process's transaction to end, short enough for a person.
const RetryAfter = time.Second

// Unavailable makes the CodeUnavailable error of a database that cannot be written now.
func Unavailable(reason string, cause error) error {
	return levee.E(levee.CodeUnavailable, "the database cannot do this now: %s; nothing was changed, try again", reason).
		After(RetryAfter).Because(cause)
}
