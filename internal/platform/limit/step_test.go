package limit

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
	"levee/internal/platform/redis"
)

// set gives limits their rates, as an operator does; all others are what was configured.
func set(t testing.TB, l *Limits, rates map[Name]string) {
	t.Helper()
	parsed := map[Name]Rate{}
	for n, s := range rates {
		r, err := ParseRate(s)
		if err != nil {
			t.Fatal(err)
		}
		parsed[n] = r
	}
	if err := l.Set(parsed); err != nil {
		t.Fatal(err)
	}
}

// left is how many more the key would be allowed; it charges nothing.
func left(t testing.TB, l *Limits, n Name, key string) int {
	t.Helper()
	used := 0
	for l.Allow(context.Background(), n, key).OK {
		if used++; used > 2000 {
			t.Fatal("there is no limit")
		}
	}
	for range used {
		l.Refund(context.Background(), n, key)
	}
	return used
}

func TestAllOrNone(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		ctx := context.Background()
		for _, rates := range []map[Name]string{
			{Write: "5/d", Poll: "2/d", Import: "9/d"},
			{Write: "100/d burst 5", Poll: "2/d", Import: "1000/d burst 9"},
			{Write: "100/d burst 5", Poll: "100/d burst 2", Import: "9/d"},
		} {
			l, _ := d.open(t, "off")
			set(t, l, rates)
			asks := []Ask{{Write, "w"}, {Poll, "p"}, {Import, "i"}}
			for range 2 {
				if ds := l.AllowAll(ctx, asks...); !ds.OK() || ds.Err() != nil {
					t.Fatalf("%+v", ds)
				}
			}
			for range 50 { // refused by poll: nobody else pays
				ds := l.AllowAll(ctx, asks...)
				if ds.OK() || !ds[0].OK || ds[1].OK || !ds[2].OK || ds[0].Remaining != 3 || ds[2].Remaining != 7 || ds[1].RetryAfter <= 0 {
					t.Fatalf("%+v", ds)
				}
				var e *levee.Error
				if !errors.As(ds.Err(), &e) || e.Code != levee.CodeTooManyRequests || e.RetryAfter != ds[1].RetryAfter {
					t.Fatal(ds.Err())
				}
			}
			got := []int{left(t, l, Write, "w"), left(t, l, Poll, "p"), left(t, l, Import, "i")}
			if d := cmp.Diff([]int{3, 0, 7}, got); d != "" {
				t.Error(d)
			}
			l.RefundAll(ctx, asks...)
			if ds := l.AllowAll(ctx, asks...); !ds.OK() {
				t.Errorf("after a refund of all: %+v", ds)
			}
		}
	})
}

// A refused request leaves nothing behind for a key that it was the first to name.
func TestRefusedLeavesNoKey(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		l, _ := d.open(t, "5/d")
		set(t, l, map[Name]string{Write: "5/d", Poll: "1/d"})
		l.Allow(context.Background(), Poll, "p")
		for i := range 20 {
			l.AllowAll(context.Background(), Ask{Write, fmt.Sprint("new-", i)}, Ask{Poll, "p"})
		}
		if n := keys(l); n != 0 {
			t.Errorf("%d keys remembered of requests that were refused", n)
		}
	})
}

// Addresses at sign-in pay for what the account's limit refuses: else trying one account after the other were free. An account does not pay for
// what its guesser's address refuses: else a refused address could lock the owner out.
func TestGuards(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		ctx := context.Background()
		l, _ := d.open(t, "off")
		set(t, l, map[Name]string{SignIn: "10/d", SignInAccount: "2/d", Route: "8/d"})
		guess := func() Decisions { return l.AllowAll(ctx, Ask{SignIn, "192.0.2.1"}, Ask{SignInAccount, "ann"}) }
		for i := range 12 {
			ds := guess()
			if ds[0].OK != (i < 10) || ds.OK() != (i < 2) {
				t.Fatalf("try %d: %+v", i, ds)
			}
		}
		if n := left(t, l, SignIn, "192.0.2.1"); n != 0 {
			t.Errorf("the address has %d left after ten tries, of which eight were refused by the account", n)
		}
		for range 20 {
			l.AllowAll(ctx, Ask{SignIn, "192.0.2.1"}, Ask{SignInAccount, "bob"})
		}
		if n := left(t, l, SignInAccount, "bob"); n != 2 {
			t.Errorf("bob has %d of 2 tries left: an address that is refused used them up", n)
		}
		// A brake that refuses everybody is not the caller's doing.
		for range 20 {
			l.AllowAll(ctx, Ask{SignIn, "192.0.2.2"}, Ask{Route, "r"})
		}
		if n := left(t, l, SignIn, "192.0.2.2"); n != 2 {
			t.Errorf("the address has %d left, want 2 of 10: eight passed the brake, twelve did not", n)
		}
	})
}

func TestAllowAllOddAsks(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		ctx := context.Background()
		l, _ := d.open(t, "2/d")
		if ds := l.AllowAll(ctx); !ds.OK() || len(ds) != 0 {
			t.Errorf("%+v", ds)
		}
		if ds := l.AllowAll(ctx, Ask{None, "a"}, Ask{Token, "b"}); !ds.OK() || ds[0] != (Decision{OK: true}) {
			t.Errorf("%+v", ds)
		}
		set(t, l, map[Name]string{Write: "2/d", Poll: "9/d"})
		twice := l.AllowAll(ctx, Ask{Write, "k"}, Ask{Poll, "k"}, Ask{Write, "k"}, Ask{Token, "k"}, Ask{Write, "other"})
		if !twice.OK() || twice[0] != twice[2] || twice[0].Remaining != 1 || twice[4].Remaining != 1 {
			t.Errorf("%+v", twice)
		}
		long := strings.Repeat("\xff\x00", 1<<19)
		for i := range 3 {
			if ds := l.AllowAll(ctx, Ask{Write, long}, Ask{Poll, ""}); ds.OK() != (i < 2) {
				t.Errorf("%d: %+v", i, ds)
			}
		}
		defer func() {
			if recover() == nil {
				t.Error("nine asks in one step are taken")
			}
		}()
		l.AllowAll(ctx, make([]Ask, AsksMax+1)...)
	})
}

// Many at once over several limits: as many as the tightest allows, and the others paid for those alone. Callers that name the same keys in
// another order do not wait for each other for ever.
func TestStepUnderConcurrency(t *testing.T) {
	drivers(t, func(t *testing.T, d opener) {
		l, _ := d.open(t, "off")
		set(t, l, map[Name]string{Write: "50/d", Poll: "20/d", Import: "1000/d burst 300"})
		if got := stormAll(l.AllowAll, 400); got != 20 {
			t.Errorf("%d were allowed, want 20", got)
		}
		for n, want := range map[Name]int{Write: 30, Poll: 0, Import: 280} {
			if got := left(t, l, n, "k"); got != want {
				t.Errorf("%v has %d left, want %d", n, got, want)
			}
		}
	})
}

// The same storm must find a step that is none: asking one after the other charges the first for what the second refuses.
func TestStepsThatAreNoneAreFound(t *testing.T) {
	l, _ := open(t, "off")
	set(t, l, map[Name]string{Write: "50/d", Poll: "20/d", Import: "1000/d burst 300"})
	one := func(ctx context.Context, asks ...Ask) (ds Decisions) {
		for _, a := range asks {
			ds = append(ds, l.Allow(ctx, a.Name, a.Key))
		}
		return ds
	}
	stormAll(one, 400)
	if got := left(t, l, Write, "k"); got == 30 {
		t.Error("asking one limit after the other charged nobody for what was refused: this test could not find a fault")
	}
}

func stormAll(ask func(context.Context, ...Ask) Decisions, times int) int64 {
	asks := []Ask{{Write, "k"}, {Poll, "k"}, {Import, "k"}}
	var ok atomic.Int64
	var start, wg sync.WaitGroup
	start.Add(1)
	for i := range times {
		wg.Go(func() {
			start.Wait()
			if ask(context.Background(), asks[i%3], asks[(i+1)%3], asks[(i+2)%3]).OK() {
				ok.Add(1)
			}
		})
	}
	start.Done()
	wg.Wait()
	return ok.Load()
}

// On a cluster the keys are on several servers: what one refuses is given back to the others.
func TestAllOrNoneOnACluster(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster")
	}
	cluster, err := backends.StartCluster(t.Context(), backends.ClusterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	l, _ := openShared(t, connect(t, cluster.URL(), house()), map[string]string{"write": "50/d", "poll": "20/d", "import": "1000/d burst 300"})
	if got := stormAll(l.AllowAll, 400); got > 20 {
		t.Errorf("%d were allowed, want 20 at most", got)
	}
	for range 20 {
		l.AllowAll(t.Context(), Ask{Write, "k"}, Ask{Poll, "k"}, Ask{Import, "k"})
	}
	for n, want := range map[Name]int{Write: 30, Poll: 0, Import: 280} {
		if got := left(t, l, n, "k"); got != want {
			t.Errorf("%v has %d left, want %d", n, got, want)
		}
	}
	// and a guard keeps its charge
	set(t, l, map[Name]string{SignIn: "10/d", SignInAccount: "2/d"})
	for range 5 {
		l.AllowAll(t.Context(), Ask{SignIn, "a"}, Ask{SignInAccount, "ann"})
	}
	if got := left(t, l, SignIn, "a"); got != 5 {
		t.Errorf("the address has %d left, want 5", got)
	}
}

// Fifty at once against five a day: exactly five, a hundred times of a hundred, on one node and on three.
func TestFiftyCallersHundredTimes(t *testing.T) {
	var nodes []*Limits
	name, url := house(), shared(t)
	for range 3 {
		l, _ := openShared(t, connect(t, url, name), map[string]string{"write": "5/d"})
		nodes = append(nodes, l)
	}
	alone, _ := open(t, "5/d")
	for driver, nodes := range map[string][]*Limits{"memory": {alone}, "redis": nodes[:1], "redis, three nodes": nodes} {
		t.Run(driver, func(t *testing.T) {
			for run := range 100 {
				if got := stormKey(nodes, Write, driver+strconv.Itoa(run), 50); got != 5 {
					t.Errorf("run %d: %d of 50 were allowed, want 5", run, got)
				}
			}
		})
	}
}

// Three processes, started again and again, on one Redis. The test runs itself as those processes.
func TestThreeProcessesShareALimit(t *testing.T) {
	const env = "LEVEE_TEST_LIMIT_PROCESS"
	if at := os.Getenv(env); at != "" {
		url, name, _ := strings.Cut(at, " ")
		l, _ := openShared(t, connect(t, url, name), map[string]string{"write": "5/d"})
		fmt.Printf("%s%d\n", env, storm([]*Limits{l}, Write, 50))
		return
	}
	if testing.Short() {
		t.Skip("starts processes")
	}
	for run := range 5 {
		var wg sync.WaitGroup
		var sum atomic.Int64
		at := shared(t) + " " + house()
		for range 3 {
			wg.Go(func() {
				cmd := exec.Command(os.Args[0], "-test.run=^TestThreeProcessesShareALimit$", "-test.v")
				cmd.Env = append(os.Environ(), env+"="+at)
				out, err := cmd.CombinedOutput()
				_, count, ok := strings.Cut(string(out), env)
				n, bad := strconv.Atoi(strings.SplitN(count, "\n", 2)[0])
				if err != nil || !ok || bad != nil {
					t.Errorf("%v: %s", err, out)
				}
				sum.Add(int64(n))
			})
		}
		wg.Wait()
		if sum.Load() != 5 {
			t.Errorf("run %d: three processes allowed %d of 150, want 5", run, sum.Load())
		}
	}
}

func TestKeysOfScopes(t *testing.T) {
	ann := Caller{Actor: levee.Actor{User: 7, Session: 9}, Address: netip.MustParseAddr("2001:db8::5"), Account: "ann", Route: "r", Sale: "s"}
	visitor := Caller{Address: netip.MustParseAddr("2001:db8::6")}
	api := Caller{Actor: levee.Actor{User: 7}, Address: visitor.Address}
	for _, c := range []struct {
		n                         Name
		of, visitors, sessionless string
	}{
		{Read, "2001:db8::/64", "2001:db8::/64", "2001:db8::/64"},
		{Write, "u7", "2001:db8::/64", "u7"},
		{Token, "s9", "2001:db8::/64", "u7"},
		{SignInAccount, "ann", "", ""},
		{Route, "r", "", ""},
		{Sale, "s", "", ""},
		{SMSHouse, "", "", ""},
	} {
		if got := [3]string{c.n.Key(ann), c.n.Key(visitor), c.n.Key(api)}; got != [3]string{c.of, c.visitors, c.sessionless} {
			t.Errorf("%v: %q", c.n, got)
		}
	}
	for n := None + 1; n < nameCount; n++ {
		if strings.Contains(n.Scope().String(), "(") {
			t.Errorf("%v has a scope without a name", n)
		}
		if got, ok := ParseName(n.String()); !ok || got != n {
			t.Errorf("%v reads back as %v", n, got)
		}
	}
	for _, s := range []string{"", "none", "READ", "read ", "limit(99)"} {
		if n, ok := ParseName(s); ok {
			t.Errorf("%q is %v", s, n)
		}
	}
	if s := Name(200).String() + Scope(99).String() + Away(9).String(); s != "limit(200)scope(99)away(9)" {
		t.Error(s)
	}
}

func TestHeaders(t *testing.T) {
	l, clock := open(t, "10/s burst 25")
	ctx := context.Background()
	if got := l.Policy(Write); got != `"write";q=25;w=3` {
		t.Error(got)
	}
	d := l.Allow(ctx, Write, "k")
	if got := string(d.AppendState(nil, Write)); got != `"write";r=24;t=1` {
		t.Error(got)
	}
	set(t, l, map[Name]string{Write: "2/15m"})
	if got := l.Policy(Write); got != `"write";q=2;w=900` {
		t.Error(got)
	}
	clock.Step(time.Hour)
	l.Allow(ctx, Write, "k")
	l.Allow(ctx, Write, "k")
	clock.Step(500 * time.Millisecond)
	if got := string(l.Allow(ctx, Write, "k").AppendState([]byte("x"), Write)); got != `x"write";r=0;t=900` {
		t.Error(got)
	}
	set(t, l, map[Name]string{Write: "off"})
	if got := l.Policy(Write) + string(l.Allow(ctx, Write, "k").AppendState(nil, Write)) + string(Decision{Away: true}.AppendState(nil, Write)); got != "" {
		t.Errorf("%q of a limit that is off", got)
	}
	if n := testing.AllocsPerRun(100, func() { _ = d.AppendState(make([]byte, 0, 64), Write) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Redis killed and paused, not only unreachable: what is closed refuses with a code of its own, what is open goes on by the node's share, and
// nothing of a refused step is charged.
func TestClosedWhileRedisIsAway(t *testing.T) {
	s, err := backends.StartRedis(t.Context(), backends.RedisOptions{AOF: true})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c := connectFor(t, s.URL(), house(), 0)
	o := obs.Test(t)
	l, err := OpenShared(Config{Rates: map[string]string{"sms": "5/d", "sms_address": "9/d", "payment": "5/d", "read": "5/d", "sign_in": "5/d"},
		Away: map[string]string{"sign_in": "closed"}}, c, o)
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	for what, fault := range map[string][2]func() error{
		"killed": {s.Kill, func() error { return s.Restart(context.Background()) }},
		"paused": {s.Pause, s.Resume},
	} {
		if !l.Allow(ctx, SMS, what).OK || !l.Allow(ctx, Read, what).OK {
			t.Fatal(what)
		}
		if err := fault[0](); err != nil {
			t.Fatal(err)
		}
		for _, n := range []Name{SMS, Payment, SignIn} {
			d := l.Allow(ctx, n, what)
			var e *levee.Error
			if d.OK || !d.Away || !errors.As(d.Err(), &e) || e.Code != levee.CodeUnavailable || e.RetryAfter <= 0 {
				t.Errorf("%s: %v: %+v, %v; want closed", what, n, d, d.Err())
			}
		}
		for i := range 30 { // the closed one refuses: the one that is open is not charged
			ds := l.AllowAll(ctx, Ask{Read, what}, Ask{SMS, what}, Ask{SMSAddress, what})
			if ds.OK() || levee.CodeOf(ds.Err()) != levee.CodeUnavailable || !ds[0].OK || ds[0].Remaining != 4 {
				t.Fatalf("%s: %d: %+v", what, i, ds)
			}
		}
		reads := 0
		for range 30 {
			if l.Allow(ctx, Read, what).OK {
				reads++
			}
		}
		if reads != 4 { // one was charged before
			t.Errorf("%s: %d reads by the node's own share, want the 4 that were left", what, reads)
		}
		l.Refund(ctx, SMS, what) // cannot be given back, and must not wait or panic
		if err := fault[1](); err != nil {
			t.Fatal(err)
		}
		wait(t, "Redis is back", c.Healthy)
		wait(t, "the limit is asked there again", func() bool { return !l.Allow(ctx, Payment, what+" back").Away })
		// Redis counted one before, and what was refused is not charged; but a server that was only paused still does what it was sent before the
		// node knew: against the caller.
		if got := left(t, l, SMS, what); got > 4 || what == "killed" && got < 4 {
			t.Errorf("%s: %d left afterwards, want 4", what, got)
		}
	}
	if n := metric(t, o, "levee_limit_alone_total"); n < 100 {
		t.Errorf("%v decisions counted as made alone", n)
	}
}

func TestConfigAway(t *testing.T) {
	for _, tc := range []struct {
		away  map[string]string
		field string
	}{
		{map[string]string{"sign_out": "open"}, "limit.away"},
		{map[string]string{"read": "ajar"}, "limit.away.read"},
		{map[string]string{"read": ""}, "limit.away.read"},
	} {
		_, err := Open(Config{Away: tc.away}, obs.Test(t))
		var e *levee.Error
		if !errors.As(err, &e) || e.Code != levee.CodeInvalid || e.Fields[0].Field != tc.field {
			t.Errorf("%v: %v", tc.away, err)
		}
	}
	l, err := Open(Config{Away: map[string]string{"read": "closed", "sms": "open", "poll": "share"}}, obs.Test(t))
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[Name]Away{Read: AwayClosed, SMS: AwayOpen, Poll: AwayShare, Payment: AwayClosed, SignIn: AwayShare, Connect: AwayOpen} {
		if got := l.WhenAway(n); got != want {
			t.Errorf("%v: %v, want %v", n, got, want)
		}
	}
}

// stormKey is storm on a key.
func stormKey(nodes []*Limits, name Name, key string, times int) int64 {
	var ok atomic.Int64
	var start, wg sync.WaitGroup
	start.Add(1)
	for i := range times {
		wg.Go(func() {
			start.Wait()
			if nodes[i%len(nodes)].Allow(context.Background(), name, key).OK {
				ok.Add(1)
			}
		})
	}
	start.Done()
	wg.Wait()
	return ok.Load()
}

// The script that this package runs refuses numbers that are missing, before it writes.
func TestScriptChecksItsArguments(t *testing.T) {
	c := connect(t, shared(t), house())
	for _, args := range [][]any{{}, {0}, {0, 1, 5, 6, 7, 8}, {0, 1, "x", 6, 7, 8, 0}, {"x", 1, 5, 6, 7, 8, 0}} {
		for _, s := range []*redis.Script{takeScript, refundScript} {
			if s == refundScript && len(args) > 3 && args[0] != "x" {
				continue
			}
			if _, err := s.Run(t.Context(), c, []string{c.Key("k")}, args...).Result(); err == nil || !strings.Contains(err.Error(), "missing") {
				t.Errorf("%v: %v", args, err)
			}
		}
	}
}
