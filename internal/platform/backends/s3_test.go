package backends

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestS3: the server answers, keeps to signatures, comes back after a crash, and leaves nothing after Close. What it does with signed requests is
// shown by the suite of platform/blob.
func TestS3(t *testing.T) {
	s, err := StartS3(t.Context())
	if MaySkip(err) {
		t.Skip(err)
	}
	must(t, err)
	t.Cleanup(func() { _ = s.Close() })
	get := func(query, authorization string) (int, string) {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/"+s.Bucket+"?"+query, nil)
		must(t, err)
		if authorization != "" {
			r.Header.Set("Authorization", authorization)
			r.Header.Set("X-Amz-Date", "20260101T000000Z")
			r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD")
		}
		a, err := http.DefaultClient.Do(r)
		must(t, err)
		defer a.Body.Close()
		text, err := io.ReadAll(a.Body)
		must(t, err)
		return a.StatusCode, string(text)
	}
	if code, said := get("list-type=2", ""); code != http.StatusForbidden {
		t.Errorf("a request without a signature: %d %s", code, said)
	}
	forged := "AWS4-HMAC-SHA256 Credential=" + s.AccessKey + "/20260101/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=" + strings.Repeat("0", 64)
	if code, said := get("list-type=2", forged); code != http.StatusForbidden {
		t.Errorf("a forged signature: %d %s", code, said)
	}
	must(t, s.Kill())
	if a, err := http.Get(s.URL); err == nil {
		_ = a.Body.Close()
		t.Error("a killed server answers")
	}
	must(t, s.Restart(t.Context()))
	if code, _ := get("", ""); code != http.StatusForbidden {
		t.Errorf("after the restart: %d", code)
	}
	dir := s.program.Dir()
	must(t, s.Close())
	if exists(dir) {
		t.Error("the folder is left")
	}
}

// TestS3IsMissing: where it is not built and building is forbidden or impossible, the error says so.
func TestS3IsMissing(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // an empty cache
	for install, want := range map[string]string{"no": "LEVEE_TEST_INSTALL=no", "": "no go command"} {
		t.Setenv("LEVEE_TEST_INSTALL", install)
		t.Setenv("PATH", t.TempDir())
		_, err := gateway(t.Context())
		if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), gatewayVersion) {
			t.Errorf("LEVEE_TEST_INSTALL=%q: %v", install, err)
		}
	}
	// What is there is used, and its build that broke off is not.
	cache, err := openCache()
	must(t, err)
	must(t, os.Mkdir(filepath.Join(cache, "building-1"), 0o700))
	path := filepath.Join(cache, "versitygw-"+gatewayVersion)
	must(t, os.WriteFile(path, nil, 0o700))
	if found, err := gateway(t.Context()); err != nil || found != path {
		t.Errorf("got %q, %v", found, err)
	}
}
