package identity

import (
	"strings"
	"testing"
	"unicode/utf8"

	"levee/internal/handle"
)

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
