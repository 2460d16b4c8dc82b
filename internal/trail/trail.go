// Package trail owns the audit trail: what administrators and operators did, and what touched the safety of accounts, with who, what,
// before and after, from where and in which request; each row marked with a key of the house and linked into a chain of hashes. It does
// not own what is told: rooms above it tell it, in the transaction of the act.
package trail

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/id"
	"levee/internal/platform/obs"
	"levee/internal/platform/web"
)

// maxState bounds before and after of one entry, in bytes.
const maxState = 4000

// Config of the room.
type Config struct {
	// Keep is how long entries stay: then they are dropped, and the chain is verified from there on. 0, the default, keeps them for ever;
	// else 720h to 87600h (30 days to ten years).
	Keep time.Duration
}

// Validate returns CodeInvalid for what is out of its bounds.
func (c Config) Validate() error {
	if c.Keep != 0 && (c.Keep < 720*time.Hour || c.Keep > 87600*time.Hour) {
		return levee.Invalid("trail.keep", "0, or 720h to 87600h", c.Keep)
	}
	return nil
}

// Deps is what the room is built from.
type Deps struct {
	DB     *db.DB
	IDs    *id.Generator
	Sealer *id.Sealer
	Obs    *obs.Obs
	Config Config
	// Key marks rows and blocks: 32 bytes that only the house has. What was marked with another key no longer verifies.
	Key []byte
}

// Service is the room. Its methods may be called from any number of goroutines.
type Service struct {
	Deps
	log   *slog.Logger
	notes notes
}

// New builds the room. It panics without a key of 32 bytes: app derives it.
func New(d Deps) *Service {
	if len(d.Key) != 32 {
		panic("trail.New: the key must have 32 bytes")
	}
	return &Service{Deps: d, log: d.Obs.Named("trail")}
}

// Act is something that an administrator or an operator did, or that happened to an account's safety.
type Act struct {
	// Action is a dotted word: "user.disabled". At most 190 bytes.
	Action string
	// Kind and Subject say what it was done to; zero for nothing that has a public id.
	Kind    levee.Kind
	Subject int64
	// Before and After are what changed, as values that encode to JSON; nil for none. Up to 4,000 bytes of it are kept whole; of more, the
	// beginning, the length and the SHA-256. They must not hold a secret.
	Before, After any
	// Address and RequestID say where it came from; zero for those of the context's request.
	Address   netip.Addr
	RequestID string
}

// Entry is one line of the trail. Before and After are JSON, or "".
type Entry struct {
	ID int64
	// Seq is the entry's place in the chain, from 1; 0 while it is not sealed.
	Seq int64
	At  time.Time // to the microsecond
	// Times is how often it happened: 1, but for what is told once per minute with its count.
	Times         int64
	Actor         levee.UserID // levee.System.User for what no person did; 0 for visitors
	Action        string
	Kind          levee.Kind
	Subject       int64
	Before, After string
	Address       string
	RequestID     string
	// Mark is the house's HMAC over the entry, in hexadecimal.
	Mark string
}

// Filter chooses entries; zero fields choose all.
type Filter struct {
	Actor levee.UserID
	// Visitors chooses what nobody who was signed in did.
	Visitors bool
	Kind     levee.Kind // of Subject
	Subject  int64
	// Action is how the action begins: "user." or "user.disabled".
	Action  string
	Address string
	// From and Before bound when it was: From itself is within, Before is not.
	From, Before time.Time
	Page         levee.Page
}

// Tell writes an act into the trail for a room that does not know the trail: subject is a public id of any kind, or "".
func (s *Service) Tell(ctx context.Context, tx *db.Tx, act, subject string, before, after any) error {
	a := Act{Action: act, Before: before, After: after}
	a.Kind, a.Subject = s.openAny(subject)
	return s.RecordTx(ctx, tx, a)
}

// RecordTx appends an act of the context's actor to the trail, in the caller's transaction: the act and its trace are kept
// together or not at all. Any room above this one may call it. CodeInvalid for an action or a state that is too long.
func (s *Service) RecordTx(ctx context.Context, tx *db.Tx, act Act) (err error) {
	defer levee.Wrap(&err, "trail.RecordTx(%s)", act.Action)
	e, err := s.entry(ctx, act)
	if err != nil {
		return err
	}
	web.Told(ctx)
	return insertEntries(ctx, tx, []Entry{e})
}

// Record is RecordTx in a transaction of its own.
func (s *Service) Record(ctx context.Context, act Act) error {
	return s.DB.Tx(ctx, "trail.record", func(ctx context.Context, tx *db.Tx) error { return s.RecordTx(ctx, tx, act) })
}

// entry makes a marked row of an act that happened once, now.
func (s *Service) entry(ctx context.Context, act Act) (e Entry, err error) {
	if act.Action == "" || len(act.Action) > 190 {
		return e, levee.Invalid("action", "1 to 190 bytes", act.Action)
	}
	if !act.Address.IsValid() {
		act.Address = web.ClientIP(ctx)
	}
	if act.RequestID == "" {
		act.RequestID = web.RequestID(ctx)
	}
	e = Entry{At: s.Obs.Clock(), Times: 1, Actor: levee.ActorFrom(ctx).User, Action: act.Action, Kind: act.Kind, Subject: act.Subject,
		RequestID: strings.ToValidUTF8(levee.Shorten(act.RequestID, 180), "?")}
	if act.Address.IsValid() {
		e.Address = act.Address.Unmap().String()
	}
	if e.Before, err = stateOf(act.Before); err != nil {
		return e, err
	}
	if e.After, err = stateOf(act.After); err != nil {
		return e, err
	}
	if e.ID, err = s.IDs.Next(); err != nil {
		return e, err
	}
	e.Mark = s.mark(&e)
	return e, nil
}

// AdoptTx takes entries over that another table kept, with their ids, in the caller's transaction; they are marked and sealed as they
// come, so the chain says nothing of what was done to them before.
func (s *Service) AdoptTx(ctx context.Context, tx *db.Tx, entries []Entry) (err error) {
	defer levee.Wrap(&err, "trail.AdoptTx(%d)", len(entries))
	for i := range entries {
		e := &entries[i]
		e.Times, e.Mark = 1, s.mark(e)
	}
	return insertEntries(ctx, tx, entries)
}

func stateOf(v any) (string, error) {
	if v == nil {
		return "", nil
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	if len(text) <= maxState {
		return string(text), nil
	}
	// A long text must not keep anybody from his work: its beginning stands for it, and what the whole was can be checked.
	sum := sha256.Sum256(text)
	head := strings.ToValidUTF8(string(text[:maxState/2]), "")
	text, err = json.Marshal(map[string]any{"cut_to": head, "bytes": len(text), "sha256": hex.EncodeToString(sum[:])})
	return string(text), err
}

// List returns entries, newest first, and tells whether there are more.
func (s *Service) List(ctx context.Context, f Filter) (list []Entry, more bool, err error) {
	defer levee.Wrap(&err, "trail.List")
	f.Page = f.Page.Normal()
	list, err = listEntries(ctx, s.DB.Query, f)
	return list[:min(len(list), f.Page.Limit)], len(list) > f.Page.Limit, err
}

// openAny opens a public id of whatever kind its prefix says; kind 0 for what is none.
func (s *Service) openAny(public string) (levee.Kind, int64) {
	for kind := levee.KindUser; kind.Prefix() != ""; kind++ {
		if id, err := s.Sealer.Open(kind, public); err == nil {
			return kind, id
		}
	}
	return 0, 0
}

// marked reports whether the entry is as the house wrote it.
func (s *Service) marked(e *Entry) bool { return hmac.Equal([]byte(s.mark(e)), []byte(e.Mark)) }
