package handle

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"levee"
)

// Bounds of a password. Any characters are allowed; the bytes are bounded so that hashing an input costs the same for all.
const (
	minPassword      = 8
	maxPassword      = 128
	maxPasswordBytes = 512
)

// BoundPassword refuses what cannot be a password of ours, before it is hashed: CodeInvalid about the field, without what was given.
func BoundPassword(field, password string) error {
	if n := utf8.RuneCountInString(password); n == 0 || n > maxPassword || len(password) > maxPasswordBytes || !utf8.ValidString(password) {
		return Hidden(field, fmt.Sprintf("1 to %d characters", maxPassword))
	}
	return nil
}

// NewPassword checks a password that somebody wants to have from now on: CodeInvalid about the field, without what was given. His name and phone number
// must not be it.
func NewPassword(field, password, name, phone string) error {
	if !utf8.ValidString(password) {
		return Hidden(field, "valid UTF-8")
	}
	if n := utf8.RuneCountInString(password); n < minPassword || n > maxPassword || len(password) > maxPasswordBytes {
		return Hidden(field, fmt.Sprintf("%d to %d characters", minPassword, maxPassword))
	}
	folded := Fold(password)
	if (name != "" && folded == Fold(name)) || (phone != "" && strings.Trim(folded, "+") == strings.Trim(phone, "+")) {
		return Hidden(field, "different from the name and the phone number")
	}
	if guessable(folded) {
		return Hidden(field, "harder to guess: not a common word, a row of keys or the same few characters again")
	}
	return nil
}

// Hidden is levee.Invalid for a field whose value must not be shown.
func Hidden(field, allowed string) error {
	e := levee.E(levee.CodeInvalid, "%s must be %s", field, allowed)
	e.Fields = []levee.Field{{Field: field, Allowed: allowed, Given: "[redacted]"}}
	return e
}

// guessable reports whether a folded password is one of those that lists of leaked passwords begin with. Such lists hold
// little else than common words with digits around them, rows of keys, and repetitions, so it looks for these instead of
// carrying a list.
func guessable(p string) bool {
	runes := []rune(p)
	distinct := map[rune]bool{}
	for _, r := range runes {
		distinct[r] = true
	}
	if len(distinct) < 4 || repeats(runes) || inRow(p) {
		return true
	}
	bare := func(p string) string { return strings.TrimFunc(p, func(r rune) bool { return !unicode.IsLetter(r) }) }
	for _, word := range []string{bare(p), bare(plain.Replace(p)), plain.Replace(bare(p))} { // !P@ssw0rd1! is password in the third
		if commonWords[word] || (inRow(word) && len(runes)-utf8.RuneCountInString(word) <= 4) {
			return true
		}
		if half := len(word) / 2; half > 0 && word[:half] == word[half:] && commonWords[word[:half]] {
			return true
		}
	}
	return false
}

// repeats reports whether the whole is one part of at most half its length again and again (abcdabcd, 12121212).
func repeats(p []rune) bool {
	for size := 1; size <= len(p)/2; size++ {
		same := true
		for i := size; i < len(p) && same; i++ {
			same = p[i] == p[i-size]
		}
		if same {
			return true
		}
	}
	return false
}

// inRow reports whether p, from four characters on, walks along one of the rows, in either direction.
func inRow(p string) bool {
	if len(p) < 4 {
		return false
	}
	for _, row := range rows {
		if strings.Contains(row, p) {
			return true
		}
	}
	return false
}

// rows are what fingers and minds walk along, forwards and, added below, backwards.
var rows = func() []string {
	list := []string{
		"01234567890123456789", "abcdefghijklmnopqrstuvwxyz", "qwertyuiopasdfghjklzxcvbnm", "qwertzuiopasdfghjklyxcvbnm",
		"azertyuiopqsdfghjklmwxcvbn", "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik", "qazwsxedcrfvtgbyhnujmikolp", "1q2w3e4r5t6y7u8i9o0p",
		"q1w2e3r4t5y6u7i8o9p0", "a1b2c3d4e5f6g7h8i9", "1a2b3c4d5e6f7g8h9i", "!@#$%^&*()", "147258369", "741852963", "13579246810",
		"0246813579", "1122334455667788990", "112233445566", "11223344", "123123123", "1234qwerasdfzxcv", "qweasdzxc", "asdfghjkl;'",
		"zaq12wsxcde34rfv", "52013145201314520",
	}
	for _, row := range list {
		runes := []rune(row)
		for i, j := 0, len(runes)-1; i < j; i, j = i+1, j-1 {
			runes[i], runes[j] = runes[j], runes[i]
		}
		list = append(list, string(runes))
	}
	return list
}()

// plain undoes the usual replacements of letters.
var plain = strings.NewReplacer("0", "o", "1", "i", "!", "i", "3", "e", "4", "a", "@", "a", "5", "s", "$", "s", "7", "t", "8", "b")

// commonWords are the words that leaked passwords are most often built around.
var commonWords = func() map[string]bool {
	words := map[string]bool{}
	for _, w := range strings.Fields(`
		password passwort passwords passw passwd pass pwd secret geheim motdepasse contrasena senha parola mima woaini
		welcome welkom willkommen bienvenue hello hallo hola letmein letmeinn login logon signin access enter open opensesame
		admin administrator administrador root user guest test tester testing demo default changeme change temp temporary
		master superuser support manager service system server computer internet network windows microsoft google apple
		iloveyou ilovegod iloveu loveyou loveme lovely love lover sweetheart darling honey angel princess prince king queen
		baby babygirl babyboy beautiful sunshine sunflower rainbow flower butterfly summer winter spring autumn fall monday
		tuesday wednesday thursday friday saturday sunday january february march april june july august september october
		november december monkey dragon tiger lion eagle falcon phoenix panther wolf shark dolphin chicken turtle rabbit kitty
		kitten puppy banana orange cherry apple pepper ginger cookie cheese chocolate coffee pizza football soccer baseball
		basketball hockey tennis golf golfer runner racing yankees cowboys lakers arsenal chelsea liverpool barcelona
		realmadrid juventus manchester superman batman spiderman pokemon pikachu naruto starwars startrek matrix gandalf
		hunter killer shadow ninja samurai warrior soldier ranger marine cowboy pirate wizard ghost zombie devil lucky
		freedom forever friends family mother father mommy daddy brother sister jesus jesuschrist christ god blessed heaven
		trustno whatever nothing something anything everything nobody unknown qwerty qwertyuiop qwert azerty asdf asdfgh
		asdfghjkl zxcvbn zxcvbnm abc abcd abcdef abcxyz aaa aaaa xxx money dollar diamond silver golden crystal purple yellow
		michael jessica jennifer michelle jordan ashley daniel andrew joshua matthew anthony thomas robert charlie george
		nicole samantha amanda maggie hannah sophie martin william richard patrick christian alexander victoria elizabeth
		mustang ferrari porsche mercedes harley corvette camaro yamaha honda toyota ford nissan
		london paris berlin beijing shanghai china america canada germany france russia brasil mexico india england
		minecraft fortnite roblox facebook instagram twitter youtube linkedin wechat weixin taobao alipay samsung nokia
		hahaha nihao zhongguo woaiwojia aini baobao laopo laogong
	`) {
		words[w] = true
	}
	return words
}()
