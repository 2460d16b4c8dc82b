package contract

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"

	"levee/internal/platform/contract"
)

const (
	available    = "ensure_resource_availability"
	useAfterFree = "use_after_free"
)

// A chain is what one does with a thing: make it, read it, change it, read it, remove it, ask for it again. Where it leads stands in the
// document: the links of what makes it.
type chain struct {
	make                 *contract.Operation
	read, change, remove *contract.Operation
	param                string
	link                 contract.Link
}

func chains(d *contract.Document) (all []chain) {
	for _, op := range d.Operations {
		c := chain{make: op}
		for _, l := range op.Links {
			to := d.Named(l.Operation)
			if to == nil || !strings.HasSuffix(to.Path, "}") {
				continue
			}
			for p := range l.Parameters {
				c.param, c.link = p, l
			}
			switch to.Method {
			case http.MethodGet:
				c.read = to
			case http.MethodPatch:
				c.change = to
			case http.MethodDelete:
				c.remove = to
			}
		}
		if c.read != nil {
			all = append(all, c)
		}
	}
	return all
}

// walk goes along a chain once, as an actor, and returns what is wrong and whether it came to the end.
func (c *campaign) walk(ctx context.Context, m *maker, ch chain, actor string) (found []contract.Breach, made bool) {
	breach := func(check, format string, args ...any) {
		found = append(found, contract.Breach{Check: check, Operation: ch.make.ID, What: fmt.Sprintf(format, args...)})
	}
	ask := func(r request) contract.Answer {
		r.actor = actor
		a, err := r.send(ctx, c.base, c.token(actor))
		if err != nil {
			breach(contract.ServerError, "%s: %v", r.op.ID, err)
			return a
		}
		found = append(found, c.doc.Judge(a)...)
		return a
	}
	var id string
	for range 25 {
		a := ask(c.allowed(m, ch.make))
		if a.Status == http.StatusCreated {
			c.learn("POST", ch.make.Path, a.Header, a.Body)
			var v map[string]any
			_ = json.Unmarshal(a.Body, &v) // judged by ask
			id = text(v[strings.TrimPrefix(ch.link.Parameters[ch.param], "$response.body#/")])
			if to := a.Header.Get("Location"); to != "" && ch.read.Path != "" && !strings.HasSuffix(to, "/"+id) && !strings.Contains(to, id) {
				breach(available, "Location is %q, its link leads to %q", to, id)
			}
			break
		}
	}
	if id == "" {
		return found, false
	}
	here := map[string]string{ch.param: id}
	get := func(want ...int) contract.Answer {
		a := ask(request{op: ch.read, method: http.MethodGet, path: here})
		for _, w := range want {
			if a.Status == w {
				return a
			}
		}
		check := available
		if want[0] >= 400 {
			check = useAfterFree
		}
		breach(check, "GET %s answered %d, not %v: %.200s", a.Path, a.Status, want, a.Body)
		return a
	}
	first := get(200)
	if ch.change != nil {
		for range 10 {
			r := c.allowed(m, ch.change)
			r.path = here
			o, _ := r.tree.(map[string]any)
			var now map[string]any
			_ = json.Unmarshal(first.Body, &now) // judged by ask
			if v, ok := now["version"].(float64); ok && o != nil && o["version"] != nil {
				o["version"] = json.Number(fmt.Sprint(int64(v)))
			}
			if a := ask(r); a.Status == http.StatusOK {
				break
			}
		}
		get(200)
	}
	if ch.remove != nil {
		if a := ask(request{op: ch.remove, method: http.MethodDelete, path: here}); a.Status/100 != 2 {
			breach(available, "DELETE of what was just made answered %d: %.200s", a.Status, a.Body)
			return found, true
		}
		get(404, 410)
		if a := ask(request{op: ch.remove, method: http.MethodDelete, path: here}); a.Status != 404 && a.Status != 410 {
			breach(useAfterFree, "DELETE of what is gone answered %d: %.200s", a.Status, a.Body)
		}
	}
	return found, true
}

// TestChains walks along every chain of the document as each who may.
func TestChains(t *testing.T) {
	c := newCampaign(open(t), 1)
	all := chains(c.doc)
	if len(all) < 6 {
		t.Fatalf("the document leads from %d operations to what they made; there were orders, products, sales, schedules, users and webhooks", len(all))
	}
	for _, ch := range all {
		for n, actor := range []string{administrator, operator, customer, visitor} {
			may := len(ch.make.Roles) == 0 && actor != visitor
			for _, role := range accounts[actor].Names() {
				for _, r := range ch.make.Roles {
					may = may || r == role
				}
			}
			reads := len(ch.read.Roles) == 0
			for _, role := range accounts[actor].Names() {
				for _, r := range ch.read.Roles {
					reads = reads || r == role
				}
			}
			if !may || !reads {
				continue
			}
			m := &maker{Rand: rand.New(rand.NewPCG(1, uint64(n))), hints: c.hints()}
			found, made := c.walk(t.Context(), m, ch, actor)
			for _, b := range found {
				t.Errorf("as %s: %s", actor, b)
			}
			if !made {
				t.Errorf("%s: no request of 25 as %s made anything: the chain proves nothing", ch.make.ID, actor)
			}
		}
	}
}

func fixed(c *campaign) *maker {
	return &maker{Rand: rand.New(rand.NewPCG(1, 1)), hints: c.hints()}
}
