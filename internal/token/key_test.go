package token

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// house is the room over a database of its own, with a clock that a test moves.
type house struct {
	*Service
	t     testing.TB
	clock *obs.StepClock
	deps  Deps
	admin context.Context
	acts  atomic.Int64
}

func newHouse(t testing.TB, cfg Config, earlier bool) *house {
	t.Helper()
	o := obs.Test(t)
	h := &house{t: t, clock: &obs.StepClock{}, admin: levee.WithActor(context.Background(), levee.Actor{User: 7, Roles: levee.RoleAdministrator})}
	o.Clock = h.clock.Now
	seal := sha256.Sum256([]byte("at rest"))
	h.deps = Deps{DB: platformtest.DB(t, t.TempDir(), o, Schema()), Sealer: testSealer(t), Obs: o, Config: cfg, Seal: seal[:], Key: someKey("key"), Shared: true,
		Audit: func(context.Context, *db.Tx, string, string, any, any) error { h.acts.Add(1); return nil }}
	h.Service = h.node(earlier)
	return h
}

// node is one more process of the house.
func (h *house) node(earlier bool) *Service {
	h.t.Helper()
	s := New(h.deps)
	h.must(s.Warm(context.Background(), earlier))
	return s
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) want(err error, code levee.Code) {
	h.t.Helper()
	if got := levee.CodeOf(err); got != code {
		h.t.Fatalf("got code %q (%v), want %q", got, err, code)
	}
}

// token is a session's access token of a node, good for 10 minutes.
func (h *house) token(s *Service) string {
	h.t.Helper()
	now := h.clock.Now()
	text, err := s.Sign(context.Background(), Claims{Subject: "usr_x", Session: "ses_x", Expires: now.Add(10 * time.Minute).Truncate(time.Second)}, now)
	h.must(err)
	return text
}

// published are the ids of the keys that a service reads at this moment.
func published(t testing.TB, s *Service) (ids []string) {
	t.Helper()
	var set struct{ Keys []jwk }
	if err := json.Unmarshal(s.JWKS(), &set); err != nil {
		t.Fatal(err)
	}
	for _, k := range set.Keys {
		ids = append(ids, k.ID)
	}
	return ids
}

func (s *Service) states(now time.Time) string {
	var text []string
	for _, k := range s.ring.Load().keys {
		text = append(text, string(k.state(now)))
	}
	return strings.Join(text, " ")
}

var edDSA = Config{Algorithm: "EdDSA"}

// TestRoll follows three nodes and a service that reads the key set once an hour through a roll, minute by minute: no token that is good ever meets a key
// that its reader does not know, and each key goes through its states.
func TestRoll(t *testing.T) {
	h := newHouse(t, edDSA, false)
	nodes := []*Service{h.Service, h.node(false), h.node(false)}
	cached, read := published(t, h.Service), h.clock.Now()
	type issued struct {
		text, kid string
		until     time.Time
	}
	var tokens []issued
	seen := map[string]bool{}
	for minute := range 240 {
		if minute == 30 {
			k, err := h.Roll(h.admin, Rolling{})
			h.must(err)
			if k.State != Published || !k.SignsAt.Equal(h.clock.Now().Add(time.Hour)) {
				t.Fatalf("%+v", k)
			}
			_, err = h.Roll(h.admin, Rolling{})
			h.want(err, levee.CodeConflict)
		}
		for _, n := range nodes {
			h.must(n.load(context.Background())) // as Run does, twice a second
		}
		now := h.clock.Now()
		if now.Sub(read) >= time.Hour {
			cached, read = published(t, nodes[minute%3]), now
		}
		for _, n := range nodes {
			text := h.token(n)
			tokens = append(tokens, issued{text, n.ring.Load().signer(now).kid, now.Add(10 * time.Minute)})
		}
		for _, k := range tokens {
			if !now.Before(k.until) {
				continue
			}
			if !strings.Contains(strings.Join(cached, " "), k.kid) {
				t.Fatalf("minute %d: a service that read the key set %v ago does not know %s", minute, now.Sub(read), k.kid)
			}
			for i, n := range nodes {
				if _, err := n.Verify(k.text); err != nil {
					t.Fatalf("minute %d: node %d: %v", minute, i, err)
				}
			}
		}
		seen[h.states(now)] = true
		h.clock.Step(time.Minute)
	}
	if want := map[string]bool{"signing": true, "published signing": true, "signing retired": true, "signing gone": true}; fmt.Sprint(seen) != fmt.Sprint(want) {
		t.Errorf("states %v, want %v", seen, want)
	}
	if h.acts.Load() != 1 {
		t.Errorf("%d acts in the trail", h.acts.Load())
	}
	// What signs no more lies nowhere, and what is long gone is forgotten.
	h.must(h.tend(context.Background()))
	rows, err := readKeys(context.Background(), h.db.Query)
	h.must(err)
	if len(rows) != 2 || rows[0].sealed != "" || rows[1].sealed == "" {
		t.Errorf("%d keys; the private key of the first is still there: %v", len(rows), rows[0].sealed != "")
	}
	h.clock.Step(40 * 24 * time.Hour)
	h.must(h.tend(context.Background()))
	if rows, err = readKeys(context.Background(), h.db.Query); err != nil || len(rows) != 1 {
		t.Errorf("%d keys, %v", len(rows), err)
	}
}

// TestWithdraw: what a key signed that leaked is refused as soon as a node has looked, also from a cache; before that it cannot know (the control). There is
// always a key that signs, after the moment in which all nodes learn of it.
func TestWithdraw(t *testing.T) {
	h := newHouse(t, edDSA, false)
	other := h.node(false)
	stolen := h.token(h.Service)
	before := other.Generation()
	kid, _, _ := h.Signer()
	_, err := h.Retire(h.admin, kid, true)
	h.must(err)
	_, err = h.Verify(stolen)
	h.want(err, levee.CodeUnauthenticated)
	if _, err := other.Verify(stolen); err != nil {
		t.Errorf("control: the other node knew without a look: %v", err)
	}
	h.must(other.load(context.Background()))
	_, err = other.Verify(stolen)
	h.want(err, levee.CodeUnauthenticated)
	if other.Generation() == before {
		t.Error("a cache would go on believing what it verified before")
	}
	_, err = other.Sign(context.Background(), Claims{Subject: "usr_x", Session: "ses_x", Expires: h.clock.Now().Add(time.Minute)}, h.clock.Now())
	h.want(err, levee.CodeUnavailable)
	h.clock.Step(settle)
	if _, err := other.Verify(h.token(h.Service)); err != nil {
		t.Error(err)
	}
	if ids := published(t, other); len(ids) != 1 || ids[0] == kid {
		t.Errorf("published: %v, withdrawn: %s", ids, kid)
	}
	_, err = h.Retire(h.admin, kid, true)
	h.want(err, levee.CodeNotFound)
	generation := other.Generation()
	h.must(other.load(context.Background()))
	if other.Generation() != generation {
		t.Error("a look that found nothing new voids the caches")
	}
}

// TestRetire: a key that waits gives way to the one that signs; the last that signs gets a successor; what retired keeps its tokens.
func TestRetire(t *testing.T) {
	h := newHouse(t, edDSA, false)
	first, _, _ := h.Signer()
	next, err := h.Roll(h.admin, Rolling{})
	h.must(err)
	_, err = h.Retire(h.admin, next.ID, false)
	h.must(err)
	h.clock.Step(3 * time.Hour)
	if kid, _, _ := h.Signer(); kid != first || h.states(h.clock.Now()) != "gone signing" {
		t.Fatalf("%s signs, want %s: %s", kid, first, h.states(h.clock.Now()))
	}
	kept := h.token(h.Service)
	_, err = h.Retire(h.admin, first, false)
	h.must(err)
	h.clock.Step(settle)
	if kid, _, _ := h.Signer(); kid == first || kid == next.ID {
		t.Fatalf("%s still signs", kid)
	}
	if _, err := h.Verify(kept); err != nil {
		t.Error(err)
	}
	_, err = h.Retire(h.admin, first, false)
	h.want(err, levee.CodeConflict)
	_, err = h.Retire(h.admin, "nobody", false)
	h.want(err, levee.CodeNotFound)
	for range maxKeys {
		if _, err = h.Roll(h.admin, Rolling{Now: true}); err != nil {
			break
		}
		h.clock.Step(settle)
	}
	h.want(err, levee.CodeConflict)
}

// TestUpgrade: a house of the version before signed with the key that is derived from the secret. Its tokens stay good, nodes of both versions understand each
// other for the lead, and no longer than needed.
func TestUpgrade(t *testing.T) {
	h := newHouse(t, Config{}, true)
	sign := func(life time.Duration) string { // as the version before did
		now := h.clock.Now()
		text, err := h.house.sign(map[string]any{"iss": "levee", "aud": []string{"levee"}, "sub": "usr_x", "sid": "ses_x", "jti": "x", "iat": now.Unix(),
			"nbf": now.Unix(), "exp": now.Add(life).Unix()})
		h.must(err)
		return text
	}
	old, fresh := sign(10*time.Minute), h.token(h.Service)
	if !strings.HasPrefix(fresh, h.house.header+".") {
		t.Error("a node of the version before would not know the key of this token")
	}
	_, err := h.Verify(old)
	h.must(err)
	if ids := published(t, h.Service); len(ids) != 2 || ids[1] != h.house.kid {
		t.Errorf("published: %v", ids)
	}
	h.clock.Step(59 * time.Minute)
	late := sign(time.Hour) // by a node that is upgraded last
	h.clock.Step(time.Minute)
	if kid, _, _ := h.Signer(); kid == h.house.kid || h.ring.Load().signer(h.clock.Now()).algorithm != RS256 {
		t.Errorf("%s signs", kid)
	}
	_, err = h.Verify(late)
	h.must(err)
	forever := sign(24 * time.Hour)
	h.clock.Step(MaxLife + keyMargin)
	_, err = h.Verify(forever)
	h.want(err, levee.CodeUnauthenticated)
	if ids := published(t, h.Service); len(ids) != 1 {
		t.Errorf("published: %v", ids)
	}
	// A house without a past never takes such a token.
	_, err = newHouse(t, edDSA, false).Verify(sign(time.Minute))
	h.want(err, levee.CodeUnauthenticated)
}

// TestFirstKey: nodes that start at once agree on one key; a restart keeps it; with another secret it does not open, and a new one is made.
func TestFirstKey(t *testing.T) {
	h := newHouse(t, edDSA, false)
	kid, _, _ := h.Signer()
	var wg sync.WaitGroup
	d := h.deps
	d.DB = platformtest.DB(t, t.TempDir(), d.Obs, Schema())
	kids := make([]string, 6)
	for i := range kids {
		wg.Go(func() {
			s := New(d)
			if err := s.Warm(context.Background(), false); err != nil {
				t.Error(err)
				return
			}
			kids[i], _, _ = s.Signer()
		})
	}
	wg.Wait()
	for _, k := range kids {
		if k != kids[0] || k == "" {
			t.Fatalf("keys %v", kids)
		}
	}
	if again, _, _ := h.node(false).Signer(); again != kid {
		t.Errorf("%s after a restart, %s before", again, kid)
	}
	other := sha256.Sum256([]byte("another"))
	h.deps.Seal = other[:]
	if again, _, _ := h.node(false).Signer(); again == kid || again == "" {
		t.Errorf("%q with another secret", again)
	}
}

// TestAtRest: SQL has no private key that could be read without the secret, and one that was moved to another row does not open.
func TestAtRest(t *testing.T) {
	h := newHouse(t, Config{}, false)
	k := h.ring.Load().keys[0]
	if _, err := h.seal.open(k.sealed, k.about()); err != nil {
		t.Fatal(err)
	}
	if _, err := h.seal.open(k.sealed, "EdDSA "+k.kid); err == nil {
		t.Error("it opens for another algorithm")
	}
	if strings.Contains(k.sealed, "MII") { // how PKCS #8 begins in base 64
		t.Error("the private key is not sealed")
	}
}

// TestTend: with Config.KeyEvery a key is made when the newest is old, and not before.
func TestTend(t *testing.T) {
	h := newHouse(t, Config{Algorithm: "EdDSA", KeyEvery: 30 * 24 * time.Hour}, false)
	h.clock.Step(30*24*time.Hour - time.Minute)
	h.must(h.tend(context.Background()))
	if got := h.states(h.clock.Now()); got != "signing" {
		t.Fatal(got)
	}
	h.clock.Step(time.Minute)
	for range 2 { // a second run finds that it is done
		h.must(h.tend(context.Background()))
	}
	if got := h.states(h.clock.Now()); got != "published signing" {
		t.Error(got)
	}
}

func TestRollRefusesUnknownAlgorithms(t *testing.T) {
	h := newHouse(t, edDSA, false)
	_, err := h.Roll(h.admin, Rolling{Algorithm: "none"})
	h.want(err, levee.CodeInvalid)
}

// TestOnce: of fifty who use a token at once on three nodes one commits; it is good for its own purpose alone, and not for long.
func TestOnce(t *testing.T) {
	h := newHouse(t, edDSA, false)
	ctx := context.Background()
	nodes := []*Service{h.Service, h.node(false), h.node(false)}
	makeOne := func(subject int64) (text obs.Secret) {
		t.Helper()
		h.must(h.db.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) (err error) {
			text, _, err = h.OnceTx(ctx, tx, PasswordReset, subject, time.Hour)
			return err
		}))
		return text
	}
	use := func(s *Service, p Purpose, text obs.Secret) error {
		return s.db.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error { return s.UseTx(ctx, tx, p, text) })
	}
	for range 3 {
		text := makeOne(4711)
		if subject, err := nodes[1].Subject(ctx, PasswordReset, text); err != nil || subject != 4711 {
			t.Fatalf("%d, %v", subject, err)
		}
		var used atomic.Int64
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				switch err := use(nodes[i%3], PasswordReset, text); levee.CodeOf(err) {
				case "":
					used.Add(1)
				case levee.CodeGone:
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if used.Load() != 1 {
			t.Fatalf("used %d times", used.Load())
		}
	}
	text := makeOne(1)
	h.want(use(h.Service, "download", text), levee.CodeGone)
	h.want(use(h.Service, PasswordReset, text+"x"), levee.CodeGone)
	newer, others := makeOne(1), makeOne(2)
	h.want(use(h.Service, PasswordReset, text), levee.CodeGone)
	h.must(use(h.Service, PasswordReset, newer))
	h.clock.Step(time.Hour)
	_, err := h.Subject(ctx, PasswordReset, others)
	h.want(err, levee.CodeGone)
	h.want(use(h.Service, PasswordReset, others), levee.CodeGone)
	for _, bad := range []obs.Secret{"", "lvo_", "lvo_x", obs.Secret(strings.Repeat("x", 5000))} {
		_, err := h.Subject(ctx, PasswordReset, bad)
		h.want(err, levee.CodeGone)
	}
}

// TestPersonalText: every character of a personal access token counts, and a scanner finds it by its form.
func TestPersonalText(t *testing.T) {
	h := newHouse(t, edDSA, false)
	text := h.NewPersonal(99).Reveal()
	if id, ok := h.OpenPersonal(text); !ok || id != 99 || len(text) != 69 || text == h.NewPersonal(99).Reveal() {
		t.Fatalf("%q, %d, %v", text, id, ok)
	}
	for i := range text {
		for _, c := range "0az-A" {
			if bad := text[:i] + string(c) + text[i+1:]; bad != text {
				if _, ok := h.OpenPersonal(bad); ok {
					t.Fatalf("changed at %d and taken: %q", i, bad)
				}
			}
		}
	}
	for _, bad := range []string{"", "lvp_", text + "0", text[:68], strings.ToUpper(text)} {
		if _, ok := h.OpenPersonal(bad); ok {
			t.Errorf("%q", bad)
		}
	}
}

func BenchmarkAlgorithms(b *testing.B) {
	for _, a := range []Algorithm{RS256, EdDSA} {
		h := newHouse(b, Config{Algorithm: string(a)}, false)

		text := h.token(h.Service)
		b.Run(string(a)+"/sign", func(b *testing.B) {
			for b.Loop() {
				h.token(h.Service)
			}
		})
		b.Run(string(a)+"/verify", func(b *testing.B) {
			for b.Loop() {
				if _, err := h.Verify(text); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(text)), "bytes")
		})
		b.Run(string(a)+"/make", func(b *testing.B) {
			for b.Loop() {
				if _, err := h.make(context.Background(), a); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	h := newHouse(f, edDSA, false)
	good := h.token(h.Service)
	for _, seed := range []string{good, "", "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", good + ".", strings.Repeat("a.", 1000),
		"eyJhbGciOiJFZERTQSJ9.bnVsbA.AAAA", "eyJhbGciOiJFZERTQSIsImtpZCI6W119.W10.AAAA"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := h.Verify(text); err == nil && text != good {
			t.Fatalf("accepted %q", text)
		}
	})
}
