package phone

import (
	"context"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/phone/smstest"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

// The request that the service's documents sign as their example ("Request syntax and signature method V3") has their signature.
func TestSignatureOfTheDocuments(t *testing.T) {
	query := canonicalQuery(map[string]string{"RegionId": "cn-shanghai", "ImageId": "win2019_1809_x64_dtc_zh-cn_40G_alibase_20230811.vhd"})
	got := authorization("YourAccessKeyId", "YourAccessKeySecret", "POST", "/", query, map[string]string{"host": "ecs.cn-shanghai.aliyuncs.com",
		"x-acs-action": "RunInstances", "x-acs-version": "2014-05-26", "x-acs-date": "2023-10-26T10:22:32Z",
		"x-acs-signature-nonce": "3156853299f313e23d1673dc12e1703d", "x-acs-content-sha256": sum("")})
	const want = "ACS3-HMAC-SHA256 Credential=YourAccessKeyId,SignedHeaders=host;x-acs-action;x-acs-content-sha256;x-acs-date;x-acs-signature-nonce;x-acs-version," +
		"Signature=06563a9e1b43f5dfe96b81484da74bceab24a1d853912eee15083a6f0f3283c0"
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if got := canonicalQuery(map[string]string{"b": "a b*~/+&=堤", "a": ""}); got != "a=&b=a%20b%2A~%2F%2B%26%3D%E5%A0%A4" {
		t.Error(got)
	}
}

// What the service refuses for good, and whoever gets the answer, is not sent again; what it has not taken is, until the code is too old; and what it
// may have taken is not.
func TestWhatTheServiceSays(t *testing.T) {
	for name, c := range map[string]struct {
		faults []smstest.Fault
		steps  int // how often the next attempt is waited for
		went   int
		ends   string
		again  float64
	}{
		"well":          {nil, 1, 1, "ok", 0},
		"throttled":     {[]smstest.Fault{smstest.Throttled, smstest.Throttled, smstest.Unavailable}, 4, 1, "ok", 3},
		"a bad number":  {[]smstest.Fault{smstest.BadNumber}, 2, 0, "number", 0},
		"its own limit": {[]smstest.Fault{smstest.Limited}, 2, 0, "limited", 0},
		"no money":      {[]smstest.Fault{smstest.NoMoney}, 2, 0, "refused", 0},
		"a 500":         {[]smstest.Fault{smstest.Internal}, 2, 0, "unclear", 0},
		"a 502":         {[]smstest.Fault{smstest.Broken}, 2, 0, "unclear", 0},
		"a lost answer": {[]smstest.Fault{smstest.Lost}, 2, 1, "unclear", 0},
		"slow":          {[]smstest.Fault{smstest.Slow}, 2, 1, "unclear", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, free)
			h.sender.(*aliyun).client.Timeout = 3 * time.Second
			if name == "slow" {
				h.sender.(*aliyun).client.Timeout = 300 * time.Millisecond
			}
			h.sms.Fail(c.faults...)
			a, err := h.Ask(context.Background(), ForSignIn, ann, h.origin)
			h.want(err, "")
			for range c.steps {
				h.drain()
				h.clock.Step(30 * time.Second)
			}
			went := h.sms.Sent()
			if len(went) != c.went || h.messages(c.ends) != 1 || h.messages("again") != c.again {
				t.Fatalf("%d went out, %v ended as %s, %v again; it answered %v", len(went), h.messages(c.ends), c.ends, h.messages("again"), h.sms.Answered())
			}
			var sealed string
			if err := h.DB.QueryRow(db.Primary(context.Background()), `SELECT sealed FROM phone_code`).Scan(&sealed); err != nil || sealed != "" {
				t.Errorf("the code is still there: %q (%v)", sealed, err)
			}
			if c.went == 1 { // and is good, as far as the house is concerned
				_, err := h.enter(ann, went[0].Code, a.Request)
				h.want(err, "")
			}
		})
	}
}

// The service knows our requests by their signature, and takes each once.
func TestSignedRequests(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(*AliyunConfig)
		says  string
	}{
		"another secret":    {func(a *AliyunConfig) { a.KeySecret += "x" }, "SignatureDoesNotMatch"},
		"another key":       {func(a *AliyunConfig) { a.KeyID += "x" }, "InvalidAccessKeyId.NotFound"},
		"another signature": {func(a *AliyunConfig) { a.SignName = "other" }, "isv.SMS_SIGNATURE_ILLEGAL"},
		"another template":  {func(a *AliyunConfig) { a.Template = "SMS_2" }, "isv.SMS_TEMPLATE_ILLEGAL"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, free, func(d *Deps) { c.spoil(&d.Config.Aliyun) })
			_, err := h.Ask(context.Background(), ForSignIn, ann, h.origin)
			h.want(err, "")
			for range 2 {
				h.drain()
				h.clock.Step(time.Minute)
			}
			if said := h.sms.Answered(); len(said) != 1 || said[0] != c.says || h.messages("refused") != 1 || len(h.sms.Sent()) != 0 {
				t.Errorf("it answered %v, sent %v", said, h.sms.Sent())
			}
			if !strings.Contains(h.logs.String(), c.says) || strings.Contains(h.logs.String(), ann[1:]) {
				t.Error("the log does not say why, or shows the number")
			}
		})
	}
	t.Run("a clock that is wrong", func(t *testing.T) {
		h := newHouse(t, free)
		h.sms.Now = func() time.Time { return h.clock.Now().Add(time.Hour) }
		_, err := h.Ask(context.Background(), ForSignIn, ann, h.origin)
		h.want(err, "")
		h.drain()
		if said := h.sms.Answered(); len(said) != 1 || said[0] != "InvalidTimeStamp.Expired" {
			t.Error(said)
		}
	})
}

// While the service cannot be reached a message is tried again until its code is too old to be of use, and never after.
func TestServiceIsAway(t *testing.T) {
	h := newHouse(t, free)
	if err := h.sms.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := h.Ask(context.Background(), ForSignIn, ann, h.origin)
	h.want(err, "")
	for range 40 {
		h.drain()
		h.clock.Step(10 * time.Second)
	}
	if h.messages("again") < 8 || h.messages("late") != 1 || h.messages("unclear") != 0 {
		t.Errorf("%v again, %v late, %v unclear", h.messages("again"), h.messages("late"), h.messages("unclear"))
	}
	for _, secret := range []string{ann[1:], "TemplateParam", h.sms.KeySecret} {
		if strings.Contains(h.logs.String(), secret) {
			t.Errorf("the log holds %q", secret)
		}
	}
	var waiting int
	if err := h.DB.QueryRow(db.Primary(context.Background()), `SELECT COUNT(*) FROM job_task`).Scan(&waiting); err != nil || waiting != 0 {
		t.Errorf("%d jobs wait (%v)", waiting, err)
	}
}

// A process that died after it had given the message to the provider has sent it; what was replaced, used or is too old is not sent at all.
func TestMessagesGoOutAtMostOnce(t *testing.T) {
	h := newHouse(t, free)
	ctx := context.Background()
	_, err := h.Ask(ctx, ForSignIn, ann, h.origin)
	h.want(err, "")
	var request string
	if err := h.DB.QueryRow(db.Primary(ctx), `SELECT request FROM phone_code`).Scan(&request); err != nil {
		t.Fatal(err)
	}
	if err := h.DB.Tx(ctx, "test", func(ctx context.Context, tx *db.Tx) error { // as the one that died did
		_, _, waiting, err := takeMessage(ctx, tx, h.DB.Dialect(), request)
		if !waiting {
			t.Error("it was given before")
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	h.drain()
	if len(h.sms.Sent()) != 0 || h.messages("unclear") != 1 {
		t.Errorf("%v", h.sms.Sent())
	}

	_, err = h.Ask(ctx, ForSignIn, ann, h.origin) // replaced before it goes out
	h.want(err, "")
	_, code := h.ask(ctx, ForSignIn, ann)
	if went := h.sms.Sent(); len(went) != 1 || went[0].Code != code {
		t.Errorf("%v", went)
	}

	_, err = h.Ask(ctx, ForSignIn, bob, h.origin)
	h.want(err, "")
	h.clock.Step(codeLife - sendBefore + time.Microsecond)
	h.drain()
	if len(h.sms.Sent()) != 1 || h.messages("late") != 1 {
		t.Errorf("%v", h.sms.Sent())
	}
	if err := h.deliver(ctx, message{Request: "of nothing"}); err != nil {
		t.Error(err)
	}
}

// No code, request token or key, and no whole number, comes into the log, whatever the provider says.
func TestNoSecretInLogs(t *testing.T) {
	h := newHouse(t, free)
	ctx := context.Background()
	h.sender.(*aliyun).client.Timeout = 3 * time.Second
	me := h.account("marie", "")
	h.sms.Fail(smstest.Throttled, "", smstest.BadNumber, smstest.Lost, smstest.Broken)
	secrets := []string{h.sms.KeySecret, "13800138000", "13800138001"}
	for _, phone := range []string{ann, ann, ann, ann, bob} {
		a, err := h.Ask(ctx, ForSignIn, phone, h.origin)
		h.want(err, "")
		h.drain()
		h.clock.Step(10 * time.Second)
		h.drain()
		secrets = append(secrets, a.Request.Reveal())
		if _, err = h.enter(phone, "000000", a.Request); err != nil {
			h.log.Error("what a handler would log", "error", err)
		}
		if _, err = h.Bind(as(me), phone, "000000", a.Request, h.origin); err != nil {
			h.log.Error("what a handler would log", "error", err)
		}
	}
	if len(h.sms.Sent()) == 0 {
		t.Fatal("nothing was sent")
	}
	log := h.logs.String()
	for _, m := range h.sms.Sent() {
		if strings.Contains(log, `"`+m.Code+`"`) || strings.Contains(log, " "+m.Code) || strings.Contains(log, "%22"+m.Code) {
			t.Errorf("the log holds the code %s", m.Code)
		}
	}
	for _, s := range secrets {
		if strings.Contains(log, s) {
			t.Errorf("the log holds %s", s)
		}
	}
	if !strings.Contains(log, "***8000") || !strings.Contains(log, "isv.MOBILE_NUMBER_ILLEGAL") {
		t.Error("the log does not tell of what the provider refused")
	}
}

// The console is for development on one machine; there the code stands in the log, and the number does not.
func TestConsole(t *testing.T) {
	h := newHouse(t, free, func(d *Deps) {
		d.Config = Config{Sender: senderConsole}
		d.PublicURL = "http://127.0.0.1:8080"
	})
	a, err := h.Ask(context.Background(), ForSignIn, ann, h.origin)
	h.want(err, "")
	h.drain()
	_, after, ok := strings.Cut(h.logs.String(), "the code is ")
	if !ok || strings.Contains(h.logs.String(), ann[1:]) {
		t.Fatal("the log holds no code, or the number")
	}
	_, err = h.enter(ann, after[:codeDigits], a.Request)
	h.want(err, "")
	for name, change := range map[string]func(*Deps){
		"several nodes":  func(d *Deps) { d.Shared = true },
		"a public house": func(d *Deps) { d.PublicURL = "https://shop.example" },
		"no address":     func(d *Deps) { d.PublicURL = "" },
	} {
		d := h.Deps
		d.Obs = obs.Test(t)
		change(&d)
		if _, err := New(d); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	d := h.Deps
	d.Config, d.Obs = Config{}, obs.Test(t)
	s, err := New(d)
	h.want(err, "")
	_, err = s.Ask(context.Background(), ForSignIn, ann, h.origin)
	h.want(err, levee.CodeNotFound)
}
