package obs

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"
)

// Test returns an Obs for a test: it logs at debug to the test's output, has a registry of its own, traces nothing and is
// closed when the test ends.
func Test(t testing.TB) *Obs {
	t.Helper()
	w := &testWriter{w: t.Output()}
	o, err := Open(Config{Level: "debug", Format: "console"}, w)
	if err != nil {
		t.Fatal(err)
	}
	// Registered before any clean-up of the test itself, so it runs after all of them.
	t.Cleanup(func() {
		if err := o.Close(context.Background()); err != nil {
			t.Error(err)
		}
		w.stop()
	})
	return o
}

// testWriter drops what comes after the test's end, where the testing package would panic.
type testWriter struct {
	mu sync.Mutex // guards w
	w  io.Writer
}

func (w *testWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Write(p)
}

func (w *testWriter) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.w = io.Discard
}

// StepClock is a clock that stands still until a test moves it. Its method Now is a Clock. The zero value shows noon of
// 1 January 2026, UTC. Its readings carry no monotonic time, so a step is seen everywhere. Safe for concurrent use.
type StepClock struct {
	mu   sync.Mutex // guards past
	past time.Duration
}

var stepEpoch = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// NewStepClock returns a clock that stands at t.
func NewStepClock(t time.Time) *StepClock { return &StepClock{past: t.Sub(stepEpoch)} }

// Now returns the time that the clock shows.
func (c *StepClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return stepEpoch.Add(c.past)
}

// Step moves the clock by d, back when d is negative.
func (c *StepClock) Step(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.past += d
}
