package id

import (
	"context"
	"flag"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// kills is how often each of two processes is killed: go test ./internal/platform/id -run KilledProcessesOverSQL -args -id.kills=500
var kills = flag.Int("id.kills", 0, "how often TestKilledProcessesOverSQL kills each process; 0: a few times")

// Two real processes on one MariaDB with four worker numbers, killed and started again with clocks hours apart. Each takes a number that a
// killed one held, or that the other one holds, which then ends. No id is ever given twice.
func TestKilledProcessesOverSQL(t *testing.T) {
	s, err := backends.MySQL(context.Background())
	if backends.MaySkip(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	url, drop, err := s.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(drop)
	d, err := db.Open(t.Context(), db.Config{URL: url, Password: obs.Secret(s.Password())}, quiet(time.Now))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	if _, err := d.Migrate(t.Context(), []db.Schema{Schema()}); err != nil {
		t.Fatal(err)
	}
	rounds := max(*kills, int(runs(t, 40)))
	var mu sync.Mutex
	var all []int64
	var wg sync.WaitGroup
	for process := range 2 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(process), 3))
			for range rounds {
				offset := int64(0)
				if rng.IntN(3) > 0 {
					offset = rng.Int64N(2*6*3_600_000) - 6*3_600_000
				}
				ids, err := killedAfter(t.Context(), "sql", offset, 8*(1+rng.IntN(20_000)), "LEVEE_ID_TEST_DB="+url, "LEVEE_ID_TEST_DB_PASSWORD="+s.Password())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				all = append(all, ids...)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	rows, err := (&sqlStore{d: d, first: spaceRows}).rows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := len(all)
	if d := duplicates(all); d != 0 {
		t.Fatalf("%d duplicates in %d ids", d, n)
	}
	turns := int64(0)
	for _, r := range rows {
		turns += r.turn
	}
	t.Logf("%d ids of %d killed processes on %d worker numbers, whose rows were written %d times", n, 2*rounds, len(rows), turns)
	if len(rows) > few.workers() || turns < int64(2*rounds) {
		t.Errorf("%d worker numbers, written %d times: they were hardly taken over", len(rows), turns)
	}
	if n < 100*rounds {
		t.Error("hardly any ids were given")
	}
}
