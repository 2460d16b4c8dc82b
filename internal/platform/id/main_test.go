package id

import (
	"context"
	"encoding/binary"
	"errors"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// TestMain also is the program that TestKilledProcesses starts and kills.
func TestMain(m *testing.M) {
	if dir := os.Getenv("LEVEE_ID_TEST_CHILD"); dir != "" {
		childMain(dir)
		return
	}
	os.Exit(m.Run())
}

// exitStolen is how a child ends whose number was taken over.
const exitStolen = 3

// childMain gives ids by a clock with a fixed error and writes each to standard output before the next is asked for.
func childMain(dir string) {
	offset, err := strconv.ParseInt(os.Getenv("LEVEE_ID_TEST_OFFSET"), 10, 64)
	if err != nil {
		panic(err)
	}
	clock := func() time.Time { return time.Now().Add(time.Duration(offset) * time.Millisecond) }
	cfg := Config{Dir: dir, Ahead: 30 * time.Millisecond}
	if url := os.Getenv("LEVEE_ID_TEST_DB"); url != "" {
		d, err := db.Open(context.Background(), db.Config{URL: url, Password: obs.Secret(os.Getenv("LEVEE_ID_TEST_DB_PASSWORD")), Writers: 2, Readers: 2}, quiet(time.Now))
		if err != nil {
			panic(err)
		}
		cfg = Config{DB: d, Ahead: time.Second, Space: "few", Layout: few}
	}
	g, err := Open(context.Background(), cfg, quiet(clock))
	if cfg.DB != nil && levee.CodeOf(err) == levee.CodeUnavailable { // all numbers look held: take any, also that of the living one
		g, err = open(context.Background(), cfg, quiet(clock), options{lease: leaseOptions{steal: true}})
	}
	if cfg.DB != nil && errors.Is(err, errStolen) { // before it had given an id
		os.Exit(exitStolen)
	}
	if err != nil {
		panic(err)
	}
	ids := make([]int64, 100)
	out := make([]byte, 0, 8*len(ids))
	for i := 0; ; i++ {
		n := 1
		if i%3 == 0 {
			n = len(ids)
		}
		if err := g.NextN(ids[:n]); cfg.DB != nil && errors.Is(err, errStolen) {
			os.Exit(exitStolen)
		} else if err != nil {
			panic(err)
		}
		out = out[:0]
		for _, id := range ids[:n] {
			out = binary.LittleEndian.AppendUint64(out, uint64(id))
		}
		if _, err := os.Stdout.Write(out); err != nil {
			return
		}
	}
}

func quiet(clock obs.Clock) *obs.Obs {
	return &obs.Obs{Log: slog.New(slog.DiscardHandler), Metrics: prometheus.NewRegistry(), Clock: clock}
}

// wrongClock is a wall clock that the test moves as it likes.
type wrongClock struct{ ms atomic.Int64 }

func newWrongClock() *wrongClock {
	c := &wrongClock{}
	c.ms.Store(time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC).UnixMilli())
	return c
}
func (c *wrongClock) Now() time.Time       { return time.UnixMilli(c.ms.Load()) }
func (c *wrongClock) step(d time.Duration) { c.ms.Add(d.Milliseconds()) }

// crash leaves the generator as kill -9 does: the lock is gone, and nothing is written down.
func (g *Generator) crash() {
	g.mu.Lock()
	c := g.claim
	g.claim = nil
	if g.dead == nil {
		g.kill(errClosed)
	}
	g.mu.Unlock()
	close(g.stop)
	<-g.done
	g.metrics.close()
	_ = c.release()
}

// machine is a computer whose power can fail: what was not flushed is then lost, whole or in part, and in any order.
type machine struct {
	rng  *rand.Rand
	lies bool // flushes are promised, not done
	fail atomic.Bool

	mu      sync.Mutex
	durable map[string][]byte // contents as of the last flush
}

func (m *machine) wrap(f *os.File) file { return &disk{f: f, m: m} }

func (m *machine) powerCut(t *testing.T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for path, kept := range m.durable {
		now, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		image := slices.Clone(kept)
		if m.rng.IntN(2) == 0 { // some of the unflushed sectors made it
			if len(image) < len(now) {
				image = append(image, make([]byte, len(now)-len(image))...)
			}
			const sector = 64 // smaller than any disk's, so that records are torn too
			for at := 0; at < len(now); at += sector {
				if m.rng.IntN(2) == 0 {
					copy(image[at:min(at+sector, len(now))], now[at:])
				}
			}
		}
		if err := os.WriteFile(path, image, 0o644); err != nil {
			t.Fatal(err)
		}
		m.durable[path] = image
	}
}

type disk struct {
	f *os.File
	m *machine
}

func (d *disk) ReadAt(b []byte, at int64) (int, error) { return d.f.ReadAt(b, at) }
func (d *disk) Stat() (fs.FileInfo, error)             { return d.f.Stat() }
func (d *disk) Close() error                           { return d.f.Close() }

func (d *disk) WriteAt(b []byte, at int64) (int, error) {
	d.m.mu.Lock()
	if _, ok := d.m.durable[d.f.Name()]; !ok {
		d.m.durable[d.f.Name()] = nil
	}
	d.m.mu.Unlock()
	if d.m.fail.Load() {
		n, _ := d.f.WriteAt(b[:rand.IntN(len(b))], at) // the keeper writes too, so not the history's own numbers
		return n, fs.ErrInvalid
	}
	return d.f.WriteAt(b, at)
}

func (d *disk) Sync() error {
	if d.m.fail.Load() {
		return fs.ErrInvalid
	}
	if d.m.lies {
		return nil
	}
	now, err := os.ReadFile(d.f.Name())
	if err != nil {
		return err
	}
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	d.m.durable[d.f.Name()] = now
	return nil
}

// duplicates counts the ids that appear again.
func duplicates(ids []int64) int {
	slices.Sort(ids)
	n := 0
	for i := 1; i < len(ids); i++ {
		if ids[i] == ids[i-1] {
			n++
		}
	}
	return n
}

func newRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 0)) }

// copyOver replaces a file by a copy of itself, as a restore from a backup does.
func copyOver(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", b, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
