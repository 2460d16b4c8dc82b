package push

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// wire is a transport that hands frames to a function and can be cut at any frame, as a network is: what was handed over
// before has arrived, what comes after is lost.
type wire struct {
	mu     sync.Mutex
	cutted bool
	left   int // frames until the cut
	got    func(m message)
}

var errCut = errors.New("the network is gone")

func (w *wire) put(m message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.left--; w.left < 0 || w.cutted {
		return errCut
	}
	w.got(m)
	return nil
}

func (w *wire) send(frames []*frame) error {
	for _, f := range frames {
		if err := w.put(message{ID: f.at.String(), Kind: f.kind, Data: f.data}); err != nil {
			return err
		}
	}
	return nil
}
func (w *wire) note(kind string, at position) error {
	return w.put(message{ID: at.String(), Kind: kind})
}
func (w *wire) pong(string) error { return nil }
func (w *wire) beat() error       { return nil }
func (w *wire) interrupt() {
	w.mu.Lock()
	w.cutted = true
	w.mu.Unlock()
}

// listen serves one connection over the wire, as the handlers do.
func (h *Hub) listen(ctx context.Context, w *wire, last string, topics ...string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var since *position
	if last != "" {
		p, ok := parsePosition(last)
		if !ok {
			return fmt.Errorf("position %q", last)
		}
		since = &p
	}
	defer interruptOn(ctx, w)()
	return h.pump(ctx, newConn(h, cancel), w, topics, since)
}

// world is the truth that is published: for each topic a number that only grows. A reader keeps a copy by the frames alone,
// and reads the truth itself only when he is told to.
type world struct {
	mu  sync.Mutex
	hub *Hub
	n   map[string]int
}

func (w *world) say(topic string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.n[topic]++
	w.hub.Publish(topic, "n", fmt.Appendf(nil, `{"topic":%q,"n":%d}`, topic, w.n[topic]))
}

func (w *world) read() map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := map[string]int{}
	for k, v := range w.n {
		c[k] = v
	}
	return c
}

// reconnecting plays readers on a bad network against publishers and a hub that forgets soon and is restarted now and then.
// It returns the faults that readers saw in their copies, and how many resets and resumes there were.
func reconnecting(t *testing.T, seed uint64, deaf bool) (faults []string, resets, resumes int) {
	cfg := Config{QueuePerConn: 4, History: 6, HistoryBytes: 64 << 10, Heartbeat: 10 * time.Millisecond}
	w := &world{hub: Open(cfg, quiet()), n: map[string]int{}}
	topics := []string{"a", "b", "c", "d"}
	ctx, stop := context.WithCancel(t.Context())
	var said, readers sync.WaitGroup
	var mu sync.Mutex
	for i := range 4 {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(i)))
			mine := topics[i%2 : i%2+2+rng.IntN(2)]
			last := ""
			have := w.read()
			fresh := true
			for ctx.Err() == nil {
				wire := &wire{left: 1 + rng.IntN(30)}
				wire.got = func(m message) {
					was, _ := parsePosition(last)
					is, ok := parsePosition(m.ID)
					// Frames come once and in order; the hub's own frames may repeat a position.
					if !ok || is.epoch == was.epoch && (is.offset < was.offset || is.offset == was.offset && m.Kind == "n") {
						t.Errorf("seed %d: %+v came after %q", seed, m, last)
					}
					last = m.ID
					switch m.Kind {
					case kindHello, kindHeartbeat:
						if fresh {
							have, fresh = w.read(), false
						}
						return
					case kindReset:
						mu.Lock()
						resets++
						mu.Unlock()
						if !deaf {
							have = w.read()
						}
						return
					}
					var d struct {
						Topic string
						N     int
					}
					if err := json.Unmarshal(m.Data, &d); err != nil {
						t.Error(err)
					}
					if d.N > have[d.Topic]+1 {
						mu.Lock()
						faults = append(faults, fmt.Sprintf("reader %d has %s up to %d and got %d", i, d.Topic, have[d.Topic], d.N))
						mu.Unlock()
					}
					have[d.Topic] = max(have[d.Topic], d.N)
				}
				w.mu.Lock()
				hub := w.hub
				w.mu.Unlock()
				if last != "" {
					mu.Lock()
					resumes++
					mu.Unlock()
				}
				if rng.IntN(4) == 0 {
					cut, cancel := context.WithTimeout(ctx, time.Duration(rng.IntN(3000))*time.Microsecond)
					_ = hub.listen(cut, wire, last, mine...)
					cancel()
				} else {
					_ = hub.listen(ctx, wire, last, mine...)
				}
			}
		})
	}
	for i := range 3 {
		said.Go(func() {
			rng := rand.New(rand.NewPCG(seed, 100+uint64(i)))
			for range 300 {
				w.say(topics[rng.IntN(len(topics))])
				for range rng.IntN(4) {
					w.say(fmt.Sprint("noise", rng.IntN(300)))
				}
				if rng.IntN(150) == 0 {
					w.mu.Lock()
					old := w.hub
					w.hub = Open(cfg, quiet())
					w.mu.Unlock()
					if err := old.Close(t.Context()); err != nil {
						t.Error(err)
					}
				}
				if rng.IntN(10) == 0 {
					time.Sleep(time.Duration(rng.IntN(500)) * time.Microsecond)
				}
			}
		})
	}
	said.Wait()
	stop()
	readers.Wait()
	ends, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := w.hub.Close(ends); err != nil {
		t.Error(err)
	}
	return faults, resets, resumes
}

// The histories run in bubbles, where time passes only when everybody waits.
func histories(t *testing.T, n int, deaf bool) (faults []string, resets, resumes int) {
	if testing.Short() {
		n /= 5
	}
	for seed := range uint64(n) {
		synctest.Test(t, func(t *testing.T) {
			f, rs, rm := reconnecting(t, seed, deaf)
			for _, s := range f {
				faults = append(faults, fmt.Sprintf("seed %d: %s", seed, s))
			}
			resets, resumes = resets+rs, resumes+rm
		})
	}
	return faults, resets, resumes
}

func TestReadersOnABadNetworkMissNothing(t *testing.T) {
	faults, resets, resumes := histories(t, 200, false)
	t.Logf("%d reconnects, %d resets", resumes, resets)
	if len(faults) > 0 {
		t.Errorf("%d faults, the first: %s", len(faults), faults[0])
	}
	if resets == 0 || resumes < 4*resets/3 {
		t.Error("either nobody was reset or nobody was resumed: the histories prove nothing")
	}
}

// The same histories must notice a reader who does not heed resets.
func TestReadersWhoIgnoreResetsAreFound(t *testing.T) {
	faults, _, _ := histories(t, 20, true)
	t.Logf("%d faults", len(faults))
	if len(faults) == 0 {
		t.Error("no gap was found: this test could not find a real one either")
	}
}

func TestHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := Open(Config{Heartbeat: 15 * time.Second, MaxAge: time.Hour}, quiet())
		defer h.Close(t.Context())
		var got []message
		var times []time.Time
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		w := &wire{left: 1 << 30, got: func(m message) { got, times = append(got, m), append(times, time.Now()) }}
		go func() { ended <- h.listen(ctx, w, "", "quiet") }()
		synctest.Wait()
		began := time.Now()
		for range 100 {
			h.Publish("loud", "n", nil)
		}
		time.Sleep(10 * time.Minute)
		w.mu.Lock()
		if len(got) < 35 || len(got) > 51 {
			t.Errorf("%d signs of life in ten minutes", len(got))
		}
		gaps := map[time.Duration]bool{}
		for i := 2; i < len(got); i++ {
			gap := times[i].Sub(times[i-1])
			gaps[gap] = true
			if gap < 12*time.Second || gap > 18*time.Second {
				t.Errorf("a gap of %v", gap)
			}
		}
		if len(gaps) < 10 {
			t.Error("heartbeats are not spread")
		}
		// A quiet topic's reader moves on with the hub, so that he is not reset for what did not concern him.
		if p, _ := parsePosition(got[len(got)-1].ID); p.offset != 100 {
			t.Errorf("the position is %v", got[len(got)-1])
		}
		w.mu.Unlock()
		err := <-ended // after about an hour
		if age := time.Since(began); !errors.Is(err, errAged) || age < 45*time.Minute || age > 73*time.Minute {
			t.Errorf("the connection ended after %v with %v", age, err)
		}
		cancel()
	})
}

// A queue that stays full is what makes a reader slow, not one that was full for a moment.
func TestSlowness(t *testing.T) {
	for _, c := range []struct {
		name   string
		frames int
		pause  time.Duration
		slow   bool
	}{
		{"few", 4, time.Hour, false},
		{"burst", 64, 0, false},
		{"burst beyond measure", 65, 0, true},
		{"behind for a while", 5, time.Second / 4, true},
		{"behind for a moment", 5, time.Second / 5, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := Open(Config{QueuePerConn: 4}, quiet())
				defer h.Close(t.Context())
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				conn := newConn(h, cancel) // whose writer hangs
				h.subscribe(conn, []string{"a"}, nil)
				defer h.unsubscribe(conn)
				for range c.frames {
					h.Publish("a", "n", nil)
					time.Sleep(c.pause)
				}
				synctest.Wait()
				if slow := ctx.Err() != nil; slow != c.slow {
					t.Errorf("slow: %v", slow)
				}
				if c.slow && len(conn.queue) != 0 {
					t.Error("the queue of one who was cut off is kept")
				}
			})
		})
	}
}
