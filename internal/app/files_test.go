package app_test

import (
	"bytes"
	"image"
	"image/png"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"levee"
	"levee/internal/app"
	"levee/internal/app/apptest"
	"levee/internal/platform/backends"
	"levee/internal/platform/blob"
	"levee/internal/platform/obs"
)

var covers = blob.Use{Name: "cover", Sizes: []blob.Size{{Name: "small", Width: 20, Height: 20}}}

// TestFiles: a file goes in and out through the whole house, on a folder and on an S3-compatible store that the house passes on.
func TestFiles(t *testing.T) {
	t.Run("folder", func(t *testing.T) {
		dir := t.TempDir()
		story(t, apptest.Start(t, func(c *app.Config) { c.Blob = "file:" + dir }))
	})
	t.Run("s3", func(t *testing.T) {
		server, err := backends.S3(t.Context())
		if backends.MaySkip(err) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		story(t, apptest.Start(t, func(c *app.Config) {
			c.Blob = "s3:"
			c.Files.S3 = blob.S3Config{Endpoint: server.URL, Bucket: server.Bucket, Prefix: "house/", AccessKey: server.AccessKey, SecretKey: obs.Secret(server.SecretKey), Links: "house"}
		}))
	})
	t.Run("none", func(t *testing.T) {
		h := apptest.Start(t, func(c *app.Config) { c.Blob = "none:" })
		if h.App.Files != nil {
			t.Error("there is a store")
		}
		status, _, _ := ask(t, http.MethodGet, h.Base+blob.Path+"/cover/"+strings.Repeat("a", 26)+"?expires=1&signature=a", nil)
		if status != 404 {
			t.Errorf("a link to nowhere: %d", status)
		}
	})
}

func ask(t *testing.T, method, url string, body []byte) (int, http.Header, []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	text, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return a.StatusCode, a.Header, text
}

func story(t *testing.T, h *apptest.House) {
	var picture bytes.Buffer
	if err := png.Encode(&picture, image.NewGray(image.Rect(0, 0, 40, 40))); err != nil {
		t.Fatal(err)
	}
	ticket, err := h.App.Files.Direct(t.Context(), covers, "anna", blob.Declared{Size: int64(picture.Len()), Type: "image/png"}, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, said := ask(t, http.MethodPut, h.Base+ticket.URL, picture.Bytes()[1:]); status != 422 {
		t.Errorf("another size than declared: %d %s", status, said)
	}
	if status, _, said := ask(t, http.MethodPut, h.Base+ticket.URL, picture.Bytes()); status != 204 {
		t.Fatalf("sending: %d %s", status, said)
	}
	i, err := h.App.Files.CommitImage(t.Context(), covers, "anna", ticket.Token)
	if err != nil {
		t.Fatal(err)
	}
	link, err := h.App.Files.URL(t.Context(), i.Key.Of("small"), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	status, header, got := ask(t, http.MethodGet, h.Base+link, nil)
	if status != 200 || int64(len(got)) != i.Sizes[0].Size || header.Get("Content-Type") != "image/jpeg" || header.Get("X-Content-Type-Options") != "nosniff" ||
		strings.Join(header.Values("Content-Security-Policy"), "|") != "default-src 'none'; sandbox" || !strings.HasPrefix(header.Get("Cache-Control"), "private, max-age=") {
		t.Errorf("%d, %d bytes, %v", status, len(got), header)
	}
	if status, _, said := ask(t, http.MethodGet, h.Base+link+"x", nil); status != 403 || !bytes.Contains(said, []byte(levee.CodeForbidden)) {
		t.Errorf("a forged link: %d %s", status, said)
	}
	if status, _, _ := ask(t, http.MethodGet, h.Base+strings.Split(link, "?")[0], nil); status != 403 {
		t.Errorf("no signature: %d", status)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.Base+link, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Accept": {"image/avif,image/jpeg"}, "Range": {"bytes=0-3"}}
	if a, err := http.DefaultClient.Do(r); err != nil || a.StatusCode != 206 || a.ContentLength != 4 {
		t.Errorf("a range for somebody who takes pictures only: %+v, %v", a, err)
	} else {
		_ = a.Body.Close()
	}
	if status, _, _ := ask(t, http.MethodHead, h.Base+link, nil); status != 200 {
		t.Errorf("HEAD: %d", status)
	}
}

// TestFilesConfig: where files go by default, and what is refused.
func TestFilesConfig(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(secret, []byte("hush-hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	distributed := []string{"LEVEE_MODE=distributed", "LEVEE_DB=mysql://a@127.0.0.1:1/b", "LEVEE_REDIS=redis://127.0.0.1:1", "LEVEE_SECRET=" + strings.Repeat("ab", 32)}
	s3 := []string{"LEVEE_FILES__S3__ENDPOINT=http://127.0.0.1:1", "LEVEE_FILES__S3__SECRET_KEY_FILE=" + secret}
	for name, test := range map[string]struct {
		env  []string
		want string // "": refused
	}{
		"embedded": {nil, "file:" + filepath.Join("data", "files")}, "distributed": {distributed, "none:"}, "distributed with S3": {append(distributed, s3...), "s3:"},
		"a folder for all": {append(distributed, "LEVEE_BLOB=file:/mnt/files"), "file:/mnt/files"}, "a word": {[]string{"LEVEE_BLOB=disk"}, ""}, "no path": {[]string{"LEVEE_BLOB=file:"}, ""},
	} {
		c, err := app.ReadConfig("", test.env)
		if test.want == "" {
			if levee.CodeOf(err) != levee.CodeInvalid || !strings.Contains(err.Error(), `"s3:"`) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || c.Blob != test.want {
			t.Errorf("%s: %q, %v", name, c.Blob, err)
		}
		if c.Blob == "s3:" && (c.Files.S3.SecretKey.Reveal() != "hush-hush" || strings.Contains(c.Show(), "hush")) {
			t.Errorf("%s: the secret is not read from its file, or is shown", name)
		}
	}
}

// TestDoctorLooksAtFiles: the doctor tries the store, and says what is wrong with it.
func TestDoctorLooksAtFiles(t *testing.T) {
	server, err := backends.S3(t.Context())
	if backends.MaySkip(err) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for want, key := range map[string]string{app.FindingOK: server.SecretKey, app.FindingWrong: "wrong"} {
		d := app.Doctor{Config: app.Config{Data: t.TempDir(), Blob: "s3:"}, DiskFloor: 1}
		d.Config.Files.S3 = blob.S3Config{Endpoint: server.URL, Bucket: server.Bucket, Prefix: "doctor/", AccessKey: server.AccessKey, SecretKey: obs.Secret(key)}
		found, err := d.Examine(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		state := ""
		for _, f := range found {
			if f.Check == "store of files" {
				state = f.State
				if strings.Contains(f.Said+f.Do, key) {
					t.Errorf("the secret is shown: %+v", f)
				}
			}
		}
		if state != want {
			t.Errorf("want %q, got %+v", want, found)
		}
	}
}
