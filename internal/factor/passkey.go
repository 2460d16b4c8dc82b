package factor

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-webauthn/webauthn/protocol"
	"github.com/go-webauthn/webauthn/webauthn"

	"levee"
	"levee/internal/handle"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

const (
	maxPasskeys    = 10
	maxPasskeyName = 60
	// maxCredential bounds the bytes of a stored credential: an id of at most 1,023 bytes and a public key.
	maxCredential = 16 << 10
)

// Passkey is a key pair whose private half an authenticator keeps.
type Passkey struct {
	ID        int64
	Name      string
	CreatedAt time.Time
	UsedAt    time.Time // zero: never
	// ClonedAt is when its counter last went back: two devices may have it. Zero: never.
	ClonedAt time.Time

	credential webauthn.Credential
}

// passkeys speak WebAuthn for one host.
type passkeys struct{ web *webauthn.WebAuthn }

func newPasskeys(host, origin string) (*passkeys, error) {
	w, err := webauthn.New(&webauthn.Config{RPID: host, RPDisplayName: host, RPOrigins: []string{origin},
		AttestationPreference:  protocol.PreferNoAttestation,
		AuthenticatorSelection: protocol.AuthenticatorSelection{ResidentKey: protocol.ResidentKeyRequirementPreferred, UserVerification: protocol.VerificationRequired},
		// No extension is asked for; some authenticators send what nobody asked for, and nobody reads it.
		ExtensionsUnsolicitedOutputPolicy: protocol.UnsolicitedOutputPolicyIgnore})
	if err != nil {
		return nil, levee.Invalid("http.public_url", "an address that passkeys can be bound to", origin).Because(err)
	}
	return &passkeys{w}, nil
}

// holder is an account as the library wants to see it.
type holder struct {
	handle []byte
	name   string
	list   []Passkey
}

func (h holder) WebAuthnID() []byte          { return h.handle }
func (h holder) WebAuthnName() string        { return h.name }
func (h holder) WebAuthnDisplayName() string { return h.name }
func (h holder) WebAuthnCredentials() (all []webauthn.Credential) {
	for _, p := range h.list {
		all = append(all, p.credential)
	}
	return all
}

// handleOf is what authenticators know an account by: no name, no number.
func (s *Service) handleOf(user levee.UserID) []byte {
	return []byte(s.Sealer.Seal(levee.KindUser, int64(user)))
}

// request makes what a browser is asked with for an assertion, and what the answer is checked against.
func (k *passkeys) request(handle []byte, list []Passkey) (options map[string]any, data string, err error) {
	asked, session, err := k.web.BeginLogin(holder{handle: handle, list: list})
	if err != nil {
		return nil, "", err
	}
	return pack(asked.Response, session)
}

func pack(response any, session *webauthn.SessionData) (options map[string]any, data string, err error) {
	text, err := json.Marshal(response)
	if err != nil {
		return nil, "", err
	}
	if err := json.Unmarshal(text, &options); err != nil {
		return nil, "", err
	}
	kept, err := json.Marshal(session)
	return options, string(kept), err
}

// BeginPasskey is what a browser is asked with to make a passkey for the context's actor. CodeConflict when he has ten, or where the house has no name that
// passkeys can be bound to.
func (s *Service) BeginPasskey(ctx context.Context) (text obs.Secret, options map[string]any, expires time.Time, err error) {
	defer levee.Wrap(&err, "factor.BeginPasskey")
	none := time.Time{}
	a := levee.ActorFrom(ctx)
	if err := himself(a); err != nil {
		return "", nil, none, err
	}
	if s.keys == nil {
		return "", nil, none, levee.E(levee.CodeConflict, "passkeys need a public address with a host's name, not a number")
	}
	list, err := readPasskeys(db.Primary(ctx), s.DB.Query, a.User)
	if err != nil {
		return "", nil, none, err
	}
	if len(list) >= maxPasskeys {
		return "", nil, none, tooManyPasskeys()
	}
	h := holder{handle: s.handleOf(a.User), list: list}
	if h.name, err = s.nameOf(ctx, a.User); err != nil {
		return "", nil, none, err
	}
	asked, session, err := s.keys.web.BeginRegistration(h, webauthn.WithExclusions(webauthn.Credentials(h.WebAuthnCredentials()).CredentialDescriptors()))
	if err != nil {
		return "", nil, none, err
	}
	c := challenge{purpose: forPasskey, user: a.User, session: a.Session}
	if options, c.data, err = pack(asked.Response, session); err != nil {
		return "", nil, none, err
	}
	text, expires, err = s.ask(ctx, c)
	return text, options, expires, err
}

func tooManyPasskeys() error {
	return levee.E(levee.CodeConflict, "there are %d passkeys already: remove one that is not needed", maxPasskeys)
}

// AddPasskey stores what a browser made for a challenge of BeginPasskey, under a name of 1 to 60 characters. With an account's first factor it returns recovery
// codes. CodeInvalid names what is wrong, CodeGone: the challenge is not good, CodeConflict: the passkey is known already.
func (s *Service) AddPasskey(ctx context.Context, text obs.Secret, name string, answer []byte) (p Passkey, recovery []string, err error) {
	defer levee.Wrap(&err, "factor.AddPasskey")
	a := levee.ActorFrom(ctx)
	if err := himself(a); err != nil {
		return Passkey{}, nil, err
	}
	if name = strings.TrimSpace(name); name == "" || utf8.RuneCountInString(name) > maxPasskeyName || !utf8.ValidString(name) {
		return Passkey{}, nil, levee.Invalid("name", fmt.Sprintf("1 to %d characters", maxPasskeyName), name)
	}
	c, err := s.asked(ctx, text, forPasskey)
	if err != nil {
		return Passkey{}, nil, err
	}
	if c.session != a.Session || s.keys == nil {
		return Passkey{}, nil, spent()
	}
	made, err := s.keys.created(holder{handle: s.handleOf(a.User)}, c.data, answer)
	if err != nil {
		s.log.InfoContext(ctx, "a passkey was refused", "error", err)
		return Passkey{}, nil, handle.Hidden("credential", "what the browser made for this challenge, its user verified")
	}
	if p.ID, err = s.IDs.Next(); err != nil {
		return Passkey{}, nil, err
	}
	p.Name, p.credential, p.CreatedAt = name, *made, time.UnixMicro(s.now().UnixMicro()).UTC()
	err = s.DB.Tx(ctx, "factor.add_passkey", func(ctx context.Context, tx *db.Tx) error {
		if err := s.answer(ctx, tx, c); err != nil {
			return err
		}
		before, err := lockAccount(ctx, tx, s.DB.Dialect(), a.User)
		if err != nil {
			return err
		}
		list, err := readPasskeys(ctx, tx.Query, a.User)
		if err != nil {
			return err
		}
		if len(list) >= maxPasskeys {
			return tooManyPasskeys()
		}
		if !before.there {
			if err := insertAccount(ctx, tx, a.User); err != nil {
				return err
			}
		}
		if err := insertPasskey(ctx, tx, a.User, p); err != nil {
			return err
		}
		if recovery, err = s.firstRecovery(ctx, tx, a.User); err != nil {
			return err
		}
		return s.tell(ctx, tx, "factor.passkey_added", a.User, map[string]any{"name": name})
	})
	return p, recovery, err
}

// created judges the answer to BeginPasskey: challenge, origin, host, user verification and algorithm.
func (k *passkeys) created(h holder, data string, answer []byte) (*webauthn.Credential, error) {
	var session webauthn.SessionData
	if err := json.Unmarshal([]byte(data), &session); err != nil {
		return nil, err
	}
	parsed, err := protocol.ParseCredentialCreationResponseBytes(answer)
	if err != nil {
		return nil, err
	}
	made, err := k.web.CreateCredential(h, session, parsed)
	if err != nil {
		return nil, err
	}
	made.Attestation = webauthn.CredentialAttestation{} // none was asked for
	return made, nil
}

// provePasskey judges an assertion and stores what it says of its authenticator.
func (s *Service) provePasskey(ctx context.Context, user levee.UserID, c challenge, answer []byte, then func(context.Context, *db.Tx) error) error {
	wrong := handle.Hidden("assertion", "a passkey's answer to this challenge, its user verified")
	var session webauthn.SessionData
	if s.keys == nil || c.data == "" || c.purpose == forEnrol || json.Unmarshal([]byte(c.data), &session) != nil {
		return wrong
	}
	parsed, err := protocol.ParseCredentialRequestResponseBytes(answer)
	if err != nil {
		return wrong
	}
	cloned := int64(0)
	err = s.DB.Tx(ctx, "factor.assert", func(ctx context.Context, tx *db.Tx) error {
		cloned = 0
		if err := then(ctx, tx); err != nil {
			return err
		}
		list, err := readPasskeys(ctx, tx.Query, user)
		if err != nil {
			return err
		}
		got, err := s.keys.web.ValidateLogin(holder{handle: s.handleOf(user), list: list}, session, parsed)
		if err != nil {
			s.log.InfoContext(ctx, "an assertion was refused", "error", err)
			return wrong
		}
		for _, p := range list {
			if string(p.credential.ID) != string(got.ID) {
				continue
			}
			before := p.credential.Authenticator.SignCount
			p.credential, p.UsedAt = *got, s.now()
			ok, err := usePasskey(ctx, tx, p, before)
			if err != nil {
				return err
			}
			if got.Authenticator.CloneWarning || !ok { // !ok: somebody showed the same count or a later one at this very moment
				cloned = p.ID
				return wrong
			}
		}
		return nil
	})
	if cloned != 0 {
		return s.wasCloned(ctx, user, cloned, wrong)
	}
	return err
}

// wasCloned keeps in mind that a passkey's counter went back: two devices may have its private key (WebAuthn Level 3, section 6.1.1).
func (s *Service) wasCloned(ctx context.Context, user levee.UserID, id int64, wrong error) error {
	s.log.WarnContext(ctx, "a passkey's counter went back: it may have been copied", "user", int64(user))
	err := s.DB.Tx(ctx, "factor.cloned", func(ctx context.Context, tx *db.Tx) error {
		if err := markCloned(ctx, tx, id, s.now()); err != nil {
			return err
		}
		return s.tell(ctx, tx, "factor.passkey_cloned", user, nil)
	})
	return orWrong(err, wrong)
}

// RemovePasskey takes a passkey of the context's actor away. CodeNotFound for one that is not his; CodeConflict when it is the last factor of an account that must have one.
func (s *Service) RemovePasskey(ctx context.Context, id int64) (err error) {
	defer levee.Wrap(&err, "factor.RemovePasskey(%d)", id)
	return s.remove(ctx, "factor.passkey_removed", nil, func(ctx context.Context, tx *db.Tx, a account) (bool, error) {
		return dropPasskey(ctx, tx, a.user, id)
	})
}
