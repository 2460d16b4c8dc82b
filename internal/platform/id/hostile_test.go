package id

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"levee"
)

// hostile plays one random history of a machine: generators are opened, closed, killed and robbed, the power fails, the disk
// refuses, and the clock stands still or jumps by hours. It returns all ids that were given, and how many lives there were.
func hostile(t *testing.T, seed uint64, tweak func(*options, *machine)) (ids []int64, lives int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	clock := newWrongClock()
	m := &machine{rng: rng, durable: map[string][]byte{}}
	opt := options{claim: claimOptions{wrap: m.wrap}}
	if tweak != nil {
		tweak(&opt, m)
	}
	cfg := Config{Dir: t.TempDir(), Ahead: []time.Duration{10 * time.Millisecond, 300 * time.Millisecond, 3 * time.Second}[rng.IntN(3)]}
	o := quiet(clock.Now)
	type life struct {
		*Generator
		last int64
	}
	var alive []*life
	highest := map[int]int64{} // by worker; a robbed worker is taken out
	begin := func(steal bool) {
		opt := opt
		opt.claim.noLocks = steal
		g, err := open(context.Background(), cfg, o, opt)
		if err != nil {
			if m.fail.Load() {
				return
			}
			t.Fatalf("seed %d: %v", seed, err)
		}
		lives++
		alive = append(alive, &life{Generator: g})
		if steal {
			highest[g.Worker()] = -1
		}
	}
	end := func(i int, how func(*Generator)) {
		how(alive[i].Generator)
		alive = append(alive[:i], alive[i+1:]...)
	}
	take := func(l *life, n int) {
		got := make([]int64, n)
		if n == 1 {
			id, err := l.Next()
			if err != nil {
				mayFail(t, seed, err)
				return
			}
			got[0] = id
		} else if err := l.NextN(got); err != nil {
			mayFail(t, seed, err)
			return
		}
		for _, id := range got {
			if id <= l.last {
				t.Fatalf("seed %d: %d after %d", seed, id, l.last)
			}
			l.last = id
		}
		if h := highest[l.Worker()]; h >= 0 {
			if got[0] <= h && opt.start == nil && !m.lies {
				t.Fatalf("seed %d: a later life gave %d, an earlier one %d", seed, got[0], h)
			}
			highest[l.Worker()] = l.last
		}
		ids = append(ids, got...)
	}
	for range 40 + rng.IntN(60) {
		if len(alive) == 0 {
			begin(false)
			continue
		}
		i := rng.IntN(len(alive))
		switch p := rng.IntN(100); {
		case p < 35:
			take(alive[i], 1+rng.IntN(3)/2*rng.IntN(300))
		case p < 38:
			take(alive[i], 1+rng.IntN(9000))
		case p < 50:
			clock.step(time.Duration(rng.IntN(20)) * time.Millisecond)
		case p < 56:
			clock.step(time.Duration(rng.IntN(8000)-4000) * time.Millisecond)
		case p < 60:
			clock.step(time.Duration(rng.IntN(20*3600)-10*3600) * time.Second)
		case p < 72 && len(alive) < 4:
			begin(false)
		case p < 75 && len(alive) < 4:
			begin(true)
		case p < 85:
			end(i, (*Generator).crash)
		case p < 92:
			end(i, func(g *Generator) { _ = g.Close() }) // fails on a failing disk and in a robbed file
		case p < 95:
			for len(alive) > 0 {
				end(0, (*Generator).crash)
			}
			m.powerCut(t)
		case p < 97:
			m.fail.Store(true)
		default:
			m.fail.Store(false)
		}
	}
	for len(alive) > 0 {
		end(0, (*Generator).crash)
	}
	return ids, lives
}

// mayFail accepts that no id is given, but only in the one way that callers are promised.
func mayFail(t *testing.T, seed uint64, err error) {
	if levee.CodeOf(err) != levee.CodeUnavailable {
		t.Fatalf("seed %d: %v", seed, err)
	}
}

func runs(t *testing.T, n int) uint64 {
	if testing.Short() {
		n /= 10
	}
	return uint64(n)
}

func TestHostileHistoriesGiveNoDuplicates(t *testing.T) {
	ids, lives := 0, 0
	for seed := range runs(t, 3000) {
		got, n := hostile(t, seed, nil)
		if d := duplicates(got); d != 0 {
			t.Fatalf("seed %d: %d duplicates in %d ids", seed, d, len(got))
		}
		ids, lives = ids+len(got), lives+n
	}
	t.Logf("%d ids of %d lives", ids, lives)
	if uint64(ids) < 100*runs(t, 3000) || uint64(lives) < 5*runs(t, 3000) {
		t.Errorf("the histories hardly did anything")
	}
}

// The same histories must find the faults that the horizon rule prevents, or they prove nothing.
func TestHostileHistoriesFindAGeneratorThatTrustsTheClock(t *testing.T) {
	control(t, func(o *options, _ *machine) {
		o.start = func(_, now int64) int64 { return now }
	})
}

func TestHostileHistoriesFindAHorizonThatIsNotFlushed(t *testing.T) {
	control(t, func(_ *options, m *machine) { m.lies = true })
}

func control(t *testing.T, tweak func(*options, *machine)) {
	found, ids := 0, 0
	n := runs(t, 1000)
	for seed := range n {
		got, _ := hostile(t, seed, tweak)
		ids += len(got)
		if duplicates(got) > 0 {
			found++
		}
	}
	t.Logf("duplicates in %d of %d histories (%d ids)", found, n, ids)
	if found == 0 {
		t.Error("no duplicate was found: this test could not find a real one either")
	}
}

func TestConcurrentCallersUnderAJumpingClock(t *testing.T) {
	clock := newWrongClock()
	cfg := Config{Dir: t.TempDir(), Ahead: 50 * time.Millisecond}
	var all []int64
	for round := range 30 {
		var gens []*Generator
		for range 2 {
			g, err := Open(t.Context(), cfg, quiet(clock.Now))
			if err != nil {
				t.Fatal(err)
			}
			gens = append(gens, g)
		}
		var wg sync.WaitGroup
		results := make([][]int64, 8)
		for i := range results {
			wg.Go(func() {
				g := gens[i%len(gens)]
				rng := rand.New(rand.NewPCG(uint64(round), uint64(i)))
				var got []int64
				buf := make([]int64, 1000)
				last := int64(0)
				for {
					b := buf[:1+rng.IntN(2)*rng.IntN(len(buf))]
					if err := g.NextN(b); err != nil {
						break // closed under us
					}
					if id, err := g.Next(); err == nil {
						got = append(got, id)
						if id <= b[len(b)-1] {
							t.Errorf("%d after %d", id, b[len(b)-1])
						}
					}
					if b[0] <= last {
						t.Errorf("%d after %d", b[0], last)
					}
					last = b[len(b)-1]
					got = append(got, b...)
				}
				results[i] = got
			})
		}
		rng := rand.New(rand.NewPCG(uint64(round), 99))
		for range 200 {
			clock.step(time.Duration(rng.IntN(7200)-3600) * time.Second)
			if _, err := gens[0].Next(); err != nil {
				t.Error(err)
			}
		}
		// One is closed and one is killed while they are used; the next round takes over their numbers.
		wg.Go(func() {
			if err := gens[0].Close(); err != nil {
				t.Error(err)
			}
		})
		gens[1].crash()
		wg.Wait()
		for _, r := range results {
			all = append(all, r...)
		}
		if len(all) > 5_000_000 {
			break
		}
	}
	t.Logf("%d ids", len(all))
	if d := duplicates(all); d != 0 {
		t.Fatalf("%d duplicates", d)
	}
}

// Real processes with clocks hours apart, killed at any moment, two at a time on one folder.
func TestKilledProcesses(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	dir := t.TempDir()
	var mu sync.Mutex
	var all []int64
	rounds := 40
	if testing.Short() {
		rounds = 6
	}
	for range rounds {
		var wg sync.WaitGroup
		for range 2 {
			offset := int64(0)
			if rng.IntN(3) > 0 {
				offset = rng.Int64N(2*6*3_600_000) - 6*3_600_000
			}
			most := 8 * (1 + rng.IntN(40_000))
			wg.Go(func() {
				ids, err := killedAfter(t.Context(), dir, offset, most)
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				all = append(all, ids...)
				mu.Unlock()
			})
		}
		wg.Wait()
	}
	n := len(all)
	if d := duplicates(all); d != 0 {
		t.Fatalf("%d duplicates in %d ids", d, n)
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d ids of %d killed processes on %d worker numbers", n, 2*rounds, len(files))
	if len(files) > 2 {
		t.Errorf("%d worker numbers were used for two processes at a time", len(files))
	}
}

// killedAfter runs a child until it has written the given number of bytes, kills it, and returns all that it has written.
func killedAfter(ctx context.Context, dir string, offset int64, bytesMost int, env ...string) ([]int64, error) {
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Env = append(os.Environ(), "LEVEE_ID_TEST_CHILD="+dir, "LEVEE_ID_TEST_OFFSET="+strconv.FormatInt(offset, 10))
	cmd.Env = append(cmd.Env, env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b := make([]byte, bytesMost)
	n, err := io.ReadFull(out, b)
	if err != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if cmd.ProcessState.ExitCode() == exitStolen {
			return idsOf(b[:n]), nil
		}
		return nil, levee.E(levee.CodeInternal, "the child ended: %s", stderr.String()).Because(err)
	}
	if err := cmd.Process.Kill(); err != nil {
		return nil, err
	}
	rest, err := io.ReadAll(out)
	if err != nil {
		return nil, err
	}
	_ = cmd.Wait() // "signal: killed"
	return idsOf(append(b[:n], rest...)), nil
}

func idsOf(b []byte) (ids []int64) {
	for ; len(b) >= 8; b = b[8:] {
		ids = append(ids, int64(binary.LittleEndian.Uint64(b)))
	}
	return ids
}
