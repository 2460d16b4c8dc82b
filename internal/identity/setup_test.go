package identity

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"levee"
	"levee/internal/platform/db"
	"levee/internal/platform/obs"
)

func (h *house) nobody() {
	h.t.Helper()
	if err := h.db.Tx(context.Background(), "test", func(ctx context.Context, tx *db.Tx) error {
		_, err := tx.Exec(ctx, `DELETE FROM identity_user`)
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
}

// TestSetupOnAnotherNode: a code that one node printed is good on every other, those of two nodes are both good, and once one has made
// the first administrator none is.
func TestSetupOnAnotherNode(t *testing.T) {
	h, other := twoNodes(t)
	h.nobody()
	ctx := context.Background()
	first, err := h.SetupCode(ctx)
	h.wantCode(err, "")
	second, err := other.SetupCode(ctx)
	h.wantCode(err, "")
	// Both people come at once, each with the code of one node and to the other one.
	var mu sync.Mutex
	codes := map[levee.Code]int{}
	parallel(8, func(i int) {
		node, code := h.Service, second
		if i%2 == 0 {
			node, code = other, first
		}
		_, err := node.Setup(ctx, code, NewUser{Name: fmt.Sprintf("owner%d", i), Password: goodPassword}, Origin{})
		mu.Lock()
		defer mu.Unlock()
		codes[levee.CodeOf(err)]++
	})
	if codes[""] != 1 || codes[levee.CodeGone] != 7 {
		t.Fatalf("the codes of two nodes gave %v", codes)
	}
	h.nobody()
	for _, code := range []obs.Secret{first, second} {
		_, err = other.Setup(ctx, code, NewUser{Name: "thief", Password: goodPassword}, Origin{})
		h.wantCode(err, levee.CodeUnauthenticated)
	}
	third, err := h.SetupCode(ctx)
	h.wantCode(err, "")
	h.restart()
	_, err = h.Setup(ctx, third, NewUser{Name: "owner", Password: goodPassword}, Origin{})
	h.wantCode(err, "") // among several, a restart of one does not take the others' codes away
}

// TestSetupCodeEnds: after its time, and after too many wrong ones, wherever they were tried.
func TestSetupCodeEnds(t *testing.T) {
	h, other := twoNodes(t)
	h.nobody()
	ctx := context.Background()
	try := func(s *Service, code obs.Secret, want levee.Code) {
		t.Helper()
		_, err := s.Setup(ctx, code, NewUser{Name: "x", Password: "1"}, Origin{}) // a password that is refused: nothing is made
		h.wantCode(err, want)
	}
	code, err := h.SetupCode(ctx)
	h.wantCode(err, "")
	h.clock.Step(setupFor - time.Second)
	try(other, code, levee.CodeInvalid) // the code is right, the password is not
	h.clock.Step(2 * time.Second)
	try(other, code, levee.CodeUnauthenticated)
	code, err = h.SetupCode(ctx)
	h.wantCode(err, "")
	for range setupWrong - 1 {
		try(other, "ABCD-EFGH-JKLM-NPQR", levee.CodeUnauthenticated)
	}
	try(h.Service, code, levee.CodeInvalid)
	try(other, "ABCD-EFGH-JKLM-NPQR", levee.CodeUnauthenticated)
	try(h.Service, code, levee.CodeUnauthenticated)
	// Codes of nodes that start again and again do not pile up.
	for range setupCodes + 5 {
		code, err = other.SetupCode(ctx)
		h.wantCode(err, "")
	}
	list, err := listSetups(ctx, h.db.Query)
	if err != nil || len(list) != setupCodes {
		t.Errorf("%d codes are kept, %v", len(list), err)
	}
	for _, r := range list {
		if len(r.hash) != 64 || r.hash == code.Reveal() {
			t.Errorf("kept as %q", r.hash)
		}
	}
	try(h.Service, code, levee.CodeInvalid)
}
