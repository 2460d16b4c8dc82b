package blob_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"time"

	"levee"
	"levee/internal/platform/blob"
	"levee/internal/platform/obs"
)

// A room declares what it takes files for, and within which limits.
var (
	letters = blob.Use{Name: "letter", Types: []string{"application/pdf", "text/plain"}, Max: 1 << 20}
	avatars = blob.Use{Name: "avatar", Max: 5 << 20, Sizes: []blob.Size{
		{Name: "thumb", Width: 64, Height: 64, Crop: true},
		{Name: "large", Width: 1200, Height: 1200},
	}}
)

// open makes a store in a folder that is removed at the end. The house opens its own from its configuration.
func open() (*blob.Store, func()) {
	dir, err := os.MkdirTemp("", "files")
	if err != nil {
		panic(err)
	}
	o, err := obs.Open(obs.Config{Level: "error"}, io.Discard)
	if err != nil {
		panic(err)
	}
	s, err := blob.OpenFolder(dir, blob.Config{}, make([]byte, 32), o)
	if err != nil {
		panic(err)
	}
	return s, func() { _ = os.RemoveAll(dir) }
}

func picture(width, height int) io.Reader {
	var b bytes.Buffer
	if err := png.Encode(&b, image.NewGray(image.Rect(0, 0, width, height))); err != nil {
		panic(err)
	}
	return &b
}

// A file goes in, and comes out as it went.
func ExampleStore_Put() {
	s, done := open()
	defer done()
	ctx := context.Background()

	o, err := s.Put(ctx, blob.Upload{Use: letters, Body: strings.NewReader("Dear all, the sale begins at noon."), Name: "../../letter.txt"})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(o.Type, o.Size, o.Name) // the row keeps o.Key

	f, err := s.Open(ctx, o.Key)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	_, _ = f.Seek(-5, io.SeekEnd)
	end, _ := io.ReadAll(f)
	fmt.Println(string(end))

	_, err = s.Put(ctx, blob.Upload{Use: letters, Body: strings.NewReader("<html><script>…"), Type: "application/pdf"})
	var e *levee.Error
	if errors.As(err, &e) {
		fmt.Println(e.Code, "allowed:", e.Fields[0].Allowed, "given:", e.Fields[0].Given)
	}
	// Output:
	// text/plain 34 letter.txt
	// noon.
	// unsupported_media_type allowed: application/pdf, text/plain given: text/html
}

// A picture is kept in the sizes of its use, and nothing else of it is.
func ExampleStore_PutImage() {
	s, done := open()
	defer done()

	i, err := s.PutImage(context.Background(), blob.Upload{Use: avatars, Body: picture(3000, 2000)})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, p := range i.Sizes { // the row keeps i.Key
		fmt.Println(p.Form, p.Width, p.Height, p.Type, p.Key == i.Key.Of(p.Form))
	}
	// Output:
	// thumb 64 64 image/jpeg true
	// large 1200 800 image/jpeg true
}

// A browser sends a file straight to the store, and the room looks at it afterwards.
func ExampleStore_Direct() {
	s, done := open()
	defer done()
	ctx := context.Background()
	mux := http.NewServeMux() // the house does this
	mux.HandleFunc("GET "+blob.Path+"/{use}/{id}", s.Get)
	mux.HandleFunc("PUT "+blob.Path+"/{use}/{id}", s.Take)
	server := httptest.NewServer(mux)
	defer server.Close()

	// 1. The browser says what it will send; the room answers with the ticket.
	text := "Dear all, the sale begins at noon."
	ticket, err := s.Direct(ctx, letters, "usr_anna", blob.Declared{Size: int64(len(text)), Type: "text/plain", Name: "letter.txt"}, 10*time.Minute)
	if err != nil {
		fmt.Println(err)
		return
	}
	// 2. The browser sends it. A link to an S3-compatible store begins with https.
	r, _ := http.NewRequest(ticket.Method, server.URL+ticket.URL, strings.NewReader(text))
	for name, value := range ticket.Header {
		r.Header.Set(name, value)
	}
	a, err := http.DefaultClient.Do(r)
	if err != nil {
		fmt.Println(err)
		return
	}
	_ = a.Body.Close()
	fmt.Println(a.StatusCode)
	// 3. The browser says that it is done; the room takes the file over.
	o, err := s.Commit(ctx, letters, "usr_anna", ticket.Token)
	fmt.Println(o.Size, o.Type, err)
	// 4. Whoever may read it gets a link.
	link, _ := s.URL(ctx, o.Key, time.Hour)
	if a, err = http.Get(server.URL + link); err == nil {
		fmt.Println(a.StatusCode, a.Header.Get("Content-Disposition"))
		_ = a.Body.Close()
	}
	_, err = s.Commit(ctx, letters, "usr_berta", ticket.Token)
	fmt.Println(levee.CodeOf(err))
	// Output:
	// 204
	// 34 text/plain <nil>
	// 200 attachment; filename=letter.txt
	// forbidden
}
