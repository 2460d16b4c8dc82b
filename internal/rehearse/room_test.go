package rehearse

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"levee"
)

// queueIn rehearses a house that has a waiting room: 300 people in about a second and a half, 40 of them admitted a second.
func queueIn(t *testing.T, h *house, change func(*Config)) Report {
	t.Helper()
	return rehearseIn(t, h, func(c *Config) {
		c.Queue, c.Buyers, c.Rate, c.Duration, c.Listen = true, 300, 200, 15*time.Second, 0.02
		if change != nil {
			change(c)
		}
	})
}

func houseWithRoom(units int64) *house {
	h := newHouse(units, 1)
	h.room = newFakeRoom(40)
	return h
}

func TestWaitingRoom(t *testing.T) {
	h := houseWithRoom(1000)
	r := queueIn(t, h, func(c *Config) { c.Double = 0.5 })
	mustHold(t, r)
	if r.Arrivals != 300 || r.Outcomes["ordered"] != 300 || r.Room.Places != 300 || r.Room.Admitted != 300 || r.Room.Waiting != 0 {
		t.Errorf("300 come once and 300 buy: %d came, %v, %+v", r.Arrivals, r.Outcomes, *r.Room)
	}
	if l, ok := r.Latency("turns"); !ok || l.Count != 300 || l.Max < 5000 || l.Max > 9000 {
		t.Errorf("300 people at 40 a second wait for up to 7.5 s minus the 1.5 s in which they came: %+v", l)
	}
	if l, ok := r.Latency("places"); !ok || l.Count != r.Room.Calls || r.Room.CallsPerSecond <= 0 {
		t.Errorf("calls about places: %+v, %+v", l, r.Room)
	}
	if r.Room.Reloads == 0 || r.Room.Listeners != 6 || h.room.listens != 7 || len(r.Room.Board) < 10 {
		t.Errorf("reloads %d, listeners %d of %d, %d samples", r.Room.Reloads, r.Room.Listeners, h.room.listens, len(r.Room.Board))
	}
	if r.Room.MostOut == 0 || r.Room.MostOut > 40*3 {
		t.Errorf("at most three seconds' worth of tokens is out with people who press within 2.3 s, not %d", r.Room.MostOut)
	}
	if r.Room.EstimatesInTime != 300 {
		t.Errorf("the estimates of an honest house are in time: %+v", *r.Room)
	}
	path := filepath.Join(t.TempDir(), "r.html")
	if err := r.WriteHTML(path); err != nil {
		t.Fatal(err)
	}
	if page, err := os.ReadFile(path); err != nil || !bytes.Contains(page, []byte("The waiting room over time")) {
		t.Errorf("the page shows no waiting room: %v", err)
	}
}

// Whoever still waits when the time is over goes home, and that is no failure.
func TestWaitingRoomThatIsTooLong(t *testing.T) {
	h := houseWithRoom(1000)
	r := queueIn(t, h, func(c *Config) { c.Duration, c.Settle = time.Second, 6*time.Second })
	mustHold(t, r)
	if r.Outcomes["waiting"] < 100 || r.Outcomes["waiting"]+r.Outcomes["ordered"] != 300 || r.Room.Waiting != int64(r.Outcomes["waiting"]) || r.SettledAfter > 8 {
		t.Errorf("about 160 are admitted in 4 s: %v after %v s", r.Outcomes, r.SettledAfter)
	}
}

// With few units the cap holds people back, and when all are sold the rest wait on.
func TestWaitingRoomOfASaleThatSellsOut(t *testing.T) {
	h := houseWithRoom(20)
	r := queueIn(t, h, nil)
	mustHold(t, r)
	if r.Outcomes["ordered"] != 20 || r.Room.Cap != 60 || r.Room.MostOut > 60 || r.Outcomes["waiting"] < 200 {
		t.Errorf("%v, %+v", r.Outcomes, *r.Room)
	}
}

func TestWorkIsDone(t *testing.T) {
	for _, room := range []bool{true, false} {
		h := houseWithRoom(1000)
		h.room.policy.Brake, h.room.policy.WorkBits, h.room.policy.Room = "work", 8, room
		r := queueIn(t, h, func(c *Config) { c.Queue = room })
		mustHold(t, r)
		if r.Outcomes["ordered"] != 300 || r.Room.Solved != 300 || h.room.proofs != 300 || r.Room.Hashes < 300*100 || r.Room.Hashes > 300*600 {
			t.Errorf("room %v: 300 proofs of some 256 hashes each: %v, %+v", room, r.Outcomes, *r.Room)
		}
	}
}

func TestSolve(t *testing.T) {
	for zeros := range 13 {
		answer, tries := solve(fmt.Sprint("challenge-", zeros), zeros)
		sum := sha256.Sum256([]byte(fmt.Sprintf("challenge-%d.%s", zeros, answer)))
		if got := fmt.Sprintf("%b", 1<<16|int(sum[0])<<8|int(sum[1]))[1:]; !strings.HasPrefix(got, strings.Repeat("0", zeros)) {
			t.Errorf("%d bits: %s gives %s", zeros, answer, hex.EncodeToString(sum[:]))
		}
		if fmt.Sprint(tries-1) != answer {
			t.Errorf("%d tries for %s", tries, answer)
		}
	}
}

// Each lie is planted in an otherwise honest room, and the audit must name the promise that it breaks.
func TestAuditCatchesEachLieOfTheRoom(t *testing.T) {
	number := func(v map[string]any) int { n, _ := v["number"].(int); return n }
	for _, lie := range []struct {
		name  string
		plant func(h *house)
		want  string
	}{
		{"changes a number", func(h *house) {
			h.room.lie = func(r *fakeRoom, who string, v map[string]any) {
				if who == "usr_150" && r.served > 50 {
					v["number"] = number(v) + 1000
				}
			}
		}, "a place is kept"},
		{"takes a number away", func(h *house) {
			h.room.lie = func(r *fakeRoom, who string, v map[string]any) {
				if who == "usr_150" && r.served > 50 && v["status"] == "waiting" {
					v["number"] = nil
				}
			}
		}, "a place is kept"},
		{"forgets a place", func(h *house) {
			h.room.lie = func(r *fakeRoom, who string, v map[string]any) {
				if r.served > 50 {
					delete(r.places, "usr_160")
				}
			}
		}, "a place is kept"},
		{"pushes somebody back", func(h *house) {
			h.room.lie = func(r *fakeRoom, who string, v map[string]any) {
				if who == "usr_170" && r.served > 50 && v["status"] == "waiting" {
					v["position"] = number(v)
				}
			}
		}, "positions only fall"},
		{"says that nobody is ahead and nobody is next", func(h *house) {
			h.room.lie = func(r *fakeRoom, who string, v map[string]any) {
				if who == "usr_170" && v["status"] == "waiting" {
					v["position"] = 0
				}
			}
		}, "positions only fall"},
		{"gives a number twice", func(h *house) {
			h.room.lie = func(r *fakeRoom, who string, v map[string]any) {
				if who == "usr_21" {
					v["number"] = 20
				}
			}
		}, "nobody is served twice"},
		{"gives a token twice", func(h *house) {
			h.room.lie = func(r *fakeRoom, who string, v map[string]any) {
				if who == "usr_21" && v["status"] == "admitted" {
					v["token"] = "adm20"
				}
			}
		}, "nobody is served twice"},
		{"lets somebody overtake", func(h *house) {
			h.room.lie = func(r *fakeRoom, who string, v map[string]any) {
				if p := r.places["usr_200"]; p != nil && !p.admitted && r.served > 20 && r.served < 100 {
					p.admitted = true
				}
			}
		}, "nobody is overtaken"},
		{"gives out too many tokens", func(h *house) { h.free, h.units = 5, 5; h.room.cap, h.room.pace = 1000, 200 }, "tokens under the cap"},
		{"admits to having too many tokens out", func(h *house) {
			h.room.numbers = func(r *fakeRoom, out *int64) {
				if r.served > 100 {
					*out += 3000 + int64(r.served)
				}
			}
		}, "tokens under the cap"},
		{"runs ahead of its pace", func(h *house) { h.room.pace = 120 }, "the pace is kept"},
		{"turns the counter back", func(h *house) {
			h.room.counter = func(r *fakeRoom, c *counter) {
				if r.served > 100 {
					c.Served = 50
				}
			}
		}, "the pace is kept"},
	} {
		t.Run(lie.name, func(t *testing.T) {
			h := houseWithRoom(1000)
			lie.plant(h)
			r := queueIn(t, h, nil)
			if got := broken(r); r.OK() || !slices.Contains(got, lie.want) {
				t.Errorf("%q should be broken, broken are %q", lie.want, got)
			}
		})
	}
}

// An estimate that is far off is told, and breaks no promise.
func TestEstimatesThatAreWrong(t *testing.T) {
	h := houseWithRoom(1000)
	h.room.pace = 12
	r := queueIn(t, h, func(c *Config) { c.Duration = 40 * time.Second })
	mustHold(t, r)
	if !slices.ContainsFunc(r.Audit, func(c Check) bool { return c.Name == "the estimate is honest" && c.Verdict == Note }) {
		t.Errorf("people were told 7 s and waited for 25: %+v", *r.Room)
	}
}

// The operator may take part by hand: what he buys is no order behind anybody's back. What a stranger buys is.
func TestTheOperatorMayBuy(t *testing.T) {
	for who, ok := range map[string]bool{"usr_operator": true, "usr_stranger": false} {
		e := &evidence{told: newTold(0), operator: "usr_operator", rows: []row{{"res_1", "ord_1", who, 1, "reserved"}}}
		c := e.untold(map[string]int32{})
		if (c.Count == 0) != ok {
			t.Errorf("%s: %+v", who, c)
		}
	}
}

func TestQueueFailsClearly(t *testing.T) {
	for _, c := range []struct {
		name   string
		plant  func(h *house, c *Config)
		says   string
		status levee.Code
	}{
		{"no room", func(h *house, c *Config) { h.room, c.Queue = nil, true }, "no waiting room", levee.CodeConflict},
		{"as fast as it goes", func(h *house, c *Config) { c.Max = true }, "--max", levee.CodeConflict},
		{"everybody listens twice", func(h *house, c *Config) { c.Listen = 2 }, "--listen", levee.CodeInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := houseWithRoom(10)
			cfg := testConfig()
			c.plant(h, &cfg)
			cfg.Server = h.serve(t)
			if _, err := Run(t.Context(), cfg, io.Discard); levee.CodeOf(err) != c.status || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}
