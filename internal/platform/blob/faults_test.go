package blob

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/backends"
	"levee/internal/platform/obs"
)

// faulty is a store behind a proxy, and the same store seen from the side where nothing is wrong.
func faulty(t *testing.T, timeout time.Duration) (h, calm *house, proxy *backends.Proxy, server *backends.S3Server) {
	server, err := backends.StartS3(t.Context())
	if backends.MaySkip(err) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { _ = server.Close() })
	proxy, err = backends.StartProxy(t.Context(), server.Addr())
	must(t, err)
	t.Cleanup(func() { _ = proxy.Close() })
	at := s3Config(t, server)
	calm = s3HouseAt(t, Config{}, at)
	at.Endpoint, at.Timeout = "http://"+proxy.Addr, timeout
	return s3HouseAt(t, Config{}, at), calm, proxy, server
}

// within fails when a call takes longer than somebody would wait.
func within(t *testing.T, limit time.Duration, what string, call func() error) error {
	t.Helper()
	start := time.Now()
	err := call()
	if took := time.Since(start); took > limit {
		t.Errorf("%s took %v", what, took)
	}
	return err
}

// TestS3Away: a store that is gone or silent is said to be away, soon and without a word of what is secret; when it is back all goes on.
func TestS3Away(t *testing.T) {
	t.Parallel() // they wait
	h, calm, proxy, _ := faulty(t, time.Second)
	data := pngOf(50_000)
	o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(data)})
	must(t, err)
	for what, fault := range map[string]func(){
		"down":                func() { proxy.Down() },
		"silent":              func() { must(t, proxy.Silence(true)) },
		"answers are dropped": func() { must(t, proxy.DropAnswers(true)) },
	} {
		fault()
		var calls sync.WaitGroup
		for call, f := range map[string]func() error{
			"Put": func() error {
				_, err := h.Put(t.Context(), Upload{Use: papers, Body: strings.NewReader("some words")})
				return err
			},
			"Stat":   func() error { return second(h.Stat(t.Context(), o.Key)) },
			"Open":   func() error { return second(h.Open(t.Context(), o.Key)) },
			"Delete": func() error { return h.Delete(t.Context(), newKey("photo", "")) },
			"List":   func() error { return second(h.List(t.Context(), "photo", "", 5)) },
			"Check":  func() error { return h.Check(t.Context()) },
		} {
			calls.Go(func() {
				err := within(t, 20*time.Second, what+": "+call, f)
				var e *levee.Error
				if levee.CodeOf(err) != levee.CodeUnavailable || !errors.As(err, &e) || e.RetryAfter <= 0 {
					t.Errorf("%s: %s: %v", what, call, err)
					return
				}
				if text := err.Error(); strings.Contains(text, "Signature") || strings.Contains(text, "X-Amz") || strings.Contains(text, "AWS4") || strings.Contains(text, "http://") {
					t.Errorf("%s: %s says too much: %v", what, call, err)
				}
			})
		}
		calls.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if err := within(t, 5*time.Second, what, func() error { return second(h.Stat(ctx, o.Key)) }); levee.CodeOf(err) != levee.CodeTimeout && levee.CodeOf(err) != levee.CodeUnavailable {
			t.Errorf("%s, with a deadline: %v", what, err)
		}
		cancel()
		must(t, proxy.Heal())
		if got := read(t, h, o.Key); !bytes.Equal(got, data) {
			t.Errorf("after %s: %d bytes", what, len(got))
		}
	}
	if list, err := calm.List(t.Context(), "photo", "", 5); err != nil || len(list) != 1 {
		t.Errorf("there are %v, %v", list, err)
	}
}

// TestS3BreaksOff: a connection that breaks while a file is read costs nothing but time; one that always breaks is an error, never a shorter file.
func TestS3BreaksOff(t *testing.T) {
	t.Parallel() // they wait
	h, _, proxy, _ := faulty(t, 2*time.Second)
	data := pngOf(400_000)
	o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(data)})
	must(t, err)
	must(t, proxy.LimitAnswers(60_000))
	_, body, err := h.driver.get(t.Context(), o.Key, 0, true) // the control: the fault is there
	must(t, err)
	if got, err := io.ReadAll(body); err == nil || len(got) >= len(data) {
		t.Errorf("nothing breaks: %d bytes, %v", len(got), err)
	}
	must(t, body.Close())
	if got := read(t, h, o.Key); !bytes.Equal(got, data) {
		t.Errorf("read over broken connections: %d bytes of %d", len(got), len(data))
	}
	h.signer = nil
	link, err := h.URL(t.Context(), o.Key, time.Minute)
	must(t, err)
	if code, _, got := get(t, h, link, http.Header{"Range": {"bytes=1000-300000"}}); code != 206 || !bytes.Equal(got, data[1000:300_001]) {
		t.Errorf("served over broken connections: %d, %d bytes", code, len(got))
	}
	must(t, proxy.Heal())
	must(t, proxy.Bandwidth(100)) // or all of it may be on this side already
	f, err := h.Open(t.Context(), o.Key)
	must(t, err)
	defer f.Close()
	must(t, second(io.ReadFull(f, make([]byte, 1000))))
	proxy.Down()
	got, err := io.ReadAll(f)
	if levee.CodeOf(err) != levee.CodeUnavailable || len(got) >= len(data)-1000 {
		t.Errorf("from a store that is gone: %d bytes, %v", len(got), err)
	}
}

// TestS3FallsSilent: a store that stops in the middle of a body is not waited for, neither by a reader nor by a writer whose bytes it does not take.
func TestS3FallsSilent(t *testing.T) {
	t.Parallel() // they wait
	h, calm, proxy, server := faulty(t, time.Second)
	data := pngOf(1_000_000)
	o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(data)})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	must(t, proxy.Bandwidth(100))
	f, err := h.Open(ctx, o.Key)
	must(t, err)
	defer f.Close()
	must(t, second(io.ReadFull(f, make([]byte, 1000))))
	must(t, proxy.Silence(true))
	got, err := io.ReadAll(f)
	if levee.CodeOf(err) != levee.CodeUnavailable || len(got) >= len(data)-1000 {
		t.Errorf("reading: %d bytes, %v", len(got), err)
	}
	must(t, proxy.Heal())
	at := calm.config.S3
	at.Timeout = time.Second
	direct := s3HouseAt(t, Config{}, at)
	must(t, server.Pause())
	_, err = direct.Put(ctx, Upload{Use: photos, Body: bytes.NewReader(pngOf(15 << 20))}) // more than the buffers on the way hold
	wantCode(t, err, levee.CodeUnavailable)
	must(t, server.Resume())
	if got := read(t, calm, o.Key); !bytes.Equal(got, data) {
		t.Errorf("afterwards: %d bytes", len(got))
	}
}

// TestS3SlowAndCut: a slow network is waited for as long as something moves; a put that is cut is sent again or leaves nothing; a crash of the
// store loses nothing that it acknowledged.
func TestS3SlowAndCut(t *testing.T) {
	t.Parallel() // they wait
	h, calm, proxy, server := faulty(t, time.Second)
	data := pngOf(900_000)
	o, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(data)})
	must(t, err)
	must(t, proxy.Bandwidth(400))
	start := time.Now()
	if got := read(t, h, o.Key); !bytes.Equal(got, data) || time.Since(start) < 2*time.Second { // of a store that may be silent for one
		t.Errorf("read slowly: %d bytes in %v", len(got), time.Since(start))
	}
	at := h.config.S3
	at.Timeout = 5 * time.Second
	must(t, proxy.Bandwidth(2000)) // what the buffers on the way hold must pass within the limit, too
	long := pngOf(15_000_000)      // seven seconds
	start = time.Now()
	slow, err := s3HouseAt(t, Config{}, at).Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(long)})
	if took := time.Since(start); err != nil || took < 6*time.Second {
		t.Errorf("written slowly: %v after %v", err, took)
	}
	must(t, calm.Delete(t.Context(), slow.Key))
	must(t, proxy.Bandwidth(400))
	at.Timeout = 10 * time.Second
	waits := s3HouseAt(t, Config{}, at)
	cut := func(how func()) error {
		done := make(chan error, 1)
		go func() { done <- second(waits.Put(t.Context(), Upload{Use: avatars, Body: bytes.NewReader(data)})) }()
		time.Sleep(700 * time.Millisecond)
		how()
		return <-done
	}
	if err := cut(proxy.ResetPeer); err != nil {
		t.Errorf("a put whose connection was reset: %v", err)
	}
	wantCode(t, cut(proxy.Down), levee.CodeUnavailable)
	must(t, proxy.Heal())
	if all := calm.left(t); len(all) != 2 {
		t.Errorf("there are %q", all)
	}
	must(t, server.Kill())
	must(t, server.Restart(t.Context()))
	if got := read(t, h, o.Key); !bytes.Equal(got, data) {
		t.Errorf("after a crash: %d bytes", len(got))
	}
}

// TestS3Refuses: wrong credentials and buckets are the operator's to see, in the log, and are not shown to visitors.
func TestS3Refuses(t *testing.T) {
	server, err := backends.S3(t.Context())
	if backends.MaySkip(err) {
		t.Skip(err)
	}
	must(t, err)
	for what, change := range map[string]func(*S3Config){
		"a wrong secret":   func(c *S3Config) { c.SecretKey = "hush-hush-hush" },
		"a wrong key":      func(c *S3Config) { c.AccessKey = "nobody" },
		"no such bucket":   func(c *S3Config) { c.Bucket = "not-there" },
		"the wrong region": func(c *S3Config) { c.Region = "mars-1" },
	} {
		at := s3Config(t, server)
		change(&at)
		h := s3HouseAt(t, Config{}, at)
		for call, err := range map[string]error{"Check": h.Check(t.Context()), "Put": second(h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(pngOf(50))})), "List": second(h.List(t.Context(), "photo", "", 5))} {
			if levee.CodeOf(err) != levee.CodeInternal || strings.Contains(err.Error(), "hush") || strings.Contains(err.Error(), server.SecretKey) {
				t.Errorf("%s: %s: %v", what, call, err)
			}
		}
	}
}

// TestS3Busy: a store that is busy is asked again, and then said to be away; one that is full is said to be full.
func TestS3Busy(t *testing.T) {
	var asked, busy, status int
	said := ""
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if asked++; asked <= busy {
			w.Header().Set("Content-Type", "application/xml")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "<Error><Code>"+said+"</Code><Message>not now</Message></Error>")
			return
		}
		w.Header().Set("ETag", `"0"`)
	}))
	defer server.Close()
	h := s3HouseAt(t, Config{}, S3Config{Endpoint: server.URL, Bucket: "files", AccessKey: "a", SecretKey: obs.Secret("b"), Style: "path"})
	for _, test := range []struct {
		busy, status int
		said         string
		code         levee.Code
	}{{2, 503, "SlowDown", ""}, {100, 503, "SlowDown", levee.CodeUnavailable}, {1, 507, "InsufficientCapacity", levee.CodeUnavailable}, {100, 403, "AccessDenied", levee.CodeInternal}, {100, 404, "NoSuchBucket", levee.CodeInternal}} {
		asked, busy, status, said = 0, test.busy, test.status, test.said
		data := pngOf(100)
		_, err := h.Put(t.Context(), Upload{Use: photos, Body: bytes.NewReader(data), SHA256: sum(data)})
		wantCode(t, err, test.code)
		if asked > s3Tries {
			t.Errorf("%s: asked %d times", test.said, asked)
		}
	}
}

// failing puts so many and no more.
type failing struct {
	driver
	left int
}

func (f *failing) put(ctx context.Context, o *Object, m *meter) error {
	if f.left--; f.left < 0 {
		return levee.E(levee.CodeUnavailable, "full")
	}
	return f.driver.put(ctx, o, m)
}

// TestImageIsStoredWholeOrNotAtAll: when a size cannot be stored, those before it go.
func TestImageIsStoredWholeOrNotAtAll(t *testing.T) {
	for left := range 4 {
		h := folderHouse(t, Config{})
		h.driver = &failing{h.driver, left}
		_, err := h.PutImage(t.Context(), Upload{Use: avatars, Body: bytes.NewReader(asPNG(t, quarters(50, 50)))})
		if there := len(h.left(t)); left < 3 && (levee.CodeOf(err) != levee.CodeUnavailable || there != 0) || left == 3 && (err != nil || there != 3) {
			t.Errorf("where %d can be stored: %d are there, %v", left, there, err)
		}
	}
}

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}
