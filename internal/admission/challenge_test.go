package admission

import (
	"bytes"
	"context"
	"crypto/sha256"
	"image/png"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"levee"
	"levee/internal/platform/limit"
)

// solve does what a page does.
func solve(challenge string, bits int32) string {
	for n := 0; ; n++ {
		answer := strconv.Itoa(n)
		if sum := sha256.Sum256([]byte(challenge + "." + answer)); leadingZeros(sum[:]) >= int(bits) {
			return answer
		}
	}
}

func TestWork(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{Brake: BrakeWork, WorkBits: 10})
		err := h.enterErr(1, Visit{})
		h.wantCode(err, levee.CodeChallengeRequired)
		view, ok := err.(*levee.Error).Data["challenge"].(challengeView) //nolint:errorlint // it is one
		if !ok || view.Kind != "work" || view.Bits != 10 || view.Picture != "" || !view.ExpiresAt.Equal(time.Now().Add(5*time.Minute)) {
			t.Fatalf("%+v", err)
		}
		answer := solve(view.Challenge, view.Bits)
		for name, v := range map[string]Visit{
			"wrong":        {Challenge: view.Challenge, Answer: "x"},
			"empty":        {Challenge: view.Challenge},
			"not enough":   {Challenge: view.Challenge, Answer: "1" + strings.Repeat("0", 19)},
			"too long":     {Challenge: view.Challenge, Answer: strings.Repeat("1", 21)},
			"altered":      {Challenge: view.Challenge[:20] + "A" + view.Challenge[21:], Answer: answer},
			"no challenge": {Challenge: "x", Answer: answer},
		} {
			if answer == v.Answer && name == "not enough" {
				continue
			}
			if got := levee.CodeOf(h.enterErr(1, v)); got != levee.CodeChallengeFailed {
				t.Errorf("%s: %q", name, got)
			}
		}
		proof := Visit{Challenge: view.Challenge, Answer: answer}
		h.wantCode(h.enterErr(2, proof), levee.CodeChallengeFailed) // another's
		if err := h.enterErr(1, proof); err != nil {
			t.Fatal(err)
		}
		if err := h.enterErr(1, Visit{}); err != nil {
			t.Fatalf("who has a place is asked again: %v", err)
		}
		ticket := h.mine(1).Ticket
		if err := h.s.Leave(h.w.Public, person(1)); err != nil {
			t.Fatal(err)
		}
		h.wantCode(h.enterErr(1, proof), levee.CodeChallengeFailed) // used
		h.wantCode(h.enterErr(1, Visit{Ticket: ticket}), levee.CodeChallengeRequired)

		c, err := h.s.Challenge(t.Context(), h.w.Public, person(3), "")
		if err != nil {
			t.Fatal(err)
		}
		answer = solve(c.Text, c.Bits)
		time.Sleep(challengeFor)
		h.wantCode(h.enterErr(3, Visit{Challenge: c.Text, Answer: answer}), levee.CodeChallengeFailed) // too old

		// The operator asks for more meanwhile: what was solved for less does not do.
		c, _ = h.s.Challenge(t.Context(), h.w.Public, person(3), "work")
		h.w.Policy.WorkBits = 11
		h.s.Follow(h.w)
		h.wantCode(h.enterErr(3, Visit{Challenge: c.Text, Answer: solve(c.Text, 11)}), levee.CodeChallengeFailed)

		if _, err := h.s.Challenge(t.Context(), h.w.Public, person(3), "picture"); levee.CodeOf(err) != levee.CodeInvalid {
			t.Errorf("a picture where work is asked for: %v", err)
		}
		if n := h.s.Numbers(theSale).Refused; n["challenge_required"] != 2 || n["challenge_failed"] < 6 {
			t.Errorf("%v", n)
		}
		// A ticket proves that the challenge was solved before.
		c, _ = h.s.Challenge(t.Context(), h.w.Public, person(4), "")
		if err := h.enterErr(4, Visit{Challenge: c.Text, Answer: solve(c.Text, c.Bits)}); err != nil {
			t.Fatal(err)
		}
		ticket = h.mine(4).Ticket
		h.restart()
		h.wantCode(h.enterErr(4, Visit{}), levee.CodeChallengeRequired)
		if err := h.enterErr(4, Visit{Ticket: ticket}); err != nil {
			t.Errorf("back with a ticket: %v", err)
		}
	})
}

func TestPictureBrake(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{Brake: BrakePicture, WorkBits: 8})
		ask := func(n int) (Challenge, string) {
			c, err := h.s.Challenge(t.Context(), h.w.Public, person(n), "")
			if err != nil {
				t.Fatal(err)
			}
			return c, h.readChallenge(c.Text)
		}
		c, answer := ask(1)
		if c.Kind != BrakePicture || len(c.Picture) == 0 || strings.Contains(c.Text, answer) {
			t.Fatalf("%+v", c)
		}
		wrong := "00000"
		if wrong == answer {
			wrong = "11111"
		}
		for range 2 {
			h.wantCode(h.enterErr(1, Visit{Challenge: c.Text, Answer: wrong}), levee.CodeChallengeFailed)
		}
		h.wantCode(h.enterErr(2, Visit{Challenge: c.Text, Answer: answer}), levee.CodeChallengeFailed)
		if err := h.enterErr(1, Visit{Challenge: c.Text, Answer: answer}); err != nil {
			t.Fatalf("right at the third try: %v", err)
		}
		if err := h.s.Leave(h.w.Public, person(1)); err != nil {
			t.Fatal(err)
		}
		h.wantCode(h.enterErr(1, Visit{Challenge: c.Text, Answer: answer}), levee.CodeChallengeFailed)

		c, answer = ask(3)
		for range pictureTries {
			h.wantCode(h.enterErr(3, Visit{Challenge: c.Text, Answer: "x" + answer[1:]}), levee.CodeChallengeFailed) // no digits, no try
		}
		for n := range 5 {
			h.wantCode(h.enterErr(3, Visit{Challenge: c.Text, Answer: strconv.Itoa(10000 + n)}), levee.CodeChallengeFailed)
		}
		h.wantCode(h.enterErr(3, Visit{Challenge: c.Text, Answer: answer}), levee.CodeChallengeFailed) // after five

		// The way without sight: work, at four more bits.
		work, err := h.s.Challenge(t.Context(), h.w.Public, person(4), BrakeWork)
		if err != nil || work.Bits != 12 || work.Picture != nil {
			t.Fatalf("%+v, %v", work, err)
		}
		if err := h.enterErr(4, Visit{Challenge: work.Text, Answer: solve(work.Text, work.Bits)}); err != nil {
			t.Fatal(err)
		}
		// Two answers of pictures are not alike, nor two challenges of one answer.
		a, b := h.s.pictureChallenge(theSale, 1, 12345, time.Now().Add(time.Minute)), h.s.pictureChallenge(theSale, 1, 12345, time.Now().Add(time.Minute))
		if a == b {
			t.Error("one answer makes one challenge: it can be read from a table")
		}
	})
}

// readChallenge opens a picture's challenge with the room's own key: what nobody outside can.
func (h *hall) readChallenge(text string) string {
	raw, err := encoding.DecodeString(text)
	if err != nil {
		h.t.Fatal(err)
	}
	b, err := h.s.picture.Open(nil, raw[:12], raw[12:], nil)
	if err != nil {
		h.t.Fatal(err)
	}
	return digitsOf(uint32(b[28])<<24 | uint32(b[29])<<16 | uint32(b[30])<<8 | uint32(b[31]))
}

// A challenge of an earlier life is void, since what was used then is forgotten.
func TestChallengesEndWithTheProcess(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{Brake: BrakeWork, WorkBits: 8})
		c, err := h.s.Challenge(t.Context(), h.w.Public, person(1), "")
		if err != nil {
			t.Fatal(err)
		}
		proof := Visit{Challenge: c.Text, Answer: solve(c.Text, c.Bits)}
		before := life
		life = [4]byte{1, 2, 3, 4}
		defer func() { life = before }()
		h.wantCode(h.enterErr(1, proof), levee.CodeChallengeFailed)
		life = before
		if err := h.enterErr(1, proof); err != nil {
			t.Fatal(err)
		}
	})
}

func TestTriedIsBounded(t *testing.T) {
	m := newTried(1000)
	for n := range uint64(1000) {
		if m.try(0, n, true, 1) != triedOK {
			t.Fatalf("the %dth is refused", n)
		}
	}
	if m.try(0, 5000, true, 1) != triedFull {
		t.Error("beyond the bound something is remembered, or forgotten")
	}
	if m.try(0, 7, true, 1) != triedUp {
		t.Error("a full memory forgets")
	}
	now := challengeFor - time.Millisecond
	if m.try(now, 7, true, 1) != triedUp {
		t.Error("forgotten while it could be answered")
	}
	now = challengeFor + time.Millisecond
	if m.try(now, 7, true, 1) != triedUp { // one generation back
		t.Error("forgotten too early")
	}
	if now = 2*challengeFor + 2*time.Millisecond; m.try(now, 5000, true, 1) != triedOK || m.size() > 3 {
		t.Errorf("%d are remembered", m.size())
	}
	if now = 10 * challengeFor; m.try(now, 1, true, 1) != triedOK || m.size() != 1 {
		t.Errorf("after a long rest %d are remembered", m.size())
	}
}

func TestRatesOfChallenges(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{Brake: BrakePicture})
		h.s.Limits = h.Limits
		most := h.Limits.Rate(limit.Challenge).Count
		for range most {
			if _, err := h.s.Challenge(t.Context(), h.w.Public, person(1), ""); err != nil {
				t.Fatal(err)
			}
		}
		_, err := h.s.Challenge(t.Context(), h.w.Public, person(1), "")
		h.wantCode(err, levee.CodeTooManyRequests)
		h.wantCode(h.enterErr(1, Visit{}), levee.CodeTooManyRequests)
		if _, err := h.s.Challenge(t.Context(), h.w.Public, person(2), ""); err != nil {
			t.Errorf("another's requests count: %v", err)
		}
		// By address, with accounts of their own.
		h.w.Policy.Brake = BrakeNone
		h.s.Follow(h.w)
		refused := 0
		for n := range 1200 {
			if levee.CodeOf(h.enterErr(100+n, Visit{Address: home})) == levee.CodeTooManyRequests {
				refused++
			}
		}
		if refused != 200 || h.s.Numbers(theSale).Refused["rate"] != 201 {
			t.Errorf("of 1,200 at once from one address %d were refused; %v", refused, h.s.Numbers(theSale).Refused)
		}
	})
}

// Only so many pictures are drawn at once, and a crowd that wants them is told to come back.
func TestPicturesTakeTurns(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		h := hallOf(t, Policy{Brake: BrakePicture})
		for range artistsMost {
			h.s.artists <- struct{}{} // all are busy
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, artistsWait)
		for n := range artistsWait {
			go func() {
				_, err := h.s.Challenge(ctx, h.w.Public, person(n), "")
				done <- err
			}()
		}
		synctest.Wait()
		_, err := h.s.Challenge(t.Context(), h.w.Public, person(1), "")
		h.wantCode(err, levee.CodeUnavailable)
		cancel()
		for range artistsWait {
			if err := <-done; err == nil {
				t.Error("drawn by nobody")
			}
		}
		for range artistsMost {
			<-h.s.artists
		}
		if _, err := h.s.Challenge(t.Context(), h.w.Public, person(1), ""); err != nil {
			t.Error(err)
		}
	})
}

func TestPictures(t *testing.T) {
	largest, same := 0, map[string]bool{}
	for n := range 400 {
		r := rand.New(rand.NewPCG(uint64(n), 1))
		answer := uint32(n * 49_999 % 100_000)
		b, err := drawDigitsWith(answer, r)
		if err != nil {
			t.Fatal(err)
		}
		largest = max(largest, len(b))
		same[string(b)] = true
		if n%100 != 0 {
			continue
		}
		img, err := png.Decode(bytes.NewReader(b))
		if err != nil || img.Bounds().Dx() != pictureWidth || img.Bounds().Dy() != pictureHeight {
			t.Fatalf("%v", err)
		}
		ink := 0 // of the pixels a share that five digits make, not none and not all; and the right edge is reached, not passed
		for y := range pictureHeight {
			for x := range pictureWidth {
				if r, _, _, _ := img.At(x, y).RGBA(); r < 0x8000 {
					ink++
				}
			}
		}
		if share := float64(ink) / (pictureWidth * pictureHeight); share < .05 || share > .25 {
			t.Errorf("picture %d has %.0f %% ink", n, 100*share)
		}
	}
	if largest > 8<<10 {
		t.Errorf("a picture has %d bytes", largest)
	}
	if len(same) != 400 {
		t.Errorf("%d different pictures of 400", len(same))
	}
	// Two pictures of one answer share little: a table of pictures reads none.
	a, _ := drawDigits(11111)
	b, _ := drawDigits(11111)
	if bytes.Equal(a, b) {
		t.Error("one answer makes one picture")
	}
	for n := range 2000 { // all five digits are inside, whatever is drawn
		lines, pens := layout(uint32(n*7919%100_000), rand.New(rand.NewPCG(uint64(n), 2)))
		for i, line := range lines {
			for _, p := range line {
				if p.x < pens[i] || p.x > pictureWidth-pens[i] || p.y < pens[i] || p.y > pictureHeight-pens[i] {
					t.Fatalf("layout %d has a stroke at %v", n, p)
				}
			}
		}
	}
}
