package admission

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
	"levee/internal/platform/platformtest"
)

// bare is a room without disk and pushes, for what needs neither.
func bare(t testing.TB, key byte) *Service {
	t.Helper()
	sealer, err := id.NewSealer(platformtest.Key(1))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Deps{Sealer: sealer, Obs: obs.Test(t), Key: platformtest.Key(key)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTokens(t *testing.T) {
	s, foreign := bare(t, 2), bare(t, 3)
	now := time.Unix(1_800_000_000, 0)
	token := s.Issue(42, 7, now.Add(time.Minute+900*time.Millisecond))
	if len(token) != 54 {
		t.Errorf("a token has %d characters", len(token))
	}
	for _, c := range []struct {
		name  string
		token string
		sale  levee.SaleID
		buyer levee.UserID
		now   time.Time
		want  levee.Code
	}{
		{"good", token, 42, 7, now, ""},
		{"the last moment", token, 42, 7, now.Add(time.Minute - time.Nanosecond), ""},
		{"its expiry", token, 42, 7, now.Add(time.Minute), levee.CodeAdmissionExpired},
		{"none", "", 42, 7, now, levee.CodeAdmissionMissing},
		{"another sale", token, 43, 7, now, levee.CodeAdmissionInvalid},
		{"another buyer", token, 42, 8, now, levee.CodeAdmissionInvalid},
		{"another house", foreign.Issue(42, 7, now.Add(time.Minute)), 42, 7, now, levee.CodeAdmissionInvalid},
		{"a ticket", s.ticket(42, 7, 1, uint32(now.Unix()+60)), 42, 7, now, levee.CodeAdmissionInvalid},
		{"cut off", token[:53], 42, 7, now, levee.CodeAdmissionInvalid},
		{"longer", token + "A", 42, 7, now, levee.CodeAdmissionInvalid},
		{"a line break", token[:10] + "\n" + token[11:], 42, 7, now, levee.CodeAdmissionInvalid},
		{"padding", token[:53] + "=", 42, 7, now, levee.CodeAdmissionInvalid},
		{"rubbish", strings.Repeat("A", 54), 42, 7, now, levee.CodeAdmissionInvalid},
		{"no base64", strings.Repeat("ä", 27), 42, 7, now, levee.CodeAdmissionInvalid},
	} {
		if got := levee.CodeOf(s.Verify(c.token, c.sale, c.buyer, c.now)); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	if n := testing.AllocsPerRun(1000, func() { _ = s.Verify(token, 42, 7, now) }); n != 0 && !raceDetector {
		t.Errorf("verifying allocates %g times", n)
	}
}

// Every change of a single bit is refused, and so is every other spelling of the same bytes.
func TestNoTokenButTheOneIssued(t *testing.T) {
	s := bare(t, 2)
	now := time.Unix(1_800_000_000, 0)
	token := s.Issue(42, 7, now.Add(time.Minute))
	ticket := s.ticket(42, 7, 9, 0)
	challenge := s.workChallenge(42, 7, 8, now.Add(time.Minute))
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=\n\r "
	for name, c := range map[string]struct {
		text string
		good func(string) bool
	}{
		"token":  {token, func(x string) bool { return s.Verify(x, 42, 7, now) == nil }},
		"ticket": {ticket, func(x string) bool { n, _ := s.readTicket(x, 42, 7); return n != 0 }},
		"challenge": {challenge, func(x string) bool {
			var raw [workBody]byte
			return s.work.open(x, raw[:])
		}},
	} {
		if !c.good(c.text) {
			t.Fatalf("the %s itself is refused", name)
		}
		for i := range c.text {
			for _, d := range []byte(digits) {
				if d != c.text[i] && c.good(c.text[:i]+string(d)+c.text[i+1:]) {
					t.Fatalf("the %s is taken with another character at %d", name, i)
				}
			}
		}
	}
}

// FuzzHostile throws texts at everything that reads what a client brings: nothing may panic, and nothing but what was signed may
// prove anything.
func FuzzHostile(f *testing.F) {
	s := bare(f, 2)
	now := s.Obs.Clock()
	w := &Window{Sale: 42, Policy: Policy{Brake: BrakePicture}}
	_ = w.Policy.Check()
	seeds := []string{"", "A", s.Issue(42, 7, now.Add(time.Hour)), s.ticket(42, 8, 5, 0), s.workChallenge(42, 7, 20, now.Add(time.Hour)),
		s.pictureChallenge(42, 8, 12345, now.Add(time.Hour)), base64.RawURLEncoding.EncodeToString(make([]byte, 60)), strings.Repeat("_", 80)}
	for _, x := range seeds {
		f.Add(x, "12345")
		f.Add(x+"\n", "0")
	}
	f.Fuzz(func(t *testing.T, text, answer string) {
		// Of what is signed here for 42 and 7 there are a token and a challenge; nothing is for sale 43 or buyer 9.
		if s.Verify(text, 43, 9, now) == nil {
			t.Fatal("a token for nobody")
		}
		if n, e := s.readTicket(text, 43, 9); n != 0 || e != 0 {
			t.Fatal("a ticket for nobody")
		}
		other := *w
		other.Sale = 43
		if s.solved(&other, 9, text, answer) == nil {
			t.Fatal("a challenge for nobody")
		}
		if n, _ := s.readTicket(text, 42, 7); n != 0 {
			t.Fatal("a ticket of another buyer")
		}
		if s.solved(w, 7, text, answer) == nil {
			t.Fatal("solved by chance")
		}
	})
}

func TestPolicyCheck(t *testing.T) {
	var p Policy
	if err := p.Check(); err != nil || p != (Policy{Order: OrderArrival, PerSecond: 100, Multiple: 3, Brake: BrakeNone, WorkBits: 16}) {
		t.Errorf("%+v, %v", p, err)
	}
	for field, p := range map[string]Policy{
		"order": {Order: "lots"}, "per_second": {PerSecond: 100_001}, "multiple": {Multiple: -1}, "brake": {Brake: "Work"},
		"work_bits": {WorkBits: 25}, "per_address": {PerAddress: -1},
	} {
		err := p.Check()
		var e *levee.Error
		if levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%s: %v", field, err)
		} else if e = err.(*levee.Error); e.Fields[0].Field != "body.admission."+field || e.Fields[0].Allowed == "" { //nolint:errorlint // it is one
			t.Errorf("%+v", e.Fields)
		}
	}
}

func TestConfigBounds(t *testing.T) {
	for _, c := range []Config{{AdmissionFor: time.Second}, {TurnFor: time.Second}, {KeepFor: time.Second}, {GatherFor: time.Hour},
		{PlacesMax: -1}, {ChallengesMax: 1}} {
		if err := c.fill(); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if _, err := New(Deps{Obs: obs.Test(t), Key: make([]byte, 31)}); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("a short key: %v", err)
	}
}
