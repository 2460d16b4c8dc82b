package blob

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	mathrand "math/rand/v2"
	"mime"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
)

// house is a store with what a test looks at from the side.
type house struct {
	*Store
	clock  *obs.StepClock // nil on S3, whose server has its own
	server *httptest.Server
	dir    string // of the folder; "" on S3
	s3     *s3
}

var testKey = bytes.Repeat([]byte{7}, 32)

func fail(w http.ResponseWriter, _ *http.Request, err error) {
	status := map[levee.Code]int{levee.CodeForbidden: 403, levee.CodeGone: 410, levee.CodeNotFound: 404, levee.CodeInvalid: 422, levee.CodeTooLarge: 413,
		levee.CodeMalformed: 400, levee.CodeUnavailable: 503}[levee.CodeOf(err)]
	http.Error(w, err.Error(), max(status, 400))
}

// serve mounts the store as the house does.
func (h *house) serve(t testing.TB) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path+"/{use}/{id}", h.Get)
	mux.HandleFunc("PUT "+Path+"/{use}/{id}", h.Take)
	h.server = httptest.NewServer(mux)
	t.Cleanup(h.server.Close)
}

// absolute is where a client finds a link.
func (h *house) absolute(link string) string {
	if strings.HasPrefix(link, "/") {
		return h.server.URL + link
	}
	return link
}

func folderHouse(t testing.TB, cfg Config) *house {
	h := &house{dir: filepath.Join(t.TempDir(), "files"), clock: obs.NewStepClock(time.Now())}
	o := obs.Test(t)
	o.Clock = h.clock.Now
	cfg.Fail = fail
	var err error
	if h.Store, err = OpenFolder(h.dir, cfg, testKey, o); err != nil {
		t.Fatal(err)
	}
	h.serve(t)
	return h
}

func s3Config(t testing.TB, server *backends.S3Server) S3Config {
	return S3Config{Endpoint: server.URL, Bucket: server.Bucket, Prefix: strings.ToLower(rand.Text()) + "/", AccessKey: server.AccessKey,
		SecretKey: obs.Secret(server.SecretKey), Style: "path"}
}

func s3House(t testing.TB, cfg Config) *house {
	server, err := backends.S3(context.Background())
	if backends.MaySkip(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s3HouseAt(t, cfg, s3Config(t, server))
}

func s3HouseAt(t testing.TB, cfg Config, at S3Config) *house {
	cfg.S3, cfg.Fail = at, fail
	h := &house{}
	var err error
	if h.Store, err = OpenS3(cfg, testKey, obs.Test(t)); err != nil {
		t.Fatal(err)
	}
	h.s3 = h.driver.(*s3)
	h.serve(t)
	return h
}

// on runs a test on every driver: one suite, written from the contract.
func on(t *testing.T, test func(t *testing.T, h *house)) { onWith(t, Config{}, test) }

func onWith(t *testing.T, cfg Config, test func(t *testing.T, h *house)) {
	t.Run("folder", func(t *testing.T) { test(t, folderHouse(t, cfg)) })
	t.Run("s3", func(t *testing.T) { test(t, s3House(t, cfg)) })
	t.Run("s3 behind the house", func(t *testing.T) {
		cfg := cfg
		cfg.S3.Links = "house"
		h := s3House(t, cfg)
		h.signer = nil // as Links = "house" has it; s3House sets its own S3Config
		test(t, h)
	})
}

func wantCode(t testing.TB, err error, code levee.Code) {
	t.Helper()
	if levee.CodeOf(err) != code {
		t.Errorf("want %q, got %q: %v", code, levee.CodeOf(err), err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var pngHead = []byte("\x89PNG\r\n\x1a\n")

// pngOf is n bytes that begin as a PNG and go on at random, so that nothing can compress or guess them.
func pngOf(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	copy(b, pngHead)
	return b
}

var (
	photos = Use{Name: "photo"}
	papers = Use{Name: "paper", Types: []string{"application/pdf", plainText}, Max: 1 << 20}
)

// left lists everything that the store keeps or has begun, with what no list shows.
func (h *house) left(t testing.TB) (all []string) {
	t.Helper()
	if h.dir != "" {
		must(t, filepath.WalkDir(h.dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				all = append(all, name)
			}
			return err
		}))
		return all
	}
	for _, use := range []string{"photo", "paper", "avatar", incoming} {
		list, err := h.driver.list(t.Context(), use+"/", "", listMost)
		must(t, err)
		for _, e := range list {
			all = append(all, string(e.Key))
		}
	}
	for u := range h.s3.client.ListIncompleteUploads(t.Context(), h.s3.bucket, h.s3.prefix, true) {
		must(t, u.Err)
		all = append(all, "unfinished "+u.Key)
	}
	return all
}

func read(t testing.TB, h *house, k Key) []byte {
	t.Helper()
	f, err := h.Open(t.Context(), k)
	must(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	must(t, err)
	return b
}

// TestPutAndGet: what went in comes out, at the borders of every buffer on the way.
func TestPutAndGet(t *testing.T) {
	on(t, func(t *testing.T, h *house) {
		sizes := []int{8, sniffed - 1, sniffed, sniffed + 1, 128<<10 - 1, 128 << 10, 128<<10 + 1, s3Memory - 1, s3Memory, s3Memory + 1, s3Part + 5}
		if testing.Short() {
			sizes = sizes[:len(sizes)-1]
		}
		for _, n := range sizes {
			data := pngOf(n)
			before := h.Store.clock().Add(-time.Second)
			o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(data), Size: int64(n), Type: "image/png", Name: "Grüße.png"})
			must(t, err)
			if o.Size != int64(n) || o.SHA256 != sha256.Sum256(data) || o.Type != "image/png" || o.Name != "Grüße.png" || o.Created.Before(before) {
				t.Errorf("%d bytes: %+v", n, o)
			}
			if s, err := h.Stat(t.Context(), o.Key); err != nil || s != o {
				t.Errorf("%d bytes: Stat gives %+v, %v; Put gave %+v", n, s, err, o)
			}
			if !bytes.Equal(read(t, h, o.Key), data) {
				t.Errorf("%d bytes come out as others", n)
			}
			must(t, h.Delete(t.Context(), o.Key))
		}
		if all := h.left(t); len(all) > 0 {
			t.Errorf("left: %q", all)
		}
		// A driver keeps nothing, too.
		o := Object{Key: newKey("photo", ""), Type: "image/png", Created: time.Now().Truncate(time.Microsecond)}
		must(t, h.driver.put(t.Context(), &o, newMeter(t.Context(), Upload{Body: strings.NewReader("")}, 0)))
		if got := read(t, h, o.Key); len(got) != 0 || o.SHA256 != sha256.Sum256(nil) {
			t.Errorf("an empty object has %d bytes and the hash %x", len(got), o.SHA256)
		}
	})
}

// TestRefusedUploads: every refusal has its code, and leaves nothing anywhere.
func TestRefusedUploads(t *testing.T) {
	onWith(t, Config{Max: 2 << 20}, func(t *testing.T, h *house) {
		canceled, cancel := context.WithCancel(t.Context())
		for name, test := range map[string]struct {
			u    Upload
			code levee.Code
		}{
			"over the store's limit":        {Upload{Use: photos, Body: bytes.NewReader(pngOf(2<<20 + 1))}, levee.CodeTooLarge},
			"far over, without an end":      {Upload{Use: photos, Body: io.MultiReader(bytes.NewReader(pngHead), endless{})}, levee.CodeTooLarge},
			"over the use's limit":          {Upload{Use: papers, Body: strings.NewReader("%PDF-" + strings.Repeat("x", 1<<20))}, levee.CodeTooLarge},
			"announced as too large":        {Upload{Use: photos, Body: iotest.ErrReader(errors.New("was read")), Size: 3 << 20}, levee.CodeTooLarge},
			"empty":                         {Upload{Use: photos, Body: strings.NewReader("")}, levee.CodeInvalid},
			"HTML as a picture":             {Upload{Use: photos, Body: strings.NewReader("<html><script>alert(1)</script>"), Type: "image/png"}, levee.CodeUnsupportedMedia},
			"SVG":                           {Upload{Use: photos, Body: strings.NewReader(`<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>`), Type: "image/svg+xml"}, levee.CodeUnsupportedMedia},
			"SVG with a prologue":           {Upload{Use: photos, Body: strings.NewReader(`<?xml version="1.0"?><svg/>`)}, levee.CodeUnsupportedMedia},
			"PNG where papers are taken":    {Upload{Use: papers, Body: bytes.NewReader(pngOf(100))}, levee.CodeUnsupportedMedia},
			"PNG said to be JPEG":           {Upload{Use: photos, Body: bytes.NewReader(pngOf(100)), Type: "image/jpeg"}, levee.CodeUnsupportedMedia},
			"an unreadable type":            {Upload{Use: photos, Body: bytes.NewReader(pngOf(100)), Type: "///"}, levee.CodeUnsupportedMedia},
			"fewer bytes than announced":    {Upload{Use: photos, Body: bytes.NewReader(pngOf(100)), Size: 101}, levee.CodeMalformed},
			"more bytes than announced":     {Upload{Use: photos, Body: bytes.NewReader(pngOf(100)), Size: 99}, levee.CodeMalformed},
			"another hash":                  {Upload{Use: photos, Body: bytes.NewReader(pngOf(100)), SHA256: make([]byte, 32)}, levee.CodeInvalid},
			"a body that breaks off":        {Upload{Use: photos, Body: io.MultiReader(bytes.NewReader(pngOf(1<<20+5000)), iotest.ErrReader(io.ErrUnexpectedEOF))}, levee.CodeMalformed},
			"a body that breaks off early":  {Upload{Use: photos, Body: io.MultiReader(bytes.NewReader(pngOf(600)), iotest.ErrReader(errors.New("reset")))}, levee.CodeMalformed},
			"a body past the server's mark": {Upload{Use: photos, Body: io.MultiReader(bytes.NewReader(pngOf(600)), iotest.ErrReader(&http.MaxBytesError{Limit: 600}))}, levee.CodeTooLarge},
		} {
			_, err := h.Put(t.Context(), test.u)
			if levee.CodeOf(err) != test.code {
				t.Errorf("%s: want %q, got %q: %v", name, test.code, levee.CodeOf(err), err)
			}
			if all := h.left(t); len(all) > 0 {
				t.Fatalf("%s: left %q", name, all)
			}
		}
		_, err := h.Put(canceled, Upload{Use: photos, Body: io.MultiReader(bytes.NewReader(pngOf(2000)), act(cancel), bytes.NewReader(pngOf(2000)))})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("canceled in the middle: %v", err)
		}
		if all := h.left(t); len(all) > 0 {
			t.Errorf("canceled in the middle: left %q", all)
		}
		// The control: the same with nothing wrong is stored, exactly at the limit, and left shows it.
		_, err = h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(2 << 20)), Type: "image/png; charset=x"})
		must(t, err)
		if all := h.left(t); len(all) != 1 {
			t.Errorf("left does not show what is stored: %q", all)
		}
		var e *levee.Error
		_, err = h.Put(t.Context(), Upload{Use: photos, Body: strings.NewReader("<html>")})
		if !errors.As(err, &e) || len(e.Fields) != 1 || !strings.Contains(e.Fields[0].Allowed, "image/webp") || e.Fields[0].Given != "text/html" {
			t.Errorf("the refusal does not say what is allowed and what came: %+v", e)
		}
	})
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

type act func()

func (a act) Read([]byte) (int, error) {
	a()
	return 0, io.EOF
}

// TestKeysAndNames: no key and no name from outside leads anywhere.
func TestKeysAndNames(t *testing.T) {
	on(t, func(t *testing.T, h *house) {
		id := newID()
		for _, k := range []Key{"", "/", "photo", "photo/", "../../etc/passwd", "photo/../../" + Key(id), Key("photo/" + id + "/x"), Key("photo/" + id[1:]), Key("photo/" + id + "."),
			Key("Photo/" + id), Key("photo/" + strings.ToUpper(id)), Key("photo/" + id + ".a.b"), Key("photo/" + id + "\x00"), Key("photo/" + id + "\n"), Key(".tmp/" + id), Key(strings.Repeat("a", 100_000))} {
			_, statErr := h.Stat(t.Context(), k)
			_, openErr := h.Open(t.Context(), k)
			_, urlErr := h.URL(t.Context(), k, time.Minute)
			_, parseErr := ParseKey(string(k))
			for what, err := range map[string]error{"Stat": statErr, "Open": openErr, "Delete": h.Delete(t.Context(), k), "URL": urlErr, "ParseKey": parseErr} {
				if levee.CodeOf(err) != levee.CodeNotFound {
					t.Errorf("%s(%.40q): %v", what, k, err)
				}
			}
		}
		_, err := h.Stat(t.Context(), newKey("photo", ""))
		wantCode(t, err, levee.CodeNotFound)
		_, err = h.Open(t.Context(), newKey("photo", ""))
		wantCode(t, err, levee.CodeNotFound)
		for _, name := range oddNames {
			o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(20)), Name: name})
			must(t, err)
			s, err := h.Stat(t.Context(), o.Key)
			must(t, err)
			if o.Key.check() != nil || s.Name != o.Name {
				t.Errorf("%.40q became %q at %s, read as %q", name, o.Name, o.Key, s.Name)
			}
			must(t, h.Delete(t.Context(), o.Key))
		}
	})
	// The id of a key is 130 random bits: none comes twice, none tells of another.
	seen := map[Key]bool{}
	for range 1000 {
		k := newKey("photo", "")
		if seen[k] || k.check() != nil {
			t.Fatalf("the key %s comes twice or is none", k)
		}
		seen[k] = true
	}
}

var oddNames = []string{"", ".", "..", "...", "/", `\`, "a/b/../../c.png", `C:\Windows\evil.exe`, "x\x00.png", "x\r\nSet-Cookie: a=b.png", `a";b="c.png`, "a.png.html", "\u202egnp.exe", "\xff\xfe.png",
	strings.Repeat("ü", 5000) + ".png", "CON", "名前 写真.png", "a%2e%2e.png", "🎉.PNG", " . .png", "a.JPG"}

// TestNamesAreHarmless: whatever somebody calls a file, the header has one parameter, and the name on somebody's disk is in no other folder
// and says what the bytes are.
func TestNamesAreHarmless(t *testing.T) {
	for _, name := range oddNames {
		got := cleanName(name, "image/png")
		if strings.ContainsAny(got, "/\\\x00\r\n\":<>|?*%\u202e") || strings.HasPrefix(got, ".") || len([]rune(got)) > nameRunes+len(".png") || got != "" && !strings.HasSuffix(strings.ToLower(got), ".png") {
			t.Errorf("%.40q became %q", name, got)
		}
		o := Object{Type: "image/png", Name: got}
		d, p, err := mime.ParseMediaType(disposition(o))
		if err != nil || d != "inline" || p["filename"] != got || len(p) > 1 {
			t.Errorf("%.40q: %q, %v", name, disposition(o), err)
		}
		if h := disposition(o); strings.ContainsFunc(h, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("%.40q: the header %q", name, h)
		}
	}
	if d := disposition(Object{Type: plainText, Name: "a.txt"}); !strings.HasPrefix(d, attachment) {
		t.Errorf("text is shown in a page: %q", d)
	}
	if got := cleanName("photo.png", "image/png"); got != "photo.png" {
		t.Errorf("a plain name became %q", got)
	}
}

// TestSeek: reading from anywhere gives what stands there.
func TestSeek(t *testing.T) {
	on(t, func(t *testing.T, h *house) {
		data := pngOf(300_000)
		o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(data)})
		must(t, err)
		f, err := h.Open(t.Context(), o.Key)
		must(t, err)
		random := mathrand.New(mathrand.NewPCG(1, 2))
		for range 15 {
			at, n := random.IntN(len(data)), random.IntN(5000)
			_, err := f.Seek(int64(at), io.SeekStart)
			must(t, err)
			got := make([]byte, n)
			n, err = io.ReadFull(f, got)
			if err != nil && at+len(got) <= len(data) {
				t.Fatalf("%d from %d: %v", len(got), at, err)
			}
			if !bytes.Equal(got[:n], data[at:at+n]) {
				t.Fatalf("%d from %d are others", n, at)
			}
		}
		for _, at := range []int64{o.Size, o.Size + 5} {
			_, err = f.Seek(at, io.SeekStart)
			must(t, err)
			if n, err := f.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Errorf("at %d of %d: %d, %v", at, o.Size, n, err)
			}
		}
		if end, err := f.Seek(-1, io.SeekEnd); err != nil || end != o.Size-1 {
			t.Errorf("the last byte is at %d, %v", end, err)
		}
		if _, err := f.Seek(-1, io.SeekStart); err == nil {
			t.Error("one can seek before the beginning")
		}
		must(t, iotest.TestReader(readSeeker{f}, data[f.at:])) // which goes on from there
		must(t, f.Close())
		if _, err := f.Read(make([]byte, 1)); err == nil {
			t.Error("a closed file is read")
		}
	})
}

// readSeeker shows a reader only: TestReader would take Seek for one to the beginning of what it is given.
type readSeeker struct{ r io.Reader }

func (r readSeeker) Read(p []byte) (int, error) { return r.r.Read(p) }

// TestList: pages hold every file once, in order, and nobody else's.
func TestList(t *testing.T) {
	on(t, func(t *testing.T, h *house) {
		var want []Key
		for i := range 23 {
			use := photos
			if i%4 == 3 {
				use = Use{Name: "photo_b", Types: []string{"image/png"}}
			}
			o, err := h.Put(t.Context(), Upload{Use: use, Body: bytes.NewReader(pngOf(100 + i))})
			must(t, err)
			if use.Name == "photo" {
				want = append(want, o.Key)
			}
		}
		slices.Sort(want)
		var got []Key
		for after := Key(""); ; {
			page, err := h.List(t.Context(), "photo", after, 4)
			must(t, err)
			for _, e := range page {
				got = append(got, e.Key)
				after = e.Key
				if e.Size < 100 || time.Since(e.Created).Abs() > time.Hour {
					t.Errorf("%+v", e)
				}
			}
			if len(page) < 4 {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		if list, err := h.List(t.Context(), "nothing", "", 10); err != nil || len(list) != 0 {
			t.Errorf("a use without files: %v, %v", list, err)
		}
		_, err := h.List(t.Context(), "../x", "", 10)
		wantCode(t, err, levee.CodeInvalid)
		_, err = h.List(t.Context(), "photo", "../../etc", 10)
		wantCode(t, err, levee.CodeInvalid)
		_, err = h.List(t.Context(), "photo", "", 1001)
		wantCode(t, err, levee.CodeInvalid)
	})
}

// TestDelete: what is deleted is gone, with its sizes and nothing else, and can be deleted again.
func TestDelete(t *testing.T) {
	on(t, func(t *testing.T, h *house) {
		put := func(k Key) {
			o := Object{Key: k, Type: "image/png", Created: time.Now()}
			must(t, h.driver.put(t.Context(), &o, newMeter(t.Context(), Upload{Body: bytes.NewReader(pngOf(50))}, 50)))
		}
		a, b := newKey("photo", ""), newKey("photo", "")
		for _, k := range []Key{a.Of("small"), a.Of("large"), b.Of("small"), b} {
			put(k)
		}
		must(t, h.Delete(t.Context(), a))
		must(t, h.Delete(t.Context(), a))
		for _, k := range []Key{a.Of("small"), a.Of("large")} {
			_, err := h.Stat(t.Context(), k)
			wantCode(t, err, levee.CodeNotFound)
		}
		must(t, h.Delete(t.Context(), b.Of("small")))
		if got := read(t, h, b); len(got) != 50 {
			t.Errorf("the other one has %d bytes", len(got))
		}
		link, err := h.URL(t.Context(), b, time.Minute)
		must(t, err)
		if code, _, _ := get(t, h, link, nil); code != 200 {
			t.Errorf("the link to what is there: %d", code)
		}
		must(t, h.Delete(t.Context(), b))
		if code, _, _ := get(t, h, link, nil); code != 404 {
			t.Errorf("the link to what is gone: %d", code)
		}
	})
}

func get(t testing.TB, h *house, link string, header http.Header) (int, http.Header, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.absolute(link), nil)
	must(t, err)
	if header != nil {
		r.Header = header
	}
	a, err := http.DefaultClient.Do(r)
	must(t, err)
	defer a.Body.Close()
	body, err := io.ReadAll(a.Body)
	must(t, err)
	return a.StatusCode, a.Header, body
}

// whole says whether writers of one key and readers beside them ever see anything but one writer's bytes as a whole.
func whole(t testing.TB, d driver, writers, rounds int) error {
	k := newKey("photo", "")
	versions := make([][]byte, writers)
	sums := map[[32]byte]bool{}
	for i := range versions {
		versions[i] = pngOf(200_000 + 1000*i)
		sums[sha256.Sum256(versions[i])] = true
	}
	var writing, reading sync.WaitGroup
	done := make(chan struct{})
	failures := make(chan error, 100)
	tell := func(err error) {
		select {
		case failures <- err:
		default:
		}
	}
	for i := range writers {
		writing.Go(func() {
			for range rounds {
				o := Object{Key: k, Type: "image/png", Created: time.Now()}
				if err := d.put(t.Context(), &o, newMeter(t.Context(), Upload{Body: bytes.NewReader(versions[i])}, 1<<20)); err != nil {
					tell(fmt.Errorf("put: %w", err))
				}
			}
		})
	}
	reading.Go(func() {
		for {
			o, body, err := d.get(t.Context(), k, 0, true)
			if err == nil {
				text, readErr := io.ReadAll(body)
				if sum := sha256.Sum256(text); readErr != nil || sum != o.SHA256 || !sums[sum] {
					tell(fmt.Errorf("a reader got %d bytes of %d, %v", len(text), o.Size, readErr))
				}
				_ = body.Close()
			} else if levee.CodeOf(err) != levee.CodeNotFound {
				tell(fmt.Errorf("get: %w", err))
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	writing.Wait()
	close(done)
	reading.Wait()
	close(failures)
	return <-failures
}

// TestConcurrentPutsOfOneKey: of writers at once one wins as a whole, and readers see one of them at every moment.
func TestConcurrentPutsOfOneKey(t *testing.T) {
	on(t, func(t *testing.T, h *house) {
		if err := whole(t, h.driver, 6, 5); err != nil {
			t.Error(err)
		}
	})
	t.Run("control", func(t *testing.T) { // a driver that writes where it will be read is found out
		h := folderHouse(t, Config{})
		if err := whole(t, inPlace{h.driver.(*folder)}, 6, 5); err == nil {
			t.Error("a driver that writes in place passes for whole")
		}
	})
}

// inPlace is a folder without the rename.
type inPlace struct{ *folder }

func (d inPlace) put(ctx context.Context, o *Object, m *meter) error {
	aside := Object{Key: newKey("aside", ""), Type: o.Type, Created: o.Created}
	if err := d.folder.put(ctx, &aside, m); err != nil {
		return err
	}
	text, err := fs.ReadFile(d.root.FS(), d.path(aside.Key))
	if err != nil {
		return err
	}
	if err := d.root.MkdirAll(path.Dir(d.path(o.Key)), 0o700); err != nil {
		return err
	}
	w, err := d.root.OpenFile(d.path(o.Key), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	for len(text) > 0 {
		n := min(10_000, len(text))
		if _, err := w.Write(text[:n]); err != nil {
			return err
		}
		text = text[n:]
		time.Sleep(time.Millisecond) // long enough for a reader to see the half, whatever the machine does
	}
	return w.Close()
}

// TestCheck: the store's own examination leaves nothing.
func TestCheck(t *testing.T) {
	on(t, func(t *testing.T, h *house) {
		must(t, h.Check(t.Context()))
		if all := h.left(t); len(all) != 0 {
			t.Errorf("left: %q", all)
		}
	})
}

// TestSweep: old leftovers go, young ones and files stay.
func TestSweep(t *testing.T) {
	on(t, func(t *testing.T, h *house) {
		o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(50))})
		must(t, err)
		sent := Object{Key: newKey(incoming, ""), Type: "image/png"}
		must(t, h.driver.put(t.Context(), &sent, newMeter(t.Context(), Upload{Body: bytes.NewReader(pngOf(50))}, 50)))
		if h.dir != "" {
			must(t, os.WriteFile(filepath.Join(h.dir, unfinished, newID()), []byte("half"), 0o600))
		} else {
			_, err := h.s3.core.NewMultipartUpload(t.Context(), h.s3.bucket, h.s3.name(newKey("photo", "")), putOptions())
			must(t, err)
		}
		if n, err := h.Sweep(t.Context()); n != 0 || err != nil || len(h.left(t)) != 3 {
			t.Fatalf("young leftovers: %d, %v; there are %q", n, err, h.left(t))
		}
		if n, err := h.driver.sweep(t.Context(), time.Now().Add(time.Minute)); n != 1 || err != nil {
			t.Errorf("unfinished writes, when they are old: %d, %v", n, err)
		}
		if h.dir != "" { // S3 has its own clock; the list's part of the sweep is the same
			old := time.Now().Add(-leftoverAge - time.Minute)
			must(t, os.Chtimes(filepath.Join(h.dir, filepath.FromSlash(h.driver.(*folder).path(sent.Key))), old, old))
			if n, err := h.Sweep(t.Context()); n != 1 || err != nil {
				t.Errorf("what nobody committed: %d, %v", n, err)
			}
		} else {
			must(t, h.driver.remove(t.Context(), sent.Key))
		}
		if all := h.left(t); len(all) != 1 {
			t.Errorf("left: %q", all)
		}
		if !slices.Equal(read(t, h, o.Key)[:8], pngHead) {
			t.Error("the file is gone")
		}
	})
}

// TestDamage: a file that the disk has changed or shortened is never taken for the one that was stored.
func TestDamage(t *testing.T) {
	h := folderHouse(t, Config{})
	o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(5000))})
	must(t, err)
	name := filepath.Join(h.dir, filepath.FromSlash(h.driver.(*folder).path(o.Key)))
	good, err := os.ReadFile(name)
	must(t, err)
	if !bytes.HasPrefix(good, pngHead) || !bytes.Contains(good, []byte(hex.EncodeToString(o.SHA256[:]))) {
		t.Fatal("the file is not the bytes with what is known of them behind")
	}
	for what, bad := range map[string][]byte{"empty": nil, "shortened": good[:len(good)-1], "cut in the bytes": good[:3000], "a byte missing": good[1:], "longer": append(slices.Clone(good), 0),
		"other metadata": bytes.Replace(good, []byte(`"type":"image/png"`), []byte(`"type":"text/html"`), 1)} {
		must(t, os.WriteFile(name, bad, 0o600))
		if _, err := h.Stat(t.Context(), o.Key); levee.CodeOf(err) != levee.CodeInternal {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, os.WriteFile(name, good, 0o600))
	if _, err := h.Stat(t.Context(), o.Key); err != nil {
		t.Errorf("the control: %v", err)
	}
}

// TestFolderKeepsToItself: a link that somebody put into the folder leads nowhere, and files are not for everybody.
func TestFolderKeepsToItself(t *testing.T) {
	h := folderHouse(t, Config{})
	o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(50))})
	must(t, err)
	name := filepath.Join(h.dir, filepath.FromSlash(h.driver.(*folder).path(o.Key)))
	info, err := os.Stat(name)
	must(t, err)
	if info.Mode().Perm()&0o037 != 0 {
		t.Errorf("the file's mode is %v", info.Mode())
	}
	for dir := filepath.Dir(name); dir != h.dir; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o027 != 0 {
			t.Errorf("the mode of the folder %s is %v, %v", dir, info.Mode(), err)
		}
	}
	outside := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(outside, []byte("secret"), 0o600))
	must(t, os.Remove(name))
	if err := os.Symlink(outside, name); err != nil {
		t.Skip(err)
	}
	if f, err := h.Open(t.Context(), o.Key); err == nil {
		text, _ := io.ReadAll(f)
		t.Errorf("the link was followed: %q", text)
	}
}

// TestConfig: what cannot be is said with field, what is allowed and what was given, and a secret is never repeated.
func TestConfig(t *testing.T) {
	good := S3Config{Endpoint: "https://s3.example", Bucket: "files", AccessKey: "a", SecretKey: "hush-hush"}
	for name, change := range map[string]func(*Config){
		"files.max":                func(c *Config) { c.Max = 5 },
		"files.pixels":             func(c *Config) { c.Pixels = -1 },
		"files.s3.endpoint":        func(c *Config) { c.S3.Endpoint = "s3.example" },
		"files.s3.public_endpoint": func(c *Config) { c.S3.PublicEndpoint = "https://user:hush-hush@s3.example/x" },
		"files.s3.bucket":          func(c *Config) { c.S3.Bucket = "A" },
		"files.s3.prefix":          func(c *Config) { c.S3.Prefix = "../x/" },
		"files.s3.style":           func(c *Config) { c.S3.Style = "x" },
		"files.s3.links":           func(c *Config) { c.S3.Links = "x" },
		"files.s3.timeout":         func(c *Config) { c.S3.Timeout = time.Millisecond },
		"files.s3.access_key":      func(c *Config) { c.S3.AccessKey = "" },
	} {
		c := Config{S3: good}
		change(&c)
		_, err := OpenS3(c, testKey, obs.Test(t))
		if levee.CodeOf(err) != levee.CodeInvalid || !strings.Contains(err.Error(), name) || strings.Contains(fmt.Sprintf("%v %+v", err, c), "hush") && name != "files.s3.public_endpoint" {
			t.Errorf("%s: %v", name, err)
		}
		if strings.Contains(fmt.Sprint(err), "hush") {
			t.Errorf("%s: the error repeats a secret: %v", name, err)
		}
	}
	if _, err := OpenS3(Config{S3: good}, testKey, obs.Test(t)); err != nil {
		t.Errorf("the control: %v", err)
	}
	if _, err := OpenS3(Config{S3: good}, nil, obs.Test(t)); err == nil {
		t.Error("links are signed with nothing")
	}
}
