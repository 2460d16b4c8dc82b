//go:build unix

package binlog

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/node"
	"levee/internal/platform/obs"
)

const (
	victimURL  = "LEVEE_BINLOG_VICTIM"
	victimWhat = "LEVEE_BINLOG_WHAT" // apply, or control: says that it has applied before it has
)

func TestMain(m *testing.M) {
	if os.Getenv(victimURL) != "" {
		if err := victim(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// victim keeps the following as a node of a house and says each key that it has applied, until it is killed.
func victim() error {
	ctx := context.Background()
	o, err := obs.Open(obs.Config{Level: "error"}, os.Stderr)
	if err != nil {
		return err
	}
	d, err := db.Open(ctx, db.Config{URL: os.Getenv(victimURL)}, o)
	if err != nil {
		return err
	}
	control := os.Getenv(victimWhat) == "control"
	say := func(cs []Change) {
		for _, c := range cs {
			_, _ = fmt.Println(c.After[0])
			if control {
				time.Sleep(20 * time.Millisecond)
			}
		}
	}
	f, err := Open(d, Config{
		Name: "test", URL: os.Getenv(victimURL), Tables: []Table{{"item", []string{"id"}}}, StoreEvery: 10 * time.Millisecond,
		Apply: func(_ context.Context, cs []Change) error {
			if control {
				go say(cs)
				return nil
			}
			say(cs)
			return nil
		},
		Lost: func(context.Context, string) error { _, err := fmt.Println("lost"); return err },
	}, o)
	if err != nil {
		return err
	}
	n, err := node.Open(d, node.Config{Name: strconv.Itoa(os.Getpid()), Address: "127.0.0.1:1", Lease: time.Second}, o)
	if err != nil {
		return err
	}
	n.Keep("binlog", func(ctx context.Context, t node.Term) error { return f.Run(ctx, t.CheckTx) })
	return n.Run(ctx)
}

// Two nodes; the one that follows is killed (SIGKILL) while changes come, again and again, and another takes over within its lease: what was applied
// and not stored is applied again, and nothing is skipped. One that stores before it has applied skips, and is found.
func TestKilledFollower(t *testing.T) {
	for _, what := range []string{"apply", "control"} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, backends.MySQLOptions{})
			_, err := h.db.Migrate(background, []db.Schema{Schema(), node.Schema()})
			must(t, err)
			var mu sync.Mutex
			var list []Change
			lost, changed := 0, time.Now()
			longest := time.Duration(0)
			start := func() *exec.Cmd {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), victimURL+"="+h.url, victimWhat+"="+what)
				out, err := cmd.StdoutPipe()
				must(t, err)
				cmd.Stderr = os.Stderr
				must(t, cmd.Start())
				go func() {
					for lines := bufio.NewScanner(out); lines.Scan(); {
						mu.Lock()
						if id, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
							list = append(list, Change{After: []any{id}})
						} else {
							lost++
						}
						changed = time.Now()
						mu.Unlock()
					}
				}()
				return cmd
			}
			count := func() int { mu.Lock(); defer mu.Unlock(); return len(list) }
			nodes := []*exec.Cmd{start()}
			eventually(t, "the first follows", func() bool { mu.Lock(); defer mu.Unlock(); return lost == 1 })
			nodes = append(nodes, start())
			stop := make(chan struct{})
			var writer sync.WaitGroup
			n := int64(0)
			writer.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(2 * time.Millisecond):
						h.exec(fmt.Sprintf("INSERT INTO item VALUES (%d, 1, '')", n))
						n++
					}
				}
			})
			kills := 3
			if testing.Short() || what == "control" {
				kills = 2
			}
			for range kills {
				before := count()
				eventually(t, "changes come", func() bool { return count() > before+50 })
				must(t, nodes[0].Process.Kill())
				_ = nodes[0].Wait()
				killed, had := time.Now(), count()
				eventually(t, "another takes over", func() bool { return count() > had+5 })
				longest = max(longest, time.Since(killed))
				nodes = append(nodes[1:], start())
			}
			close(stop)
			writer.Wait()
			quiet := func() bool { mu.Lock(); defer mu.Unlock(); return time.Since(changed) > 2*time.Second }
			eventually(t, "all came", quiet)
			for _, c := range nodes {
				_ = c.Process.Kill()
				_ = c.Wait()
			}
			mu.Lock()
			defer mu.Unlock()
			t.Logf("%d changes, %d applied, taken over within %v", n, len(list), longest.Round(time.Millisecond))
			err = inOrder(list, n)
			if what == "control" {
				if err == nil {
					t.Error("the control skipped nothing: this test cannot see what it looks for")
				}
				return
			}
			if err != nil || lost != 1 {
				t.Error(err, lost)
			}
		})
	}
}
