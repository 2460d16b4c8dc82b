package blob

import (
	"bytes"
	"crypto/sha256"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"levee"
	"levee/internal/platform/obs"
)

func putOptions() minio.PutObjectOptions { return minio.PutObjectOptions{} }

// TestLinks: a link opens its file, whole and in ranges, until its time is over, and no other link does.
func TestLinks(t *testing.T) {
	on(t, func(t *testing.T, h *house) {
		data := pngOf(100_000)
		o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(data), Name: "Grüße.png"})
		must(t, err)
		other, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(10))})
		must(t, err)
		link, err := h.URL(t.Context(), o.Key, time.Hour)
		must(t, err)
		code, header, body := get(t, h, link, nil)
		if code != 200 || !bytes.Equal(body, data) || header.Get("Content-Type") != "image/png" || !strings.HasPrefix(header.Get("Content-Disposition"), "inline; filename*=utf-8''Gr%C3%BC") {
			t.Fatalf("%d, %d bytes, %v", code, len(body), header)
		}
		code, header, body = get(t, h, link, http.Header{"Range": {"bytes=1000-1999"}})
		if code != 206 || !bytes.Equal(body, data[1000:2000]) || header.Get("Content-Range") != "bytes 1000-1999/100000" {
			t.Errorf("a range: %d, %d bytes, %v", code, len(body), header)
		}
		if code, _, body = get(t, h, link, http.Header{"Range": {"bytes=-7"}}); code != 206 || !bytes.Equal(body, data[len(data)-7:]) {
			t.Errorf("the last bytes: %d, %d bytes", code, len(body))
		}
		if code, _, _ = get(t, h, link, http.Header{"Range": {"bytes=100000-"}}); code != 416 {
			t.Errorf("beyond the end: %d", code)
		}
		if h.signer == nil {
			if header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Content-Security-Policy") != contentPolicy || !strings.HasPrefix(header.Get("Cache-Control"), "private, max-age=") {
				t.Errorf("headers: %v", header)
			}
			if code, _, body := get(t, h, link, http.Header{"If-None-Match": {o.ETag()}}); code != 304 || len(body) > 0 {
				t.Errorf("a fresh copy: %d", code)
			}
			if code, _, body := get(t, h, link, http.Header{"Range": {"bytes=0-3,10-12"}}); code != 206 || !bytes.Contains(body, data[10:13]) {
				t.Errorf("two ranges: %d", code)
			}
		}
		for what, forged := range forgeries(t, link, o.Key, other.Key) {
			if code, _, body := get(t, h, forged, nil); code < 400 || bytes.Contains(body, data[:100]) {
				t.Errorf("%s: %d", what, code)
			}
		}
		for _, lifetime := range []time.Duration{-time.Hour, 0, time.Second - 1, 7*24*time.Hour + 1} {
			_, err := h.URL(t.Context(), o.Key, lifetime)
			wantCode(t, err, levee.CodeInvalid)
		}
		// A paper is never shown in the page of whoever links to it.
		paper, err := h.Put(t.Context(), Upload{Use: papers, Body: strings.NewReader("plain words and nothing else")})
		must(t, err)
		link, err = h.URL(t.Context(), paper.Key, time.Hour)
		must(t, err)
		if code, header, _ := get(t, h, link, nil); code != 200 || header.Get("Content-Disposition") != attachment {
			t.Errorf("a paper: %d, %v", code, header)
		}
	})
}

// forgeries changes each part of a link on its own.
func forgeries(t *testing.T, link string, key, other Key) map[string]string {
	u, err := url.Parse(link)
	must(t, err)
	all := map[string]string{"another file": strings.Replace(link, string(key), string(other), 1), "no query": strings.SplitN(link, "?", 2)[0]}
	for name := range u.Query() {
		q := u.Query()
		q.Del(name)
		all["without "+name] = u.Path + "?" + q.Encode()
		q = u.Query()
		switch name {
		case "expires":
			n, err := strconv.ParseInt(q.Get(name), 10, 64)
			must(t, err)
			q.Set(name, strconv.FormatInt(n+1, 10))
		case "X-Amz-Expires":
			q.Set(name, "604800")
		default:
			q.Set(name, flip(q.Get(name)))
		}
		all["another "+name] = u.Path + "?" + q.Encode()
		for what, forged := range all {
			if u.Host != "" && strings.HasPrefix(forged, "/") {
				all[what] = u.Scheme + "://" + u.Host + forged
			}
		}
	}
	return all
}

// flip changes the first letter.
func flip(s string) string {
	if strings.HasPrefix(s, "a") {
		return "b" + s[1:]
	}
	return "a" + s[1:]
}

// TestForeignKey: what another house signed is refused; the control is that its own store takes it.
func TestForeignKey(t *testing.T) {
	h := folderHouse(t, Config{})
	o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(50))})
	must(t, err)
	foreign, err := OpenFolder(h.dir, Config{Fail: fail}, bytes.Repeat([]byte{8}, 32), obs.Test(t))
	must(t, err)
	link, err := foreign.URL(t.Context(), o.Key, time.Hour)
	must(t, err)
	if code, _, _ := get(t, h, link, nil); code != 403 {
		t.Errorf("a foreign link: %d", code)
	}
	theirs := &house{Store: foreign}
	theirs.serve(t)
	if code, _, _ := get(t, theirs, link, nil); code != 200 {
		t.Errorf("the control: %d", code)
	}
	// A link to read is none to write, nor the other way round.
	if code := send(t, h, Ticket{Method: http.MethodPut, URL: link}, nil); code != 403 {
		t.Errorf("writing by a link to read: %d", code)
	}
	ticket, err := h.Direct(t.Context(), photos, "me", Declared{Size: 5, Type: "image/png"}, time.Hour)
	must(t, err)
	if code, _, _ := get(t, h, ticket.URL, nil); code != 403 {
		t.Errorf("reading by a link to write: %d", code)
	}
}

// TestLinksEnd: at the second that it names a link is over; a clock that steps moves that and nothing else.
func TestLinksEnd(t *testing.T) {
	h := folderHouse(t, Config{})
	o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(50))})
	must(t, err)
	h.clock.Step(time.Until(h.clock.Now().Truncate(time.Second).Add(time.Second)) % time.Second)
	link, err := h.URL(t.Context(), o.Key, time.Minute)
	must(t, err)
	for _, step := range []struct {
		by   time.Duration
		code int
	}{{58 * time.Second, 200}, {2 * time.Second, 410}, {24 * time.Hour, 410}, {-24*time.Hour - 30*time.Second, 200}, {-48 * time.Hour, 200}} {
		h.clock.Step(step.by)
		if code, _, _ := get(t, h, link, nil); code != step.code {
			t.Errorf("after a step of %v: %d, want %d", step.by, code, step.code)
		}
	}
	t.Run("s3", func(t *testing.T) {
		h := s3House(t, Config{})
		o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(50))})
		must(t, err)
		link, err := h.URL(t.Context(), o.Key, 2*time.Second)
		must(t, err)
		if code, _, _ := get(t, h, link, nil); code != 200 {
			t.Errorf("fresh: %d", code)
		}
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(200 * time.Millisecond) {
			code, _, _ := get(t, h, link, nil)
			if code == 403 {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("18 s after its end the link gives %d", code)
			}
		}
	})
}

// send makes a Ticket's request.
func send(t testing.TB, h *house, ticket Ticket, body []byte) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), ticket.Method, h.absolute(ticket.URL), bytes.NewReader(body))
	must(t, err)
	for name, value := range ticket.Header {
		r.Header.Set(name, value)
	}
	a, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(r)
	if err != nil { // the server may close before it has read a body that it refuses
		return 400
	}
	defer a.Body.Close()
	_, _ = io.Copy(io.Discard, a.Body)
	return a.StatusCode
}

// TestDirect: a file sent straight to the store counts after Commit, as it was declared, once, and for its owner.
func TestDirect(t *testing.T) {
	on(t, func(t *testing.T, h *house) {
		data := pngOf(20_000)
		sum := sha256.Sum256(data)
		says := Declared{Size: int64(len(data)), Type: "image/png", Name: "a.png", SHA256: sum[:]}
		ticket, err := h.Direct(t.Context(), photos, "anna", says, time.Hour)
		must(t, err)
		_, err = h.Commit(t.Context(), photos, "anna", ticket.Token)
		wantCode(t, err, levee.CodeNotFound) // nothing was sent
		if code := send(t, h, ticket, data[:len(data)-1]); code < 400 {
			t.Errorf("fewer bytes than declared: %d", code)
		}
		if code := send(t, h, ticket, append(bytes.Clone(data), 1)); code < 400 {
			t.Errorf("more bytes than declared: %d", code)
		}
		_, err = h.Commit(t.Context(), photos, "anna", ticket.Token)
		wantCode(t, err, levee.CodeNotFound) // nothing of it was kept
		if code := send(t, h, ticket, data); code >= 300 {
			t.Fatalf("sending: %d", code)
		}
		if list, err := h.List(t.Context(), photos.Name, "", 10); err != nil || len(list) > 0 {
			t.Errorf("before Commit there is %v, %v", list, err)
		}
		for what, err := range map[string]error{
			"another owner": second(h.Commit(t.Context(), photos, "berta", ticket.Token)), "another use": second(h.Commit(t.Context(), papers, "anna", ticket.Token)),
			"a changed token": second(h.Commit(t.Context(), photos, "anna", flip(ticket.Token))), "no token": second(h.Commit(t.Context(), photos, "anna", "")),
		} {
			if levee.CodeOf(err) != levee.CodeForbidden {
				t.Errorf("%s: %v", what, err)
			}
		}
		o, err := h.Commit(t.Context(), photos, "anna", ticket.Token)
		must(t, err)
		if o.SHA256 != sum || o.Name != "a.png" || o.Key.use() != "photo" || !bytes.Equal(read(t, h, o.Key), data) {
			t.Errorf("%+v", o)
		}
		// The link still lives: what it brings now changes nothing.
		if code := send(t, h, ticket, pngOf(len(data))); code >= 300 {
			t.Errorf("sending again: %d", code)
		}
		again, err := h.Commit(t.Context(), photos, "anna", ticket.Token)
		if err != nil || again != o || !bytes.Equal(read(t, h, o.Key), data) {
			t.Errorf("the second Commit: %+v, %v", again, err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// TestDirectRefused: what was sent is not what was declared, or may not be at all; then nothing of it is left.
func TestDirectRefused(t *testing.T) {
	on(t, func(t *testing.T, h *house) {
		html := append([]byte("<html><script>alert(1)</script>"), bytes.Repeat([]byte(" "), 1000)...)
		sum := sha256.Sum256(pngOf(10))
		for what, test := range map[string]struct {
			data []byte
			sum  []byte
			code levee.Code
		}{"HTML as a picture": {html, nil, levee.CodeUnsupportedMedia}, "another hash": {pngOf(1000), sum[:], levee.CodeInvalid}} {
			ticket, err := h.Direct(t.Context(), photos, "anna", Declared{Size: int64(len(test.data)), Type: "image/png", SHA256: test.sum}, time.Hour)
			must(t, err)
			if code := send(t, h, ticket, test.data); code >= 300 {
				t.Fatalf("%s: sending: %d", what, code)
			}
			_, err = h.Commit(t.Context(), photos, "anna", ticket.Token)
			wantCode(t, err, test.code)
			if all := h.left(t); len(all) > 0 {
				t.Errorf("%s: left %q", what, all)
			}
		}
		for what, test := range map[string]struct {
			d        Declared
			lifetime time.Duration
			code     levee.Code
		}{
			"too large": {Declared{Size: 1 << 30, Type: "image/png"}, time.Hour, levee.CodeTooLarge}, "of no size": {Declared{Type: "image/png"}, time.Hour, levee.CodeInvalid},
			"of no type": {Declared{Size: 5}, time.Hour, levee.CodeUnsupportedMedia}, "HTML": {Declared{Size: 5, Type: "text/html"}, time.Hour, levee.CodeUnsupportedMedia},
			"half a hash": {Declared{Size: 5, Type: "image/png", SHA256: []byte{1}}, time.Hour, levee.CodeInvalid}, "for ever": {Declared{Size: 5, Type: "image/png"}, 1000 * time.Hour, levee.CodeInvalid},
		} {
			_, err := h.Direct(t.Context(), photos, "anna", test.d, test.lifetime)
			if levee.CodeOf(err) != test.code {
				t.Errorf("%s: %v", what, err)
			}
		}
	})
	h := folderHouse(t, Config{})
	ticket, err := h.Direct(t.Context(), photos, "anna", Declared{Size: 5, Type: "image/png"}, time.Minute)
	must(t, err)
	h.clock.Step(2 * time.Minute)
	if code := send(t, h, ticket, pngOf(5)); code != 410 {
		t.Errorf("sending too late: %d", code)
	}
	h.clock.Step(2 * time.Hour)
	_, err = h.Commit(t.Context(), photos, "anna", ticket.Token)
	wantCode(t, err, levee.CodeGone)
}

// TestStyles: the bucket stands in links as the style says, and links carry the address by which browsers reach the store.
func TestStyles(t *testing.T) {
	for style, want := range map[string]string{"path": "https://s3.example/files/shop/photo/", "": "https://s3.example/files/shop/photo/", "host": "https://files.s3.example/shop/photo/"} {
		at := S3Config{Endpoint: "http://10.0.0.1:9000", PublicEndpoint: "https://s3.example", Bucket: "files", Prefix: "shop/", Style: style, AccessKey: "a", SecretKey: "b", Region: "eu-central-1"}
		h := s3HouseAt(t, Config{}, at)
		link, err := h.URL(t.Context(), newKey("photo", ""), time.Minute)
		must(t, err)
		if !strings.HasPrefix(link, want) || !strings.Contains(link, "eu-central-1") {
			t.Errorf("%q: %s", style, link)
		}
	}
}
