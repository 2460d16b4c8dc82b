package handle

import "testing"

func FuzzPasswordHash(f *testing.F) {
	for _, seed := range []string{"$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "", "$$$$$",
		"$argon2id$v=19$m=4294967295,t=99,p=1$c29tZXNhbHQ$AA", "$argon2i$v=19$m=8,t=1,p=1$$"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHash(text)
		if err == nil && (h.Passes > 16 || h.Memory > 1<<20 || len(h.Salt) > 64 || len(h.Sum) != HashBytes) {
			t.Fatalf("%q asks for %d passes of %d KiB", text, h.Passes, h.Memory)
		}
	})
}
