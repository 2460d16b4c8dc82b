package app_test

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/app/apptest"
)

// What is dangerous in the hands of who found an open session: each asks for a fresh proof.
var dangerous = []string{
	"createUser", "setRoles", "setPassword", "createPasswordReset", "disableUser", "createMyToken", "resetFactors",
	"beginTOTP", "confirmTOTP", "removeTOTP", "renewRecoveryCodes", "beginPasskey", "addPasskey", "removePasskey",
	"rollSigningKey", "retireSigningKey", "refundOrder", "refundPayment",
	"bindPhone", "beginLink", "unlink",
	"createRole", "changeRole", "removeRole", "setGrants", "grant", "revoke", "importPolicy",
}

// The house asks for a fresh proof exactly there, and never lets a personal access token pass, whatever its scopes.
func TestDangerousRoutesAreFresh(t *testing.T) {
	h := apptest.Start(t)
	var fresh []string
	where := map[string][]string{}
	for _, line := range h.App.Web.Routes() {
		f := strings.Fields(line)
		if strings.HasSuffix(line, " fresh") {
			fresh, where[f[2]] = append(fresh, f[2]), f
		}
	}
	slices.Sort(fresh)
	want := slices.Sorted(slices.Values(dangerous))
	if !slices.Equal(fresh, want) {
		t.Errorf("fresh are %v, want %v", fresh, want)
	}
	boss := administrator(t, h)
	var token struct{ Token string }
	boss.Do("POST", "/v1/me/tokens", map[string]any{"name": "all", "expires_at": time.Now().Add(time.Hour), "scopes": []string{"accounts:all", "administration:all", "access:all", "payments:all"}}).
		Want(201).Into(&token)
	program := h.Visitor.At(h.Base)
	program.Token = token.Token
	program.Do("GET", "/v1/users", nil).Want(200)
	for id, f := range where {
		path := strings.NewReplacer("{id}", "usr_x", "{kid}", "x", "{role}", "x", "{name}", "x", "{provider}", "x").Replace(f[1])
		if a := program.Do(f[0], path, nil); a.Status != 403 || !strings.Contains(string(a.Body), "needs a sign-in") {
			t.Errorf("%s: %d %s", id, a.Status, a.Body)
		}
	}
}

// In the whole house a customer sets an application up, signs in by password and code, and proves himself again.
func TestSecondFactorInTheHouse(t *testing.T) {
	h := apptest.Start(t)
	h.Customer.Do("POST", "/v1/me/passkeys/options", nil).WantError(409, levee.CodeConflict) // 127.0.0.1 is no name
	var begun struct{ Challenge, Secret, URI string }
	h.Customer.Do("POST", "/v1/me/totp", nil).Want(200).Into(&begun)
	if !strings.HasPrefix(begun.URI, "otpauth://totp/127.0.0.1:customer?") {
		t.Errorf("%+v", begun)
	}
	secret, err := base32.StdEncoding.DecodeString(begun.Secret)
	if err != nil {
		t.Fatal(err)
	}
	step := time.Now().Unix() / 30
	h.Customer.Do("POST", "/v1/me/totp/confirmation", map[string]any{"challenge": begun.Challenge, "code": codeAt(secret, step)}).Want(200)
	var half struct {
		Data struct {
			Challenge string
			Methods   []string
		}
	}
	h.Visitor.Do("POST", "/v1/sessions", map[string]any{"name": "customer", "password": apptest.Password}).WantError(401, levee.CodeSecondFactor).Into(&half)
	if !slices.Equal(half.Data.Methods, []string{"totp", "recovery_code"}) {
		t.Errorf("%+v", half)
	}
	next := codeAt(secret, step+1) // the one before was used
	h.Visitor.Do("POST", "/v1/sessions/second-factor", map[string]any{"challenge": half.Data.Challenge, "code": codeAt(secret, step)}).WantError(401, levee.CodeUnauthenticated)
	var grant struct {
		AccessToken string `json:"access_token"`
	}
	h.Visitor.Do("POST", "/v1/sessions/second-factor", map[string]any{"challenge": half.Data.Challenge, "code": next}).Want(201).Into(&grant)
	who := h.Visitor.At(h.Base)
	who.Token = grant.AccessToken
	who.Do("GET", "/v1/me/factors", nil).Want(200).Contains(`"totp":true`, `"recovery_codes":10`)
	who.Do("POST", "/v1/me/step-up", map[string]any{"code": next}).WantError(422, levee.CodeInvalid)
	who.Do("POST", "/v1/me/step-up", map[string]any{"password": apptest.Password}).WantError(422, levee.CodeInvalid)
}

// codeAt is RFC 6238, written once more.
func codeAt(secret []byte, step int64) string {
	mac := hmac.New(sha1.New, secret)
	_ = binary.Write(mac, binary.BigEndian, step)
	sum := mac.Sum(nil)
	return fmt.Sprintf("%06d", binary.BigEndian.Uint32(sum[sum[19]&15:])&0x7fffffff%1_000_000)
}
