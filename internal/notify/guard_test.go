package notify

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"levee"
	"levee/internal/identity"
	"levee/internal/platform/listing"
	"levee/internal/platform/node"
)

func mustGuard(t *testing.T, allow ...string) *guard {
	t.Helper()
	g, err := newGuard(allow)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func TestGuardAddresses(t *testing.T) {
	g := mustGuard(t, "10.0.7.0/24", "192.168.1.9", "fd00:7::/32")
	for _, s := range []string{
		"0.0.0.0", "0.1.2.3", "10.1.2.3", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255",
		"192.0.0.170", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255",
		"240.0.0.1", "255.255.255.255",
		"::", "::1", "::ffff:127.0.0.1", "::ffff:10.1.2.3", "::ffff:169.254.169.254", "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:10::1",
		"2001:20::1", "2001:db8::1", "2002:7f00:1::", "3fff::1", "5f00::1", "fc00::1", "fd00:8::1", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "4000::1",
		"fd00:ec2::254", "2606:4700::1%eth0",
	} {
		if err := g.check(netip.MustParseAddr(s)); levee.CodeOf(err) != levee.CodeForbidden {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"1.1.1.1", "8.8.8.8", "172.15.255.255", "172.32.0.1", "100.63.255.255", "100.128.0.1", "11.0.0.1", "223.255.255.255", "2606:4700:4700::1111",
		"2001:4860:4860::8888", "::ffff:8.8.8.8", "10.0.7.1", "192.168.1.9", "::ffff:10.0.7.9", "fd00:7::1"} {
		if err := g.check(netip.MustParseAddr(s)); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
}

func TestGuardURLs(t *testing.T) {
	g := mustGuard(t, "shop.internal", "10.0.7.0/24", "[fd00:7::1]", "Shop.Local.")
	for _, bad := range []string{
		"", "shop.example", "//shop.example/", "ftp://shop.example/", "file:///etc/passwd", "gopher://127.0.0.1:6379/", "https:", "https:///x", "https:shop.example", "javascript:alert(1)",
		"http://shop.example/", "http://8.8.8.8/", "https://localhost/", "https://LOCALHOST./", "https://a.localhost/", "https://127.0.0.1/", "https://127.0.0.1:8443/", "https://[::1]/",
		"https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/", "https://0.0.0.0/", "https://169.254.169.254/latest/meta-data/", "https://10.1.2.3/", "https://[fe80::1%25eth0]/",
		"https://2130706433/", "https://0x7f000001/", "https://0x7f.1/", "https://017700000001/", "https://127.1/", "https://0177.0.0.1/", "https://127.0.0.1./", "https://1/", "https://0/",
		"https://user@shop.example/", "https://user:secret@shop.example/", "https://shop.example/#frag", "https://shop.example:0/", "https://shop.example:70000/", "https://shop.example:/",
		"https://shop.example:http-alt/", "https://sh\u00f6p.example/", "https://shop_.example\u3002com/", "https://a..b/", "https:// shop.example/", "https://shop.example\\@127.0.0.1/", "https://%6c%6f%63alhost/",
		"https://" + strings.Repeat("a", 1000) + "/", "https://[::1", "https://shop.example%00.evil/", "http://shop.internal.evil.example/", "http://10.0.8.1/",
	} {
		if err := g.checkURL("body.url", bad); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("%q was accepted: %v", bad, err)
		}
	}
	for _, good := range []string{
		"https://shop.example/hook", "https://shop.example:8443/a?b=c", "https://SHOP.example/", "https://shop.example./", "https://xn--shp-fna.example/", "https://8.8.8.8/",
		"https://[2606:4700:4700::1111]:444/", "https://a_b.example/", "http://shop.internal/", "http://shop.internal:8080/x", "http://SHOP.INTERNAL./", "http://shop.local/", "http://10.0.7.3:99/", "https://10.0.7.3/",
		"http://[fd00:7::1]:1/", "https://1.example/", "https://web7/",
	} {
		if err := g.checkURL("body.url", good); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	if err := g.checkURL("body.url", "http://shop.example/?token=abc"); err == nil || strings.Contains(err.Error(), "abc") {
		t.Errorf("the error shows the query: %v", err)
	}
	for _, bad := range []string{"http://shop", "shop.example:80", "10.0.0.0/33", "*.example", "", "127.1", "a b"} {
		if _, err := newGuard([]string{bad}); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("the list took %q", bad)
		}
	}
}

// nameServer answers every question for an A record with the addresses in turn, and counts.
func nameServer(t *testing.T, addresses ...string) (*net.Resolver, *atomic.Int64) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	asked := &atomic.Int64{}
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			end := 12
			for end < n && buf[end] != 0 {
				end += int(buf[end]) + 1
			}
			end += 5 // the root, type and class
			kind := binary.BigEndian.Uint16(buf[end-4:])
			reply := append([]byte{}, buf[:end]...)
			binary.BigEndian.PutUint16(reply[2:], 0x8180)
			copy(reply[4:12], []byte{0, 1, 0, 0, 0, 0, 0, 0})
			if kind == 1 {
				i := asked.Add(1) - 1
				ip := netip.MustParseAddr(addresses[min(int(i), len(addresses)-1)]).As4()
				reply[7] = 1
				reply = append(reply, 0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
				reply = append(reply, ip[:]...)
			}
			_, _ = conn.WriteTo(reply, from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}, asked
}

// local starts a receiver on 127.0.0.1 that must not be reached, and returns its port.
func local(t *testing.T, h http.Handler) (*httptest.Server, string, *atomic.Int64) {
	t.Helper()
	hits := &atomic.Int64{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		if h != nil {
			h.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(srv.Close)
	_, port, err := net.SplitHostPort(srv.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return srv, port, hits
}

// A name that resolves to a good address when it is looked at and to an inner one when it is dialled gets no connection: what counts
// is the address that is dialled. The same for names that are inner from the start, and for addresses in every spelling.
func TestGuardAtTheDial(t *testing.T) {
	_, port, hits := local(t, nil)
	h := newHouse(t, func(c *Config) { c.AllowHosts, c.Timeout = []string{"10.99.0.0/16"}, 500*time.Millisecond })
	post := newPoster(h.Service)
	send := func(url string) error {
		_, err := post(t.Context(), url, nil, []byte("{}"))
		return err
	}
	resolver, asked := nameServer(t, "203.0.113.7", "127.0.0.1") // a documentation address first, then ours
	h.Service.resolver = resolver
	for range 3 {
		err := send("http://rebind.example:" + port + "/")
		if err == nil || !strings.Contains(failure(err), "inner") {
			t.Errorf("got %v", err)
		}
	}
	if asked.Load() < 2 {
		t.Fatal("the name was not resolved anew: the test has tried nothing")
	}
	h.Service.resolver = nil
	for _, host := range []string{"127.0.0.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "127.1", "2130706433", "0x7f000001", "017700000001", "169.254.169.254"} {
		if err := send("http://" + host + ":" + port + "/"); err == nil {
			t.Errorf("%s was reached", host)
		}
	}
	if hits.Load() != 0 {
		t.Fatalf("%d requests came in", hits.Load())
	}
	// The control: listed, the same receiver is reached by the same way.
	g := mustGuard(t, "rebind.example")
	h.Service.guard = g
	h.Service.resolver, _ = nameServer(t, "127.0.0.1")
	if err := send("http://rebind.example:" + port + "/"); err != nil || hits.Load() != 1 {
		t.Errorf("a listed name: %v, %d", err, hits.Load())
	}
}

// No redirect is followed, no proxy of the environment asked, no more than 64 KiB of an answer read, and one KiB kept.
func TestGatewayBounds(t *testing.T) {
	inner, _, innerHits := local(t, nil)
	t.Setenv("HTTP_PROXY", inner.URL)
	t.Setenv("http_proxy", inner.URL)
	var sent atomic.Int64
	srv, _, hits := local(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, inner.URL, http.StatusTemporaryRedirect)
		case "/large":
			w.WriteHeader(http.StatusTeapot)
			for range 1000 {
				n, err := w.Write([]byte(strings.Repeat("\x00\x1b<b>é</b>", 1000)))
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		case "/later":
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	h := newHouse(t, func(c *Config) { c.AllowHosts, c.Timeout = []string{"127.0.0.1"}, 5*time.Second })
	post := newPoster(h.Service)
	a, err := post(t.Context(), srv.URL+"/redirect", nil, []byte("{}"))
	if err != nil || a.status != http.StatusTemporaryRedirect || innerHits.Load() != 0 {
		t.Errorf("redirect: %+v, %v, %d at the other", a, err, innerHits.Load())
	}
	if a, err = post(t.Context(), srv.URL+"/large", nil, []byte("{}")); err != nil || a.status != http.StatusTeapot || len(a.text) > keptAnswer || strings.ContainsAny(a.text, "\x00\x1b") {
		t.Errorf("large: %d bytes kept, %v", len(a.text), err)
	}
	if sent.Load() >= 5<<20 {
		t.Errorf("all of a large answer was read: %d", sent.Load())
	}
	if a, err = post(t.Context(), srv.URL+"/later", nil, []byte("{}")); err != nil || a.retryAfter != 30*time.Second {
		t.Errorf("later: %+v, %v", a, err)
	}
	if hits.Load() != 3 {
		t.Errorf("%d requests", hits.Load())
	}
	srv.Close()
	_, err = post(t.Context(), srv.URL+"/?token=abc", nil, []byte("{}"))
	if text := failure(err); err == nil || strings.Contains(text, "abc") || strings.Contains(text, "token") {
		t.Errorf("the failure shows the address's query: %q", text)
	}
}

// A webhook whose exception was taken from the list is not spoken to any more.
func TestShorterList(t *testing.T) {
	_, port, hits := local(t, nil)
	h := newHouse(t, func(c *Config) { c.AllowHosts = []string{"localhost"} })
	h.Service.post = newPoster(h.Service)
	forever := node.Forever()
	h.Service.term.Store(&forever)
	hook, _ := h.hook("http://localhost:"+port+"/", "*")
	r := h.attempt(t.Context(), (*h.hooks.Load())[0], Delivery{SubjectKind: levee.KindDelivery, Webhook: hook.ID, Type: typePing, data: "{}"})
	if !r.ok() || hits.Load() != 1 {
		t.Fatalf("%+v", r)
	}
	h.Service.guard = mustGuard(t)
	r = h.attempt(t.Context(), (*h.hooks.Load())[0], Delivery{SubjectKind: levee.KindDelivery, Webhook: hook.ID, Type: typePing, data: "{}"})
	if r.ok() || hits.Load() != 1 {
		t.Errorf("%+v", r)
	}
}

func TestSignatureVector(t *testing.T) {
	// The example of the Standard Webhooks libraries.
	secret, err := base64.StdEncoding.DecodeString("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	got := sign([][]byte{secret}, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if want := "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestVault(t *testing.T) {
	key := make([]byte, 32)
	v, err := newVault(key)
	if err != nil {
		t.Fatal(err)
	}
	secret := newSecret()
	sealed := v.seal(7, secret)
	if got, err := v.open(7, sealed); err != nil || string(got) != string(secret) {
		t.Errorf("%v", err)
	}
	for name, f := range map[string]func() error{
		"another webhook's": func() error { _, err := v.open(8, sealed); return err },
		"altered":           func() error { _, err := v.open(7, "AAAA"+sealed[4:]); return err },
		"empty":             func() error { _, err := v.open(7, ""); return err },
		"another key": func() error {
			key[0] = 1
			o, err := newVault(key)
			if err != nil {
				return nil
			}
			_, err = o.open(7, sealed)
			return err
		},
	} {
		if err := f(); err == nil || strings.Contains(err.Error(), sealed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := newVault(key[:31]); levee.CodeOf(err) != levee.CodeInvalid {
		t.Errorf("a short key: %v", err)
	}
}

// Webhooks are not for visitors, and say what is wrong with them.
func TestWebhookRules(t *testing.T) {
	h := newHouse(t)
	w, secret := h.hook("https://shop.example/hook?token=Kx8-in-the-query", "order.*")
	for name, f := range map[string]func(ctx context.Context) error{
		"create": func(ctx context.Context) error {
			_, _, err := h.Create(ctx, NewWebhook{URL: "https://shop.example/", Events: []string{"*"}}, identity.Origin{})
			return err
		},
		"list": func(ctx context.Context) error { _, err := h.List(ctx); return err },
		"read": func(ctx context.Context) error { _, _, err := h.ByID(ctx, w.ID); return err },
		"change": func(ctx context.Context) error {
			_, err := h.Change(ctx, w.ID, Change{}, identity.Origin{})
			return err
		},
		"rotate":     func(ctx context.Context) error { _, _, err := h.Rotate(ctx, w.ID, identity.Origin{}); return err },
		"delete":     func(ctx context.Context) error { return h.Delete(ctx, w.ID, identity.Origin{}) },
		"ping":       func(ctx context.Context) error { _, err := h.Ping(ctx, w.ID); return err },
		"deliveries": func(ctx context.Context) error { _, err := h.Deliveries(ctx, w.ID, &listing.Query{}); return err },
		"delivery":   func(ctx context.Context) error { _, _, _, err := h.Delivery(ctx, 1); return err },
		"replay":     func(ctx context.Context) error { _, err := h.Replay(ctx, 1); return err },
		"replay since": func(ctx context.Context) error {
			_, _, err := h.ReplaySince(ctx, w.ID, time.Now().Add(-time.Hour), time.Time{})
			return err
		},
	} {
		if err := f(t.Context()); levee.CodeOf(err) != levee.CodeUnauthenticated {
			t.Errorf("%s by a visitor: %v", name, err)
		}
	}
	for name, in := range map[string]NewWebhook{
		"no url":         {Events: []string{"*"}},
		"inner url":      {URL: "https://127.0.0.2/", Events: []string{"*"}},
		"no events":      {URL: "https://shop.example/"},
		"unknown event":  {URL: "https://shop.example/", Events: []string{"order.created", "order.eaten"}},
		"unknown group":  {URL: "https://shop.example/", Events: []string{"user.*"}},
		"half a group":   {URL: "https://shop.example/", Events: []string{"ord*"}},
		"two lines":      {URL: "https://shop.example/", Events: []string{"*"}, Description: "a\nb"},
		"long text":      {URL: "https://shop.example/", Events: []string{"*"}, Description: strings.Repeat("a", 181)},
		"event of blank": {URL: "https://shop.example/", Events: []string{""}},
	} {
		var e *levee.Error
		if _, _, err := h.Create(h.op, in, identity.Origin{}); !errors.As(err, &e) || e.Code != levee.CodeInvalid || len(e.Fields) != 1 || !strings.HasPrefix(e.Fields[0].Field, "body.") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range maxWebhooks - 1 {
		h.hook("https://shop.example/", "*")
	}
	if _, _, err := h.Create(h.op, NewWebhook{URL: "https://shop.example/", Events: []string{"*"}}, identity.Origin{}); levee.CodeOf(err) != levee.CodeConflict {
		t.Errorf("one too many: %v", err)
	}
	// Neither the secret nor the address's query stands anywhere but where it must.
	for _, query := range []string{`SELECT COUNT(*) FROM notify_webhook WHERE secret LIKE '%' || ? || '%'`, `SELECT COUNT(*) FROM trail_entry WHERE after_state LIKE '%' || ? || '%'`} {
		for _, text := range []string{strings.TrimPrefix(secret, secretPrefix), "Kx8-in-the-query"} {
			if n := h.count(query, text); n != 0 {
				t.Errorf("%s: %d", query, n)
			}
		}
	}
	if n := h.count(`SELECT COUNT(*) FROM trail_entry WHERE action = 'webhook.created'`); n != maxWebhooks {
		t.Errorf("%d acts in the trail", n)
	}
}
