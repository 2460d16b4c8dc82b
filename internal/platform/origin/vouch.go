package origin

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Header carries where a request comes from, as one node tells another: "milliseconds client-address https|http signature".
const Header = "Levee-Node"

// vouchedFor is how long a signature is good: nodes' clocks may differ by as much.
const vouchedFor = time.Minute

// Key is the nodes' common secret. What it signs a node believes of another without being told its address, and nobody else.
type Key []byte

// Vouch returns the value of Header for a request that is passed on: where its first sender is, and whether his side is encrypted.
func (k Key) Vouch(now time.Time, client netip.Addr, secure bool, r *http.Request) string {
	scheme := "http"
	if secure {
		scheme = "https"
	}
	text := strconv.FormatInt(now.UnixMilli(), 10) + " " + client.String() + " " + scheme
	return text + " " + k.sign(text, r)
}

func (k Key) sign(text string, r *http.Request) string {
	mac := hmac.New(sha256.New, k)
	mac.Write([]byte("levee node\n" + text + "\n" + r.Method + "\n" + r.URL.RequestURI()))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

// Vouched reads what another node says of a request; ok is false for what no node has signed.
func (k Key) Vouched(now time.Time, r *http.Request) (client netip.Addr, secure, ok bool) {
	lines := r.Header[Header]
	if len(lines) != 1 || len(lines[0]) > 200 {
		return client, false, false
	}
	at := strings.LastIndexByte(lines[0], ' ')
	if at < 0 {
		return client, false, false
	}
	text, signature := lines[0][:at], lines[0][at+1:]
	if subtle.ConstantTimeCompare([]byte(signature), []byte(k.sign(text, r))) != 1 {
		return client, false, false
	}
	parts := strings.Split(text, " ")
	if len(parts) != 3 {
		return client, false, false
	}
	ms, err := strconv.ParseInt(parts[0], 10, 64)
	if err != nil || now.Sub(time.UnixMilli(ms)).Abs() > vouchedFor {
		return client, false, false
	}
	client, err = netip.ParseAddr(parts[1])
	return client, parts[2] == "https", err == nil
}
