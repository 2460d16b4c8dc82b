package gate

import (
	"context"
	"strings"
	"testing"

	"levee/internal/platform/redis"
)

// caught lives up to 300 lives, and tells in which one something was wrong.
func caught(t *testing.T, count int, texts scripts, breaks func(k *buckets)) {
	t.Helper()
	for seed := uint64(1); seed <= 300; seed++ {
		h := openShared(t, testServer(t), 1+int(seed%4), lineMax, texts, count)
		for _, g := range append(h.nodes, h.observer) {
			if breaks != nil {
				breaks(g.buckets)
			}
		}
		l := newLife(t, h, seed)
		if problem := l.run(400, lifeOptions{calm: seed%5 == 0}); problem != "" {
			t.Logf("caught in life %d: %s", seed, problem)
			return
		}
	}
	t.Error("300 lives noticed nothing")
}

// Each of these breaks one promise in a script. A suite that lets one live proves nothing.
func TestBrokenScriptsAreCaught(t *testing.T) {
	needRedis(t)
	for _, b := range []struct{ what, script, from, to string }{
		{"movements are applied as often as they come", "follow", "local fresh = not has(m.seq)", "local fresh = true"},
		{"a movement out of turn counts as all before it", "follow", "while has(applied + 1) do\n\t\t\tapplied = applied + 1\n\t\tend", "applied = math.max(applied, m.seq)"},
		{"a movement out of turn is forgotten", "follow", "if seq > applied then", "if false then"},
		{"what was given back stays pending", "follow", "ended[#ended + 1] = id", ""},
		{"what is not pending is given back", "follow", "\tif p then\n\t\tgive_back(l.id, p, l.keep)", "\tif not p then remaining = remaining + 1 else\n\t\tgive_back(l.id, p, l.keep)"},
		{"a win that is not pending takes nothing", "follow", "elseif fresh then", "elseif false then"},
		{"a win that counts twice goes on so", "follow", "give_back(w.id, p, true)", ""},
		{"resolving a win ends it before its movement", "follow", "if w.seq > 0 and has(w.seq) then", "if true then"},
		{"stock that comes back does not raise the epoch", "follow", "if freed > 0 then", "if false then"},
		{"the epoch is a counter that a fail-over turns back", "follow", "epoch = math.max(epoch + 1, t[1] * 1000000 + t[2])", "epoch = epoch + 1"},
		{"who gave all back is forgotten", "follow", "if h.units == 0 and h.kept == '' and", "if h.units == 0 and"},
		{"a settled taking stays under way", "follow", "if other ~= id then", "if true then"},
		{"nothing is logged", "take", "redis.call('HSET', KEYS[3], unpack(pending))", ""},
		{"ids are numbers", "take", "local who = {}", "local who = {} for i = 4, #ARGV do ARGV[i] = (i % 5 < 1 or i % 5 > 3) and string.format('%.0f', tonumber(ARGV[i], 36)) or ARGV[i] end"},
		{"one unit more than there is", "take", "remaining < quantity", "remaining + 1 < quantity"},
		{"the limit is that of the load", "take", "if limit < 1 then", "if true then"},
		{"the limit forgets what is held", "take", "held + quantity > limit", "quantity > limit"},
		{"the key under way is not seen", "take", "verdict = RUNNING", "verdict = nil"},
		{"a sent-again attempt takes twice", "take", "if other == id then", "if false then"},
		{"the line has no end", "take", "elseif room < 1 then", "elseif false then"},
		{"a load forgets what is pending", "load", "remaining - unsettled)", "remaining)"},
		{"a load forgets who waits", "load", "tails[buyer])", "'')"},
		{"a load keeps old movements", "load", "redis.call('UNLINK', BUYERS, HEAD, EARLY)", "redis.call('UNLINK', BUYERS, HEAD)"},
	} {
		t.Run(b.what, func(t *testing.T) {
			broken := ofTheHouse
			script := map[string]**redis.Script{"take": &broken.take, "follow": &broken.follow, "load": &broken.load}[b.script]
			text := map[string]string{"take": takeText, "follow": followText, "load": loadText}[b.script]
			if strings.Count(text, b.from) != 1 {
				t.Fatalf("%q is %d times in %s.lua", b.from, strings.Count(text, b.from), b.script)
			}
			*script = redis.NewScript(strings.Replace(text, b.from, b.to, 1))
			caught(t, 1, broken, nil)
		})
	}
}

// Each of these breaks one promise between buckets, in a script or in what asks them.
func TestBrokenBucketsAreCaught(t *testing.T) {
	needRedis(t)
	const write = "'remaining', string.format('%.0f', remaining), field, string.format('%.0f', sum))"
	forget := func(step string) string {
		return "'remaining', string.format('%.0f', remaining), field, string.format('%.0f', step == '" + step + "' and known or sum))"
	}
	for _, b := range []struct{ what, script, from, to string }{
		{"what is got is all that was ever sent", "move", "remaining = remaining + (sum - known)", "remaining = remaining + sum"},
		{"what was got may be got again", "move", write, forget("receive")},
		{"what was sent is forgotten", "move", write, forget("send")},
		{"what a fail-over forgot to have sent is there twice", "move", "if sum > known then", "if sum > known and step ~= 'owe' then"},
		{"what is got is lost", "move", "if sum > known then", "if sum > known and step ~= 'receive' then"},
		{"a load gives units to others and keeps them", "load", "remaining = remaining - units", ""},
		{"a load keeps what was moved before it", "load", "redis.call('UNLINK', BUYERS, HEAD, EARLY)", "redis.call('UNLINK', BUYERS, EARLY)"},
	} {
		t.Run(b.what, func(t *testing.T) {
			broken := ofTheHouse
			script := map[string]**redis.Script{"move": &broken.move, "load": &broken.load}[b.script]
			text := map[string]string{"move": moveText, "load": loadText}[b.script]
			if strings.Count(text, b.from) != 1 {
				t.Fatalf("%q is %d times in %s.lua", b.from, strings.Count(text, b.from), b.script)
			}
			*script = redis.NewScript(strings.Replace(text, b.from, b.to, 1))
			caught(t, 3, broken, nil)
		})
	}
	for what, breaks := range map[string]func(s []state){
		"who is sold out did not ask the last bucket": func(s []state) { s[2].remaining = 0 },
		"units under way are nobody's": func(s []state) {
			for i := range s {
				s[i].in, s[i].out = [BucketsMax]int64{}, [BucketsMax]int64{}
			}
		},
		"a bucket that is short is left so": func(s []state) {
			for i := range s {
				s[i].remaining = max(s[i].remaining, 0)
			}
		},
		"the epoch is the first bucket's": func(s []state) { s[1].epoch, s[2].epoch = 0, 0 },
	} {
		t.Run(what, func(t *testing.T) {
			caught(t, 3, ofTheHouse, func(k *buckets) {
				k.survey = func(ctx context.Context, list []*bucket) []state {
					s := k.look(ctx, list)
					breaks(s)
					return s
				}
			})
		})
	}
}
