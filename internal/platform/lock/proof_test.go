//go:build unix

package lock

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"levee/internal/platform/backends"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// How long each history of the proof runs: go test -run TestProof -args -lock.proof=10m
var proofTime = flag.Duration("lock.proof", 5*time.Second, "length of each history of the proof")

// What the register does with fences.
const (
	unfenced    = "unfenced"     // takes every write
	fencedWrite = "fenced write" // compares with the write alone, as most examples have it
	fencedAll   = "fenced"       // is entered before the read, as Enter does
)

// register is what a lock protects. Its steps are atomic; whether read, work and write of one holder are so together is the question.
type register struct {
	mode string

	mu      sync.Mutex // guards what follows
	value   int
	fence   uint64
	refused int
	history []porcupine.Operation
}

// update is what an accepted read-work-write came to.
type update struct{ saw, wrote int }

func (r *register) enter(fence uint64) (int, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mode == fencedAll {
		if fence < r.fence {
			r.refused++
			return 0, false
		}
		r.fence = fence
	}
	return r.value, true
}

func (r *register) write(client int, began int64, fence uint64, saw int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mode != unfenced && fence < r.fence {
		r.refused++
		return false
	}
	r.fence = max(fence, r.fence)
	r.value = saw + 1
	r.history = append(r.history, porcupine.Operation{ClientId: client, Call: began, Output: update{saw, saw + 1}, Return: time.Since(proofBegan).Nanoseconds()})
	return true
}

var proofBegan = time.Now()

// model is the register as it would be without anything at the same time: an update sees what the last one wrote.
var model = porcupine.Model{
	Init: func() any { return 0 },
	Step: func(state, _, output any) (bool, any) {
		u := output.(update)
		return state.(int) == u.saw, u.wrote
	},
}

// verdict checks the history with Porcupine, and counts what was lost.
func (r *register) verdict() (result porcupine.CheckResult, accepted, lost, refused int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return porcupine.CheckOperationsTimeout(model, r.history, time.Minute), len(r.history), len(r.history) - r.value, r.refused
}

// order is what a worker process is told.
type order struct {
	Kind, Register, URL, Prefix, Password string
	TTL                                   time.Duration
	Strict                                bool // the store forgets nothing: two leases are never alive at the same time, fence or not
}

const orderVar = "LEVEE_LOCK_WORKER"

func TestMain(m *testing.M) {
	if text := os.Getenv(orderVar); text != "" {
		var o order
		if err := json.Unmarshal([]byte(text), &o); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		if err := work(o); err != nil {
			fmt.Fprintln(os.Stderr, "worker:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// workers open the locks of kinds that have a test file of their own.
var workers = map[string]func(Config, order, *obs.Obs) (*Locks, error){}

// work is a worker's life: it takes the lock, reads, works, writes, gives back, until the register goes away.
func work(o order) error {
	ctx := context.Background()
	seen, err := obs.Open(obs.Config{Level: "error"}, os.Stderr)
	if err != nil {
		return err
	}
	var l *Locks
	cfg := Config{TTL: o.TTL}
	switch {
	case o.Kind == "redis":
		c, err := redis.Open(ctx, redis.Config{URL: o.URL, Prefix: o.Prefix}, seen)
		if err != nil {
			return err
		}
		if l, err = OpenRedis(cfg, c, nil, seen); err != nil {
			return err
		}
	case o.Kind == "sql":
		d, err := db.Open(ctx, db.Config{URL: o.URL, Password: obs.Secret(o.Password), Writers: 4, Readers: 4}, seen)
		if err != nil {
			return err
		}
		if l, err = OpenSQL(cfg, d, nil, seen); err != nil {
			return err
		}
	default:
		if l, err = workers[o.Kind](cfg, o, seen); err != nil {
			return err
		}
	}
	conn, err := net.Dial("unix", o.Register)
	if err != nil {
		return err
	}
	lines := bufio.NewReader(conn)
	ask := func(format string, args ...any) (string, error) {
		if _, err := fmt.Fprintf(conn, format+"\n", args...); err != nil {
			return "", err
		}
		line, err := lines.ReadString('\n')
		return strings.TrimSpace(line), err
	}
	if _, err := ask("hello %d", os.Getpid()); err != nil {
		return err
	}
	earlies := func() int64 { return 0 }
	if c, ok := l.driver.(*cluster); ok {
		earlies = c.earlies.Load
	}
	for {
		if _, err := ask("begin %d", earlies()); err != nil {
			return nil // the end
		}
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		s, err := l.Acquire(try, "proof")
		cancel()
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		asked := time.Now()
		answer, err := ask("enter %d", s.Fence())
		if err != nil {
			return nil
		}
		// The very first look after a pause: the context must know. The clock is read before the look, or a process that is stopped between the two
		// would be called late.
		took := time.Since(asked)
		if s.Context().Err() == nil && took > o.TTL {
			_, _ = ask("late %v", took)
		}
		if o.Strict {
			text, err := ask("highest")
			if err != nil {
				return nil
			}
			var highest uint64 // has entered by now
			if _, err := fmt.Sscan(text, &highest); err != nil || highest > s.Fence() && s.Held() {
				_, _ = ask("twice %d", highest-s.Fence())
			}
		}
		var saw int
		if n, _ := fmt.Sscanf(answer, "%d", &saw); n == 1 {
			time.Sleep(rand.N(2 * time.Millisecond))
			// Whether the lease still holds is not asked here: the fence alone must do.
			if _, err := ask("write %d %d", s.Fence(), saw); err != nil {
				return nil
			}
		}
		_ = s.Release(ctx)
	}
}

// stage is a proof under way: worker processes, their register, and the hand of fate.
type stage struct {
	t       *testing.T
	reg     *register
	order   order
	pauses  atomic.Int64
	kills   atomic.Int64
	clients atomic.Int64
	earlies atomic.Int64 // grants without asking, of a driver that does so
	struck  atomic.Int64 // when a holder was last stopped or killed, since proofBegan; 0: another one has entered since
	over    atomic.Bool
	pause   float64 // the chance of a pause beyond the TTL with each entering, and of a kill
	kill    float64

	mu    sync.Mutex      // guards what follows
	waits []time.Duration // from struck to the next one
	procs map[int]*exec.Cmd
	conns []net.Conn
	wg    sync.WaitGroup
}

func (s *stage) spawn() {
	text, _ := json.Marshal(s.order)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over.Load() {
		return
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), orderVar+"="+string(text))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		s.t.Error(err)
		return
	}
	s.procs[cmd.Process.Pid] = cmd
	s.wg.Go(func() {
		_ = cmd.Wait()
		if !s.over.Load() {
			s.mu.Lock()
			delete(s.procs, cmd.Process.Pid)
			s.mu.Unlock()
			time.Sleep(50 * time.Millisecond)
			s.spawn()
		}
	})
}

// serve is the register's side of one worker.
func (s *stage) serve(conn net.Conn) {
	defer conn.Close()
	client, pid, began, earlies := int(s.clients.Add(1)), 0, int64(0), int64(0)
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		var fence uint64
		var saw int
		answer := "ok"
		switch f := strings.Fields(lines.Text()); f[0] {
		case "hello":
			fmt.Sscan(f[1], &pid)
		case "begin":
			began = time.Since(proofBegan).Nanoseconds()
			s.earlies.Add(-earlies)
			fmt.Sscan(f[1], &earlies)
			s.earlies.Add(earlies)
		case "highest":
			s.reg.mu.Lock()
			answer = fmt.Sprint(s.reg.fence)
			s.reg.mu.Unlock()
		case "twice":
			s.t.Errorf("a lease was alive after that of a fence higher by %s had entered", f[1])
		case "enter":
			fmt.Sscan(f[1], &fence)
			answer = "no"
			if v, ok := s.reg.enter(fence); ok {
				if at := s.struck.Swap(0); at != 0 {
					s.mu.Lock()
					s.waits = append(s.waits, time.Since(proofBegan)-time.Duration(at))
					s.mu.Unlock()
				}
				answer = fmt.Sprint(v)
				switch luck := rand.Float64(); {
				case luck < s.pause:
					s.pauses.Add(1)
					_ = syscall.Kill(pid, syscall.SIGSTOP)
					s.struck.Store(int64(time.Since(proofBegan)))
					time.Sleep(s.order.TTL + rand.N(s.order.TTL))
					_, _ = fmt.Fprintln(conn, answer)
					_ = syscall.Kill(pid, syscall.SIGCONT)
					continue
				case luck < s.pause+s.kill:
					s.kills.Add(1)
					_ = syscall.Kill(pid, syscall.SIGKILL)
					s.struck.Store(int64(time.Since(proofBegan)))
					return
				}
			}
		case "write":
			fmt.Sscan(f[1], &fence)
			fmt.Sscan(f[2], &saw)
			if !s.reg.write(client, began, fence, saw) {
				answer = "no"
			}
		case "late":
			s.t.Errorf("a holder that was stopped for %s, its lease being %v, found its context alive", f[1], s.order.TTL)
		}
		if _, err := fmt.Fprintln(conn, answer); err != nil {
			return
		}
	}
}

// play runs n workers for a while beside what disturb does to the server, and returns the register.
func play(t *testing.T, o order, mode string, n int, pause, kill float64, length time.Duration, disturb func(ctx context.Context)) *stage {
	t.Helper()
	o.TTL = cmp.Or(o.TTL, 300*time.Millisecond)
	if testing.Short() {
		length /= 2
	}
	dir, err := os.MkdirTemp("", "lock")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	o.Register = filepath.Join(dir, "register")
	listener, err := net.Listen("unix", o.Register)
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, reg: &register{mode: mode}, order: o, pause: pause, kill: kill, procs: map[int]*exec.Cmd{}}
	s.wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns = append(s.conns, conn)
			s.mu.Unlock()
			s.wg.Go(func() { s.serve(conn) })
		}
	})
	for range n {
		s.spawn()
	}
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	if disturb != nil {
		disturb(ctx)
	}
	<-ctx.Done()
	for end := time.Now().Add(5*length + time.Minute); !s.enough() && time.Now().Before(end); { // a busy machine takes longer to prove anything
		time.Sleep(100 * time.Millisecond)
	}
	s.over.Store(true)
	_ = listener.Close()
	s.mu.Lock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	for pid, cmd := range s.procs {
		_ = cmd.Process.Kill()
		_ = syscall.Kill(pid, syscall.SIGCONT)
	}
	s.mu.Unlock()
	s.wg.Wait()
	return s
}

const leastUpdates, leastPauses = 30, 3

// enough reports whether the history can prove anything.
func (s *stage) enough() bool {
	s.reg.mu.Lock()
	defer s.reg.mu.Unlock()
	return len(s.reg.history) >= leastUpdates && s.pauses.Load() >= leastPauses && (s.reg.mode != unfenced || len(s.reg.history) > s.reg.value) &&
		(s.order.Kind != "etcd" || s.earlies.Load() >= leastUpdates)
}

// legal asserts that nothing was lost, and that there was something to lose.
func (s *stage) legal() {
	s.t.Helper()
	result, accepted, lost, refused := s.reg.verdict()
	s.t.Logf("%d updates, %d lost, %d refused by the fence, %d pauses, %d kills: %s", accepted, lost, refused, s.pauses.Load(), s.kills.Load(), result)
	if result != porcupine.Ok || lost != 0 {
		s.t.Errorf("the history is %s, %d of %d updates are lost", result, lost, accepted)
	}
	if accepted < leastUpdates || s.pauses.Load() < leastPauses {
		s.t.Errorf("%d updates and %d pauses prove nothing", accepted, s.pauses.Load())
	}
}

// early asserts that grants without asking were among what was proven.
func (s *stage) early() {
	s.t.Helper()
	n := s.earlies.Load()
	s.t.Logf("%d grants without asking", n)
	if n < leastUpdates {
		s.t.Errorf("%d grants without asking prove nothing", n)
	}
}

// quick asserts that the next one has it within the TTL and a second after a holder was stopped or killed. (The machine gets half a second.) A
// driver that is slow is so each time, a busy machine once or twice: the middle one of all waits is judged.
func (s *stage) quick() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waits) == 0 {
		s.t.Error("nobody waited for one who had died")
		return
	}
	slices.Sort(s.waits)
	d := s.waits[len(s.waits)/2]
	s.t.Logf("%d waits after the end of a holder, %v in the middle, %v at most", len(s.waits), d, s.waits[len(s.waits)-1])
	if d > s.order.TTL+1500*time.Millisecond {
		s.t.Errorf("the next one had to wait for %v after a holder had died, the TTL is %v", d, s.order.TTL)
	}
}

// illegal asserts that the control lost something, and that Porcupine says so.
func (s *stage) illegal() {
	s.t.Helper()
	result, accepted, lost, _ := s.reg.verdict()
	s.t.Logf("%d updates, %d lost, %d pauses, %d kills: %s", accepted, lost, s.pauses.Load(), s.kills.Load(), result)
	if result != porcupine.Illegal || lost < 1 {
		s.t.Errorf("without a fence the history is %s with %d lost updates: the proof would see nothing", result, lost)
	}
}

// shake puts faults on the way to the server and on the server itself, one after the other, until ctx ends.
func shake(t *testing.T, p *backends.Proxy, ttl time.Duration, server ...func() error) func(ctx context.Context) {
	return func(ctx context.Context) {
		time.Sleep(ttl)
		for i := rand.IntN(10); ctx.Err() == nil; i++ {
			var err error
			switch i % (4 + len(server)) {
			case 0:
				err = p.Latency(ttl/2, ttl/2)
			case 1:
				err = p.DropAnswers(true)
			case 2:
				p.ResetPeer()
			case 3:
				err = p.Silence(true)
			default:
				err = server[i%(4+len(server))-4]()
			}
			if err != nil && ctx.Err() == nil {
				t.Error(err)
			}
			time.Sleep(rand.N(2 * ttl))
			if err := p.Heal(); err != nil {
				t.Error(err)
			}
			time.Sleep(ttl + rand.N(ttl))
		}
	}
}

func TestProofRedis(t *testing.T) {
	server, err := backends.StartRedis(t.Context(), backends.RedisOptions{})
	had(t, err)
	defer server.Close()
	proxy, err := backends.StartProxy(t.Context(), server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	o := order{Kind: "redis", URL: "redis://" + proxy.Addr, Prefix: "proof:"}
	const ttl = 300 * time.Millisecond
	t.Run("faults", func(t *testing.T) {
		play(t, o, fencedAll, 4, 0.04, 0.01, *proofTime, shake(t, proxy, ttl,
			func() error { // a server that keeps nothing forgets all holders
				return errors.Join(server.Kill(), server.Restart(context.Background()))
			},
			func() error {
				err := server.Pause()
				time.Sleep(rand.N(3 * ttl))
				return errors.Join(err, server.Resume())
			},
			func() error {
				_, err := server.Do(context.Background(), "FLUSHALL")
				return err
			})).legal()
	})
	t.Run("pauses", func(t *testing.T) {
		s := play(t, o, fencedAll, 4, 0.1, 0.02, *proofTime, nil)
		s.legal()
		s.quick()
	})
	t.Run("control: without a fence", func(t *testing.T) { play(t, o, unfenced, 4, 0.2, 0, *proofTime, nil).illegal() })
}

func TestProofSQL(t *testing.T) {
	if !distributed {
		t.Skip("SQLite has one process; the proof with several is on the distributed tier")
	}
	server, err := backends.StartMySQL(t.Context(), backends.MySQLOptions{})
	had(t, err)
	defer server.Close()
	proxy, err := backends.StartProxy(t.Context(), server.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	direct, drop, err := server.NewDatabase(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer drop()
	openDB(t, db.Config{URL: direct, Password: obs.Secret(server.Password())})
	through, err := proxy.URL(direct)
	if err != nil {
		t.Fatal(err)
	}
	o := order{Kind: "sql", URL: through, Password: server.Password()}
	const ttl = 300 * time.Millisecond
	t.Run("pauses", func(t *testing.T) {
		s := play(t, o, fencedAll, 4, 0.1, 0.02, *proofTime, nil)
		s.legal()
		s.quick()
	})
	t.Run("control: without a fence", func(t *testing.T) { play(t, o, unfenced, 4, 0.2, 0, *proofTime, nil).illegal() })
	t.Run("faults", func(t *testing.T) {
		play(t, o, fencedAll, 4, 0.04, 0.01, 2**proofTime, shake(t, proxy, ttl,
			func() error { return errors.Join(server.Kill(), server.Restart(context.Background())) },
			func() error {
				err := server.Pause()
				time.Sleep(rand.N(3 * ttl))
				return errors.Join(err, server.Resume())
			})).legal()
	})
}

// In one process a holder overstays when its work takes longer than MaxHold.
func TestProofMemory(t *testing.T) {
	for _, mode := range []string{fencedAll, unfenced} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l, err := Open(Config{}, obs.Test(t))
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			s := &stage{t: t, reg: &register{mode: mode}}
			end := time.Now().Add(min(*proofTime, 3*time.Second))
			last := end.Add(time.Minute) // a busy machine takes longer to prove anything
			err = crowd(6, func(i int) error {
				for time.Now().Before(end) || !s.enough() && time.Now().Before(last) {
					began := time.Since(proofBegan).Nanoseconds()
					lease, err := l.Acquire(t.Context(), "proof", MaxHold(ttlMin))
					if err != nil {
						return err
					}
					if saw, ok := s.reg.enter(lease.Fence()); ok {
						if rand.IntN(20) == 0 {
							s.pauses.Add(1)
							time.Sleep(2 * ttlMin)
						} else {
							time.Sleep(time.Millisecond)
						}
						s.reg.write(i, began, lease.Fence(), saw)
					}
					_ = lease.Release(t.Context())
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
			if mode == fencedAll {
				s.legal()
			} else {
				s.illegal()
			}
		})
	}
}

// A fence that is compared with the write alone lets yesterday's holder in between today's read and write.
func TestFenceOnTheWriteAloneLosesUpdates(t *testing.T) {
	for mode, want := range map[string]int{fencedWrite: 1, fencedAll: 0} {
		r := &register{mode: mode}
		old, _ := r.enter(1) // its lease ends here
		new, _ := r.enter(2)
		r.write(1, 0, 1, old)
		r.write(2, 1, 2, new)
		result, accepted, lost, _ := r.verdict()
		if lost != want || (result == porcupine.Ok) != (want == 0) {
			t.Errorf("%s: %d of %d lost, %s", mode, lost, accepted, result)
		}
	}
}
