package payment

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strings"
	"time"

	"levee"
)

//go:embed sandbox/page.html
var sandboxPageText string

var sandboxPage = template.Must(template.New("page").Parse(sandboxPageText))

// sandboxPolicy lets the page show itself and post to itself, and nothing else: its one style is named by its hash.
var sandboxPolicy = func() string {
	_, style, _ := strings.Cut(sandboxPageText, "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'self'; style-src 'sha256-" +
		base64.StdEncoding.EncodeToString(sum[:]) + "'"
}()

// sandboxText is the page's words in one language.
type sandboxText struct {
	Title, Note, Subject, Order, Until, Pay, Fail, Late, LateNote, Back string
	OtherLang, OtherName                                                string
	waiting, late, paid, closed, expired, forged                        string
}

var sandboxTexts = map[string]sandboxText{
	"en": {
		Title: "Test payment", Note: "This provider moves no money. It is here to try the shop out.",
		Subject: "Goods", Order: "Order", Until: "Pay until", Pay: "Pay", Fail: "Let the payment fail", Late: "Pay too late",
		LateNote: "“Pay too late” pays two seconds after the deadline, as a slow bank would.", Back: "Back to the shop",
		OtherLang: "zh-CN", OtherName: "中文",
		waiting: "Waiting for your payment.", late: "Will be paid right after the deadline.", paid: "Paid. The shop is being told.",
		closed: "The payment failed.", expired: "The time to pay is over.",
		forged: "This payment link is not valid: its signature is missing or wrong.",
	},
	"zh-CN": {
		Title: "测试支付", Note: "本支付渠道不发生真实资金往来，仅用于试用商城。",
		Subject: "商品", Order: "订单号", Until: "支付截止时间", Pay: "立即支付", Fail: "模拟支付失败", Late: "超时支付",
		LateNote: "“超时支付”会在截止时间两秒后付款，模拟银行延迟到账。", Back: "返回商城",
		OtherLang: "en", OtherName: "English",
		waiting: "等待支付。", late: "将在截止时间之后付款。", paid: "支付成功，正在通知商家。",
		closed: "支付失败。", expired: "支付时间已过。",
		forged: "支付链接无效：签名缺失或错误。",
	},
}

// sandboxView is what the page shows. Everything in it that people wrote is escaped by the template.
type sandboxView struct {
	Lang                                        string
	Text                                        sandboxText
	Problem                                     string
	Amount, Subject, Order, Until, State, Other string
	Return                                      string
	Open                                        bool
}

// showPage shows a charge and its trade (the zero trade: nobody has paid or failed yet), or without a charge that the link is bad.
func (b *Sandbox) showPage(w http.ResponseWriter, r *http.Request, status int, c *sandboxCharge, t sandboxTrade, late bool) {
	lang := language(r)
	text := sandboxTexts[lang]
	other := r.URL.Query()
	other.Set("lang", text.OtherLang)
	v := sandboxView{Lang: lang, Text: text, Other: "?" + other.Encode()}
	if c == nil {
		v.Problem = text.forged
	} else {
		v.Amount, v.Subject, v.Order, v.Return = major(c.amount), c.subject, c.order, c.returnURL
		v.Until = c.payBy.Format(time.RFC3339)
		switch {
		case t.state == sandboxPaid:
			v.State = text.paid
		case t.state == sandboxClosed:
			v.State = text.closed
		case late:
			v.State = text.late
		case !b.clock().Before(c.payBy):
			v.State = text.expired
		default:
			v.State, v.Open = text.waiting, true
		}
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", lang)
	h.Set("Content-Security-Policy", sandboxPolicy)
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if err := sandboxPage.Execute(w, v); err != nil {
		b.log.DebugContext(r.Context(), "the test provider's page was not sent whole", "err", err)
	}
}

// language chooses by ?lang=, else by the browser's first wish that we have, else English.
func language(r *http.Request) string {
	if asked := r.URL.Query().Get("lang"); asked != "" {
		if _, ok := sandboxTexts[asked]; ok {
			return asked
		}
	}
	for wish := range strings.SplitSeq(r.Header.Get("Accept-Language"), ",") {
		tag, _, _ := strings.Cut(strings.TrimSpace(wish), ";")
		switch primary, _, _ := strings.Cut(strings.ToLower(tag), "-"); primary {
		case "zh":
			return "zh-CN"
		case "en":
			return "en"
		}
	}
	return "en"
}

// major shows an amount in the currency's own unit.
func major(m levee.Money) string {
	switch m.Currency {
	case "JPY", "KRW", "VND", "CLP", "ISK":
		return fmt.Sprintf("%d %s", m.Minor, m.Currency)
	}
	return fmt.Sprintf("%d.%02d %s", m.Minor/100, m.Minor%100, m.Currency)
}
