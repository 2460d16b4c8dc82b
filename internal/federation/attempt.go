package federation

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/url"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
	"levee/internal/trail"
)

const (
	// attemptTTL is how long somebody may take at the provider.
	attemptTTL   = 10 * time.Minute
	maxReturnTo  = 500
	maxAnswer    = 2048 // bytes of a code, a state, an issuer
	pruneBatch   = 500
	secretBytes  = 32
	stateSignIn  = "sign" // begins the state of a sign-in
	stateLinking = "link" // begins the state of a linking
)

// The reasons for which a way to a provider ends without success; Data has them as "reason", for pages that say it in their words.
const (
	// ReasonOver: the attempt is unknown here, used, too old, or was begun in another browser or session. CodeGone.
	ReasonOver = "over"
	// ReasonDenied: the person said no at the provider. CodeForbidden.
	ReasonDenied = "denied"
	// ReasonCode: the provider does not take its code any more. CodeGone.
	ReasonCode = "code"
	// ReasonAnswer: the provider's answer did not pass a check. CodeForbidden.
	ReasonAnswer = "answer"
	// ReasonAway: the provider does not answer, or not as it should. CodeUnavailable.
	ReasonAway = "away"
	// ReasonRefused: the provider refuses this house. CodeUnavailable.
	ReasonRefused = "refused"
	// ReasonLinked: the subject is another account's. CodeConflict.
	ReasonLinked = "linked"
	// ReasonOther: the account has another subject of this provider. CodeConflict.
	ReasonOther = "other"
	// ReasonLast: the link is the last way to sign in. CodeConflict.
	ReasonLast = "last"
)

func over() error {
	return levee.E(levee.CodeGone, "this attempt is over, or it was begun in another browser or session: begin again").With("reason", ReasonOver)
}

// attempt is a way to a provider that has begun.
type attempt struct {
	stateHash, browserHash string
	provider               string
	verifier, nonce        string
	returnTo               string
	session                int64 // of a linking, in which it began and must end; 0 for a sign-in
	expires                time.Time
}

// Begun is what a browser needs to go to a provider.
type Begun struct {
	// Address to go to. It holds nothing that must stay secret from the browser's owner.
	Address string
	// Browser is a secret for this browser alone: who comes back must bring it.
	Browser obs.Secret
	Expires time.Time
}

// BeginSignIn begins a sign-in through a provider; returnTo is the local path to which it leads, or "". It asks for no right. CodeInvalid: there
// is no such provider, or returnTo is no local path. CodeUnavailable: the provider's metadata cannot be read.
func (s *Service) BeginSignIn(ctx context.Context, provider, returnTo string) (b Begun, err error) {
	defer levee.Wrap(&err, "federation.BeginSignIn(%s)", provider)
	return s.begin(ctx, provider, returnTo, stateSignIn, 0)
}

// BeginLink begins to link a provider to the account of the context's actor, who must have signed in here. Otherwise it is as BeginSignIn.
func (s *Service) BeginLink(ctx context.Context, provider, returnTo string) (b Begun, err error) {
	defer levee.Wrap(&err, "federation.BeginLink(%s)", provider)
	actor, err := inPerson(ctx)
	if err != nil {
		return Begun{}, err
	}
	return s.begin(ctx, provider, returnTo, stateLinking, actor.Session)
}

// inPerson returns the context's actor if he has an account and a session here: a visitor, an invented buyer and a foreign token have none.
func inPerson(ctx context.Context) (levee.Actor, error) {
	a := levee.ActorFrom(ctx)
	switch {
	case !a.SignedIn():
		return a, levee.E(levee.CodeUnauthenticated, "sign in first")
	case a.Rehearsal || a.Session == 0 || a.Scope != nil:
		return a, levee.E(levee.CodeForbidden, "this needs somebody who has signed in here himself")
	}
	return a, nil
}

func (s *Service) begin(ctx context.Context, name, returnTo, kind string, session int64) (Begun, error) {
	p, err := s.provider(name)
	if err != nil {
		return Begun{}, err
	}
	if returnTo == "" {
		returnTo = "/"
	}
	if !localPath(returnTo) {
		return Begun{}, levee.Invalid("return_to", "a path of this house that begins with one '/', of at most 500 bytes", returnTo)
	}
	// WeChat takes letters and digits only; 128 bytes at most.
	state, browser := kind+hex.EncodeToString(random()), base64.RawURLEncoding.EncodeToString(random())
	now := s.Obs.Clock()
	a := &attempt{stateHash: hash(state), browserHash: hash(browser), provider: name, returnTo: returnTo, session: session,
		verifier: base64.RawURLEncoding.EncodeToString(random()), nonce: base64.RawURLEncoding.EncodeToString(random()), expires: now.Add(attemptTTL)}
	address, err := p.address(ctx, a, state, s.back(p))
	if err != nil {
		return Begun{}, s.say(ctx, p, err)
	}
	if err := s.DB.Tx(ctx, "federation.begin", func(ctx context.Context, tx *db.Tx) error { return insertAttempt(ctx, tx, a) }); err != nil {
		return Begun{}, err
	}
	return Begun{Address: address, Browser: obs.Secret(browser), Expires: a.expires}, nil
}

func random() []byte {
	b := make([]byte, secretBytes)
	_, _ = rand.Read(b) // never fails
	return b
}

// hash is how a secret of 256 bits is kept: nobody finds the secret by it.
func hash(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

func equal(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// localPath reports whether a browser that is sent to a text stays on this host: it reads a backslash as a slash, takes two of them for the begin of
// another host, and drops control characters before it looks.
func localPath(text string) bool {
	if text == "" || text[0] != '/' || len(text) > maxReturnTo || !utf8.ValidString(text) || strings.ContainsRune(text, '\\') ||
		strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || unicode.IsSpace(r) }) {
		return false
	}
	path, _, _ := strings.Cut(text, "?")
	path, _, _ = strings.Cut(path, "#")
	u, err := url.Parse(text)
	return err == nil && u.Scheme == "" && u.Host == "" && u.User == nil && !strings.Contains(path, "//")
}

// Answer is what a browser brings back from a provider.
type Answer struct {
	// Provider is the one at whose address the browser came back.
	Provider string
	// State, Code, Issuer (RFC 9207) and Error as the provider gave them; empty where it gave none.
	State, Code, Issuer, Error string
	// Browser is the secret that the browser was given at the begin.
	Browser obs.Secret
}

// SignedIn is the end of a sign-in.
type SignedIn struct {
	identity.Grant
	// ReturnTo is the local path that was asked for.
	ReturnTo string
	// New says that the account was made for it.
	New bool
}

// SignIn ends a sign-in: it takes the attempt, which nobody can use a second time, asks the provider who came, finds his account or makes it, and begins
// a cookie session. Errors are those of SignInProven and those of the reasons above.
func (s *Service) SignIn(ctx context.Context, in Answer, from Origin) (out SignedIn, err error) {
	defer levee.Wrap(&err, "federation.SignIn(%s)", levee.Shorten(in.Provider, 30))
	p, a, err := s.take(ctx, in, 0)
	defer func() { s.count(ctx, p, err, from) }()
	if err != nil {
		return SignedIn{}, err
	}
	who, err := s.ask(ctx, p, a, in)
	if err != nil {
		return SignedIn{}, err
	}
	user, fresh, err := s.account(ctx, p, who, from)
	if err != nil {
		return SignedIn{}, err
	}
	g, err := s.Identity.SignInProven(ctx, user, p.name, identity.SessionCookie, from)
	return SignedIn{Grant: g, ReturnTo: a.returnTo, New: fresh}, err
}

// count tells how an answer ended. One that did not pass the checks is told to the trail too: somebody may have made it.
func (s *Service) count(ctx context.Context, p *provider, err error, from Origin) {
	if p == nil {
		return
	}
	result := "ok"
	if err != nil {
		result = string(levee.CodeOf(err))
		var e *levee.Error
		if errors.As(err, &e) {
			if reason, ok := e.Data["reason"].(string); ok {
				result = reason
			}
		}
	}
	s.metrics.answers.WithLabelValues(p.name, result).Inc()
	if result == ReasonAnswer {
		s.Trail.Note(ctx, trail.Act{Action: "session.refused", Address: from.Address, RequestID: from.RequestID,
			After: map[string]string{"why": result, "by": p.name}}, false)
	}
}

// take finds the attempt that an answer is for and takes it away, so that of many who bring the same answer one goes on. session is 0 for a
// sign-in, else that of who links. An attempt stays where it is for somebody who is not in the browser that began it: he can neither use nor end it.
func (s *Service) take(ctx context.Context, in Answer, session int64) (p *provider, a *attempt, err error) {
	for _, f := range []struct{ field, given string }{{"state", in.State}, {"code", in.Code}, {"iss", in.Issuer}, {"error", in.Error}} {
		if len(f.given) > maxAnswer {
			return nil, nil, levee.Invalid(f.field, "at most 2048 bytes", len(f.given))
		}
	}
	if p, err = s.provider(in.Provider); err != nil {
		return nil, nil, err
	}
	now := s.Obs.Clock()
	err = s.DB.Tx(ctx, "federation.take", func(ctx context.Context, tx *db.Tx) error {
		if a, err = lockAttempt(ctx, tx, s.DB.Dialect(), hash(in.State)); err != nil {
			return err
		}
		if a == nil || !equal(a.browserHash, hash(in.Browser.Reveal())) || a.provider != in.Provider || a.session != session {
			return over()
		}
		gone, err := deleteAttempt(ctx, tx, a.stateHash)
		if err == nil && !gone {
			return over() // another was first
		}
		return err
	})
	if err != nil {
		return p, nil, err
	}
	if !now.Before(a.expires) {
		return p, nil, over()
	}
	return p, a, nil
}

// ask learns from the provider who came.
func (s *Service) ask(ctx context.Context, p *provider, a *attempt, in Answer) (person, error) {
	switch {
	case in.Error == "access_denied" || p.kind == kindWeChat && in.Error == "" && in.Code == "": // WeChat then gives no code, and no error either
		return person{}, levee.E(levee.CodeForbidden, "%s was told not to sign in here", p.label).With("reason", ReasonDenied)
	case in.Error == "temporarily_unavailable" || in.Error == "server_error":
		return person{}, away(p.label)
	case in.Error != "":
		s.log.WarnContext(ctx, "a provider refused the sign-in", "provider", p.name, "error", word(in.Error))
		return person{}, refused(p.label)
	case in.Code == "":
		return person{}, levee.Invalid("code", "the code that the provider gave", "")
	}
	who, err := p.prove(ctx, a, in, s.back(p))
	return who, s.say(ctx, p, err)
}

// say puts a driver's fault into words for the caller, and into the log for who runs the house.
func (s *Service) say(ctx context.Context, p *provider, err error) error {
	var f *fault
	if !errors.As(err, &f) {
		return err
	}
	s.log.WarnContext(ctx, "a sign-in through a provider failed", "provider", p.name, "reason", f.reason, "error", f.why)
	switch f.reason {
	case ReasonCode:
		return levee.E(levee.CodeGone, "%s does not take this sign-in any more: begin again", p.label).With("reason", ReasonCode)
	case ReasonAnswer:
		return levee.E(levee.CodeForbidden, "the answer of %s did not pass the checks: begin again", p.label).With("reason", ReasonAnswer)
	case ReasonRefused:
		return refused(p.label)
	}
	return away(p.label)
}

func away(label string) error {
	return levee.E(levee.CodeUnavailable, "%s does not answer as it should; try again in a moment", label).With("reason", ReasonAway).After(5 * time.Second)
}

func refused(label string) error {
	return levee.E(levee.CodeUnavailable, "%s refuses sign-ins of this house; who runs it must look at its configuration", label).
		With("reason", ReasonRefused).After(time.Minute)
}

// fault is why a driver could not learn who came. why is for the log: it holds no secret and no text of the provider but words.
type fault struct{ reason, why string }

func (f *fault) Error() string { return f.reason + ": " + f.why }

// word makes a provider's error code fit for a log line: it is a word in every protocol, but who sends it may be anybody.
func word(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '_' || r == '.' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '?'
	}, levee.Shorten(text, 60))
}

// clean makes what a provider calls somebody fit to be shown on a line and kept: at most 60 bytes of printable characters.
func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	return levee.Shorten(strings.TrimSpace(text), 60)
}

// Prune deletes attempts that are too old.
func (s *Service) Prune(ctx context.Context) (err error) {
	defer levee.Wrap(&err, "federation.Prune")
	for n := pruneBatch; n == pruneBatch; {
		err := s.DB.Tx(ctx, "federation.prune", func(ctx context.Context, tx *db.Tx) error {
			n, err = deleteAttempts(ctx, tx, s.Obs.Clock(), pruneBatch)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
