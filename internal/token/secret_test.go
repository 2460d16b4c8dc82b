package token

import (
	"crypto/ed25519"
	"crypto/sha256"
	"strings"
	"testing"

	"levee/internal/platform/id"
)

// someKey makes the same key for the same name.
func someKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func testSealer(t testing.TB) *id.Sealer {
	key := sha256.Sum256([]byte("seal"))
	sealer, err := id.NewSealer(key[:])
	if err != nil {
		t.Fatal(err)
	}
	return sealer
}

func testSecrets(t testing.TB) *Secrets { return NewSecrets(testSealer(t), someKey("key")) }

func TestSecretsCannotBeAltered(t *testing.T) {
	s := testSecrets(t)
	text := s.Fresh(ForRefresh, 4711)
	sec, ok := s.Read(ForRefresh, text)
	if !ok || sec.Session != 4711 || sec.Generation != 0 {
		t.Fatalf("got %+v, %v", sec, ok)
	}
	if _, ok := s.Read(ForCookie, text); ok {
		t.Error("a refresh token passes for a cookie")
	}
	for i := range text {
		for _, c := range []byte{text[i] ^ 1, text[i] ^ 0x20, '.', 'A', 0} {
			if bad := text[:i] + string(c) + text[i+1:]; bad != text {
				if _, ok := s.Read(ForRefresh, bad); ok {
					t.Fatalf("changed at %d and accepted: %q", i, bad)
				}
			}
		}
	}
	salt := []byte("salt")
	next := s.Successor(sec, salt)
	if other := NewSecrets(s.sealer, someKey("other")); next != s.Successor(sec, salt) || next == s.Successor(sec, []byte("other")) || next == other.Successor(sec, salt) {
		t.Error("the successor must depend on secret, salt and key, and on nothing else")
	}
	if after, ok := s.Read(ForRefresh, next); !ok || after.Generation != 1 || after.random == sec.random {
		t.Errorf("successor: %+v, %v", after, ok)
	}
	if s.Fresh(ForCookie, 1) == s.Fresh(ForCookie, 1) {
		t.Error("two secrets are the same")
	}
}

func FuzzSecret(f *testing.F) {
	s := testSecrets(f)
	// Always the same, because the fuzzer's workers are processes of their own.
	good := s.encode(Secret{purpose: ForCookie, Session: 12345, random: sha256.Sum256([]byte("random"))})
	for _, seed := range []string{good, "", ".", "....", "lvc.ses_.0..",
		good + ".", "." + good, strings.ToUpper(good), good[:len(good)-1],
		strings.Replace(good, ".0.", ".00.", 1), strings.Repeat("lvc.", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, purpose := range []string{ForCookie, ForRefresh} {
			if _, ok := s.Read(purpose, text); ok && text != good {
				t.Fatalf("accepted %q", text)
			}
		}
	})
}
