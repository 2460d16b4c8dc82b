package backends

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// faults is what a proxy does to its connections. It is never changed but replaced, and changed is closed then, so that whoever waits
// because of it looks again.
type faults struct {
	latency, jitter time.Duration // of answers
	rate            int64         // bytes a second in each direction of each connection, 0 for no limit
	slowClose       time.Duration
	limit           int64 // bytes of answers until a connection is closed, 0 for no limit
	limitNumber     int64 // which call set the limit: counting starts anew with each
	dropAnswers     bool
	dropRequests    bool

	changed chan struct{}
}

const (
	chunkSize  = 16 << 10
	queueLimit = 256                   // chunks held back in each direction of a connection: 4 MiB
	tick       = 20 * time.Millisecond // how finely a bandwidth is spread
)

// proxied is one client with its connection to the upstream.
type proxied struct {
	proxy          *Proxy
	client, server *net.TCPConn
	done           chan struct{} // closed with the connections
	once           sync.Once
	holed          atomic.Bool // something was dropped: the stream is of no use any more
}

// close ends both sides at once, in order or with a reset. Nothing waits after it.
func (c *proxied) close(hard bool) {
	c.once.Do(func() {
		if hard {
			_ = c.client.SetLinger(0)
			_ = c.server.SetLinger(0)
		}
		_ = c.client.Close()
		_ = c.server.Close()
		close(c.done)
	})
}

// chunk is what one read brought, and when.
type chunk struct {
	data []byte
	at   time.Time
	luck float64 // from -1 to 1: its share of the jitter
}

// run carries both directions until the connection ends.
func (c *proxied) run() {
	var wg sync.WaitGroup
	wg.Go(func() { c.carry(c.server, c.client, true) })
	wg.Go(func() { c.carry(c.client, c.server, false) })
	wg.Wait()
}

// carry brings what from says to to, through the faults. It ends the connection when from has ended and all of it is through: neither
// protocol uses connections that are half closed.
func (c *proxied) carry(from, to *net.TCPConn, answers bool) {
	queue := make(chan chunk, queueLimit)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.close(false)
	wg.Go(func() {
		defer close(queue)
		b := make([]byte, chunkSize)
		for {
			n, err := from.Read(b)
			if n > 0 {
				select {
				case queue <- chunk{bytes.Clone(b[:n]), time.Now(), 2*rand.Float64() - 1}:
				case <-c.done:
					return
				}
			}
			if err != nil {
				return // io.EOF or a connection that broke: the end either way
			}
		}
	})
	var w io.Writer = to
	var sent, number int64 // bytes under the limit of that number
	for k := range queue {
		for len(k.data) > 0 {
			f := c.proxy.faults.Load()
			if f.drops(answers) {
				c.holed.Store(true)
				if c.proxy.faults.Load() != f {
					continue // it ended just now, and who ended it has not seen the hole
				}
				break
			}
			if !f.dropAnswers && !f.dropRequests && c.holed.Load() {
				c.close(true)
				return
			}
			if answers && f.latency > 0 {
				late := f.latency + time.Duration(k.luck*float64(f.jitter))
				if done, again := c.sleep(f, time.Until(k.at.Add(late))); done {
					return
				} else if again {
					continue
				}
			}
			piece := k.data
			if f.rate > 0 {
				piece = piece[:min(int64(len(piece)), max(1, f.rate*int64(tick)/int64(time.Second)))]
			}
			last := false
			if answers && f.limit > 0 {
				if number != f.limitNumber {
					sent, number = 0, f.limitNumber
				}
				if left := f.limit - sent; int64(len(piece)) >= left {
					piece, last = piece[:left], true
				}
				sent += int64(len(piece))
			}
			if _, err := w.Write(piece); err != nil {
				// The other direction sees the same end and decides when to close; until then this one must not stand still.
				w = io.Discard
			}
			if last {
				return
			}
			k.data = k.data[len(piece):]
			if f.rate > 0 {
				// A change of the rate ends the wait of a piece that is through already.
				if done, _ := c.sleep(f, time.Duration(int64(len(piece))*int64(time.Second)/f.rate)); done {
					return
				}
			}
		}
	}
	// The end is held back too: who hears nothing does not hear of it either.
	ended := time.Now()
	for {
		f := c.proxy.faults.Load()
		wait := time.Duration(0)
		switch {
		case f.drops(answers):
			wait = maxFaultTime
		case answers:
			wait = time.Until(ended.Add(max(f.slowClose, f.latency)))
		}
		if done, again := c.sleep(f, wait); done || !again {
			return
		}
	}
}

func (f *faults) drops(answers bool) bool {
	return answers && f.dropAnswers || !answers && f.dropRequests
}

// sleep waits for the time, the end of the connection (done) or other faults (again), whichever comes first.
func (c *proxied) sleep(f *faults, d time.Duration) (done, again bool) {
	if d <= 0 {
		return false, false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return false, false
	case <-c.done:
		return true, false
	case <-f.changed:
		return false, true
	}
}
