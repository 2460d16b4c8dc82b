package db

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/obs"
)

// The faults here need a process of their own: the test binary runs itself again in one of these roles.
const (
	childEnv  = "LEVEE_DB_TEST_CHILD"
	childFile = "LEVEE_DB_TEST_FILE"
)

func runChild(role string) int {
	err := map[string]func() error{"write": childWrite, "write-early": childWriteEarly, "lock": childLock, "full": childFull,
		"readonly": childReadOnly}[role]()
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		return 1
	}
	return 0
}

type child struct {
	cmd *exec.Cmd
	out *bufio.Scanner
	in  io.WriteCloser
	err bytes.Buffer
}

func startChild(t *testing.T, role, file string) *child {
	t.Helper()
	c := &child{cmd: exec.Command(os.Args[0])}
	c.cmd.Env = append(os.Environ(), childEnv+"="+role, childFile+"="+file)
	c.cmd.Stderr = &c.err
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c.out = bufio.NewScanner(out)
	return c
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

func openChild() (*DB, error) {
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		return nil, err
	}
	return Open(ctx, Config{URL: "sqlite:" + os.Getenv(childFile)}, o)
}

// childWrite inserts rows from many goroutines and prints each id once its transaction is acknowledged.
func childWrite() error { return writeAndTell(false) }

// childWriteEarly makes the mistake that the test must catch: it acknowledges before the commit.
func childWriteEarly() error { return writeAndTell(true) }

func writeAndTell(early bool) error {
	d, err := openChild()
	if err != nil {
		return err
	}
	var mu sync.Mutex
	tell := func(id int64) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = os.Stdout.WriteString(strconv.FormatInt(id, 10) + "\n") // one write: what the parent reads is whole lines
	}
	failed := make(chan error)
	for g := range int64(32) {
		go func() {
			for i := int64(0); ; i++ {
				id := g<<32 | i
				err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
					_, err := tx.Exec(ctx, "INSERT INTO test_row (id, s) VALUES (?, ?)", id, strings.Repeat("x", 150))
					if early {
						tell(id)
					}
					return err
				})
				if err != nil {
					failed <- err
					return
				}
				if !early {
					tell(id)
				}
			}
		}()
	}
	return <-failed
}

// killed runs a writing child, kills it after some acknowledgements and returns how many of all that it gave are missing.
func killed(t *testing.T, role string, after int) (acked, missing int) {
	t.Helper()
	cfg := testConfig(t)
	d := open(t, cfg)
	mustExec(t, d, testTable)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	c := startChild(t, role, lite(d).file.path)
	var ids []int64
	for c.out.Scan() {
		id, err := strconv.ParseInt(c.out.Text(), 10, 64)
		if err != nil {
			break // cut by the kill
		}
		if ids = append(ids, id); len(ids) == after {
			_ = c.cmd.Process.Kill()
		}
	}
	c.kill()
	if len(ids) < after {
		t.Fatalf("the child gave only %d acknowledgements: %s", len(ids), c.err.String())
	}
	d = open(t, cfg)
	if err := d.CheckIntegrity(ctx); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		if one[int](t, d, "SELECT count(*) FROM test_row WHERE id = ?", id) == 0 {
			missing++
		}
	}
	return len(ids), missing
}

func TestKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes")
	}
	for _, after := range []int{1, 500, 3000} {
		acked, missing := killed(t, "write", after)
		if missing > 0 {
			t.Errorf("%d of %d acknowledged transactions are lost", missing, acked)
		}
	}
	// The same test must catch a writer that acknowledges before the commit.
	for range 20 {
		if acked, missing := killed(t, "write-early", 1000); missing > 0 {
			t.Logf("acknowledged too early: %d of %d lost, as expected", missing, acked)
			return
		}
	}
	t.Error("a writer that acknowledges before the commit is not caught: this test has lost its teeth")
}

// childLock holds the write lock of the file until its standard input ends.
func childLock() error {
	d, err := openChild()
	if err != nil {
		return err
	}
	return d.Tx(ctx, "lock", func(context.Context, *Tx) error {
		fmt.Println("locked")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	})
}

func TestLockedByAnotherProcess(t *testing.T) {
	cfg := testConfig(t)
	cfg.BusyTimeout = 500 * time.Millisecond // one after the other they would wait for 25 s, which no busy machine makes of them together
	d := open(t, cfg)
	mustExec(t, d, testTable)
	c := startChild(t, "lock", lite(d).file.path)
	defer c.kill()
	if !c.out.Scan() {
		t.Fatal("no child: ", c.err.String())
	}
	// All who wait are refused together, not one busy timeout after the other.
	begun := time.Now()
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			err := d.Tx(ctx, "test", func(context.Context, *Tx) error {
				t.Error("ran without the lock")
				return nil
			})
			wantUnavailable(t, err, "locked by another process")
		})
	}
	wg.Wait()
	if took := time.Since(begun); took > 25*cfg.BusyTimeout {
		t.Errorf("50 callers waited %v for a lock that is waited for %v", took, cfg.BusyTimeout)
	}
	if n := one[int](t, d, "SELECT count(*) FROM test_row"); n != 0 {
		t.Error("a reader was disturbed")
	}
	begun = time.Now()
	slow, err := Open(ctx, cfg, quiet(t))
	if err == nil {
		_ = slow.Close()
		t.Fatal("opened a locked file")
	}
	wantCode(t, err, levee.CodeUnavailable, "locked by another process", lite(d).file.path)
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("Open waited %v", took)
	}
	if err := c.in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Wait(); err != nil {
		t.Fatal(err, c.err.String())
	}
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (1)")
	if s := d.Stats(); s.Failed == 0 {
		t.Error("failures are not counted")
	}
}

func TestLeaveWhileLocked(t *testing.T) {
	cfg := testConfig(t)
	cfg.BusyTimeout = time.Minute
	d := open(t, cfg)
	mustExec(t, d, testTable)
	c := startChild(t, "lock", lite(d).file.path)
	defer c.kill()
	if !c.out.Scan() {
		t.Fatal("no child: ", c.err.String())
	}
	cctx, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
	defer cancel()
	err := d.Tx(cctx, "test", func(context.Context, *Tx) error {
		t.Error("ran although its caller left")
		return nil
	})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := c.in.Close(); err != nil {
		t.Fatal(err)
	}
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (1)")
}

func wantUnavailable(t *testing.T, err error, words string) {
	t.Helper()
	e, ok := errors.AsType[*levee.Error](err)
	if !ok || e.Code != levee.CodeUnavailable || e.RetryAfter <= 0 || !strings.Contains(e.Message, words) {
		t.Errorf("got %v, want CodeUnavailable that says %q", err, words)
	}
}

// TestFull: the database reaches its allowed size in the middle of a group.
func TestFull(t *testing.T) {
	d := opened(t)
	limit := func() {
		t.Helper()
		err := lite(d).writer.keep(func(c *conn) error {
			rows, err := c.ask(ctx, "PRAGMA page_count")
			if err != nil {
				return err
			}
			_, err = c.ask(ctx, fmt.Sprintf("PRAGMA max_page_count = %d", rows[0][0].(int64)+8))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	mustExec(t, d, "INSERT INTO test_row (id) VALUES (0)")
	limit()
	release := holdLost(t, d)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			err := d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
				tx.AfterCommit(func() {
					if i <= 3 {
						t.Error("AfterCommit of a lost group")
					}
				})
				if i == 1 { // fails on its own; what it saw is undone too
					return io.EOF
				}
				if i == 3 { // fills the file, and does not care
					for range 3 {
						_, err := tx.Exec(ctx, "INSERT INTO test_row (id, s) VALUES (?, ?)", 100+i, strings.Repeat("x", 100_000))
						wantUnavailable(t, err, "full")
					}
					wantUnavailable(t, tx.QueryRow(ctx, "SELECT 1").Scan(new(int)), "full")
					return nil
				}
				_, err := tx.Exec(ctx, "INSERT INTO test_row (id) VALUES (?)", 1+i)
				return err
			})
			if i <= 3 {
				wantUnavailable(t, err, "full")
			} else if err != nil { // came after the loss, in a new group on a new connection
				t.Errorf("member %d: %v", i, err)
			}
		})
		waitQueue(d, i+1)
	}
	// The first four are lost together; the holder, who opened the group, is lost with them.
	wantUnavailable(t, release(), "full")
	wg.Wait()
	if n := one[int](t, d, "SELECT sum(id) FROM test_row"); n != 5+6 {
		t.Errorf("ids add up to %d, want 11", n)
	}
	if err := d.CheckIntegrity(ctx); err != nil {
		t.Error(err)
	}
}

// holdLost is hold for a transaction whose group will be lost: release returns its error.
func holdLost(t *testing.T, d *DB) (release func() error) {
	t.Helper()
	begun, end, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	var once sync.Once // it may be run again
	go func() {
		done <- d.Tx(ctx, "hold", func(context.Context, *Tx) error {
			once.Do(func() { close(begun) })
			<-end
			return nil
		})
	}()
	<-begun
	return func() error {
		close(end)
		return <-done
	}
}

// childFull lets the disk be "full" at the COMMIT itself: the process may not make files any larger.
func childFull() error {
	signal.Ignore(syscall.SIGXFSZ)
	d, err := openChild()
	if err != nil {
		return err
	}
	st, err := os.Stat(lite(d).file.path + "-wal")
	if err != nil {
		return err
	}
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	insert := func(id int) error {
		return d.Tx(ctx, "test", func(ctx context.Context, tx *Tx) error {
			tx.AfterCommit(func() { fmt.Println("after", id) })
			_, err := tx.Exec(ctx, "INSERT INTO test_row (id, s) VALUES (?, ?)", id, strings.Repeat("x", 20_000))
			return err
		})
	}
	for round := range 3 {
		full := old
		full.Cur = uint64(st.Size()) + 30_000
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
			return err
		}
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				id := round*100 + i
				switch err := insert(id); {
				case err == nil:
					fmt.Println("ok", id)
				case levee.CodeOf(err) == levee.CodeUnavailable:
					fmt.Println("unavailable", id, err)
				default:
					fmt.Println("wrong", id, err)
				}
			})
		}
		wg.Wait()
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			return err
		}
		if err := insert(round*100 + 99); err != nil {
			return fmt.Errorf("the writer did not recover: %w", err)
		}
		fmt.Println("ok", round*100+99)
	}
	return d.Close()
}

func TestFullAtCommit(t *testing.T) {
	cfg := testConfig(t)
	d := open(t, cfg)
	mustExec(t, d, testTable)
	c := startChild(t, "full", lite(d).file.path)
	defer c.kill()
	acked, after, unavailable := map[string]bool{}, 0, 0
	for c.out.Scan() {
		word, rest, _ := strings.Cut(c.out.Text(), " ")
		switch word {
		case "ok":
			acked[rest] = true
		case "after":
			after++
		case "unavailable":
			unavailable++
			if !strings.Contains(rest, "full") && !strings.Contains(rest, "disk failed") {
				t.Error(rest)
			}
		default:
			t.Error(c.out.Text())
		}
	}
	if err := c.cmd.Wait(); err != nil {
		t.Fatal(err, c.err.String())
	}
	if unavailable < 20 || after != len(acked) || len(acked) < 3 {
		t.Errorf("%d acknowledged, %d AfterCommit, %d unavailable", len(acked), after, unavailable)
	}
	rows, err := d.Query(ctx, "SELECT id FROM test_row")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; rows.Next(); n++ {
		var id string
		if err := rows.Scan(&id); err != nil {
			t.Fatal(err)
		}
		if !acked[id] {
			t.Errorf("row %s is there though its caller was told it is not", id)
		}
	}
	if err := cmpOr(rows.Err(), rows.Close()); err != nil {
		t.Fatal(err)
	}
	if n != len(acked) {
		t.Errorf("%d rows, %d acknowledged", n, len(acked))
	}
}
