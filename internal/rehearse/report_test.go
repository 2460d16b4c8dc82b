package rehearse

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestReportFiles(t *testing.T) {
	h := newHouse(50, 1)
	r := rehearseIn(t, h, nil)
	dir := t.TempDir()
	page, figures := filepath.Join(dir, "r.html"), filepath.Join(dir, "r.json")
	for range 2 { // the second replaces the first
		if err := r.WriteHTML(page); err != nil {
			t.Fatal(err)
		}
		if err := r.WriteJSON(figures); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(figures)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, back); diff != "" {
		t.Error(diff)
	}
	if html, err := os.ReadFile(page); err != nil || bytes.Contains(append(html, text...), []byte("right\"")) || bytes.Contains(text, []byte("tok.")) {
		t.Errorf("a secret stands in a report, or it cannot be read: %v", err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 2 {
		t.Errorf("something was left behind: %v %v", entries, err)
	}
	if err := r.WriteHTML(filepath.Join(dir, "none", "r.html")); err == nil {
		t.Error("a folder that is not there is no error")
	}
}

func TestProgressInAFile(t *testing.T) {
	c := testConfig()
	h := newHouse(50, 1)
	c.Server, c.Quiet, c.Duration = h.serve(t), false, 2*time.Second
	var out bytes.Buffer
	if _, err := Run(t.Context(), c, &out); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "answers/s  ordered 50") || strings.Contains(out.String(), "\x1b") {
		t.Error(out.String())
	}
}

// A list that is cut in the middle is an error, not a short list.
func TestCutListsAreErrors(t *testing.T) {
	for _, path := range []string{"GET /v1/sales/sal_2/reservations", "POST /v1/sales/sal_2/rehearsal-buyers"} {
		h := newHouse(50, 1)
		mux := http.NewServeMux()
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, `{"order":"ord_1","reservation":"res_1","buyer":"usr_1","quantity":1,"state":"reserved","token":"t"}`+"\n")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})
		mux.Handle("/", h.mux)
		c := testConfig()
		c.Server, c.Duration = h.listen(mux), time.Second
		if _, err := Run(t.Context(), c, io.Discard); err == nil || !strings.Contains(err.Error(), "answer") {
			t.Errorf("%s: got %v", path, err)
		}
	}
}
