package federation

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
)

// What WeChat's subjects are unique within: a union id among all apps of one company, an open id within one app.
const (
	wechatUnion  = "wechat"
	wechatOpenID = "wechat:"
)

// wechat is the QR sign-in of web sites at WeChat's open platform (developers.weixin.qq.com, "Website App WeChat Login"): OAuth 2 in its outline, with
// names of its own and errors in answers of status 200. It knows neither PKCE nor nonces; state, and the secret that stays with the browser, stand for them.
type wechat struct {
	cfg        Provider
	pages, api string
	caller     *caller
	log        *slog.Logger
}

func newWeChat(cfg Provider, c *caller, log *slog.Logger) *wechat {
	return &wechat{cfg: cfg, caller: c, log: log, pages: strings.TrimSuffix(orElse(cfg.Pages, "https://open.weixin.qq.com"), "/"),
		api: strings.TrimSuffix(orElse(cfg.API, "https://api.weixin.qq.com"), "/")}
}

func (w *wechat) address(_ context.Context, _ *attempt, state, back string) (string, error) {
	q := url.Values{"appid": {w.cfg.ClientID}, "redirect_uri": {back}, "response_type": {"code"}, "scope": {"snsapi_login"}, "state": {state}}
	return w.pages + "/connect/qrconnect?" + q.Encode() + "#wechat_redirect", nil
}

// wechatReply is what each of WeChat's calls may answer.
type wechatReply struct {
	ErrCode  int    `json:"errcode"`
	Access   string `json:"access_token"`
	OpenID   string `json:"openid"`
	UnionID  string `json:"unionid"`
	Nickname string `json:"nickname"`
}

// WeChat's errors (its list of global return codes) that are not the house's fault.
var wechatFaults = map[int]string{-1: ReasonAway, 45009: ReasonAway, 45011: ReasonAway, 40029: ReasonCode, 40163: ReasonCode, 41008: ReasonCode, 42003: ReasonCode}

func (w *wechat) prove(ctx context.Context, _ *attempt, in Answer, _ string) (person, error) {
	granted, err := w.call(ctx, "/sns/oauth2/access_token", url.Values{"appid": {w.cfg.ClientID}, "secret": {w.cfg.ClientSecret.Reveal()},
		"code": {in.Code}, "grant_type": {"authorization_code"}})
	if err != nil {
		return person{}, err
	}
	known, err := w.call(ctx, "/sns/userinfo", url.Values{"access_token": {granted.Access}, "openid": {granted.OpenID}})
	if err != nil {
		return person{}, err
	}
	switch {
	case granted.Access == "" || granted.OpenID == "" || len(granted.OpenID) > maxText || len(known.UnionID) > maxText:
		return person{}, &fault{ReasonAnswer, "WeChat did not say who came"}
	case known.OpenID != granted.OpenID || granted.UnionID != "" && known.UnionID != "" && known.UnionID != granted.UnionID:
		return person{}, &fault{ReasonAnswer, "WeChat named two people"}
	}
	who := person{name: known.Nickname, called: clean(known.Nickname)}
	if union := orElse(granted.UnionID, known.UnionID); union != "" {
		who.keys = append(who.keys, key{wechatUnion, union})
	}
	who.keys = append(who.keys, key{wechatOpenID + w.cfg.ClientID, granted.OpenID})
	return who, nil
}

// call asks WeChat's API, which says whether it worked by errcode alone.
func (w *wechat) call(ctx context.Context, path string, q url.Values) (reply wechatReply, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, w.api+path+"?"+q.Encode(), http.NoBody)
	if err != nil {
		return reply, &fault{ReasonRefused, "WeChat's address cannot be built"}
	}
	status, err := w.caller.json(r, &reply)
	switch {
	case err != nil:
		return reply, &fault{ReasonAway, path + ": " + err.Error()}
	case status != http.StatusOK:
		return reply, &fault{ReasonAway, fmt.Sprintf("%s answered %d", path, status)}
	case reply.ErrCode != 0:
		return reply, &fault{orElse(wechatFaults[reply.ErrCode], ReasonRefused), fmt.Sprintf("%s: errcode %d", path, reply.ErrCode)}
	}
	return reply, nil
}
