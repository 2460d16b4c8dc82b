package app_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/phone/smstest"
	"levee/internal/platform/obs"
)

// A whole house sends codes through a provider, from a job, and lets people in by them: one signs up, signs in again, and keeps his number
// against another account; one puts a number on the account he has.
func TestSignInByPhone(t *testing.T) {
	sms, err := smstest.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sms.Close() })
	h := apptest.Start(t, func(c *app.Config) {
		c.Phone.Sender = "aliyun"
		c.Phone.Aliyun.Endpoint, c.Phone.Aliyun.KeyID, c.Phone.Aliyun.KeySecret = sms.URL, sms.KeyID, obs.Secret(sms.KeySecret)
		c.Phone.Aliyun.SignName, c.Phone.Aliyun.Template = sms.SignName, sms.Template
		c.Limits.Rates["sms"] = "off" // a minute between two is long
	})
	type asked struct {
		Request    string
		ExpiresAt  time.Time `json:"expires_at"`
		RetryAfter int64     `json:"retry_after"`
	}
	sent := 0
	ask := func(c *apptest.Client, purpose, phone string) map[string]any {
		t.Helper()
		var a asked
		r := c.Do("POST", "/v1/phone-codes", map[string]any{"phone": phone, "purpose": purpose}).Want(202).Into(&a)
		if r.Header.Get("Cache-Control") != "no-store" || a.ExpiresAt.Before(time.Now()) {
			t.Errorf("%v, %+v", r.Header, a)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		sent++
		m, err := sms.WaitSent(ctx, sent)
		if err != nil {
			t.Fatalf("nothing was sent; the provider answered %v", sms.Answered())
		}
		return map[string]any{"phone": phone, "code": m.Code, "request": a.Request}
	}
	var enabled struct{ Enabled bool }
	if h.Visitor.Do("GET", "/v1/phone-codes", nil).Want(200).Into(&enabled); !enabled.Enabled {
		t.Error("it says that it sends nothing")
	}
	const ann, bob = "+8613800138000", "+8613800138001"
	var first, again struct {
		User struct{ ID, Name, Phone string }
	}
	body := ask(h.Visitor, "sign_in", "138 0013 8000")
	made := h.Visitor.Do("POST", "/v1/sessions/phone", body).Want(201).Into(&first)
	if first.User.Phone != ann || !strings.HasPrefix(first.User.Name, "guest-") || made.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%+v", first)
	}
	h.Visitor.Do("POST", "/v1/sessions/phone", body).WantError(401, levee.CodeUnauthenticated)
	// What a browser that is signed in as somebody else, or has an old token, sends along does not matter.
	body = ask(h.Visitor, "sign_in", ann)
	body["cookie"] = true
	cookie := h.Customer.Do("POST", "/v1/sessions/phone", body, "Authorization: Bearer of.old.times").Want(201).Into(&again)
	if again.User.ID != first.User.ID || !strings.Contains(cookie.Header.Get("Set-Cookie"), "HttpOnly") || strings.Contains(string(cookie.Body), "access_token") {
		t.Errorf("%+v, %v", again, cookie.Header)
	}
	h.Customer.Do("PUT", "/v1/me/phone", ask(h.Customer, "bind", ann)).WantError(409, levee.CodeConflict)
	body = ask(h.Customer, "bind", bob)
	h.Visitor.Do("PUT", "/v1/me/phone", body).WantError(401, levee.CodeUnauthenticated)
	h.Operator.Do("PUT", "/v1/me/phone", body).WantError(422, levee.CodeInvalid).Contains("body.code", "[redacted]")
	h.Customer.Do("PUT", "/v1/me/phone", body).Want(200).Contains(bob)
	h.Customer.Do("GET", "/v1/me", nil).Want(200).Contains(`"phone":"` + bob + `"`)
	h.Visitor.Do("POST", "/v1/phone-codes", map[string]any{"phone": bob, "purpose": "bind"}).WantError(401, levee.CodeUnauthenticated)
	h.Visitor.Do("POST", "/v1/phone-codes", map[string]any{"phone": "+4915112345678", "purpose": "sign_in"}).WantError(422, levee.CodeInvalid).Contains("body.phone", "+86")
	refused := h.Visitor.Do("POST", "/v1/sessions/phone", map[string]any{"phone": bob, "code": "000000", "request": "x"}, "Accept-Language: zh").WantError(401, levee.CodeUnauthenticated)
	if !strings.Contains(string(refused.Body), "验证码") {
		t.Errorf("not said in Chinese: %s", refused.Body)
	}
}

// A house that has no provider says so.
func TestNoCodesWithoutAProvider(t *testing.T) {
	h := apptest.Start(t)
	h.Visitor.Do("GET", "/v1/phone-codes", nil).Want(200).Contains(`"enabled":false`)
	h.Visitor.Do("POST", "/v1/phone-codes", map[string]any{"phone": "13800138000", "purpose": "sign_in"}).WantError(404, levee.CodeNotFound)
}
