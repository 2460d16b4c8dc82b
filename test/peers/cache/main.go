// Command cache measures platform/cache beside the caches that others pick, on one Redis that it starts: the cost of a hit in the process, hits a
// second there and in Redis, and how many reads are stale while rows change. docs/cache.md shows what it prints.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee/internal/platform/backends"
	"levee/test/table"
)

// row is about what a product is: 200 bytes of JSON.
type row struct {
	ID          int64
	Version     int64
	Title, Note string
	Price, Left int64
	Tags        []string
}

func newRow(k int, version int64) row {
	return row{int64(k), version, "Kettle, " + strconv.Itoa(k) + " litres", "stainless steel, keeps warm for six hours", 4999, 120, []string{"kitchen", "steel"}}
}

// node is a cache on one node, over what is loaded by load.
type node struct {
	get    func(k int) (row, error)         // from the first level where there is one
	second func(k int) (row, error)         // past the first level; nil: there is no second
	strict func(k int) (row, error)         // a read that promises more; nil: there is none
	change func(k int, version int64) error // after the commit
	close  func()
}

// contestant makes nodes. url is of a Redis that is empty.
type contestant struct {
	name string
	make func(url string, load func(k int) (row, error)) (node, error)
	far  bool // it has no first level
	near bool // it has no second level: it is a limit, and takes no part in the checker
}

const keys = 20_000

func main() {
	page := flag.String("write", "", "the page to write the table into")
	length := flag.Duration("length", 2*time.Second, "how long each figure is measured")
	testing.Init()
	flag.Parse()
	log.SetOutput(io.Discard) // of the peers
	slog.SetDefault(slog.New(slog.DiscardHandler))
	if err := flag.Set("test.benchtime", length.String()); err != nil {
		fail(err)
	}
	rows, err := measure(*length)
	if err != nil {
		fail(err)
	}
	heads := []string{"cache", "first level: ns a hit", "allocs", "hits/s, 2 goroutines", "Redis: hits/s, 2 callers", "64 callers", "stale reads", "longest after its acknowledgement"}
	err = table.Publish(*page, "bench", "make bench-peers PEERS_OF=cache",
		"20,000 rows of 200 bytes, read by a Zipf law (s = 1.01) from Redis and one row from the first level; Redis shares the cores. Stale: 2 nodes, 4 writers, 16 readers, "+
			"16 rows, one load in fifty 5 to 60 ms slow; a read is stale when it returns less than what was acknowledged before it began.",
		table.Markdown(heads, rows))
	if err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func measure(length time.Duration) (rows [][]string, err error) {
	for _, c := range contestants {
		line, err := one(c, length)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
		fmt.Fprintln(os.Stderr, line)
		rows = append(rows, line)
	}
	strict, err := stale(contestants[0], true, length)
	if err != nil {
		return nil, err
	}
	return append(rows, append([]string{"the same, strict reads", "–", "–", "–", "–", "–"}, strict...)), nil
}

func one(c contestant, length time.Duration) ([]string, error) {
	srv, err := backends.StartRedis(context.Background(), backends.RedisOptions{})
	if err != nil {
		return nil, err
	}
	defer srv.Close()
	n, err := c.make(srv.URL(), func(k int) (row, error) { return newRow(k, 1), nil })
	if err != nil {
		return nil, err
	}
	defer n.close()
	line := []string{c.name, "–", "–", "–", "–", "–", "–", "–"}
	if !c.far {
		for range 3 { // one of them may be dropped on its way in
			if _, err := n.get(7); err != nil {
				return nil, err
			}
			time.Sleep(20 * time.Millisecond)
		}
		alone := testing.Benchmark(func(b *testing.B) {
			b.ReportAllocs()
			for range b.N {
				_, _ = n.get(7)
			}
		})
		line[1] = strconv.FormatInt(alone.NsPerOp(), 10)
		line[2] = strconv.FormatInt(alone.AllocsPerOp(), 10)
		two := testing.Benchmark(func(b *testing.B) {
			var all sync.WaitGroup
			for range 2 {
				all.Go(func() {
					for range b.N / 2 {
						_, _ = n.get(7)
					}
				})
			}
			all.Wait()
		})
		line[3] = human(float64(two.N) / two.T.Seconds())
	}
	if n.second != nil {
		for k := range keys {
			if _, err := n.second(k); err != nil {
				return nil, err
			}
		}
		for i, callers := range []int{2, 64} {
			rate, err := crowd(callers, length, n.second)
			if err != nil {
				return nil, err
			}
			line[4+i] = human(rate)
		}
	}
	if !c.near {
		found, err := stale(c, false, length)
		if err != nil {
			return nil, err
		}
		copy(line[6:], found)
	}
	return line, nil
}

func human(n float64) string {
	if n >= 1e6 {
		return fmt.Sprintf("%.1f M", n/1e6)
	}
	return fmt.Sprintf("%.0f k", n/1e3)
}

// crowd reads from so many callers, and returns the reads a second.
func crowd(callers int, length time.Duration, get func(k int) (row, error)) (float64, error) {
	var reads atomic.Int64
	var failed atomic.Pointer[error]
	var all sync.WaitGroup
	began := time.Now()
	for range callers {
		all.Go(func() {
			z := rand.NewZipf(rand.New(rand.NewPCG(rand.Uint64(), 1)), 1.01, 1, keys-1)
			for n := 0; ; n++ {
				if n%16 == 0 && time.Since(began) > length {
					reads.Add(int64(n))
					return
				}
				if _, err := get(int(z.Uint64())); err != nil {
					failed.Store(&err)
					return
				}
			}
		})
	}
	all.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(reads.Load()) / time.Since(began).Seconds(), nil
}

// stale runs the checker: how many reads return less than what was acknowledged before they began, and for how long at most.
func stale(c contestant, strict bool, length time.Duration) ([]string, error) {
	const rows = 16
	srv, err := backends.StartRedis(context.Background(), backends.RedisOptions{})
	if err != nil {
		return nil, err
	}
	defer srv.Close()
	var truth, floor [rows]atomic.Int64
	var acked [rows]sync.Map // version: when
	for k := range rows {
		truth[k].Store(1)
	}
	load := func(k int) (row, error) {
		v := truth[k].Load()
		if rand.N(50) == 0 {
			time.Sleep(5*time.Millisecond + rand.N(55*time.Millisecond))
		}
		return newRow(k, v), nil
	}
	var nodes []node
	for range 2 {
		n, err := c.make(srv.URL(), load)
		if err != nil {
			return nil, err
		}
		defer n.close()
		if strict {
			n.get = n.strict
		}
		nodes = append(nodes, n)
	}
	var reads, old, longest atomic.Int64
	var failed atomic.Pointer[error]
	var stop atomic.Bool
	var all sync.WaitGroup
	began := time.Now()
	for w := range 4 {
		all.Go(func() {
			for !stop.Load() {
				k := w + 4*rand.N(rows/4) // one writer a row: its versions are acknowledged in order
				v := truth[k].Add(1)
				if err := nodes[w%2].change(k, v); err != nil {
					failed.Store(&err)
					return
				}
				acked[k].Store(v, time.Now())
				floor[k].Store(v)
				time.Sleep(rand.N(4 * time.Millisecond))
			}
		})
	}
	for r := range 16 {
		all.Go(func() {
			for !stop.Load() {
				k := rand.N(rows)
				least := floor[k].Load()
				got, err := nodes[r%2].get(k)
				if err != nil {
					failed.Store(&err)
					return
				}
				reads.Add(1)
				if got.Version < least {
					old.Add(1)
					if at, ok := acked[k].Load(got.Version + 1); ok {
						for late := int64(time.Since(at.(time.Time))); ; {
							was := longest.Load()
							if late <= was || longest.CompareAndSwap(was, late) {
								break
							}
						}
					}
				}
				time.Sleep(rand.N(200 * time.Microsecond))
			}
		})
	}
	time.Sleep(2*length - time.Since(began))
	stop.Store(true)
	all.Wait()
	if err := failed.Load(); err != nil {
		return nil, *err
	}
	share := fmt.Sprintf("%.3g %% of %d", 100*float64(old.Load())/float64(reads.Load()), reads.Load())
	return []string{share, time.Duration(longest.Load()).Round(100 * time.Microsecond).String()}, nil
}
