package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"levee/internal/handle"
	"strings"
	"testing"
	"unicode/utf8"

	"levee/internal/platform/id"
)

func testSecrets(t testing.TB) *secrets {
	key := sha256.Sum256([]byte("seal"))
	sealer, err := id.NewSealer(key[:])
	if err != nil {
		t.Fatal(err)
	}
	return newSecrets(sealer, someKey("key"), []ed25519.PrivateKey{someKey("old")})
}

func TestSecretsCannotBeAltered(t *testing.T) {
	s := testSecrets(t)
	text := s.fresh(purposeRefresh, 4711)
	sec, ok := s.decode(purposeRefresh, text)
	if !ok || sec.session != 4711 || sec.generation != 0 {
		t.Fatalf("got %+v, %v", sec, ok)
	}
	if _, ok := s.decode(purposeCookie, text); ok {
		t.Error("a refresh token passes for a cookie")
	}
	for i := range text {
		for _, c := range []byte{text[i] ^ 1, text[i] ^ 0x20, '.', 'A', 0} {
			if bad := text[:i] + string(c) + text[i+1:]; bad != text {
				if _, ok := s.decode(purposeRefresh, bad); ok {
					t.Fatalf("changed at %d and accepted: %q", i, bad)
				}
			}
		}
	}
	salt := []byte("salt")
	next := s.successors(sec, salt)
	if next[0] != s.successors(sec, salt)[0] || next[0] == s.successors(sec, []byte("other"))[0] || next[0] == next[1] {
		t.Error("the successor must depend on secret, salt and key, and on nothing else")
	}
	if after, ok := s.decode(purposeRefresh, next[0]); !ok || after.generation != 1 || after.random == sec.random {
		t.Errorf("successor: %+v, %v", after, ok)
	}
	if s.fresh(purposeCookie, 1) == s.fresh(purposeCookie, 1) {
		t.Error("two secrets are the same")
	}
}

func FuzzSecret(f *testing.F) {
	s := testSecrets(f)
	// Always the same, because the fuzzer's workers are processes of their own.
	good := s.encode(secret{purpose: purposeCookie, session: 12345, random: sha256.Sum256([]byte("random"))}, s.keys[0])
	for _, seed := range []string{good, "", ".", "....", "lvc.ses_.0..",
		good + ".", "." + good, strings.ToUpper(good), good[:len(good)-1],
		strings.Replace(good, ".0.", ".00.", 1), strings.Repeat("lvc.", 100)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, purpose := range []string{purposeCookie, purposeRefresh} {
			if _, ok := s.decode(purpose, text); ok && text != good {
				t.Fatalf("accepted %q", text)
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	clock := func() (c testClock) { return }()
	s := newSigner(Config{}.withDefaults(), clock.now, someKey("key"), nil)
	c := &claims{Session: "ses_x"}
	c.Subject = "usr_x"
	good, err := s.sign(c, clock.now())
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{good, "", "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", good + ".", strings.Repeat("a.", 1000),
		"eyJhbGciOiJFZERTQSJ9.bnVsbA.AAAA", "eyJhbGciOiJFZERTQSIsImtpZCI6W119.W10.AAAA"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := s.verify(text); err == nil {
			t.Fatalf("accepted %q", text) // also the good one, which has no expiry
		}
	})
}

func FuzzPhone(f *testing.F) {
	for _, seed := range []string{"+8613800138000", "13800138000", "0086 138-0013-8000", "+", "++1", "00", "000",
		"+0123456789", "(0)171 1234567",
		"١٢٣٤٥٦٧٨", "+86\x00138", strings.Repeat("1", 40), " +44 20 7946 0958 "} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		number, err := handle.ParsePhone("phone", text, "86")
		if err != nil {
			return
		}
		if len(number) < 8 || len(number) > 16 || number[0] != '+' || number[1] == '0' || !handle.AllDigits(number[1:]) {
			t.Fatalf("%q gave %q", text, number)
		}
		if again, err := handle.ParsePhone("phone", number, "1"); err != nil || again != number {
			t.Fatalf("%q does not read itself: %q, %v", number, again, err)
		}
	})
}

func FuzzName(f *testing.F) {
	for _, seed := range []string{"ada", "Ada Lovelace", "李雷", "ſs", "K", "ǅ", "a\u0301b", "ß",
		"ﬁsh", "İi", "a-.-", "\xff", "аdmin", "Ａb", "𝐚b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, key, err := handle.ParseName("name", text)
		if err != nil {
			return
		}
		if n := utf8.RuneCountInString(name); !utf8.ValidString(name) || n < handle.MinName || n > handle.MaxName ||
			strings.ContainsAny(name, " \n\t<>&\"'") {
			t.Fatalf("%q gave %q", text, name)
		}
		for _, form := range []string{strings.ToUpper(name), strings.ToLower(name)} {
			// Upper and lower case of a few letters are other words altogether (ß, İ); simple folding leaves them apart.
			if strings.EqualFold(form, name) && handle.Fold(form) != key {
				t.Fatalf("%q and %q are one name but have the keys %q and %q", name, form, key, handle.Fold(form))
			}
		}
		if handle.Fold(key) != key {
			t.Fatalf("folding %q again gives %q", key, handle.Fold(key))
		}
	})
}

func FuzzPasswordHash(f *testing.F) {
	for _, seed := range []string{"$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "", "$$$$$",
		"$argon2id$v=19$m=4294967295,t=99,p=1$c29tZXNhbHQ$AA", "$argon2i$v=19$m=8,t=1,p=1$$"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		passes, memory, salt, sum, err := parseHash(text)
		if err == nil && (passes > 16 || memory > 1<<20 || len(salt) > 64 || len(sum) != hashBytes) {
			t.Fatalf("%q asks for %d passes of %d KiB", text, passes, memory)
		}
	})
}
