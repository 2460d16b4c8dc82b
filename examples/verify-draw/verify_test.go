// Package verifydraw_test lets a verifier that was written from the documentation alone judge the draws of a real house.
package verifydraw_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"levee/internal/app/apptest"
)

// drawnSale makes a house that has drawn a sale of three units among five entries, and returns the sale.
func drawnSale(t *testing.T) (h *apptest.House, sale string) {
	t.Helper()
	h = apptest.Start(t)
	var product struct {
		SKUs []struct{ ID string } `json:"skus"`
	}
	h.Operator.Do("POST", "/v1/products", map[string]any{"code": "LOT", "title": "A lot", "state": "on_sale",
		"skus": []any{map[string]any{"code": "LOT-1", "name": "A lot", "price": map[string]any{"amount": 900, "currency": "CNY"}, "on_hand": 10}}}).Want(201).Into(&product)
	now := time.Now()
	var made struct{ ID string }
	h.Operator.Do("POST", "/v1/sales", map[string]any{"title": "By lot", "sku": product.SKUs[0].ID, "price": map[string]any{"amount": 900, "currency": "CNY"},
		"units": 3, "per_buyer": 2, "starts_at": now.Add(-time.Second), "draw_at": now.Add(4 * time.Second), "ends_at": now.Add(time.Hour), "mode": "draw"},
		"Idempotency-Key", "draft").Want(201).Into(&made)
	h.Operator.Do("POST", "/v1/sales/"+made.ID+"/acts", map[string]any{"act": "schedule", "reason": "for a draw"}, "Idempotency-Key", "schedule").Want(201)
	for i := range 5 {
		h.NewCustomer(t, fmt.Sprintf("hopeful-%d", i)).Do("POST", "/v1/sales/"+made.ID+"/line", map[string]any{"quantity": 1 + i%2},
			"Idempotency-Key", fmt.Sprint("enter", i)).Want(201)
	}
	var draw struct{ State string }
	for deadline := time.Now().Add(time.Minute); draw.State != "drawn"; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the draw is still %q", draw.State)
		}
		h.Visitor.Do("GET", "/v1/sales/"+made.ID+"/draw", nil).Want(200).Into(&draw)
	}
	return h, made.ID
}

// verifier runs the Python program; it reports whether the program was content, and what it said.
func verifier(t *testing.T, args ...string) (content bool, said string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "python3", append([]string{"verify_draw.py"}, args...)...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		t.Fatalf("the verifier itself failed: %v\n%s", err, out)
	}
	return err == nil, string(out)
}

func save(t *testing.T, base, sale string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for name, path := range map[string]string{"draw.json": "", "entries.txt": "/entries", "results.txt": "/results"} {
		answer, err := http.Get(base + "/v1/sales/" + sale + "/draw" + path)
		if err != nil {
			t.Fatal(err)
		}
		var body bytes.Buffer
		_, err = body.ReadFrom(answer.Body)
		answer.Body.Close()
		if err == nil && answer.StatusCode != 200 {
			err = fmt.Errorf("%s answers %s", path, answer.Status)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), body.Bytes(), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestASecondProgramVerifiesTheDraw(t *testing.T) {
	if _, err := exec.LookPath("python3"); err != nil {
		t.Skip("python3 is not installed: the second verifier is a Python program")
	}
	h, sale := drawnSale(t)
	if content, said := verifier(t, "--server", h.Base, "--sale", sale); !content {
		t.Fatalf("the draw of a real house does not verify:\n%s", said)
	}
	dir := save(t, h.Base, sale)
	if content, said := verifier(t, "--dir", dir); !content {
		t.Fatalf("the saved draw does not verify:\n%s", said)
	}
	entries := filepath.Join(dir, "entries.txt")
	text, err := os.ReadFile(entries)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(text); i += 11 { // 33 bytes a line: each kind of place, in each line
		changed := bytes.Clone(text)
		changed[i] ^= 1
		if err := os.WriteFile(entries, changed, 0o600); err != nil {
			t.Fatal(err)
		}
		if content, _ := verifier(t, "--dir", dir); content {
			t.Errorf("byte %d of the entries was changed from %q to %q, and the draw verifies still", i, text[i], changed[i])
		}
	}
}
