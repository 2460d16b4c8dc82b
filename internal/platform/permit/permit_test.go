package permit

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"levee"
)

const (
	made  = levee.Roles(1 << 5)
	other = levee.Roles(1 << 31)
)

func table() (*Table, []Index) {
	t := New()
	return t, []Index{
		t.Add(Operation("listOrders", "orders", "GET", "/v1/orders", "", levee.RoleCustomer|levee.RoleOperator|levee.RoleAdministrator, levee.NoAbility)),
		t.Add(Operation("shipOrder", "orders", "POST", "/v1/orders/{id}/shipment", "", levee.RoleOperator|levee.RoleAdministrator, levee.OrdersOfOthers)),
		t.Add(Operation("createProduct", "products", "POST", "/v1/products", "", levee.RoleOperator|levee.RoleAdministrator, levee.NoAbility)),
		t.Add(Operation("createSale", "sales", "POST", "/v1/sales", "", levee.RoleOperator|levee.RoleAdministrator, levee.NoAbility)),
		t.Add(Operation("listUsers", "administration", "GET", "/v1/users", "", levee.RoleAdministrator, levee.NoAbility)),
		t.Add(Operation("getTime", "about", "GET", "/v1/time", "", 0, levee.NoAbility)),
	}
}

// Until somebody says otherwise everything is as the code says, and the ready roles of a category have what operators have there.
func TestDefaults(t *testing.T) {
	tab, ops := table()
	for _, c := range []struct {
		role levee.Roles
		may  string // of ops, in order
	}{
		{levee.RoleCustomer, "100000"}, {levee.RoleOperator, "111100"}, {levee.RoleAdministrator, "111110"},
		{levee.RoleProductAdministrator, "101000"}, {levee.RoleOrderAdministrator, "110000"}, {made, "000000"}, {0, "000000"},
	} {
		got := ""
		for _, i := range ops {
			got += map[bool]string{true: "1", false: "0"}[tab.May(i, c.role)]
		}
		if got != c.may {
			t.Errorf("%v may %s, want %s", c.role.Names(), got, c.may)
		}
		for _, x := range levee.AllAbilities() { // the compiled abilities are those that an actor has without a table
			with := levee.Actor{User: 1, Roles: c.role, Abilities: tab.Abilities(c.role)}
			if without := (levee.Actor{User: 1, Roles: c.role}); with.May(x) != without.May(x) {
				t.Errorf("%v has %v: %v by the table, %v by the code", c.role.Names(), x, with.May(x), without.May(x))
			}
		}
	}
	for _, r := range tab.Resources() {
		if !slices.Contains(Categories, r.Category) || (r.Open == r.Default.Has(levee.RoleAdministrator)) {
			t.Errorf("%+v", r)
		}
	}
}

func TestSet(t *testing.T) {
	tab, ops := table()
	tab.Set(map[levee.Roles]string{made: "packer", levee.RoleCustomer: "thief"}, map[string]levee.Roles{
		"shipOrder": made, "listOrders": 0, "getTime": made, "createProduct": other, "orders.of_others": made, "unheard": made})
	for i, want := range []levee.Roles{levee.RoleAdministrator, made | levee.RoleAdministrator, levee.RoleAdministrator,
		levee.RoleOperator | levee.RoleAdministrator, levee.RoleAdministrator, 0} {
		if got := tab.Allowed(ops[i]); got != want {
			t.Errorf("%d: %v, want %v", i, got.Names(), want.Names())
		}
	}
	if a := (levee.Actor{User: 1, Roles: made, Abilities: tab.Abilities(made)}); !a.May(levee.OrdersOfOthers) || a.May(levee.ProductsUnsold) || a.May(levee.NoAbility) {
		t.Error("the abilities of a made role")
	}
	if a := (levee.Actor{User: 1, Roles: levee.RoleOperator, Abilities: tab.Abilities(levee.RoleOperator)}); a.May(levee.OrdersOfOthers) {
		t.Error("an operator keeps an ability that was taken away")
	}
	if r, ok := tab.Role("packer"); !ok || r != made {
		t.Error(r, ok)
	}
	if _, ok := tab.Role("thief"); ok {
		t.Error("a ready role was renamed")
	}
	if got := fmt.Sprint(tab.Names(levee.RoleCustomer|made|other), tab.Granted(made)); got != "[customer packer role_31] [orders.of_others shipOrder]" {
		t.Error(got)
	}
	if tab.Known() != levee.ReadyRoles|made {
		t.Error(tab.Known().Names())
	}
	for _, c := range []struct {
		a, b levee.Roles
		want bool
	}{{levee.RoleAdministrator, levee.ReadyRoles | made, true}, {made, levee.RoleCustomer, true}, {made, levee.RoleOperator, false},
		{levee.RoleOperator, made, false}, {levee.RoleOperator | made, made | levee.RoleOperator, true}, {0, 0, true}, {0, made, false}} {
		if got := tab.Covers(c.a, c.b); got != c.want {
			t.Errorf("%v covers %v: %v", c.a.Names(), c.b.Names(), got)
		}
	}
	tab.Set(nil, nil)
	if _, ok := tab.Role("packer"); ok || tab.May(ops[1], made) || !tab.May(ops[1], levee.RoleOperator) {
		t.Error("what was set before is left over")
	}
	defer func() {
		if recover() == nil {
			t.Error("two operations of one name")
		}
	}()
	tab.Add(Resource{Name: "listOrders"})
}

// Who asks while the table is swapped sees the one or the other, whole: an ability and an operation that are always given together are never
// apart within one look, and administrators are never without anything.
func TestChangesBesideChecks(t *testing.T) {
	tab, ops := table()
	names := map[levee.Roles]string{made: "packer"}
	tab.Set(names, map[string]levee.Roles{"shipOrder": made})
	stop := make(chan struct{})
	var asking, setting sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				for _, i := range ops[:5] {
					if !tab.May(i, levee.RoleAdministrator) {
						t.Error("an administrator is refused")
						return
					}
				}
				if got := tab.Granted(made); len(got) != 1 && len(got) != 2 {
					t.Errorf("half a change: %v", got)
					return
				}
			}
		})
	}
	for range 2 {
		setting.Go(func() {
			for i := range 500 {
				if i%2 == 0 {
					tab.Set(names, map[string]levee.Roles{"listUsers": made, "orders.of_others": made})
				} else {
					tab.Set(names, map[string]levee.Roles{"shipOrder": made})
				}
			}
		})
	}
	setting.Wait()
	close(stop)
	asking.Wait()
}

// 10,000 permissions: 500 operations, each for 20 roles.
func BenchmarkCheck(b *testing.B) {
	tab := New()
	names, granted := map[levee.Roles]string{}, map[string]levee.Roles{}
	for bit := 5; bit < MaxRoles; bit++ {
		names[1<<bit] = fmt.Sprint("role", bit)
	}
	var ops []Index
	permissions := 0
	for i := range 500 {
		name := fmt.Sprint("operation", i)
		ops = append(ops, tab.Add(Operation(name, "orders", "GET", "/v1/"+name, "", levee.RoleAdministrator, levee.NoAbility)))
		for _, bit := range rand.Perm(27)[:19] {
			granted[name] |= 1 << (5 + bit)
			permissions++
		}
		permissions++ // of the administrators
	}
	tab.Set(names, granted)
	if permissions != 10_000 {
		b.Fatal(permissions)
	}
	b.Run("operation", func(b *testing.B) {
		b.ReportAllocs()
		n, yes := 0, 0
		for b.Loop() {
			if tab.May(ops[n%500], made<<(n%27)) {
				yes++
			}
			n++
		}
		if n > 10_000 && (yes == 0 || yes == n) {
			b.Fatal("every answer is the same")
		}
	})
	b.Run("abilities", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if a := (levee.Actor{User: 1, Abilities: tab.Abilities(levee.RoleCustomer | levee.RoleOperator | made)}); !a.May(levee.OrdersOfOthers) {
				b.Fatal("an operator")
			}
		}
	})
}
