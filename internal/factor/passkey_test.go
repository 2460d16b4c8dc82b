package factor

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"testing"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/obs"
)

// authenticator is a software one: ES256, no attestation. What it says can be bent.
type authenticator struct {
	t       *testing.T
	key     *ecdsa.PrivateKey
	id      []byte
	user    []byte
	counter uint32

	origin, host string
	flags        byte // user present 1, verified 4
}

func newAuthenticator(t *testing.T) *authenticator {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authenticator{t: t, key: key, id: make([]byte, 32), origin: "https://shop.test", host: "shop.test", flags: 1 | 4}
	rand.Read(a.id)
	return a
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func (a *authenticator) clientData(kind string, options map[string]any) []byte {
	a.t.Helper()
	text, err := json.Marshal(map[string]any{"type": kind, "challenge": options["challenge"], "origin": a.origin, "crossOrigin": false})
	if err != nil {
		a.t.Fatal(err)
	}
	return text
}

func (a *authenticator) data(flags byte) []byte {
	host := sha256.Sum256([]byte(a.host))
	return binary.BigEndian.AppendUint32(append(host[:], flags), a.counter)
}

// create answers what navigator.credentials.create is asked.
func (a *authenticator) create(options map[string]any) []byte {
	a.t.Helper()
	user, err := base64.RawURLEncoding.DecodeString(options["user"].(map[string]any)["id"].(string))
	if err != nil {
		a.t.Fatal(err)
	}
	a.user = user
	point, err := a.key.PublicKey.Bytes()
	if err != nil {
		a.t.Fatal(err)
	}
	cose := append([]byte{0xa5, 0x01, 0x02, 0x03, 0x26, 0x20, 0x01, 0x21, 0x58, 32}, point[1:33]...) // RFC 9053: EC2, ES256, P-256, x, y
	cose = append(append(cose, 0x22, 0x58, 32), point[33:]...)
	data := append(a.data(a.flags|0x40), make([]byte, 16)...) // no model is told
	data = append(binary.BigEndian.AppendUint16(data, uint16(len(a.id))), a.id...)
	data = append(data, cose...)
	object := append([]byte{0xa3, 0x63}, "fmt"...)
	object = append(append(object, 0x64), "none"...)
	object = append(append(object, 0x67), "attStmt"...)
	object = append(append(object, 0xa0, 0x68), "authData"...)
	object = append(binary.BigEndian.AppendUint16(append(object, 0x59), uint16(len(data))), data...)
	return a.pack(map[string]any{"clientDataJSON": b64(a.clientData("webauthn.create", options)), "attestationObject": b64(object), "transports": []string{"internal"}})
}

// get answers what navigator.credentials.get is asked.
func (a *authenticator) get(options map[string]any) []byte {
	a.t.Helper()
	data, client := a.data(a.flags), a.clientData("webauthn.get", options)
	hash := sha256.Sum256(client)
	sum := sha256.Sum256(append(append([]byte{}, data...), hash[:]...))
	signature, err := ecdsa.SignASN1(rand.Reader, a.key, sum[:])
	if err != nil {
		a.t.Fatal(err)
	}
	return a.pack(map[string]any{"clientDataJSON": b64(client), "authenticatorData": b64(data), "signature": b64(signature), "userHandle": b64(a.user)})
}

func (a *authenticator) pack(response map[string]any) []byte {
	a.t.Helper()
	text, err := json.Marshal(map[string]any{"id": b64(a.id), "rawId": b64(a.id), "type": "public-key", "authenticatorAttachment": "platform",
		"clientExtensionResults": map[string]any{}, "response": response})
	if err != nil {
		a.t.Fatal(err)
	}
	return text
}

// passkey makes one for somebody.
func (h *house) passkey(as context.Context, name string) (*authenticator, Passkey) {
	h.t.Helper()
	a := newAuthenticator(h.t)
	challenge, options, _, err := h.BeginPasskey(as)
	h.want(err, "")
	p, _, err := h.AddPasskey(as, challenge, name, a.create(options))
	h.want(err, "")
	return a, p
}

// asked signs in halfway and returns what the browser is asked with.
func (h *house) asked(name string) (obs.Secret, map[string]any) {
	h.t.Helper()
	_, err := h.signIn(name)
	challenge := h.challenged(err)
	options, _ := dataOf(err)["passkey"].(map[string]any)
	if options == nil {
		h.t.Fatalf("no options for a passkey in %v", dataOf(err))
	}
	return challenge, options
}

func TestPasskeyAtSignIn(t *testing.T) {
	h := newHouse(t, Config{}, nil)
	ann, user := h.signUp("ann", levee.RoleCustomer)
	challenge, options, _, err := h.BeginPasskey(ann)
	h.want(err, "")
	if got := fmt.Sprint(options["rp"].(map[string]any)["id"], options["attestation"], options["authenticatorSelection"].(map[string]any)["userVerification"]); got != "shop.testnonerequired" {
		t.Errorf("asked with %s", got)
	}
	a := newAuthenticator(t)
	p, codes, err := h.AddPasskey(ann, challenge, "  telephone ", a.create(options))
	h.want(err, "")
	if p.Name != "telephone" || len(codes) != recoveryCodes {
		t.Errorf("%+v, %d codes", p, len(codes))
	}
	_, _, err = h.AddPasskey(ann, challenge, "again", a.create(options))
	h.want(err, levee.CodeGone) // the challenge is good once
	for round := range 2 {      // an authenticator that does not count says 0 always
		challenge, options = h.asked("ann")
		if got := fmt.Sprint(options["rpId"], options["userVerification"], len(options["allowCredentials"].([]any))); got != "shop.testrequired1" {
			t.Errorf("asked with %s", got)
		}
		answer := a.get(options)
		g, err := h.second(h.Service, challenge, Answer{Assertion: answer})
		h.want(err, "")
		if levee.ActorFrom(h.as(g)).User != user {
			t.Error("somebody else's session")
		}
		_, err = h.second(h.Service, challenge, Answer{Assertion: answer})
		h.want(err, levee.CodeGone)
		other, _ := h.asked("ann") // an answer to one challenge is none to another
		_, err = h.second(h.Service, other, Answer{Assertion: answer})
		h.want(err, levee.CodeUnauthenticated)
		if f, err := h.Own(ann); err != nil || f.Passkeys[0].UsedAt.IsZero() {
			t.Error(round, f, err)
		}
	}
	if h.told(user, "factor.passkey_added") != 1 {
		t.Error("it is not told")
	}
}

// What is not of this house's pages, not of this key, or not verified by its user is refused; each beside the same answer that is good.
func TestForgedAssertions(t *testing.T) {
	h := newHouse(t, Config{}, nil)
	ann, _ := h.signUp("ann", levee.RoleCustomer)
	bob, _ := h.signUp("bob", levee.RoleCustomer)
	a, _ := h.passkey(ann, "telephone")
	b, _ := h.passkey(bob, "telephone")
	for name, bend := range map[string]func(a *authenticator){
		"another site's page":  func(a *authenticator) { a.origin = "https://shop.test.evil" },
		"a page without TLS":   func(a *authenticator) { a.origin = "http://shop.test" },
		"another port":         func(a *authenticator) { a.origin = "https://shop.test:8443" },
		"another host's key":   func(a *authenticator) { a.host = "evil" },
		"nobody verified":      func(a *authenticator) { a.flags = 1 },
		"nobody there":         func(a *authenticator) { a.flags = 4 },
		"another private key":  func(a *authenticator) { a.key = b.key },
		"another's passkey":    func(a *authenticator) { *a = *b },
		"another's credential": func(a *authenticator) { a.id = b.id },
		"another's handle":     func(a *authenticator) { a.user = b.user },
	} {
		bent := *a
		bend(&bent)
		challenge, options := h.asked("ann")
		_, err := h.second(h.Service, challenge, Answer{Assertion: bent.get(options)})
		if levee.CodeOf(err) != levee.CodeUnauthenticated {
			t.Errorf("%s: %v", name, err)
		}
		_, err = h.second(h.Service, challenge, Answer{Assertion: a.get(options)})
		h.want(err, "")
		// Registration looks at the same.
		text, made, _, err := h.BeginPasskey(ann)
		h.want(err, "")
		fresh := newAuthenticator(t)
		fresh.origin, fresh.host, fresh.flags = bent.origin, bent.host, bent.flags
		if bent.origin != a.origin || bent.host != a.host || bent.flags != a.flags {
			_, _, err = h.AddPasskey(ann, text, "bent", fresh.create(made))
			if levee.CodeOf(err) != levee.CodeInvalid {
				t.Errorf("%s, made: %v", name, err)
			}
		}
	}
	for _, bad := range []string{"{}", "null", `{"id":1}`, `{"type":"public-key"}`, "[]"} {
		challenge, _ := h.asked("ann")
		_, err := h.second(h.Service, challenge, Answer{Assertion: []byte(bad)})
		h.want(err, levee.CodeUnauthenticated)
	}
	// One that belongs to an account already is not given to another.
	text, options, _, err := h.BeginPasskey(bob)
	h.want(err, "")
	_, _, err = h.AddPasskey(bob, text, "mine", a.create(options))
	h.want(err, levee.CodeConflict)
}

// A counter that goes back, or stays, is a sign of a copy: refused, kept in mind, told.
func TestClonedPasskey(t *testing.T) {
	h := newHouse(t, Config{}, nil)
	ann, user := h.signUp("ann", levee.RoleCustomer)
	a, _ := h.passkey(ann, "stick")
	show := func(counter uint32, want levee.Code) {
		t.Helper()
		a.counter = counter
		challenge, options := h.asked("ann")
		_, err := h.second(h.Service, challenge, Answer{Assertion: a.get(options)})
		h.want(err, want)
	}
	show(5, "")
	show(6, "")
	show(6, levee.CodeUnauthenticated)
	show(3, levee.CodeUnauthenticated)
	show(0, levee.CodeUnauthenticated)
	if f, err := h.Own(ann); err != nil || f.Passkeys[0].ClonedAt.IsZero() {
		t.Error("it is not kept in mind", err)
	}
	show(7, "") // the one whose counter is ahead goes on
	if n := h.told(user, "factor.passkey_cloned"); n != 3 {
		t.Errorf("told %d times", n)
	}
}

// Several have names and are removed one by one; with the last factor the second step goes.
func TestSeveralPasskeys(t *testing.T) {
	h := newHouse(t, Config{}, nil)
	ann, user := h.signUp("ann", levee.RoleCustomer)
	bob, _ := h.signUp("bob", levee.RoleCustomer)
	phone, first := h.passkey(ann, "telephone")
	stick, second := h.passkey(ann, "stick")
	for _, name := range []string{"", "  ", string(make([]byte, 61)), "\xff"} {
		text, options, _, err := h.BeginPasskey(ann)
		h.want(err, "")
		_, _, err = h.AddPasskey(ann, text, name, newAuthenticator(t).create(options))
		h.want(err, levee.CodeInvalid)
	}
	for _, a := range []*authenticator{phone, stick} {
		challenge, options := h.asked("ann")
		_, err := h.second(h.Service, challenge, Answer{Assertion: a.get(options)})
		h.want(err, "")
	}
	h.want(h.RemovePasskey(bob, first.ID), levee.CodeNotFound)
	h.want(h.RemovePasskey(ann, first.ID), "")
	h.want(h.RemovePasskey(ann, first.ID), levee.CodeNotFound)
	challenge, options := h.asked("ann")
	_, err := h.second(h.Service, challenge, Answer{Assertion: phone.get(options)})
	h.want(err, levee.CodeUnauthenticated)
	_, err = h.second(h.Service, challenge, Answer{Assertion: stick.get(options)})
	h.want(err, "")
	h.want(h.RemovePasskey(ann, second.ID), "")
	_, err = h.signIn("ann")
	h.want(err, "")
	if h.told(user, "factor.passkey_removed") != 2 {
		t.Error("it is not told")
	}
	for range maxPasskeys {
		h.passkey(ann, "one of many")
	}
	_, _, _, err = h.BeginPasskey(ann)
	h.want(err, levee.CodeConflict)
}

// A passkey proves its holder again, for the session that asked.
func TestStepUpByPasskey(t *testing.T) {
	h := newHouse(t, Config{}, nil)
	ann, _ := h.signUp("ann", levee.RoleCustomer)
	_, _, _, err := h.AskPasskey(ann)
	h.want(err, levee.CodeConflict)
	a, _ := h.passkey(ann, "telephone")
	challenge, options := h.asked("ann")
	g, err := h.second(h.Service, challenge, Answer{Assertion: a.get(options)})
	h.want(err, "")
	other := h.as(g)
	h.clock.Step(h.cfg.FreshFor)
	err = h.Fresh(ann, levee.ActorFrom(ann))
	h.want(err, levee.CodeStepUp)
	if m := fmt.Sprint(dataOf(err)["methods"]); m != "[passkey]" {
		t.Errorf("methods %s", m)
	}
	challenge, options, _, err = h.AskPasskey(ann)
	h.want(err, "")
	answer := a.get(options)
	_, err = h.StepUp(other, "", Answer{Challenge: challenge, Assertion: answer}, h.origin)
	h.want(err, levee.CodeGone)
	_, err = h.second(h.Service, challenge, Answer{Assertion: answer})
	h.want(err, levee.CodeGone)
	_, err = h.StepUp(ann, "", Answer{Challenge: challenge, Assertion: answer}, h.origin)
	h.want(err, "")
	h.want(h.Fresh(ann, levee.ActorFrom(ann)), "")
	h.want(h.Fresh(other, levee.ActorFrom(other)), levee.CodeStepUp)
	_, err = h.StepUp(ann, "", Answer{Challenge: challenge, Assertion: answer}, h.origin)
	h.want(err, levee.CodeGone)
}

// Without a host's name there are no passkeys, and the rest goes on.
func TestPasskeysNeedAName(t *testing.T) {
	h := newHouse(t, Config{}, nil)
	ann, _ := h.signUp("ann", levee.RoleCustomer)
	h.passkey(ann, "telephone")
	for url, usable := range map[string]bool{"http://127.0.0.1:8080": false, "http://[::1]:8080": false, "http://localhost:8080": true, "https://shop.test": true} {
		d := h.Deps
		d.PublicURL = url
		s, err := New(d)
		h.want(err, "")
		if (s.keys != nil) != usable {
			t.Errorf("%s: %v, want %v", url, s.keys != nil, usable)
		}
		if _, _, _, err := s.BeginPasskey(ann); (err == nil) != usable {
			t.Errorf("%s: %v", url, err)
		}
		err = s.Second(ctx, identity.Proven{User: levee.ActorFrom(ann).User, How: "password"})
		h.want(err, levee.CodeSecondFactor) // it is not let in for that
	}
}
