package federation

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"

	"levee"
	"levee/internal/identity"
)

const (
	appID     = "wxbdc5610cc59c1631"
	appSecret = "canary0123456789abcdef0123456789"
)

// weixin speaks as WeChat's open platform does: answers of status 200 and type text/plain, in which errcode alone tells that something went wrong; a
// code once; the secret checked.
type weixin struct {
	*httptest.Server
	mu      sync.Mutex // guards below
	codes   map[string]soul
	used    map[string]bool
	tokens  map[string]soul
	change  map[string]func(reply map[string]any) // by path
	status  int
	secrets []string
}

// soul is somebody with WeChat; without a union id the app belongs to no company's account there.
type soul struct{ open, union, nickname string }

func newWeixin(t *testing.T) *weixin {
	t.Helper()
	w := &weixin{codes: map[string]soul{}, used: map[string]bool{}, tokens: map[string]soul{}, change: map[string]func(map[string]any){}, status: 200, secrets: []string{appSecret}}
	w.Server = httptest.NewServer(w)
	t.Cleanup(w.Close)
	return w
}

func (x *weixin) provider(app string) Provider {
	return Provider{Kind: "wechat", ClientID: app, ClientSecret: appSecret, Pages: x.URL, API: x.URL}
}

func (x *weixin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	q := r.URL.Query()
	fail := func(code int, text string) map[string]any {
		return map[string]any{"errcode": code, "errmsg": text + ", canary hints: [ req_id: x ]"}
	}
	var reply map[string]any
	switch r.Method + " " + r.URL.Path {
	case "GET /sns/oauth2/access_token":
		s, ok := x.codes[q.Get("code")]
		switch {
		case !strings.HasPrefix(q.Get("appid"), "wx"):
			reply = fail(40013, "invalid appid")
		case q.Get("secret") != appSecret:
			reply = fail(40125, "invalid appsecret")
		case q.Get("grant_type") != "authorization_code":
			reply = fail(40002, "invalid grant_type")
		case x.used[q.Get("code")]:
			reply = fail(40163, "code been used")
		case !ok:
			reply = fail(40029, "invalid code")
		default:
			x.used[q.Get("code")] = true
			access := rand.Text()
			x.tokens[access] = s
			x.secrets = append(x.secrets, access)
			reply = map[string]any{"access_token": access, "expires_in": 7200, "refresh_token": rand.Text(), "openid": s.open, "scope": "snsapi_login"}
			if s.union != "" {
				reply["unionid"] = s.union
			}
		}
	case "GET /sns/userinfo":
		s, ok := x.tokens[q.Get("access_token")]
		switch {
		case !ok:
			reply = fail(40001, "invalid credential")
		case q.Get("openid") != s.open:
			reply = fail(40003, "invalid openid")
		default:
			reply = map[string]any{"openid": s.open, "nickname": s.nickname, "sex": 0, "headimgurl": "", "privilege": []string{}}
			if s.union != "" {
				reply["unionid"] = s.union
			}
		}
	default:
		http.NotFound(w, r)
		return
	}
	if f := x.change[r.URL.Path]; f != nil {
		f(reply)
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(x.status)
	_ = json.NewEncoder(w).Encode(reply)
}

var wechatState = regexp.MustCompile(`^[a-zA-Z0-9]{1,128}$`)

// scan is the page with the QR code: somebody scans it and says yes.
func (x *weixin) scan(t *testing.T, address, app string, s soul) Answer {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if u.Path != "/connect/qrconnect" || u.Fragment != "wechat_redirect" || q.Get("appid") != app || q.Get("response_type") != "code" || q.Get("scope") != "snsapi_login" ||
		q.Get("redirect_uri") != publicURL+"/sign-in/weixin/callback" || !wechatState.MatchString(q.Get("state")) || strings.Contains(address, appSecret) {
		t.Errorf("the browser was sent to %s", address)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	code := "0" + rand.Text()
	x.codes[code] = s
	x.secrets = append(x.secrets, code)
	return Answer{State: q.Get("state"), Code: code}
}

func (h *town) scan(ctx context.Context, x *weixin, app string, s soul, link bool) Answer {
	h.t.Helper()
	begin := h.BeginSignIn
	if link {
		begin = h.BeginLink
	}
	b, err := begin(ctx, "weixin", "/")
	h.must(err)
	a := x.scan(h.t, b.Address, app, s)
	a.Provider, a.Browser = "weixin", b.Browser
	return a
}

func TestWeChat(t *testing.T) {
	x := newWeixin(t)
	h := newTown(t, map[string]Provider{"weixin": x.provider(appID)})
	if l := h.List(); len(l) != 1 || l[0] != (ProviderInfo{"weixin", "wechat", "WeChat"}) {
		t.Errorf("%+v", l)
	}
	ctx := context.Background()
	enter := func(s soul) SignedIn {
		t.Helper()
		g, err := h.Service.SignIn(ctx, h.scan(ctx, x, appID, s, false), origin)
		h.must(err)
		return g
	}
	h.member("小美")
	first := enter(soul{"o-1", "u-1", "小美"})
	if !first.New || !strings.HasPrefix(first.User.Name, "buyer-") {
		t.Errorf("a nickname led to another's account or took his name: %+v", first.User)
	}
	for what, s := range map[string]soul{"the same": {"o-1", "u-1", "小美 2"}, "the union id decides": {"o-9", "u-1", ""}, "only the open id is told": {"o-1", "", ""}} {
		if g := enter(s); g.User.ID != first.User.ID || g.New {
			t.Errorf("%s: another account", what)
		}
	}
	for what, s := range map[string]soul{"another with the same nickname": {"o-2", "u-2", "小美"}, "another open id, no union id": {"o-3", "", "小美"}, "case counts": {"O-1", "U-1", ""}} {
		if g := enter(s); g.User.ID == first.User.ID || !g.New {
			t.Errorf("%s: the same account", what)
		}
	}
	// An app that joins a company's account there: who was known by his open id is known by his union id from then on, also to the company's other apps.
	early := enter(soul{"o-5", "", "early"})
	if early.User.Name != "early" {
		t.Errorf("called %q", early.User.Name)
	}
	if g := enter(soul{"o-5", "u-5", "early"}); g.User.ID != early.User.ID {
		t.Error("the union id made another account")
	}
	if g := enter(soul{"o-6", "u-5", "early"}); g.User.ID != early.User.ID {
		t.Error("the union id was not remembered")
	}
	// A link, and a subject that is another's by either id.
	mei := h.member("mei")
	link := func(g identity.Grant, s soul) error {
		_, err := h.FinishLink(as(g), h.scan(as(g), x, appID, s, true), origin)
		return err
	}
	h.want(link(mei, soul{"o-1", "u-77", ""}), levee.CodeConflict, ReasonLinked)
	h.want(link(mei, soul{"o-77", "u-1", ""}), levee.CodeConflict, ReasonLinked)
	h.must(link(mei, soul{"o-7", "u-7", "Mei\u202e\n"}))
	h.want(link(mei, soul{"o-8", "u-8", ""}), levee.CodeConflict, ReasonOther)
	h.must(link(mei, soul{"o-7", "u-7", ""}))
	if list, err := h.Links(as(mei)); err != nil || len(list) != 1 || list[0].Label != "WeChat" || list[0].Called != "Mei" {
		t.Errorf("%+v, %v", list, err)
	}
	h.must(h.Unlink(as(mei), "weixin", origin))
	if g := enter(soul{"o-7", "u-7", ""}); g.User.ID == mei.User.ID {
		t.Error("an unlinked open id still leads to the account")
	}
	h.want(h.Unlink(as(first.Grant), "weixin", origin), levee.CodeConflict, ReasonLast)
}

func TestTroublesOfWeChat(t *testing.T) {
	x := newWeixin(t)
	h := newTown(t, map[string]Provider{"weixin": x.provider(appID)})
	ctx := context.Background()
	somebody := soul{"o-1", "u-1", "n"}
	errcode := func(path string, code int) func(*Answer) {
		return func(*Answer) {
			x.change[path] = func(reply map[string]any) { clear(reply); reply["errcode"], reply["errmsg"] = code, "canary" }
		}
	}
	const token, info = "/sns/oauth2/access_token", "/sns/userinfo"
	for name, c := range map[string]struct {
		change func(a *Answer)
		code   levee.Code
		reason string
	}{
		"he said no":                 {func(a *Answer) { a.Code = "" }, levee.CodeForbidden, ReasonDenied},
		"an unknown code":            {func(a *Answer) { a.Code = "canary" }, levee.CodeGone, ReasonCode},
		"a used code":                {func(a *Answer) { x.used[a.Code] = true }, levee.CodeGone, ReasonCode},
		"busy":                       {errcode(token, -1), levee.CodeUnavailable, ReasonAway},
		"busy at the second call":    {errcode(info, -1), levee.CodeUnavailable, ReasonAway},
		"our secret is wrong":        {errcode(token, 40125), levee.CodeUnavailable, ReasonRefused},
		"an error that is new":       {errcode(info, 99999), levee.CodeUnavailable, ReasonRefused},
		"500":                        {func(*Answer) { x.status = 500 }, levee.CodeUnavailable, ReasonAway},
		"nobody":                     {func(*Answer) { x.change[token] = func(r map[string]any) { delete(r, "openid") } }, levee.CodeUnavailable, ""},
		"another in the second call": {func(*Answer) { x.change[info] = func(r map[string]any) { r["openid"] = "o-2" } }, levee.CodeForbidden, ReasonAnswer},
		"another union id":           {func(*Answer) { x.change[info] = func(r map[string]any) { r["unionid"] = "u-2" } }, levee.CodeForbidden, ReasonAnswer},
		"a huge union id": {func(*Answer) {
			huge := func(r map[string]any) { r["unionid"] = strings.Repeat("u", 191) }
			x.change[token], x.change[info] = huge, huge
		}, levee.CodeForbidden, ReasonAnswer},
		"too large": {func(*Answer) { x.change[info] = func(r map[string]any) { r["more"] = strings.Repeat("x", maxReply) } }, levee.CodeUnavailable, ReasonAway},
	} {
		a := h.scan(ctx, x, appID, somebody, false)
		x.mu.Lock()
		x.status = 200
		clear(x.change)
		c.change(&a)
		x.mu.Unlock()
		_, err := h.Service.SignIn(ctx, a, origin)
		if err == nil {
			t.Errorf("%s: signed in", name)
			continue
		}
		h.want(err, c.code, c.reason)
		_, _ = h.log.Write([]byte(err.Error())) // what a handler would log
	}
	x.Close() // now nobody answers, and the client's error names the address, in which the secret stands
	b, err := h.BeginSignIn(ctx, "weixin", "/")
	h.must(err)
	a := x.scan(t, b.Address, appID, somebody)
	a.Provider, a.Browser = "weixin", b.Browser
	_, err = h.Service.SignIn(ctx, a, origin)
	h.want(err, levee.CodeUnavailable, ReasonAway)
	_, _ = h.log.Write([]byte(err.Error()))
	for _, s := range append(x.secrets, "canary") {
		if strings.Contains(h.log.String(), s) {
			t.Errorf("%q stands in the log", s)
		}
	}
	if !strings.Contains(h.log.String(), "errcode 40125") {
		t.Error("the log does not tell WeChat's errcode")
	}
	if n := h.acts("user.federated"); n != 0 {
		t.Errorf("%d accounts were made", n)
	}
}
