package foreignshop_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The three snippets of docs/beside-a-shop.md, as they stand there, take a good signature, among others too, and no other.
func TestSnippets(t *testing.T) {
	page, err := os.ReadFile("../../docs/beside-a-shop.md")
	if err != nil {
		t.Fatal(err)
	}
	snippet := func(language string) string {
		m := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(page)
		if m == nil {
			t.Fatalf("the page has no snippet in %s", language)
		}
		return string(m[1])
	}
	key := []byte("thirty-two bytes of a test's key")
	secret := "whsec_" + base64.StdEncoding.EncodeToString(key)
	sign := func(id string, at int64, body string) string {
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%d.%s", id, at, body)
		return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	const id, body = "dlv_7", `{"type":"ping","data":{"name":"Zoë"}}`
	now := time.Now().Unix()
	good := sign(id, now, body)
	cases := []struct {
		name, id, signature, body string
		at                        int64
		want                      bool
	}{
		{"good", id, good, body, now, true},
		{"two signatures", id, "v1,AAAA " + good, body, now, true},
		{"another body", id, good, body + " ", now, false},
		{"another id", "dlv_8", good, body, now, false},
		{"another time", id, good, body, now + 1, false},
		{"too old", id, sign(id, now-301, body), body, now - 301, false},
		{"no signature", id, "", body, now, false},
		{"another version", id, "v2" + good[2:], body, now, false},
	}
	languages := []struct {
		name, program, file, text string
	}{
		{"python", "python3", "check.py", snippet("python") + `
import sys
_, secret, id, at, signature, body = sys.argv
sys.exit(0 if verify(secret, {"webhook-id": id, "webhook-timestamp": at, "webhook-signature": signature}, body.encode()) else 7)
`},
		{"java", "java", "Check.java", "public class Check {\n" + snippet("java") + `
    public static void main(String[] a) throws Exception {
        System.exit(verify(a[0], java.util.Map.of("webhook-id", a[1], "webhook-timestamp", a[2], "webhook-signature", a[3]), a[4].getBytes("UTF-8")) ? 0 : 7);
    }
}
`},
		{"go", "go", "check.go", `package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	h := http.Header{}
	h.Set("Webhook-Id", os.Args[2])
	h.Set("Webhook-Timestamp", os.Args[3])
	h.Set("Webhook-Signature", os.Args[4])
	if !verify(os.Args[1], h, []byte(os.Args[5])) {
		os.Exit(7)
	}
}

` + snippet("go")},
	}
	for _, l := range languages {
		t.Run(l.name, func(t *testing.T) {
			t.Parallel()
			program, err := exec.LookPath(l.program)
			if err != nil {
				t.Skipf("%s is not installed", l.program)
			}
			dir := t.TempDir()
			file := filepath.Join(dir, l.file)
			if err := os.WriteFile(file, []byte(l.text), 0o600); err != nil {
				t.Fatal(err)
			}
			run := []string{program, file}
			if l.name == "java" {
				run = []string{program, "-XX:TieredStopAtLevel=1", file} // quick to start
			}
			if l.name == "go" {
				run = []string{filepath.Join(dir, "check")}
				if out, err := exec.CommandContext(t.Context(), program, "build", "-o", run[0], file).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			for _, c := range cases {
				args := append(run[1:len(run):len(run)], secret, c.id, fmt.Sprint(c.at), c.signature, c.body)
				out, err := exec.CommandContext(t.Context(), run[0], args...).CombinedOutput()
				code := 0
				if exit, ok := err.(*exec.ExitError); ok {
					code = exit.ExitCode()
				} else if err != nil {
					t.Fatal(err)
				}
				if want := map[bool]int{true: 0, false: 7}[c.want]; code != want {
					t.Errorf("%s: exit %d, want %d: %s", c.name, code, want, strings.TrimSpace(string(out)))
				}
			}
		})
	}
}
