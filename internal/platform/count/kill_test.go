//go:build unix

package count

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
	"levee/internal/platform/redis"
)

func counter(c prometheus.Metric) float64 {
	var m dto.Metric
	_ = c.Write(&m)
	return m.GetCounter().GetValue()
}

const (
	victimDB    = "LEVEE_COUNT_VICTIM"
	victimWord  = "LEVEE_COUNT_WORD"
	victimRedis = "LEVEE_COUNT_REDIS"
	victimMark  = "LEVEE_COUNT_PREFIX"
	victimWhat  = "LEVEE_COUNT_WHAT" // add, tx
)

func TestMain(m *testing.M) {
	if os.Getenv(victimDB) != "" {
		if err := victim(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const victimEvery = 200 * time.Millisecond

// victim adds one after another and says after each how many it has been told are counted, until it is killed.
func victim() error {
	ctx := context.Background()
	o, err := obs.Open(obs.Config{Level: "error"}, os.Stderr)
	if err != nil {
		return err
	}
	d, err := db.Open(ctx, db.Config{URL: os.Getenv(victimDB), Password: obs.Secret(os.Getenv(victimWord))}, o)
	if err != nil {
		return err
	}
	cfg := Config{Every: victimEvery}
	var c *Counts
	if url := os.Getenv(victimRedis); url != "" {
		client, err := redis.Open(ctx, redis.Config{URL: url, Prefix: os.Getenv(victimMark)}, o)
		if err != nil {
			return err
		}
		c, err = OpenShared(d, cfg, client, o)
		if err != nil {
			return err
		}
	} else if c, err = Open(d, cfg, o); err != nil {
		return err
	}
	go func() { _ = c.Run(ctx) }()
	k := c.Counter("k")
	for i := 1; ; i++ {
		if os.Getenv(victimWhat) == "tx" {
			err = d.Tx(ctx, "count", func(ctx context.Context, tx *db.Tx) error { return k.AddTx(ctx, tx, "x", 1) })
		} else {
			err = k.Add(ctx, "x", 1)
			time.Sleep(200 * time.Microsecond)
		}
		if err != nil {
			return err
		}
		if _, err := fmt.Println(i, time.Now().UnixNano()); err != nil {
			return err
		}
	}
}

// A node is killed (SIGKILL) while it adds. With Redis, and in transactions, nothing that it was told is counted is lost. In memory, what it
// added since its last writing is, and no more; nothing is ever counted that was not added.
func TestKilledNode(t *testing.T) {
	for _, tc := range []struct {
		name   string
		shared bool
		what   string
	}{{"memory", false, "add"}, {"redis", true, "add"}, {"memory, in transactions", false, "tx"}, {"redis, in transactions", true, "tx"}} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			cfg := platformtest.Config(t, dir, Schema())
			o := quiet(t)
			d, err := db.Open(background, cfg, o)
			must(t, err)
			_, err = d.Migrate(background, []db.Schema{Schema()})
			must(t, err)
			must(t, d.Close())
			total, kills := int64(0), 3
			if testing.Short() {
				kills = 1
			}
			rc := platformtest.Redis(t, dir)
			for range kills {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), victimDB+"="+cfg.URL, victimWord+"="+cfg.Password.Reveal(), victimWhat+"="+tc.what)
				if tc.shared {
					cmd.Env = append(cmd.Env, victimRedis+"="+rc.URL, victimMark+"="+rc.Prefix)
				}
				out, err := cmd.StdoutPipe()
				must(t, err)
				cmd.Stderr = os.Stderr
				must(t, cmd.Start())
				var said []int64 // when each was said to be counted
				lines := bufio.NewScanner(out)
				begun := time.Now()
				killed := false
				for lines.Scan() {
					var i int
					var at int64
					if n, _ := fmt.Sscan(strings.TrimSpace(lines.Text()), &i, &at); n == 2 && i == len(said)+1 {
						said = append(said, at)
					}
					if !killed && len(said) > 50 && time.Since(begun) > 700*time.Millisecond {
						killed = true
						must(t, cmd.Process.Kill())
					}
				}
				_ = cmd.Wait()
				if len(said) < 50 {
					t.Fatalf("the victim said only %d", len(said))
				}
				h := &house{t: t, dir: dir, shared: tc.shared, redis: rc, cfg: Config{Every: time.Minute}}
				h.db, err = db.Open(background, cfg, o)
				must(t, err)
				c := h.node()
				k := c.Counter("k")
				for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
					must(t, c.Flush(background)) // the dead one's lease of a lane ends
					if shown, err := k.Get(background, "x"); err == nil && shown == h.inSQL("k")["x"] {
						break
					}
				}
				got := h.inSQL("k")["x"] - total
				least := len(said)
				if !tc.shared && tc.what == "add" {
					// one interval and a generous time for the writing itself, on a busy machine
					last := said[len(said)-1]
					for least > 0 && said[least-1] > last-(victimEvery+time.Second).Nanoseconds() {
						least--
					}
				}
				t.Logf("the node was told %s, SQL has %d", strconv.Itoa(len(said)), got)
				if got < int64(least) || got > int64(len(said))+1 {
					t.Errorf("SQL has %d, the node was told %d, of which at least %d must be there", got, len(said), least)
				}
				want(t, k, "x", total+got)
				total += got
				must(t, h.db.Close())
			}
		})
	}
}
